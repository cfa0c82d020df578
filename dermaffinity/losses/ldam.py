"""Label-distribution-aware margins, with weights that come late in training."""

import torch
from torch import Tensor
from torch.nn import functional as F

from dermaffinity.heads.base import HeadOutput, ScoreKind
from dermaffinity.losses.base import Loss, effective_number_weights, weighted_cross_entropy


class LDAMLoss(Loss):
    r"""Cross-entropy on cosines from which a margin is taken, the wider the rarer the class; LDAM-DRW.

    .. math:: L = -\frac{1}{N} \sum_i w_{y_i} \log \mathrm{softmax}_{y_i}\big(s (c_i - \Delta_{y_i} e_{y_i})\big),
              \qquad \Delta_c = m \Big(\frac{\min_k n_k}{n_c}\Big)^{1/4}

    The weights w are 1 until the share ``deferral`` of the epochs is over, then the class-balanced ones,
    (1 - β)/(1 - β^n) scaled to sum to C: weights from the start would hurt what the network learns to see.

    Source: Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019,
    https://arxiv.org/abs/1906.07413, Algorithm 1; the margin 0.5 and the form with a scale (there 30) are those of the
    authors' code.

    Args:
        class_counts: (C,), images of each class in the training rows.
        embedding_dim: Size D of the embedding.
        largest_margin: m, the margin of the rarest class, in [0, 2] because cosines are that far apart at most.
        beta: β, in [0, 1); 0 is LDAM without weights.
        deferral: Share of the epochs before the weights come, in [0, 1]; 1 is never. The paper: 160 of 200 epochs.
        scale: s, positive; the head's.

    Examples:
        >>> import torch
        >>> from dermaffinity.losses import LDAMLoss
        >>> LDAMLoss(torch.tensor([480, 30]), 4, largest_margin=0.5).margins  # the rarest class has the widest
        tensor([0.2500, 0.5000])
    """

    score_kind = ScoreKind.COSINE
    margins: Tensor
    balanced_weights: Tensor
    class_weights: Tensor

    def __init__(
        self,
        class_counts: Tensor,
        embedding_dim: int,
        *,
        largest_margin: float = 0.5,
        beta: float = 0.9999,
        deferral: float = 0.8,
        scale: float = 16.0,
    ) -> None:
        super().__init__(class_counts, embedding_dim)
        if not 0 <= largest_margin <= 2:
            raise ValueError(f"largest_margin must be in [0, 2], the range of a difference, got {largest_margin}")
        if not 0 <= deferral <= 1:
            raise ValueError(f"deferral must be in [0, 1] because it is a share of the epochs, got {deferral}")
        if not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}")
        self.deferral = deferral
        self.scale = scale
        counts = self.class_counts
        self.register_buffer("margins", largest_margin * (counts.min() / counts) ** 0.25)  # (C,)
        self.register_buffer("balanced_weights", effective_number_weights(counts, beta))
        self.register_buffer("class_weights", torch.ones_like(counts))  # those in force

    def forward(self, output: HeadOutput, labels: Tensor) -> dict[str, Tensor]:
        """The one term ``ldam``."""
        own_class = F.one_hot(labels, output.scores.shape[1])  # (N, C)
        logits = self.scale * (output.scores - own_class * self.margins)
        return {"ldam": weighted_cross_entropy(logits, labels, self.class_weights)}

    def on_epoch_start(self, epoch: int, epochs: int) -> None:
        """Puts the weights of this epoch in force."""
        deferred = epoch >= round(self.deferral * epochs)
        self.class_weights.copy_(self.balanced_weights if deferred else torch.ones_like(self.class_weights))
