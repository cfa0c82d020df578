"""What a network says about images, without gradients: the one way, in training and in a prototype."""

from collections.abc import Callable

import torch
from torch import Tensor

from dermaffinity.data.dataset import ManifestDataset
from dermaffinity.data.loaders import every_image, load
from dermaffinity.heads import HeadOutput, Predictions
from dermaffinity.models import LesionNetwork

BATCH_SIZE = 64
"""Images per forward pass; more gains no speed on a CPU."""
_BATCH_SIZE_ON_GPU = 512


def predict(
    network: LesionNetwork,
    dataset: ManifestDataset,
    *,
    device: torch.device,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    on_images: Callable[[int], None] = lambda count: None,
) -> Predictions:
    """The network's view of every image of a dataset, in order, in evaluation mode and float32.

    With several processes each takes every ``world_size``-th image, none is seen twice, and all get the whole result.
    """
    was_training = network.training
    network.eval()
    parts: list[tuple[Tensor, ...]] = []
    batch_size = BATCH_SIZE if device.type == "cpu" else _BATCH_SIZE_ON_GPU
    batches = every_image(len(dataset), batch_size, rank, world_size)
    for images, labels in load(dataset, batches, workers=workers, device=device):
        output, probabilities = predict_batch(network, images.to(device))
        parts.append((output.scores, probabilities, output.embedding, labels.cpu()))
        centers = output.centers
        on_images(len(labels))
    network.train(was_training)
    scores, probabilities, embedding, labels = (torch.cat(column) for column in zip(*parts, strict=True))
    columns = [_gather(column, len(dataset), world_size) for column in (scores, probabilities, embedding, labels)]
    # Cloned outside inference mode, so that a loss may work on them like on any tensor.
    scores, probabilities, embedding, labels = (column.clone() for column in columns)
    return Predictions(scores, probabilities, embedding, centers.clone(), labels)


@torch.inference_mode()
def predict_batch(network: LesionNetwork, images: Tensor) -> tuple[HeadOutput, Tensor]:
    """Head output and probabilities (N, C) for images (N, 3, H, W) on the network's device; float32 on the CPU.

    Args:
        network: In evaluation mode.
        images: Normalized.
    """
    output = network(images.contiguous(memory_format=torch.channels_last))
    probabilities = network.head.probabilities(output)
    return HeadOutput(*(part.detach().float().cpu() for part in output)), probabilities.float().cpu()


def _gather(part: Tensor, total: int, world_size: int) -> Tensor:
    if world_size == 1:
        return part
    parts: list[Tensor] = [part] * world_size
    torch.distributed.all_gather_object(parts, part)
    whole = part.new_empty((total, *part.shape[1:]))
    for rank, received in enumerate(parts):
        whole[rank::world_size] = received
    return whole
