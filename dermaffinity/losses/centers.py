"""What losses say about several centers per class: how evenly they are spread, and how many are in use."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dermaffinity.heads.base import Predictions

# Above this many centers the (n, n) distances of the direct form cost more than the closed form's float64 sums.
_DIRECT_CENTERS = 128
_CENTERS_AT_A_TIME = 2048
_COLUMNS_AT_A_TIME = 128


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
    distances of all ordered pairs sum to 2nS₁ and their squares to 2nS₂ + 2S₁² + 4|G|². The sums are in float64,
    because the variance is a small difference of large ones when the centers are nearly equidistant. So is G for few
    centers; more than D + 1 cannot be equidistant, |G|² is then a good part of the variance, at least about
    (1/D - 1/n)μ² of it, and float32 is exact enough. Block by block, because of the memory.
    """

    @staticmethod
    def forward(ctx: Any, centers: Tensor) -> tuple[Tensor, Tensor]:
        n, dimensions = centers.shape
        origin = centers.mean(dim=0, dtype=torch.float64)
        s1, s2, gram = origin.new_zeros(()), origin.new_zeros(()), origin.new_zeros((dimensions, dimensions))
        exact = n < 4 * dimensions
        for block in centers.split(_CENTERS_AT_A_TIME):
            shifted = _shifted(block, origin, exact)
            squared_length = torch.linalg.vector_norm(shifted, dim=1, dtype=torch.float64).square()
            s1 += squared_length.sum()
            s2 += squared_length.square().sum()
            # The lower triangle in strips; the other is its reflection.
            for start in range(0, dimensions, _COLUMNS_AT_A_TIME):
                strip = shifted[:, start : start + _COLUMNS_AT_A_TIME]
                gram[start:, start : start + _COLUMNS_AT_A_TIME] += shifted[:, start:].T @ strip
        gram = gram.tril() + gram.tril(-1).T
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
        # What each center's own vector is multiplied by, but for its squared length and what of G is uneven. The even
        # part of G nearly cancels the rest when the centers are spread evenly, so that it is added in float64.
        even = gram.diagonal().mean()
        factor = 4 * of_mean / (n - 1) + of_variance * (s1 * (8 / pairs - 16 / (n - 1) ** 2) + even * (16 / pairs))
        uneven = (gram - even * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)) * (of_variance * 16 / pairs)
        exact = n < 4 * len(gram)
        result = torch.empty_like(centers)
        for block, part in zip(*(whole.split(_CENTERS_AT_A_TIME) for whole in (centers, result)), strict=True):
            shifted = _shifted(block, origin, exact)
            squared_length = torch.linalg.vector_norm(shifted, dim=1, keepdim=True, dtype=torch.float64).square()
            of_length = of_variance * (8 * n / pairs) * squared_length + factor
            part.copy_(torch.addmm(of_length.to(shifted.dtype) * shifted, shifted, uneven.to(shifted.dtype)))
        return result.sub_(result.mean(dim=0))  # moving all centers alike changes nothing


def _shifted(block: Tensor, origin: Tensor, exact: bool) -> Tensor:
    """Centers from their mean in float64, or as exactly as their own type can say it."""
    if exact:
        return block - origin
    rounded = origin.to(block.dtype)
    return (block - rounded).sub_((origin - rounded).to(block.dtype))
