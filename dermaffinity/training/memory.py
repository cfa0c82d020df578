"""How much memory a training takes."""

import torch
from torch.autograd.graph import saved_tensors_hooks

from dermaffinity.config import NetworkConfig
from dermaffinity.inference.model_folder import build_network

# Copies of the weights: themselves, gradient, momentum, and the average that may be taken.
_COPIES = 4

# What libraries take for their own calculations, and what lies between blocks of memory.
_SPARE = 1.5


def training_memory(config: NetworkConfig, num_classes: int = 10) -> float:
    """Roughly the bytes of weights, gradients and what a step keeps for its gradient, in float32; found on two images.

    Examples:
        >>> from dermaffinity.config import read_config
        >>> from dermaffinity.training import training_memory
        >>> small, large = (
        ...     training_memory(read_config("demo_softmax", [f"training.batch_size={size}"])) for size in (8, 64)
        ... )
        >>> 2 < large / small < 8  # the weights stay as they are
        True
    """
    network = build_network(config.resolved(), num_classes, pretrained=False, plugins=config.plugins).train()
    weights = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    size = config.data.image_size
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(torch.zeros(2, 3, size, size))  # which keeps all of it in its place until it is gone
    each = sum(size for place, size in kept.items() if place not in weights) / len(output.scores)
    return _SPARE * (_COPIES * sum(weights.values()) + config.training.batch_size * each)
