"""Cross-entropy on logits that the class frequencies are added to; balanced softmax is one case of it."""

from torch import Tensor
from torch.nn import functional as F

from dermaffinity.heads.base import HeadOutput, ScoreKind, log_shares
from dermaffinity.losses.base import Loss


class LogitAdjustedLoss(Loss):
    r"""Cross-entropy on logits to which the log share of each class in training is added.

    .. math:: L = -\frac{1}{N} \sum_i \log \frac{\pi_{y_i}^\tau e^{z_{i y_i}}}{\sum_j \pi_j^\tau e^{z_{ij}}}, \qquad
              \pi_j = \frac{n_j}{\sum_k n_k}

    The network need not learn what the frequencies already say, and prediction, which uses the plain logits, is as if
    all classes were equally frequent. With τ = 1 this is the balanced softmax of Ren et al., "Balanced Meta-Softmax for
    Long-Tailed Visual Recognition", NeurIPS 2020, https://arxiv.org/abs/2007.10740.

    Source: Menon et al., "Long-tail learning via logit adjustment", ICLR 2021,
    https://arxiv.org/abs/2007.07314, Eq. 10.

    Args:
        class_counts: (C,), images of each class in the training rows.
        embedding_dim: Size D of the embedding.
        tau: τ, at least 0; 0 is plain cross-entropy.

    Examples:
        >>> import torch
        >>> from dermaffinity.heads import HeadOutput
        >>> from dermaffinity.losses import LogitAdjustedLoss
        >>> loss = LogitAdjustedLoss(torch.tensor([90, 10]), 4)
        >>> output = HeadOutput(torch.zeros(1, 2), torch.zeros(1, 4), torch.zeros(2, 1, 4))  # knows nothing
        >>> [round(sum(loss(output, torch.tensor([label])).values()).item(), 3) for label in (0, 1)]
        [0.105, 2.303]
    """

    score_kind = ScoreKind.LOGIT
    shift: Tensor

    def __init__(self, class_counts: Tensor, embedding_dim: int, *, tau: float = 1.0) -> None:
        super().__init__(class_counts, embedding_dim)
        if not tau >= 0:
            raise ValueError(f"tau must be at least 0, got {tau}")
        self.register_buffer("shift", tau * log_shares(self.class_counts))  # (C,)

    @property
    def prior_left_out(self) -> Tensor:
        """See `Loss`."""
        return self.shift

    def forward(self, output: HeadOutput, labels: Tensor) -> dict[str, Tensor]:
        """The one term ``logit_adjusted_cross_entropy``."""
        return {"logit_adjusted_cross_entropy": F.cross_entropy(output.scores + self.shift, labels)}
