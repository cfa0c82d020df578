"""The max-margin affinity loss with its diversity term."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from dermaffinity.heads.base import HeadOutput, Predictions, ScoreKind
from dermaffinity.losses.base import Loss

# Above this many centers the (n, n) distances of the direct form cost more than the closed form's float64 sums.
_DIRECT_CENTERS = 128
_CENTERS_AT_A_TIME = 4096


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
        mean, variance = spread(centers)
        diversity = variance / mean.square().clamp_min(torch.finfo(mean.dtype).tiny)
        return {
            "max_margin": self._hinges(output.scores, labels).sum(dim=1).mean(),
            "diversity": self.diversity_weight * (variance if self.diversity == "paper" else diversity),
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
        mean, variance = spread(validation.centers.flatten(end_dim=1))
        return {
            "own_similarity": own.median().item(),
            "active_hinges": (self._hinges(scores, labels) > 0).sum().item() / (len(scores) * (scores.shape[1] - 1)),
            "center_usage": _center_usage(validation),
            "relative_diversity": (variance / mean.square()).item(),
        }

    def _hinges(self, scores: Tensor, labels: Tensor) -> Tensor:
        own_class = F.one_hot(labels, scores.shape[1]).bool()  # (N, C)
        own = scores.gather(1, labels[:, None])  # (N, 1)
        return (self.margin + scores - own).clamp_min(0).masked_fill(own_class, 0)  # (N, C), Eq. 6


def spread(centers: Tensor) -> tuple[Tensor, Tensor]:
    """Mean μ and variance R of the squared distances between all pairs of different centers (Eq. 7 and 8).

    Args:
        centers: (n, D); with fewer than two centers both results are 0.

    Returns:
        Two scalars.
    """
    n = len(centers)
    if n < 2:
        zero = centers.sum() * 0
        return zero, zero
    if n <= _DIRECT_CENTERS:
        first, second = torch.triu_indices(n, n, offset=1, device=centers.device)
        squared_distance = (centers[first] - centers[second]).square().sum(dim=1)  # (n(n-1)/2,)
        return squared_distance.mean(), squared_distance.var(correction=0)
    mean, variance = _ClosedSpread.apply(centers)
    return mean, variance


class _ClosedSpread(torch.autograd.Function):
    """Mean and variance of the squared distances between n centers, in O(nD²) instead of O(n²D).

    With centers of zero mean the sums over pairs close: for s_i = |w_i|², S₁ = Σs, S₂ = Σs² and G = WᵀW, the squared
    distances of all ordered pairs sum to 2nS₁ and their squares to 2nS₂ + 2S₁² + 4|G|². In float64, because the
    variance is a small difference of large sums when the centers are nearly equidistant; block by block, because a copy
    of all centers in float64 is twice as large as they are.
    """

    @staticmethod
    def forward(ctx: Any, centers: Tensor) -> tuple[Tensor, Tensor]:
        n = len(centers)
        origin = centers.mean(dim=0, dtype=torch.float64)
        s1, s2, gram = origin.new_zeros(()), origin.new_zeros(()), origin.new_zeros((len(origin), len(origin)))
        for block in centers.split(_CENTERS_AT_A_TIME):
            shifted = block - origin
            squared_length = shifted.square().sum(dim=1)
            s1 += squared_length.sum()
            s2 += squared_length.square().sum()
            gram.addmm_(shifted.T, shifted)
        mean = 2 * s1 / (n - 1)
        variance = (2 * n * s2 + 2 * s1.square() + 4 * gram.square().sum()) / (n * (n - 1)) - mean.square()
        ctx.save_for_backward(centers, origin, s1, gram)
        return mean.to(centers.dtype), variance.clamp_min(0).to(centers.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        centers, origin, s1, gram = ctx.saved_tensors
        of_mean, of_variance = (gradient.double() for gradient in gradients)
        n = len(centers)
        pairs = n * (n - 1)
        # What each center's own vector is multiplied by, but for its squared length and G.
        factor = 4 * of_mean / (n - 1) + of_variance * s1 * (8 / pairs - 16 / (n - 1) ** 2)
        parts = []
        for block in centers.split(_CENTERS_AT_A_TIME):
            shifted = block - origin
            of_length = of_variance * (8 * n / pairs) * shifted.square().sum(dim=1, keepdim=True) + factor
            part = torch.addmm(of_length * shifted, shifted, gram * (of_variance * 16 / pairs))
            parts.append(part.to(centers.dtype))
        result = torch.cat(parts)
        return result - result.mean(dim=0)  # moving all centers alike changes nothing


def _center_usage(predictions: Predictions) -> float:
    """Share of centers that are the nearest of their class for at least one image of that class."""
    num_classes, centers_per_class, _ = predictions.centers.shape
    used = 0
    for label in range(num_classes):
        members = predictions.embedding[predictions.labels == label]
        if len(members):
            distance = (members[:, None] - predictions.centers[label]).square().sum(dim=2)  # (n, M)
            used += distance.argmin(dim=1).unique().numel()
    return used / (num_classes * centers_per_class)
