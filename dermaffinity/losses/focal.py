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
