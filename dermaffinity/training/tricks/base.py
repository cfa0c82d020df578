"""What every trick is: a few moments of a training at which it may act."""

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from dermaffinity.models import LesionNetwork


class Trick(nn.Module):
    """Changes how a network is trained. Each method is called at one moment and does nothing unless it is overridden.

    Whatever a trick keeps between steps is a buffer or a module of its own, and so part of every checkpoint.

    Examples:
        >>> from dermaffinity.training.tricks import SharpnessAware, Trick
        >>> isinstance(SharpnessAware(radius=0.05), Trick)
        True
    """

    capturable: ClassVar[bool] = True  # whether a GPU may capture a step with it once and replay it

    def on_start(self, network: LesionNetwork) -> None:
        """Once, when the network is on its device and before anything is restored."""

    def on_images(self, images: Tensor, progress: float) -> Tensor:
        """The images (N, 3, S, S) of a step as the network is to see them; ``progress`` in [0, 1) through training."""
        return images

    def on_gradient(self, objective: nn.Module, backward: Callable[[], object]) -> None:
        """In each step, when the parameters have their gradients; ``backward`` computes them anew."""

    def on_step(self, network: LesionNetwork) -> None:
        """After each step."""

    def result(self, network: LesionNetwork) -> LesionNetwork:
        """The network that is validated and kept in place of the trained one."""
        return network
