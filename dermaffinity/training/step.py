"""One step of training: eager, or captured once and replayed as a CUDA graph."""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from dermaffinity.data.mixing import MixedBatch
from dermaffinity.training.tricks import Trick

# Steps before the capture, in which the libraries choose their kernels and the optimizer makes its buffers.
_WARM_UP = 3


class Step:
    """Moves the parameters once along the objective's gradient.

    On one GPU the kernels of a step are captured after a few steps and replayed from then on: a small network's steps
    are otherwise spent on starting them. Whatever changes between steps is a tensor that is changed in place: the
    batch, the learning rates, and what a loss adapts.

    Args:
        objective: Network and loss, set up by Fabric; gives named scalar terms.
        optimizer: Set up by Fabric.
        fabric: Runs the backward pass.
        tricks: What they do with gradients is part of a step.
    """

    def __init__(self, objective: nn.Module, optimizer: Any, fabric: Fabric, tricks: Sequence[Trick]) -> None:
        self.objective = objective
        self.optimizer = optimizer
        self.fabric = fabric
        self.tricks = tricks
        self.names: tuple[str, ...] = ()
        capturable = fabric.device.type == "cuda" and fabric.world_size == 1
        capturable = capturable and all(trick.capturable for trick in tricks)
        self._until_capture = _WARM_UP if capturable else -1
        self._stream = torch.cuda.Stream() if capturable else None
        self._graph: Any = None
        self._inputs: MixedBatch | None = None
        self._terms = torch.empty(0)

    def __call__(self, batch: MixedBatch) -> Tensor:
        """One step; the terms (T,) of the objective before it, named ``names``, on the device."""
        if self._until_capture < 0:
            return self._run(batch)
        if self._until_capture > 0:
            self._until_capture -= 1
            return self._aside(batch)
        if self._graph is None and not self._capture(batch):
            self._until_capture = -1
            return self._run(batch)
        assert self._inputs is not None
        for own, new in zip(self._inputs, batch, strict=True):
            if own is not None and new is not None:
                own.copy_(new)
        self._graph.replay()
        return self._terms.clone()

    def _run(self, batch: MixedBatch) -> Tensor:
        terms = self._backward(batch)
        for trick in self.tricks:
            trick.on_gradient(self.objective, partial(self._backward, batch))
        self.optimizer.step()
        return terms

    def _backward(self, batch: MixedBatch) -> Tensor:
        """Puts the objective's gradient at the parameters."""
        terms: dict[str, Tensor] = self.objective(*batch)
        self.names = tuple(terms)
        values = torch.stack(list(terms.values()))
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(values.sum())
        return values.detach()

    def _aside(self, batch: MixedBatch) -> Tensor:
        """A step on the stream of the capture, where the buffers of gradients then belong."""
        assert self._stream is not None
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            terms = self._run(batch)
        torch.cuda.current_stream().wait_stream(self._stream)
        return terms

    def _capture(self, batch: MixedBatch) -> bool:
        """Whether a step can be captured; one cannot that asks the device for a number."""
        self._inputs = MixedBatch._make(None if part is None else part.clone() for part in batch)
        self.optimizer.zero_grad(set_to_none=True)  # so that the gradients are made within the graph
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                self._terms = self._run(self._inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            warnings.warn(f"training steps cannot be captured on this GPU and run one by one: {error}", stacklevel=2)
            torch.cuda.synchronize()
            return False
        self._graph = graph
        return True
