"""Training on mixtures of two images of a batch."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor


class MixedBatch(NamedTuple):
    """N mixed images whose objective is ``share`` · loss(``labels``) + (1 - ``share``) · loss(``other_labels``).

    Losses are mixed rather than labels, so that every loss takes part, hinges as well. Images that are not mixed have
    no other labels.

    Examples:
        >>> import torch
        >>> from dermaffinity.data import Mixup
        >>> images, labels, counts = torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 0, 1]), torch.tensor([30, 3])
        >>> mixed = Mixup()(images, labels, counts, torch.Generator().manual_seed(0))
        >>> mixed.images.shape, bool(0 <= mixed.share <= 1)
        (torch.Size([4, 3, 8, 8]), True)
    """

    images: Tensor  # (N, 3, H, W)
    labels: Tensor  # (N,)
    other_labels: Tensor | None = None  # (N,)
    share: Tensor | None = None  # (), in [0, 1]


class Mixing(ABC):
    """Mixes the images of a training batch with one another.

    Examples:
        >>> from dermaffinity.data import Mixing, Remix
        >>> isinstance(Remix(alpha=0.4), Mixing)
        True
    """

    @abstractmethod
    def __call__(self, images: Tensor, labels: Tensor, class_counts: Tensor, generator: torch.Generator) -> MixedBatch:
        """One random mixture.

        Args:
            images: (N, 3, H, W), normalized.
            labels: (N,), class indices.
            class_counts: (C,), images of each class in the training rows.
            generator: What everything random is drawn from; on the CPU.
        """


class Mixup(Mixing):
    """Weighted means of two images, and of their losses.

    Source: Zhang et al., "mixup: Beyond empirical risk minimization", ICLR 2018, https://arxiv.org/abs/1710.09412.

    Args:
        alpha: Both parameters of the beta distribution that a batch's share is drawn from; at least 0.01, small for
            weak mixing.

    Examples:
        >>> import torch
        >>> from dermaffinity.data import Mixup
        >>> images, labels = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)]), torch.tensor([0, 1])
        >>> mixed = Mixup(alpha=1.0)(images, labels, torch.tensor([30, 3]), torch.Generator().manual_seed(3))
        >>> mixed.labels, mixed.other_labels, round(float(mixed.share), 2)
        (tensor([0, 1]), tensor([1, 0]), 0.66)
    """

    def __init__(self, *, alpha: float = 0.2) -> None:
        if not alpha >= 0.01:
            raise ValueError(f"alpha must be at least 0.01, below which two images are never mixed, got {alpha}")
        self.alpha = alpha

    def __call__(self, images: Tensor, labels: Tensor, class_counts: Tensor, generator: torch.Generator) -> MixedBatch:
        """See `Mixing`."""
        share, other = _draw(self.alpha, images, generator)
        return MixedBatch(images.lerp(images[other], 1 - share), labels, labels[other], share)


class Remix(Mixing):
    """Mixup whose mixtures of a common and a rare class count as the rare one, unless they show too little of it.

    Source: Chou et al., "Remix: Rebalanced mixup", ECCV workshops 2020, https://arxiv.org/abs/2007.03943, Eq. 6.

    Args:
        alpha: Both parameters of the beta distribution that a batch's share is drawn from; at least 0.01.
        imbalance: κ, how many times as many images the common class must have; at least 1.
        smallest_share: τ, the share of the common image below which its label may be dropped; in [0, 1].

    Examples:
        >>> import torch
        >>> from dermaffinity.data import Remix
        >>> images, labels = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)]), torch.tensor([0, 1])
        >>> mixed = Remix(alpha=1.0)(images, labels, torch.tensor([30, 3]), torch.Generator().manual_seed(3))
        >>> mixed.labels, mixed.other_labels, round(float(mixed.share), 2)  # both mixtures count as the rare class
        (tensor([0, 1]), tensor([1, 1]), 0.66)
    """

    def __init__(self, *, alpha: float = 0.2, imbalance: float = 3.0, smallest_share: float = 0.5) -> None:
        if not alpha >= 0.01:
            raise ValueError(f"alpha must be at least 0.01, below which two images are never mixed, got {alpha}")
        if imbalance < 1:
            raise ValueError(f"imbalance must be at least 1, got {imbalance}")
        if not 0 <= smallest_share <= 1:
            raise ValueError(f"smallest_share must be in [0, 1], got {smallest_share}")
        self.alpha = alpha
        self.imbalance = imbalance
        self.smallest_share = smallest_share

    def __call__(self, images: Tensor, labels: Tensor, class_counts: Tensor, generator: torch.Generator) -> MixedBatch:
        """See `Mixing`."""
        share, other = _draw(self.alpha, images, generator)
        ratio = class_counts[labels] / class_counts[labels[other]]  # (N,)
        # Eq. 6. A label that is dropped is replaced by that of the other image, which then counts in full.
        only_other = (ratio >= self.imbalance) & (share < self.smallest_share)
        only_own = (ratio <= 1 / self.imbalance) & (1 - share < self.smallest_share)
        first = torch.where(only_other, labels[other], labels)
        second = torch.where(only_own, labels, labels[other])
        return MixedBatch(images.lerp(images[other], 1 - share), first, second, share)


def _draw(alpha: float, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A share () and a permutation (N,) of the images, both on their device."""
    share, other = _beta(alpha, generator), torch.randperm(len(images), generator=generator)
    return share.to(images.device, images.dtype, non_blocking=True), other.to(images.device, non_blocking=True)


def _beta(alpha: float, generator: torch.Generator) -> Tensor:
    """A draw () from Beta(alpha, alpha)."""
    # torch's own distribution takes no generator.
    gammas = torch._standard_gamma(torch.full((2,), alpha, dtype=torch.float64), generator=generator)
    return gammas[0] / gammas.sum().clamp_min(torch.finfo(torch.float64).tiny)
