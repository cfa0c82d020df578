"""Center loss: softmax that also pulls the embeddings of a class together."""

import torch
from torch import Tensor
from torch.nn import functional as F

from dermaffinity.heads.base import HeadOutput, ScoreKind
from dermaffinity.losses.base import Loss


class CenterLoss(Loss):
    r"""Cross-entropy, plus the squared distance of each embedding to the center of its class.

    .. math:: L = \frac{1}{N} \sum_i \Big( -\log p_{i y_i} + \frac{\lambda}{2} \lVert f_i - c_{y_i} \rVert^2 \Big),
              \qquad c_j \leftarrow c_j - \alpha \frac{\sum_{i: y_i = j} (c_j - f_i)}{1 + n_j}

    with n_j images of class j in the batch. As in the paper, the centers follow this rule, not the gradient; they start
    at the origin, and move after each batch of training. Only training needs them: prediction is that of softmax.

    Source: Wen et al., "A Discriminative Feature Learning Approach for Deep Face Recognition", ECCV 2016, Eq. 2 to 5
    and Algorithm 1. There the sums run over the batch; here the mean is taken, as for every other loss.

    Args:
        class_counts: (C,), images of each class in the training rows; this loss does not use them.
        embedding_dim: Size D of the embedding.
        center_weight: λ, at least 0; 0 is plain cross-entropy.
        center_rate: α, in [0, 1].

    Examples:
        >>> import torch
        >>> from dermaffinity.heads import LinearHead
        >>> from dermaffinity.losses import CenterLoss
        >>> head, loss = LinearHead(2, 2), CenterLoss(torch.tensor([30, 3]), 2, center_weight=1.0)
        >>> terms = loss(head(torch.tensor([[3.0, 4.0]])), torch.tensor([0]))  # 5 away from a center at the origin
        >>> round(terms["center"].item(), 2)
        12.5
    """

    score_kind = ScoreKind.LOGIT
    centers: Tensor

    def __init__(
        self, class_counts: Tensor, embedding_dim: int, *, center_weight: float = 0.003, center_rate: float = 0.5
    ) -> None:
        super().__init__(class_counts, embedding_dim)
        if not center_weight >= 0:
            raise ValueError(f"center_weight must be at least 0, got {center_weight}")
        if not 0 <= center_rate <= 1:
            raise ValueError(f"center_rate must be in [0, 1], got {center_rate}")
        self.center_weight = center_weight
        self.center_rate = center_rate
        self.register_buffer("centers", torch.zeros(len(class_counts), embedding_dim))  # (C, D)

    def forward(self, output: HeadOutput, labels: Tensor) -> dict[str, Tensor]:
        """The terms ``cross_entropy`` and ``center``, the second with its weight; in training the centers move."""
        difference = output.embedding.float() - self.centers[labels]  # (N, D)
        terms = {
            "cross_entropy": F.cross_entropy(output.scores.float(), labels),
            "center": self.center_weight / 2 * difference.square().sum(dim=1).mean(),
        }
        if self.training:
            self._follow(difference.detach(), labels)
        return terms

    def _follow(self, difference: Tensor, labels: Tensor) -> None:
        pull = torch.zeros_like(self.centers).index_add_(0, labels, difference)  # (C, D)
        number = torch.zeros_like(self.class_counts).index_add_(0, labels, torch.ones_like(labels, dtype=torch.float32))
        self.centers += self.center_rate * pull / (1 + number)[:, None]
