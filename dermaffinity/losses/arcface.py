"""ArcFace: a margin between angles."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from dermaffinity.heads.base import HeadOutput, ScoreKind
from dermaffinity.losses.base import Loss

# Below this, 1 - cosine² is rounding in float32, and the slope of its root grows without bound.
_SMALLEST_SQUARED_SINE = 1e-7


class ArcFaceLoss(Loss):
    r"""Cross-entropy on scaled cosines, the angle to the own class widened by a margin.

    .. math:: L = -\frac{1}{N} \sum_i \log \frac{e^{s \psi(\theta_{i y_i})}}
              {e^{s \psi(\theta_{i y_i})} + \sum_{j \ne y_i} e^{s \cos \theta_{ij}}}, \qquad
              \psi(\theta) = \begin{cases} \cos(\theta + m) & \theta \le \pi - m \\
              \cos \theta - m \sin m & \text{beyond, where the first would rise again} \end{cases}

    On a ``CosineHead`` with several centers per class, pooled by the maximum, it is sub-center ArcFace.

    Source: Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019,
    https://arxiv.org/abs/1801.07698, Eq. 3; Deng et al., "Sub-center ArcFace", ECCV 2020, with 3 centers. The second
    case of ψ is that of the authors' code. Their scale of 64 is for thousands of identities.

    Args:
        class_counts: (C,), images of each class in the training rows; this loss does not use them.
        embedding_dim: Size D of the embedding.
        margin: m, in degrees, in [0, 90]; 0 is cross-entropy on scaled cosines, the papers' 0.5 radians are 28.6.
        scale: s, positive; the head's.

    Examples:
        >>> import torch
        >>> from dermaffinity.heads import CosineHead
        >>> from dermaffinity.losses import ArcFaceLoss
        >>> head = CosineHead(embedding_dim=2, num_classes=2, scale=16.0)
        >>> _ = head.centers.data.copy_(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))
        >>> output = head(torch.tensor([[5.0, 4.0]]))  # cosines 0.78 and 0.62: 39 and 51 degrees
        >>> for margin in (0.0, 28.6):
        ...     loss = ArcFaceLoss(torch.tensor([30, 3]), 2, margin=margin, scale=16.0)
        ...     print(round(sum(loss(output, torch.tensor([0])).values()).item(), 3))
        0.079
        3.832
    """

    score_kind = ScoreKind.COSINE

    def __init__(self, class_counts: Tensor, embedding_dim: int, *, margin: float = 28.6, scale: float = 16.0) -> None:
        super().__init__(class_counts, embedding_dim)
        if not 0 <= margin <= 90:
            raise ValueError(f"margin must be in [0, 90] because it is in degrees, got {margin}")
        if not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}")
        self.margin = margin
        self.scale = scale

    def forward(self, output: HeadOutput, labels: Tensor) -> dict[str, Tensor]:
        """The one term ``arcface``."""
        own_class = F.one_hot(labels, output.scores.shape[1]).bool()  # (N, C)
        own = output.scores.gather(1, labels[:, None])  # (N, 1)
        logits = torch.where(own_class, self._widened(own), output.scores)
        return {"arcface": F.cross_entropy(self.scale * logits, labels)}

    def _widened(self, cosine: Tensor) -> Tensor:
        margin = math.radians(self.margin)
        # The sum of angles without the arc cosine, whose slope is infinite at both ends.
        sine = (1 - cosine.square()).clamp_min(_SMALLEST_SQUARED_SINE).sqrt()
        widened = cosine * math.cos(margin) - sine * math.sin(margin)
        return torch.where(cosine >= -math.cos(margin), widened, cosine - margin * math.sin(margin))
