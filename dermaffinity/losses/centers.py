"""What losses say about several centers per class: how evenly they are spread, and how many are in use."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dermaffinity.heads.base import Predictions

# Above this many centers the (n, n) distances of the direct form cost more than the closed form's float64 sums.
_DIRECT_CENTERS = 128
_CENTERS_AT_A_TIME = 4096


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


def relative_spread(centers: Tensor) -> Tensor:
    """R/μ² of `spread`: how uneven the distances between centers are, whatever their scale; 0 when all are equal.

    Args:
        centers: (n, D).
    """
    mean, variance = spread(centers)
    return variance / mean.square().clamp_min(torch.finfo(mean.dtype).tiny)


def center_usage(predictions: Predictions) -> float:
    """Share of centers that are the nearest of their class for at least one image of that class."""
    num_classes, centers_per_class, _ = predictions.centers.shape
    used = 0
    for label in range(num_classes):
        members = predictions.embedding[predictions.labels == label]
        if len(members):
            distance = (members[:, None] - predictions.centers[label]).square().sum(dim=2)  # (n, M)
            used += distance.argmin(dim=1).unique().numel()
    return used / (num_classes * centers_per_class)


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
