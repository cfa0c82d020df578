"""The affinity head in log space: each class an even mixture of Gaussians around its centers."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dermaffinity.heads.base import Head, HeadOutput, ScoreKind
from dermaffinity.heads.centers import distance_to_centers, samples_of_each_class, unit_length


class AffinityMixtureHead(Head):
    r"""Log of the mean Gaussian similarity of an embedding to the M learned centers of each class.

    .. math:: z_j(f) = \log \frac{1}{M} \sum_t \exp(-\lVert f - w_{j,t} \rVert^2 / \sigma)

    The similarities are those of Hayat et al., ICCV 2019, https://arxiv.org/abs/1901.07711, Eq. 3. Two things differ
    from Eq. 9, and neither is the paper's. The logarithm is taken: it has a gradient however far an embedding is, where
    the similarity itself has none. And the mean stands for the maximum over centers: every center learns, where under
    the maximum those that are never nearest stay where they started. Up to a constant z is the log-density of an even
    mixture of Gaussians of variance sigma/2, so that a softmax over it is a posterior for equally frequent classes, and
    a loss may add the log-frequencies of the training images (`dermaffinity.losses.AffinityPosteriorLoss`).

    Centers start on embeddings of training images of their class.

    Args:
        embedding_dim: Size D of the embedding.
        num_classes: Number of classes C, at least 2.
        centers_per_class: Number of centers M of each class, at least 1.
        sigma: Width of the similarity, in squared embedding units; positive.
        unit_centers: Scale every center to unit length before use; for embeddings that a neck scales to unit length.
        whitened: Measure distances after a linear map, which `dermaffinity.refit.GaussianAffinity` finds; until then it
            is the identity.

    Examples:
        >>> import torch
        >>> from dermaffinity.heads import AffinityMixtureHead
        >>> head = AffinityMixtureHead(embedding_dim=2, num_classes=2, centers_per_class=2, sigma=0.5)
        >>> head.start_from(torch.tensor([[0.0, 0.0], [0.0, 1.0], [3.0, 0.0], [3.0, 1.0]]), torch.tensor([0, 0, 1, 1]))
        >>> output = head(torch.tensor([[0.0, 0.5], [2.9, 0.0]]))
        >>> output.scores.detach().round(decimals=2)  # log-similarities, at most 0
        tensor([[ -0.5000, -18.5000],
                [-17.3900,  -0.5900]])
    """

    score_kind = ScoreKind.LOGIT
    centers_are_places = True
    starts_from_samples = True
    whitening: Tensor | None  # (D, D)

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        centers_per_class: int = 2,
        sigma: float = 0.2,
        unit_centers: bool = False,
        whitened: bool = False,
    ) -> None:
        super().__init__(embedding_dim, num_classes)
        if centers_per_class < 1:
            raise ValueError(f"centers_per_class must be at least 1, got {centers_per_class}")
        if not sigma > 0:
            raise ValueError(f"sigma must be positive because it is a width, got {sigma}")
        self.sigma = sigma
        self.unit_centers = unit_centers
        # Of an expected length of about 1, until `start_from` is called.
        self.centers = nn.Parameter(torch.randn(num_classes, centers_per_class, embedding_dim) * embedding_dim**-0.5)
        self.register_buffer("whitening", torch.eye(embedding_dim) if whitened else None)

    def forward(self, embedding: Tensor) -> HeadOutput:
        """Log-similarities (N, C) of a batch of embeddings (N, D), at most 0."""
        centers = unit_length(self.centers) if self.unit_centers else self.centers
        exponent = distance_to_centers(self._mapped(embedding), self._mapped(centers)) / -self.sigma  # (N, C, M)
        return HeadOutput(exponent.logsumexp(dim=2) - math.log(centers.shape[1]), embedding, centers)

    @torch.no_grad()
    def start_from(self, embedding: Tensor, labels: Tensor) -> None:
        """Puts the centers of each class on images of it, drawn at random, each once while there are enough."""
        self.centers.copy_(samples_of_each_class(embedding, labels, self.num_classes, self.centers.shape[1]))

    def probabilities(self, output: HeadOutput) -> Tensor:
        """Posterior for equally frequent classes (N, C)."""
        return output.scores.softmax(dim=1)

    def distance_to(self, embedding: Tensor, points: Tensor) -> Tensor:
        """Squared Euclidean distance (N, P), the one behind the similarity."""
        return distance_to_centers(self._mapped(embedding), self._mapped(points)[:, None]).squeeze(2)

    def _mapped(self, points: Tensor) -> Tensor:
        return points if self.whitening is None else F.linear(points, self.whitening)
