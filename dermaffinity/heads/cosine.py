"""The head of the margin losses: the cosine to one or several unit vectors per class."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dermaffinity.heads.base import Head, HeadOutput, ScoreKind
from dermaffinity.heads.centers import cosines, unit_length


class CosineHead(Head):
    r"""Cosine of the angle between an embedding and M learned vectors of each class, pooled over the M.

    .. math:: c_{jt} = \frac{f \cdot w_{jt}}{\lVert f \rVert \lVert w_{jt} \rVert}, \qquad
              s_j = \max_t c_{jt} \quad\text{or}\quad
              s_j = \sum_t \frac{e^{c_{jt} / \gamma}}{\sum_u e^{c_{ju} / \gamma}} c_{jt}

    Probabilities are the softmax of ``scale`` · s. Sources: Wang et al., "CosFace", CVPR 2018,
    https://arxiv.org/abs/1801.09414, for M = 1; Deng et al., "Sub-center ArcFace", ECCV 2020, for the maximum; Qian et
    al., "SoftTriple Loss", ICCV 2019, https://arxiv.org/abs/1909.05235, for the weighted mean.

    Args:
        embedding_dim: Size D of the embedding.
        num_classes: Number of classes C, at least 2.
        centers_per_class: Number of vectors M of each class, at least 1.
        scale: What cosines are multiplied by before the softmax, positive; a loss that has one needs the same.
        pooling: ``"max"``, or ``"soft"`` for the mean weighted by the softmax over a class's own cosines.
        pooling_width: SoftTriple's γ, positive; the smaller, the closer ``"soft"`` comes to ``"max"``.

    Examples:
        >>> import torch
        >>> from dermaffinity.heads import CosineHead
        >>> head = CosineHead(embedding_dim=2, num_classes=2, scale=16.0)
        >>> _ = head.centers.data.copy_(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))
        >>> head(torch.tensor([[3.0, 0.0]])).scores.detach()  # the length of an embedding does not count
        tensor([[1., 0.]])
    """

    score_kind = ScoreKind.COSINE

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        centers_per_class: int = 1,
        scale: float = 16.0,
        pooling: Literal["max", "soft"] = "max",
        pooling_width: float = 0.1,
    ) -> None:
        super().__init__(embedding_dim, num_classes)
        if centers_per_class < 1:
            raise ValueError(f"centers_per_class must be at least 1, got {centers_per_class}")
        if not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}")
        if pooling not in ("max", "soft"):
            raise ValueError(f"pooling must be 'max' or 'soft', got {pooling!r}")
        if not pooling_width > 0:
            raise ValueError(f"pooling_width must be positive because it is a width, got {pooling_width}")
        self.scale = scale
        self.pooling = pooling
        self.pooling_width = pooling_width
        # Directions spread evenly over the sphere; of unit length, so that a step turns each by a like angle.
        self.centers = nn.Parameter(F.normalize(torch.randn(num_classes, centers_per_class, embedding_dim), dim=2))

    def forward(self, embedding: Tensor) -> HeadOutput:
        """Pooled cosines (N, C) of a batch of embeddings (N, D)."""
        centers = unit_length(self.centers)
        cosine = cosines(embedding, centers.flatten(0, 1)).unflatten(1, centers.shape[:2])  # (N, C, M)
        if self.pooling == "max":
            scores = cosine.amax(dim=2)
        else:
            scores = ((cosine / self.pooling_width).softmax(dim=2) * cosine).sum(dim=2)
        return HeadOutput(scores, embedding, centers)

    def probabilities(self, output: HeadOutput) -> Tensor:
        """Softmax over the scaled cosines (N, C)."""
        return (self.scale * output.scores).softmax(dim=1)

    def distance_to(self, embedding: Tensor, points: Tensor) -> Tensor:
        """One minus the cosine of the angle between embedding and point: (N, P), in [0, 2]."""
        return 1 - cosines(embedding, points)
