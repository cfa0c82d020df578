"""Cross-entropy of a posterior that knows how frequent the classes are in training."""

from torch import Tensor
from torch.nn import functional as F

from dermaffinity.heads.base import HeadOutput, Predictions, ScoreKind, log_shares
from dermaffinity.losses.base import Loss
from dermaffinity.losses.centers import center_usage, relative_spread


class AffinityPosteriorLoss(Loss):
    r"""Cross-entropy on class log-densities with log-frequencies and a margin, plus the spread of the centers.

    .. math::
        L = -\frac{1}{N} \sum_i \log \frac{\exp(z_{iy_i} + \tau \log \pi_{y_i} - m)}
            {\exp(z_{iy_i} + \tau \log \pi_{y_i} - m) + \sum_{j \ne y_i} \exp(z_{ij} + \tau \log \pi_j)}
            + \beta R(w) / \mu^2

    for log-densities z, such as those of `dermaffinity.heads.AffinityMixtureHead`, and the shares π of the classes
    among the training images. Prediction leaves the log-frequencies out and so treats all classes as equally frequent:
    a rare class is not held to be rare a second time.

    Sources: the shift is the logit adjustment of Menon et al., ICLR 2021, https://arxiv.org/abs/2007.07314, Eq. 10; R
    and μ, variance and mean of the squared distances between centers, are those of Hayat et al., ICCV 2019,
    https://arxiv.org/abs/1901.07711, Eq. 7 and 8, here as R/μ², which does not depend on the centers' scale. Their
    maximum margin becomes the margin m of the log-similarities.

    Args:
        class_counts: (C,), images of each class in the training rows.
        embedding_dim: Size D of the embedding.
        prior_weight: τ, at least 0; 0 leaves the frequencies out, 1 is Bayes' rule, more favors rare classes.
        margin: m, at least 0, in units of the log-similarity.
        diversity_weight: β, at least 0.

    Examples:
        >>> import torch
        >>> from dermaffinity.heads import HeadOutput
        >>> from dermaffinity.losses import AffinityPosteriorLoss
        >>> loss = AffinityPosteriorLoss(torch.tensor([90, 10]), 2)
        >>> output = HeadOutput(torch.zeros(1, 2), torch.zeros(1, 2), torch.eye(2)[:, None])  # knows nothing
        >>> [round(loss(output, torch.tensor([label]))["posterior"].item(), 3) for label in (0, 1)]
        [0.105, 2.303]
    """

    score_kind = ScoreKind.LOGIT
    log_prior: Tensor

    def __init__(
        self,
        class_counts: Tensor,
        embedding_dim: int,
        *,
        prior_weight: float = 1.0,
        margin: float = 0.0,
        diversity_weight: float = 0.1,
    ) -> None:
        super().__init__(class_counts, embedding_dim)
        for name, value in (
            ("prior_weight", prior_weight),
            ("margin", margin),
            ("diversity_weight", diversity_weight),
        ):
            if not value >= 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        self.margin = margin
        self.diversity_weight = diversity_weight
        self.register_buffer("log_prior", prior_weight * log_shares(self.class_counts))

    @property
    def prior_left_out(self) -> Tensor:
        """See `Loss`."""
        return self.log_prior

    def forward(self, output: HeadOutput, labels: Tensor) -> dict[str, Tensor]:
        """The terms ``posterior`` and ``diversity``, the second with its weight."""
        own_class = F.one_hot(labels, output.scores.shape[1])  # (N, C)
        shifted = output.scores + self.log_prior - self.margin * own_class
        return {
            "posterior": F.cross_entropy(shifted, labels),
            "diversity": self.diversity_weight * relative_spread(output.centers.flatten(end_dim=1)),
        }

    def on_epoch_end(self, epoch: int, validation: Predictions) -> dict[str, float]:
        """Watches how many centers are in use and how evenly they are spread."""
        return {
            "center_usage": center_usage(validation),
            "relative_diversity": relative_spread(validation.centers.flatten(end_dim=1)).item(),
        }
