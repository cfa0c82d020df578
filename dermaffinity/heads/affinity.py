"""The Gaussian affinity head: similarity to the nearest of several learned centers per class."""

from typing import Literal

import torch
from torch import Tensor, nn

from dermaffinity.heads.base import Head, HeadOutput, ScoreKind
from dermaffinity.heads.centers import distance_to_centers, samples_of_each_class, unit_length


class AffinityHead(Head):
    r"""Similarity of an embedding to the nearest of M learned centers of each class.

    .. math:: s_j(f) = \max_t \exp(-d(f, w_{j,t}) / \sigma), \qquad d(f, w) = \lVert f - w \rVert^2

    Source: Hayat et al., "Gaussian Affinity for Max-margin Class Imbalanced Learning", ICCV 2019,
    https://arxiv.org/abs/1901.07711, Eq. 3 and 9. The l1 distance and the inverse similarity are those of its Table 4.

    Similarities lie in (0, 1] in exact arithmetic; in float32 they underflow to 0 beyond d/sigma of about 103, so
    ``probabilities`` goes back to the distances.

    Args:
        embedding_dim: Size D of the embedding.
        num_classes: Number of classes C, at least 2.
        centers_per_class: Number of centers M of each class, at least 1; the paper finds 5 or more best.
        sigma: Width of the similarity, in units of the distance (squared embedding units for l2); positive.
        distance: ``"l2"``, the squared Euclidean distance, or ``"l1"``, the sum of absolute differences.
        similarity: ``"gaussian"``, exp(-d/sigma), or ``"inverse"``, 1/(1 + d/sigma); the paper's inverse has sigma 1.
        unit_centers: Scale every center to unit length before use; for embeddings that a neck scales to unit length.
        start: ``"random"`` for centers drawn around the origin, or ``"samples"`` for embeddings of training images of
            the class; a random center far from the few images of a rare class is seldom nearest and learns little.

    Examples:
        >>> import torch
        >>> from dermaffinity.heads import AffinityHead
        >>> head = AffinityHead(embedding_dim=2, num_classes=2, centers_per_class=1, sigma=1.0)
        >>> _ = head.centers.data.copy_(torch.tensor([[[0.0, 0.0]], [[3.0, 0.0]]]))
        >>> output = head(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))  # at a center, and at distance 1 of it
        >>> output.scores.detach().round(decimals=3)
        tensor([[1.0000, 0.0000],
                [0.3680, 0.0180]])
        >>> head.probabilities(output).argmax(dim=1)
        tensor([0, 0])
    """

    score_kind = ScoreKind.SIMILARITY
    centers_are_places = True

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        centers_per_class: int = 5,
        sigma: float = 10.0,
        distance: Literal["l2", "l1"] = "l2",
        similarity: Literal["gaussian", "inverse"] = "gaussian",
        unit_centers: bool = False,
        start: Literal["random", "samples"] = "random",
    ) -> None:
        super().__init__(embedding_dim, num_classes)
        if centers_per_class < 1:
            raise ValueError(f"centers_per_class must be at least 1, got {centers_per_class}")
        if not sigma > 0:
            raise ValueError(f"sigma must be positive because it is a width, got {sigma}")
        if distance not in ("l2", "l1"):
            raise ValueError(f"distance must be 'l2' or 'l1', got {distance!r}")
        if similarity not in ("gaussian", "inverse"):
            raise ValueError(f"similarity must be 'gaussian' or 'inverse', got {similarity!r}")
        if start not in ("random", "samples"):
            raise ValueError(f"start must be 'random' or 'samples', got {start!r}")
        self.sigma = sigma
        self.distance = distance
        self.similarity = similarity
        self.unit_centers = unit_centers
        self.starts_from_samples = start == "samples"
        # A standard normal scaled so that a center's expected squared length is 1, whatever D is.
        self.centers = nn.Parameter(torch.randn(num_classes, centers_per_class, embedding_dim) * embedding_dim**-0.5)

    def forward(self, embedding: Tensor) -> HeadOutput:
        """Similarities (N, C) of a batch of embeddings (N, D)."""
        centers = unit_length(self.centers) if self.unit_centers else self.centers
        return HeadOutput(self.log_affinity(embedding, centers).exp(), embedding, centers)

    @torch.no_grad()
    def start_from(self, embedding: Tensor, labels: Tensor) -> None:
        """Puts the centers of each class on images of it, drawn at random, each once while there are enough."""
        self.centers.copy_(samples_of_each_class(embedding, labels, self.num_classes, self.centers.shape[1]))

    def probabilities(self, output: HeadOutput) -> Tensor:
        """Softmax over the log-affinities (N, C)."""
        # From the distances, not from the scores: far from every center all scores underflow to zero and their
        # ratio is lost.
        return self.log_affinity(output.embedding, output.centers).softmax(dim=1)

    def log_affinity(self, embedding: Tensor, centers: Tensor) -> Tensor:
        """Log of the similarity to the nearest center of each class.

        Args:
            embedding: (N, D).
            centers: (C, M, D).

        Returns:
            (N, C), at most 0.
        """
        # The nearest center is the most similar one.
        distance = distance_to_centers(embedding, centers, self.distance).amin(dim=2) / self.sigma  # (N, C)
        return -distance if self.similarity == "gaussian" else -distance.log1p()

    def distance_to(self, embedding: Tensor, points: Tensor) -> Tensor:
        """The distance behind the similarity: (N, P), squared Euclidean for l2."""
        return distance_to_centers(embedding, points[:, None], self.distance).squeeze(2)
