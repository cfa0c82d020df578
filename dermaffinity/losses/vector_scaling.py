"""The vector-scaling loss: logits both divided and shifted by class."""

from torch import Tensor
from torch.nn import functional as F

from dermaffinity.heads.base import HeadOutput, ScoreKind, log_shares
from dermaffinity.losses.base import Loss


class VectorScalingLoss(Loss):
    r"""Cross-entropy on logits that are divided, and shifted, by how rare their class is.

    .. math:: L = -\frac{1}{N} \sum_i \log \mathrm{softmax}_{y_i}\!\Big(\frac{z_i}{\Delta} + \tau \log \pi\Big), \qquad
              \Delta_c = \Big(\frac{\max_k n_k}{n_c}\Big)^\gamma, \quad \pi_c = \frac{n_c}{\sum_k n_k}

    A rare class must answer with larger logits for the same loss, which leaves it a wider margin at the end of
    training; the shift works at its start. Prediction uses the plain logits.

    Source: Kini et al., "Label-Imbalanced and Group-Sensitive Classification under Overparameterization", NeurIPS 2021,
    https://arxiv.org/abs/2103.01550, without its weights, as in the authors' experiments.

    Args:
        class_counts: (C,), images of each class in the training rows.
        embedding_dim: Size D of the embedding.
        gamma: γ, at least 0; 0 is ``LogitAdjustedLoss``.
        tau: τ, at least 0; 0 together with γ = 0 is plain cross-entropy.

    Examples:
        >>> import torch
        >>> from dermaffinity.heads import HeadOutput
        >>> from dermaffinity.losses import VectorScalingLoss
        >>> loss = VectorScalingLoss(torch.tensor([90, 10]), 4)
        >>> output = HeadOutput(torch.zeros(1, 2), torch.zeros(1, 4), torch.zeros(2, 1, 4))  # knows nothing
        >>> [round(sum(loss(output, torch.tensor([label])).values()).item(), 3) for label in (0, 1)]
        [0.105, 2.303]
    """

    score_kind = ScoreKind.LOGIT
    factor: Tensor
    shift: Tensor

    def __init__(self, class_counts: Tensor, embedding_dim: int, *, gamma: float = 0.3, tau: float = 1.0) -> None:
        super().__init__(class_counts, embedding_dim)
        if not gamma >= 0:
            raise ValueError(f"gamma must be at least 0, got {gamma}")
        if not tau >= 0:
            raise ValueError(f"tau must be at least 0, got {tau}")
        counts = self.class_counts
        self.register_buffer("factor", (counts / counts.max()) ** gamma)  # (C,), 1/Δ
        self.register_buffer("shift", tau * log_shares(counts))  # (C,)

    @property
    def prior_left_out(self) -> Tensor:
        """See `Loss`."""
        return self.shift

    def forward(self, output: HeadOutput, labels: Tensor) -> dict[str, Tensor]:
        """The one term ``vector_scaled_cross_entropy``."""
        return {"vector_scaled_cross_entropy": F.cross_entropy(output.scores * self.factor + self.shift, labels)}
