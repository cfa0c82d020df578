"""Sharpness-aware minimization: the gradient where the objective is worst nearby, applied where the weights are."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dermaffinity.training.tricks.base import Trick


class SharpnessAware(Trick):
    """Follows the gradient of the worst point nearby, so that training ends in a flat minimum; twice the work.

    Source: Foret et al., "Sharpness-aware minimization for efficiently improving generalization", ICLR 2021,
    https://arxiv.org/abs/2010.01412, Eq. 2.

    Args:
        radius: ρ, how far that point is in all parameters together; positive.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from dermaffinity.training.tricks import SharpnessAware
        >>> objective = nn.Linear(1, 1, bias=False)
        >>> _ = objective.weight.data.fill_(1.0)
        >>> def backward():  # of w², whose gradient is 2w
        ...     objective.zero_grad()
        ...     objective.weight.square().sum().backward()
        >>> backward()
        >>> SharpnessAware(radius=0.1).on_gradient(objective, backward)
        >>> objective.weight.grad.item(), objective.weight.item()
        (2.2..., 1.0)
    """

    capturable = False

    def __init__(self, *, radius: float = 0.05) -> None:
        super().__init__()
        if not radius > 0:
            raise ValueError(f"radius must be positive because it is a length, got {radius}")
        self.radius = radius

    def on_gradient(self, objective: nn.Module, backward: Callable[[], object]) -> None:
        """Puts the gradient of the worst point nearby in the place of the one that is there."""
        with uphill(list(objective.parameters()), self.radius), unchanged_statistics(objective):
            backward()


@contextmanager
def uphill(parameters: Sequence[Tensor], radius: float) -> Iterator[None]:
    """Moves parameters ``radius`` up their joint gradient, and exactly back at the end.

    Args:
        parameters: Those without a gradient stay where they are.
        radius: ρ, length of the step; positive.
    """
    moved = [parameter for parameter in parameters if parameter.grad is not None]
    kept = [parameter.detach().clone() for parameter in moved]
    with torch.no_grad():
        norm = torch.stack([parameter.grad.norm() for parameter in moved if parameter.grad is not None]).norm()
        for parameter in moved:
            if parameter.grad is not None:
                parameter.add_(parameter.grad * (radius / norm.clamp_min(torch.finfo(norm.dtype).tiny)))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(moved, kept, strict=True):
                parameter.copy_(value)


@contextmanager
def unchanged_statistics(network: nn.Module) -> Iterator[None]:
    """Keeps batch normalization from counting a batch: a second pass over it must not count twice."""
    layers = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    counters = [layer.num_batches_tracked for layer in layers if layer.num_batches_tracked is not None]
    counts = [counter.clone() for counter in counters]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for counter, count in zip(counters, counts, strict=True):
            counter.copy_(count)
