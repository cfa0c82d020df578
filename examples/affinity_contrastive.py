"""A loss of your own: that of affinity+ with a balanced contrastive term, in which the centers take part.

    PYTHONPATH=examples dermaffinity crossval hamfit7_affinity_plus examples/hamfit7_affinity_contrastive.yaml \\
        --inner --seeds 0,1,2 --baseline hamfit7_affinity_plus

It was not shown to help (docs/record.md), so it is no part of the package.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from dermaffinity.heads.base import HeadOutput
from dermaffinity.losses.affinity_posterior import AffinityPosteriorLoss


class AffinityContrastiveLoss(AffinityPosteriorLoss):
    r"""`AffinityPosteriorLoss`, plus: each image nearer to the images and centers of its class than to all others.

    .. math::
        L_c = -\frac{1}{N} \sum_i \frac{1}{|P_i|} \sum_{p \in P_i} \log
            \frac{\exp(u_i \cdot u_p / T)}{\sum_j \frac{1}{|B_{ij}|} \sum_{k \in B_{ij}} \exp(u_i \cdot u_k / T)}

    for embeddings and centers u, scaled to unit length. B_ij are the images of class j in the batch but i itself, and
    the centers of j; P_i are those of i's own class. The mean over each class instead of the sum keeps the common
    classes of a batch from pushing the rare ones away, and through its centers every class takes part in every batch.

    Source: the balanced contrastive loss of Zhu et al., CVPR 2022, https://arxiv.org/abs/2207.09052, Eq. 6 and 7, where
    prototypes of their own take the centers' place and a second network layer gives the embeddings.

    Args:
        class_counts: (C,), images of each class in the training rows.
        embedding_dim: Size D of the embedding.
        contrastive_weight: At least 0.
        temperature: T, positive. σ/2 of the head makes both terms see the same similarities.
        prior_weight: As in `AffinityPosteriorLoss`.
        margin: As there.
        diversity_weight: As there.

    Examples:
        >>> import torch
        >>> from dermaffinity.heads import HeadOutput
        >>> from affinity_contrastive import AffinityContrastiveLoss
        >>> loss = AffinityContrastiveLoss(torch.tensor([90, 10]), 2, contrastive_weight=1, temperature=1)
        >>> output = HeadOutput(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), torch.eye(2)[:, None])
        >>> round(loss(output, torch.tensor([0]))["contrastive"].item(), 3)  # log(e + 1) - 1
        0.313
    """

    def __init__(
        self,
        class_counts: Tensor,
        embedding_dim: int,
        *,
        contrastive_weight: float = 0.35,
        temperature: float = 0.1,
        prior_weight: float = 1.0,
        margin: float = 0.0,
        diversity_weight: float = 0.1,
    ) -> None:
        super().__init__(
            class_counts, embedding_dim, prior_weight=prior_weight, margin=margin, diversity_weight=diversity_weight
        )
        if not contrastive_weight >= 0:
            raise ValueError(f"contrastive_weight must be at least 0, got {contrastive_weight}")
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.contrastive_weight = contrastive_weight
        self.temperature = temperature

    def forward(self, output: HeadOutput, labels: Tensor) -> dict[str, Tensor]:
        """Those of `AffinityPosteriorLoss` and ``contrastive``, with its weight."""
        classes, centers_per_class, _ = output.centers.shape
        owners = torch.arange(classes, device=labels.device).repeat_interleave(centers_per_class)
        everything = torch.cat([labels, owners])  # (N + CM,)
        images = F.normalize(output.embedding.float(), dim=1)
        centers = F.normalize(output.centers.float().flatten(end_dim=1), dim=1)
        logits = images @ torch.cat([images, centers]).T / self.temperature  # (N, N + CM)
        others = torch.ones_like(logits).fill_diagonal_(0)
        members = F.one_hot(everything, classes).to(logits.dtype)  # (N + CM, C)
        class_sizes = (others @ members)[:, everything]  # |B_ij| of each column's class
        normalizer = (logits - class_sizes.log()).masked_fill(others == 0, -torch.inf).logsumexp(dim=1)
        own = others * (labels[:, None] == everything)
        nearness = (own * logits).sum(dim=1) / own.sum(dim=1) - normalizer
        return super().forward(output, labels) | {"contrastive": -self.contrastive_weight * nearness.mean()}
