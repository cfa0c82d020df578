"""Cross-entropy weighted by the effective number of images of a class."""

from torch import Tensor

from dermaffinity.heads.base import HeadOutput, ScoreKind
from dermaffinity.losses.base import Loss, effective_number_weights, weighted_cross_entropy


class ClassBalancedLoss(Loss):
    r"""Mean of -log p(label) over the batch, each image weighted by its class.

    .. math:: w_c \propto \frac{1 - \beta}{1 - \beta^{n_c}}

    scaled to sum to C. The more images n_c a class has, the more a further one repeats what is known. With β = 0 all
    weights are 1; as β comes to 1 they come to those of inverse frequency, ``CrossEntropyLoss(weighting="inverse")``.

    Source: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019,
    https://arxiv.org/abs/1901.05555, on softmax cross-entropy.

    Args:
        class_counts: (C,), images of each class in the training rows.
        embedding_dim: Size D of the embedding.
        beta: β, in [0, 1); the paper tries 0.9 to 0.9999.

    Examples:
        >>> import torch
        >>> from dermaffinity.losses import ClassBalancedLoss
        >>> ClassBalancedLoss(torch.tensor([300, 30]), 4, beta=0.99).class_weights.round(decimals=2)
        tensor([0.4300, 1.5700])
    """

    score_kind = ScoreKind.LOGIT
    class_weights: Tensor

    def __init__(self, class_counts: Tensor, embedding_dim: int, *, beta: float = 0.9999) -> None:
        super().__init__(class_counts, embedding_dim)
        self.register_buffer("class_weights", effective_number_weights(self.class_counts, beta))

    @property
    def prior_left_out(self) -> Tensor:
        """See `Loss`: a class that counts twice as much looks twice as frequent."""
        return -self.class_weights.log()

    def forward(self, output: HeadOutput, labels: Tensor) -> dict[str, Tensor]:
        """The one term ``class_balanced_cross_entropy``."""
        return {"class_balanced_cross_entropy": weighted_cross_entropy(output.scores, labels, self.class_weights)}
