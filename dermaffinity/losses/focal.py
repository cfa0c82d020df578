"""Focal loss: cross-entropy that counts well-classified images less."""

import torch
from torch import Tensor

from dermaffinity.heads.base import HeadOutput, ScoreKind
from dermaffinity.losses.base import Loss


class FocalLoss(Loss):
    r"""Cross-entropy of each image, weighted by what is missing from its probability.

    .. math:: L = -\frac{1}{N} \sum_i (1 - p_{i y_i})^\gamma \log p_{i y_i}

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, https://arxiv.org/abs/1708.02002, Eq. 4,
    with a softmax in place of its sigmoids.

    Args:
        class_counts: (C,), images of each class in the training rows; this loss does not use them.
        embedding_dim: Size D of the embedding.
        gamma: γ, at least 0; 0 is plain cross-entropy.

    Examples:
        >>> import torch
        >>> from dermaffinity.heads import HeadOutput
        >>> from dermaffinity.losses import FocalLoss
        >>> output = HeadOutput(torch.tensor([[2.0, 0.0]]), torch.zeros(1, 4), torch.zeros(2, 1, 4))
        >>> for gamma in (0.0, 2.0):  # 0 is cross-entropy
        ...     loss = FocalLoss(torch.tensor([30, 3]), 4, gamma=gamma)
        ...     print(round(loss(output, torch.tensor([0]))["focal"].item(), 4))
        0.1269
        0.0018
    """

    score_kind = ScoreKind.LOGIT

    def __init__(self, class_counts: Tensor, embedding_dim: int, *, gamma: float = 2.0) -> None:
        super().__init__(class_counts, embedding_dim)
        if not gamma >= 0:
            raise ValueError(f"gamma must be at least 0, got {gamma}")
        self.gamma = gamma

    def forward(self, output: HeadOutput, labels: Tensor) -> dict[str, Tensor]:
        """The one term ``focal``."""
        log_p = output.scores.log_softmax(dim=1).gather(1, labels[:, None]).squeeze(1)  # (N,)
        # Where p rounds to 1, a power below 1 has an infinite slope.
        missing = (-log_p.expm1()).clamp_min(torch.finfo(log_p.dtype).tiny)
        return {"focal": (missing**self.gamma * -log_p).mean()}
