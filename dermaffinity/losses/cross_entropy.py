"""Softmax cross-entropy, plain or class-weighted."""

from typing import Literal

import torch
from torch import Tensor

from dermaffinity.heads.base import HeadOutput, ScoreKind
from dermaffinity.losses.base import Loss, of_mean_one, weighted_cross_entropy


class CrossEntropyLoss(Loss):
    """Mean of -log p(label) over the batch, each image weighted by its class.

    Args:
        class_counts: (C,), images of each class in the training rows.
        embedding_dim: Size D of the embedding.
        weighting: ``"none"``, or ``"inverse"`` for weights proportional to 1/count, scaled to sum to C.

    Examples:
        >>> import torch
        >>> from dermaffinity.losses import CrossEntropyLoss
        >>> CrossEntropyLoss(torch.tensor([300, 30]), 4, weighting="inverse").class_weights.round(decimals=2)
        tensor([0.1800, 1.8200])
    """

    score_kind = ScoreKind.LOGIT
    class_weights: Tensor

    def __init__(
        self, class_counts: Tensor, embedding_dim: int, *, weighting: Literal["none", "inverse"] = "none"
    ) -> None:
        super().__init__(class_counts, embedding_dim)
        if weighting not in ("none", "inverse"):
            raise ValueError(f"weighting must be 'none' or 'inverse', got {weighting!r}")
        inverse = 1 / self.class_counts
        weights = inverse if weighting == "inverse" else torch.ones_like(inverse)
        self.register_buffer("class_weights", of_mean_one(weights))

    @property
    def prior_left_out(self) -> Tensor:
        """See `Loss`: a class that counts twice as much looks twice as frequent."""
        return -self.class_weights.log()

    def forward(self, output: HeadOutput, labels: Tensor) -> dict[str, Tensor]:
        """The one term ``cross_entropy``."""
        return {"cross_entropy": weighted_cross_entropy(output.scores, labels, self.class_weights)}
