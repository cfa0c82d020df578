"""What several heads share: distances and angles to class vectors, and where centers start."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Above this many values C·M·D of all centers, the differences to a batch would fill gigabytes.
_DIRECT_VALUES = 2**18
_CENTERS_AT_A_TIME = 1024  # in float64 they stay in the cache


def distance_to_centers(embedding: Tensor, centers: Tensor, distance: Literal["l2", "l1"] = "l2") -> Tensor:
    """Distance (N, C, M) of embeddings (N, D) to centers (C, M, D).

    Args:
        embedding: (N, D).
        centers: (C, M, D).
        distance: ``"l2"``, the squared Euclidean distance, or ``"l1"``, the sum of absolute differences.
    """
    if centers.numel() <= _DIRECT_VALUES:
        difference = embedding[:, None, None, :] - centers  # (N, C, M, D)
        return difference.square().sum(dim=3) if distance == "l2" else difference.abs().sum(dim=3)  # (N, C, M)
    flat = centers.flatten(end_dim=1)  # (CM, D)
    to_each = _SquaredDistance.apply(embedding, flat) if distance == "l2" else torch.cdist(embedding, flat, 1)
    return to_each.unflatten(1, centers.shape[:2])  # (N, C, M)


def unit_length(centers: Tensor) -> Tensor:
    """Centers (C, M, D) scaled to length 1 each."""
    return F.normalize(centers, dim=2) if centers.numel() <= _DIRECT_VALUES else _UnitLength.apply(centers)


def cosines(embedding: Tensor, points: Tensor) -> Tensor:
    """Cosine (N, P) of the angle between embeddings (N, D) and points (P, D); 0 where one of the two is the origin."""
    cosine = F.normalize(embedding, dim=1) @ F.normalize(points, dim=1).T
    return cosine.clamp(-1, 1)  # rounding


def samples_of_each_class(embedding: Tensor, labels: Tensor, num_classes: int, number: int) -> Tensor:
    """Embeddings of images drawn at random from each class, each once while there are enough.

    Args:
        embedding: (N, D).
        labels: (N,), every class at least once.
        num_classes: C.
        number: M, images of each class.

    Returns:
        (C, M, D).
    """
    drawn = []
    for label in range(num_classes):
        members = embedding[labels == label]  # (n, D)
        rounds = -(-number // len(members))
        order = torch.cat([torch.randperm(len(members)) for _ in range(rounds)])
        drawn.append(members[order[:number]])
    return torch.stack(drawn)


class _UnitLength(torch.autograd.Function):
    """As ``F.normalize``, with a gradient in two passes over all centers instead of ten."""

    @staticmethod
    def forward(ctx: Any, centers: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(centers, dim=2, keepdim=True).clamp_min(1e-12)
        unit = centers / length
        ctx.save_for_backward(unit, length)
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        unit, length = ctx.saved_tensors
        (gradient,) = gradients
        along = torch.einsum("cmd,cmd->cm", gradient, unit)[:, :, None]
        return torch.addcmul(gradient, unit, along, value=-1).div_(length)


class _SquaredDistance(torch.autograd.Function):
    """|f - w|² of embeddings (N, D) and centers (n, D) as (N, n), without their (N, n, D) differences."""

    @staticmethod
    def forward(ctx: Any, embedding: Tensor, centers: Tensor) -> Tensor:
        ctx.save_for_backward(embedding, centers)
        # In float32 the expansion |f|² + |w|² - 2fw loses the small distances that matter most.
        f = embedding.double()
        squared_length = f.square().sum(dim=1, keepdim=True)  # (N, 1)
        parts = []
        for block in centers.split(_CENTERS_AT_A_TIME):
            w = block.double()
            squared = torch.addmm(squared_length + w.square().sum(dim=1), f, w.T, alpha=-2)
            parts.append(squared.clamp_min(0).to(embedding.dtype))
        return torch.cat(parts, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        embedding, centers = ctx.saved_tensors
        (gradient,) = gradients  # (N, n)
        # In place, because a new tensor as large as all centers costs as much as the multiplication.
        of_embedding = embedding * (2 * gradient.sum(dim=1, keepdim=True))
        of_centers = centers * (2 * gradient.sum(dim=0)[:, None])
        return (
            of_embedding.addmm_(gradient, centers, alpha=-2),
            of_centers.addmm_(gradient.T, embedding, alpha=-2),
        )
