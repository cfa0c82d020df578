"""CosFace: a margin between cosines."""

from torch import Tensor
from torch.nn import functional as F

from dermaffinity.heads.base import HeadOutput, ScoreKind
from dermaffinity.losses.base import Loss


class CosFaceLoss(Loss):
    r"""Cross-entropy on scaled cosines, that of the own class lowered by a margin.

    .. math:: L = -\frac{1}{N} \sum_i \log \mathrm{softmax}_{y_i}\big(s (c_i - m e_{y_i})\big)

    Source: Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition", CVPR 2018,
    https://arxiv.org/abs/1801.09414, Eq. 4; its scale of 64 is for thousands of identities.

    Args:
        class_counts: (C,), images of each class in the training rows; this loss does not use them.
        embedding_dim: Size D of the embedding.
        margin: m, in [0, 2] because cosines are that far apart at most; 0 is cross-entropy on scaled cosines.
        scale: s, positive; the head's.

    Examples:
        >>> import torch
        >>> from dermaffinity.heads import CosineHead
        >>> from dermaffinity.losses import CosFaceLoss
        >>> head = CosineHead(embedding_dim=2, num_classes=2, scale=16.0)
        >>> _ = head.centers.data.copy_(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))
        >>> output = head(torch.tensor([[5.0, 4.0]]))  # cosines 0.78 and 0.62: 39 and 51 degrees
        >>> for margin in (0.0, 0.35):
        ...     loss = CosFaceLoss(torch.tensor([30, 3]), 2, margin=margin, scale=16.0)
        ...     print(round(sum(loss(output, torch.tensor([0])).values()).item(), 3))
        0.079
        3.145
    """

    score_kind = ScoreKind.COSINE

    def __init__(self, class_counts: Tensor, embedding_dim: int, *, margin: float = 0.35, scale: float = 16.0) -> None:
        super().__init__(class_counts, embedding_dim)
        if not 0 <= margin <= 2:
            raise ValueError(f"margin must be in [0, 2], the range of a difference of cosines, got {margin}")
        if not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}")
        self.margin = margin
        self.scale = scale

    def forward(self, output: HeadOutput, labels: Tensor) -> dict[str, Tensor]:
        """The one term ``cosface``."""
        own_class = F.one_hot(labels, output.scores.shape[1])  # (N, C)
        return {"cosface": F.cross_entropy(self.scale * (output.scores - self.margin * own_class), labels)}
