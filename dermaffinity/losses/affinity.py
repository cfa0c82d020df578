"""The max-margin affinity loss with its diversity term."""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from dermaffinity.heads.base import HeadOutput, Predictions, ScoreKind
from dermaffinity.losses.base import Loss
from dermaffinity.losses.centers import center_usage, relative_spread, spread


class AffinityLoss(Loss):
    r"""Hinge between similarities, plus the variance of the distances between centers.

    .. math::
        L = \frac{1}{N} \sum_i \sum_{j \ne y_i} \max(0, \lambda + s_{ij} - s_{iy_i}) + \beta R(w)

    Source: Hayat et al., ICCV 2019, https://arxiv.org/abs/1901.07711: Eq. 6 (hinge, on the similarities of Eq. 9),
    Eq. 7 and 8 (R), Eq. 10 (their sum; the paper's weight is 1).

    Args:
        class_counts: (C,), images of each class in the training rows; this loss does not use them.
        embedding_dim: Size D of the embedding.
        margin: λ, in (0, 1] because similarities are; the paper does not print its value.
        diversity: ``"paper"`` for R as in Eq. 7, which grows with the fourth power of the centers' scale, or
            ``"relative"`` for R/μ², which does not depend on it; μ is the mean squared distance between centers.
        diversity_weight: β, at least 0.

    Examples:
        >>> import torch
        >>> from dermaffinity.heads import HeadOutput
        >>> from dermaffinity.losses import AffinityLoss
        >>> loss = AffinityLoss(torch.tensor([40, 20, 5]), 2, margin=0.75)
        >>> similarities = torch.tensor([[0.9, 0.2, 0.5]])  # own 0.9: 0.05 and 0.35 are missing
        >>> output = HeadOutput(similarities, torch.zeros(1, 2), torch.eye(3)[:, None])  # equidistant centers
        >>> {name: round(term.item(), 2) for name, term in loss(output, torch.tensor([0])).items()}
        {'max_margin': 0.4, 'diversity': 0.0}
    """

    score_kind = ScoreKind.SIMILARITY

    def __init__(
        self,
        class_counts: Tensor,
        embedding_dim: int,
        *,
        margin: float = 0.75,
        diversity: Literal["paper", "relative"] = "paper",
        diversity_weight: float = 1.0,
    ) -> None:
        super().__init__(class_counts, embedding_dim)
        if not 0 < margin <= 1:
            raise ValueError(f"margin must be in (0, 1] because similarities are, got {margin}")
        if diversity not in ("paper", "relative"):
            raise ValueError(f"diversity must be 'paper' or 'relative', got {diversity!r}")
        if not diversity_weight >= 0:
            raise ValueError(f"diversity_weight must be at least 0, got {diversity_weight}")
        self.margin = margin
        self.diversity = diversity
        self.diversity_weight = diversity_weight

    def forward(self, output: HeadOutput, labels: Tensor) -> dict[str, Tensor]:
        """The terms ``max_margin`` and ``diversity``, the second with its weight."""
        centers = output.centers.flatten(end_dim=1)  # (CM, D)
        diversity = spread(centers)[1] if self.diversity == "paper" else relative_spread(centers)
        return {
            "max_margin": self._hinges(output.scores, labels).sum(dim=1).mean(),
            "diversity": self.diversity_weight * diversity,
        }

    def on_epoch_end(self, epoch: int, validation: Predictions) -> dict[str, float]:
        """Watches the similarities; stops a training that sits on the plateau.

        Raises:
            ValueError: From the second epoch on, when the hinge has no gradient to work with: the similarities are all
                about zero (sigma too small for the embedding's scale) or all alike (sigma too large).
        """
        scores, labels = validation.scores, validation.labels
        own = scores.gather(1, labels[:, None]).squeeze(1)  # (N,)
        spread_of_scores = (scores.amax(dim=1) - scores.amin(dim=1)).median().item()
        if epoch >= 1 and spread_of_scores < 1e-3:
            plateau = self.margin * (scores.shape[1] - 1)
            raise ValueError(
                f"the affinity loss sits on its plateau of margin x (C - 1) = {plateau:g}: on the inner validation "
                f"images the median similarity to the own class is {own.median():.1e} and the classes differ by "
                f"{spread_of_scores:.1e}. "
                + (
                    "Raise the head's sigma, or fix the embedding's scale with the neck dermaffinity.models.UnitNeck"
                    if own.median() < 0.5
                    else "Lower the head's sigma"
                )
            )
        return {
            "own_similarity": own.median().item(),
            "active_hinges": (self._hinges(scores, labels) > 0).sum().item() / (len(scores) * (scores.shape[1] - 1)),
            "center_usage": center_usage(validation),
            "relative_diversity": relative_spread(validation.centers.flatten(end_dim=1)).item(),
        }

    def _hinges(self, scores: Tensor, labels: Tensor) -> Tensor:
        own_class = F.one_hot(labels, scores.shape[1]).bool()  # (N, C)
        own = scores.gather(1, labels[:, None])  # (N, 1)
        return (self.margin + scores - own).clamp_min(0).masked_fill(own_class, 0)  # (N, C), Eq. 6
