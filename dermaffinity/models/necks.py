"""Necks map a backbone's features (N, F) to the embedding (N, D) and so fix its scale.

A Gaussian similarity only learns where its exponent is of order one, so the embedding's scale is part of the method.
"""

from abc import ABC

from torch import Tensor, nn
from torch.nn import functional as F


class Neck(nn.Module, ABC):
    """Maps features (N, F) to an embedding (N, ``embedding_dim``); built from the size F of the features.

    Examples:
        >>> from dermaffinity.models import Neck, UnitNeck
        >>> neck = UnitNeck(512, dim=64)
        >>> isinstance(neck, Neck), neck.embedding_dim
        (True, 64)
    """

    embedding_dim: int


class IdentityNeck(Neck):
    """The features themselves.

    Examples:
        >>> import torch
        >>> from dermaffinity.models import IdentityNeck
        >>> IdentityNeck(512)(torch.zeros(2, 512)).shape
        torch.Size([2, 512])
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.embedding_dim = num_features

    def forward(self, features: Tensor) -> Tensor:
        """The features (N, F), unchanged."""
        return features


class LinearNeck(Neck):
    """One affine map without a nonlinearity, such as to the two dimensions that a figure can show.

    Args:
        num_features: Size F of the features.
        dim: Size D of the embedding.

    Examples:
        >>> import torch
        >>> from dermaffinity.models import LinearNeck
        >>> LinearNeck(512, dim=2)(torch.zeros(3, 512)).shape
        torch.Size([3, 2])
    """

    def __init__(self, num_features: int, *, dim: int = 2) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        self.embedding_dim = dim
        self.linear = nn.Linear(num_features, dim)

    def forward(self, features: Tensor) -> Tensor:
        """The embedding (N, D)."""
        return self.linear(features)


class BatchNormNeck(Neck):
    """Batch normalization without an affine map: every dimension has mean 0 and variance 1, a length of about √F.

    Examples:
        >>> import torch
        >>> from dermaffinity.models import BatchNormNeck
        >>> BatchNormNeck(4)(100 * torch.randn(64, 4)).std(dim=0, correction=0).round(decimals=2)
        tensor([1., 1., 1., 1.])
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.embedding_dim = num_features
        self.norm = nn.BatchNorm1d(num_features, affine=False)

    def forward(self, features: Tensor) -> Tensor:
        """The normalized features (N, F)."""
        return self.norm(features)


class UnitNeck(Neck):
    """Batch normalization, an optional linear projection, then scaling to unit length.

    Two random points of the sphere are about 2 apart in squared distance, so that a sigma of 0.5 to 1 suits it.

    Args:
        num_features: Size F of the features.
        dim: Size D of the embedding, or None to keep the features' size and use no projection.

    Examples:
        >>> import torch
        >>> from dermaffinity.models import UnitNeck
        >>> embedding = UnitNeck(512)(torch.randn(8, 512))
        >>> embedding.norm(dim=1).allclose(torch.ones(8))
        True
    """

    def __init__(self, num_features: int, *, dim: int | None = None) -> None:
        super().__init__()
        if dim is not None and dim < 2:
            raise ValueError(f"dim must be at least 2, got {dim}")
        self.embedding_dim = dim or num_features
        self.norm = nn.BatchNorm1d(num_features, affine=False)
        self.projection = nn.Identity() if dim is None else nn.Linear(num_features, dim, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """The embedding (N, D), every row of length 1."""
        return F.normalize(self.projection(self.norm(features)), dim=1)
