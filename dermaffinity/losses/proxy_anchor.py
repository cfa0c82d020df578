"""Proxy-Anchor: every class vector against all images of a batch."""

import torch
from torch import Tensor
from torch.nn import functional as F

from dermaffinity.heads.base import HeadOutput, ScoreKind
from dermaffinity.losses.base import Loss


class ProxyAnchorLoss(Loss):
    r"""Pulls each class vector to the images of its class and pushes it from all others, the hardest ones most.

    .. math:: L = \frac{1}{|P^+|} \sum_{j \in P^+} \log\Big(1 + \sum_{i: y_i = j} e^{-\alpha (c_{ij} - \delta)}\Big)
              + \frac{1}{C} \sum_j \log\Big(1 + \sum_{i: y_i \ne j} e^{\alpha (c_{ij} + \delta)}\Big)

    over the cosines c of a batch; P⁺ are the classes that have images in it. The loss of a batch is not the mean of
    those of its images: each class weighs its images against one another.

    Source: Kim et al., "Proxy Anchor Loss for Deep Metric Learning", CVPR 2020,
    https://arxiv.org/abs/2003.13911, Eq. 4.

    Args:
        class_counts: (C,), images of each class in the training rows; this loss does not use them.
        embedding_dim: Size D of the embedding.
        sharpness: α, positive; the larger, the more the hardest image of a class counts.
        margin: δ, in [0, 1] because cosines are at most 1: own cosines are to exceed it, others to stay below -δ.

    Examples:
        >>> import torch
        >>> from dermaffinity.heads import CosineHead
        >>> from dermaffinity.losses import ProxyAnchorLoss
        >>> head, loss = CosineHead(4, 3), ProxyAnchorLoss(torch.tensor([50, 20, 5]), 4)
        >>> sorted(loss(head(torch.randn(6, 4)), torch.tensor([0, 1, 2, 0, 1, 2])))
        ['pull', 'push']
    """

    score_kind = ScoreKind.COSINE

    def __init__(
        self, class_counts: Tensor, embedding_dim: int, *, sharpness: float = 32.0, margin: float = 0.1
    ) -> None:
        super().__init__(class_counts, embedding_dim)
        if not sharpness > 0:
            raise ValueError(f"sharpness must be positive, got {sharpness}")
        if not 0 <= margin <= 1:
            raise ValueError(f"margin must be in [0, 1] because cosines are at most 1, got {margin}")
        self.sharpness = sharpness
        self.margin = margin

    def forward(self, output: HeadOutput, labels: Tensor) -> dict[str, Tensor]:
        """The terms ``pull`` of own images and ``push`` of others."""
        own_class = F.one_hot(labels, output.scores.shape[1]).bool()  # (N, C)
        own = (-self.sharpness * (output.scores - self.margin)).masked_fill(~own_class, -torch.inf)
        others = (self.sharpness * (output.scores + self.margin)).masked_fill(own_class, -torch.inf)
        return {
            "pull": _log_of_1_plus_sum(own).sum() / own_class.any(dim=0).sum(),
            "push": _log_of_1_plus_sum(others).mean(),
        }


def _log_of_1_plus_sum(exponents: Tensor) -> Tensor:
    """log(1 + Σ exp) over the images (N, C), without overflow: (C,); 0 for a class without exponents."""
    return torch.cat([torch.zeros_like(exponents[:1]), exponents]).logsumexp(dim=0)
