"""An exponential moving average of the weights over the steps."""

from typing import cast

from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dermaffinity.models import LesionNetwork
from dermaffinity.training.tricks.base import Trick


class MovingAverage(Trick):
    r"""Keeps an average of the network, :math:`\bar w \leftarrow d \bar w + (1 - d) w` after each step.

    Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", SIAM J. Control 1992; with
    exponential weights as in Tarvainen and Valpola, NeurIPS 2017, https://arxiv.org/abs/1703.01780.

    Args:
        decay: d, within (0, 1); 1/(1 - d) steps are about what it averages over.

    Examples:
        >>> from dermaffinity.heads import LinearHead
        >>> from dermaffinity.models import IdentityNeck, LesionNetwork, SmallConvNet
        >>> from dermaffinity.training.tricks import MovingAverage
        >>> network = LesionNetwork(SmallConvNet(), IdentityNeck(128), LinearHead(128, 2))
        >>> average = MovingAverage(decay=0.9)
        >>> bias = network.head.linear.bias.data
        >>> average.on_start(network)
        >>> for value in (0.0, 1.0):
        ...     _ = bias.fill_(value)
        ...     average.on_step(network)
        >>> average.result(network).head.linear.bias.data
        tensor([0.1000, 0.1000])
    """

    def __init__(self, *, decay: float = 0.98) -> None:
        super().__init__()
        if not 0 < decay < 1:
            raise ValueError(f"decay must be within (0, 1), got {decay}")
        self.decay = decay

    def on_start(self, network: LesionNetwork) -> None:
        """Starts with a copy of the network."""
        # Buffers as well, so that the statistics of batch normalization fit the averaged weights.
        self.average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(self.decay), use_buffers=True)
        self.average.n_averaged = self.average.n_averaged.cpu()  # asked in each step, which would wait for a GPU
        self.average.requires_grad_(False)

    def on_step(self, network: LesionNetwork) -> None:
        """Counts the network as it is now; the first time, the average is that network."""
        self.average.update_parameters(network)

    def result(self, network: LesionNetwork) -> LesionNetwork:
        """The average."""
        return cast(LesionNetwork, self.average.module)
