"""SoftTriple: several centers per class, softly pooled, and drawn together where they are not needed."""

import torch
from torch import Tensor
from torch.nn import functional as F

from dermaffinity.heads.base import HeadOutput, ScoreKind
from dermaffinity.losses.base import Loss


class SoftTripleLoss(Loss):
    r"""Cross-entropy on softly pooled cosines with a margin, plus the distances between the centers of one class.

    .. math:: L = -\frac{1}{N} \sum_i \log \mathrm{softmax}_{y_i}\big(s (c_i - \delta e_{y_i})\big)
              + \frac{\tau}{C M (M - 1)} \sum_j \sum_{t < u} \sqrt{2 - 2 w_{jt} \cdot w_{ju}}

    The second term merges the centers a class does not need; it is the opposite of the affinity loss's diversity. The
    pooling is the head's: give ``CosineHead`` ``pooling: soft``, and its ``pooling_width`` is the paper's γ.

    Source: Qian et al., "SoftTriple Loss: Deep Metric Learning Without Triplet Sampling", ICCV 2019,
    https://arxiv.org/abs/1909.05235; there λ, our s, is 20.

    Args:
        class_counts: (C,), images of each class in the training rows; this loss does not use them.
        embedding_dim: Size D of the embedding.
        margin: δ, in [0, 2] because cosines are that far apart at most.
        merging_weight: τ, at least 0; with one center per class there is nothing to merge.
        scale: s, positive; the head's.

    Examples:
        >>> import torch
        >>> from dermaffinity.heads import CosineHead
        >>> from dermaffinity.losses import SoftTripleLoss
        >>> head = CosineHead(4, 3, centers_per_class=2, pooling="soft")
        >>> loss = SoftTripleLoss(torch.tensor([50, 20, 5]), 4)
        >>> sorted(loss(head(torch.randn(6, 4)), torch.tensor([0, 1, 2, 0, 1, 2])))
        ['merging', 'soft_triple']
    """

    score_kind = ScoreKind.COSINE

    def __init__(
        self,
        class_counts: Tensor,
        embedding_dim: int,
        *,
        margin: float = 0.01,
        merging_weight: float = 0.2,
        scale: float = 16.0,
    ) -> None:
        super().__init__(class_counts, embedding_dim)
        if not 0 <= margin <= 2:
            raise ValueError(f"margin must be in [0, 2], the range of a difference of cosines, got {margin}")
        if not merging_weight >= 0:
            raise ValueError(f"merging_weight must be at least 0, got {merging_weight}")
        if not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}")
        self.margin = margin
        self.merging_weight = merging_weight
        self.scale = scale

    def forward(self, output: HeadOutput, labels: Tensor) -> dict[str, Tensor]:
        """The terms ``soft_triple`` and ``merging``, the second with its weight."""
        own_class = F.one_hot(labels, output.scores.shape[1])  # (N, C)
        return {
            "soft_triple": F.cross_entropy(self.scale * (output.scores - self.margin * own_class), labels),
            "merging": self.merging_weight * _spread_within_classes(output.centers),
        }


def _spread_within_classes(centers: Tensor) -> Tensor:
    """Half the mean distance between two different centers of one class; centers (C, M, D) of unit length."""
    num_classes, number, _ = centers.shape
    if number == 1:
        return centers.new_zeros(())
    first, second = torch.triu_indices(number, number, offset=1, device=centers.device)
    cosine = (centers[:, first] * centers[:, second]).sum(dim=2)  # (C, M(M-1)/2)
    # 1e-5 as in the authors' code: the slope of the distance is infinite where two centers meet.
    distance = (2 + 1e-5 - 2 * cosine).sqrt()
    return distance.sum() / (num_classes * number * (number - 1))
