"""In which order images reach the network, and from where: loaded one by one, or resident on the device."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from dermaffinity.data.dataset import Draw, ManifestDataset, RowImages
from dermaffinity.data.transforms import EvaluationStage, TrainingStage
from dermaffinity.seeding import derive_seed

Batches = Iterable[tuple[Tensor, Tensor]]
"""Normalized images (N, 3, S, S) and their class indices (N,)."""

# Pixels that are augmented in one go on a device: enough for it to be busy, few enough to fit beside a network.
_PIXELS_AT_A_TIME = 1024 * 128 * 128
# Of the device's whole memory, what images may take: of what is free now a resumed job may find more or less, and
# would then train on pixels that differ in their last bit.
_SHARE_OF_MEMORY = 0.1


class EpochBatches(Sampler[list[Draw]]):
    """A fresh random order every epoch, the same for the same seed and epoch; whole batches only.

    Args:
        labels: (N,) class indices of the dataset's images.
        batch_size: Images in a batch of one process; a short last batch is dropped, because batch normalization needs
            more than one image, unless it would be the only one.
        seed: Of the order.
        balanced: Draw every class equally often, with replacement, instead of every image once.
        rank: This process, of ``world_size``; each takes its own part of the order.
        world_size: Number of processes that train together.
    """

    def __init__(
        self,
        labels: Tensor,
        batch_size: int,
        *,
        seed: int,
        balanced: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.labels = labels
        self.seed = seed
        self.balanced = balanced
        self.rank = rank
        self.world_size = world_size
        share = len(labels) // world_size
        self.batch_size = max(1, min(batch_size, share))
        self.length = share // self.batch_size
        self.epoch = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[list[Draw]]:
        generator = torch.Generator().manual_seed(derive_seed("order", self.seed, self.epoch))
        if self.balanced:
            weights = 1 / torch.bincount(self.labels).double()[self.labels]
            order = torch.multinomial(weights, len(self.labels), replacement=True, generator=generator)
        else:
            order = torch.randperm(len(self.labels), generator=generator)
        draws = [Draw(self.epoch, position, row) for position, row in enumerate(order.tolist())]
        own = draws[self.rank :: self.world_size]
        for start in range(0, self.length * self.batch_size, self.batch_size):
            yield own[start : start + self.batch_size]


def every_image(count: int, batch_size: int, rank: int = 0, world_size: int = 1) -> list[list[Draw]]:
    """Batches of every image once, in order; process ``rank`` of ``world_size`` sees each ``world_size``-th."""
    draws = [Draw(0, row, row) for row in range(rank, count, world_size)]
    return [draws[start : start + batch_size] for start in range(0, len(draws), batch_size)]


def every_image_shuffled(count: int, batch_size: int, *, seed: int) -> list[list[Draw]]:
    """Batches of every image once, in a random order, of at most ``batch_size`` images; they differ by at most one."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    # No short last batch, whose statistics would be too poor to normalize by.
    return [[Draw(0, row, row) for row in rows.tolist()] for rows in order.tensor_split(-(-count // batch_size))]


def load(
    dataset: ManifestDataset, batches: Sequence[list[Draw]] | EpochBatches, *, workers: int, device: torch.device
) -> Batches:
    """The images of batches of draws: resident on a GPU where they fit and it can make their versions, else loaded.

    Args:
        dataset: The images.
        batches: Read anew in every pass.
        workers: Processes that load images beside this one.
        device: What the images are for. Those that are loaded are on the CPU.
    """
    if device.type == "cuda" and fits(dataset, torch.cuda.get_device_properties(device).total_memory):
        return ResidentBatches(dataset, batches, device)
    # With a generator of its own a loader leaves the global one, which dropout draws from, alone: how often it draws
    # depends on the workers and on interruptions.
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        generator=torch.Generator(),
        collate_fn=_as_it_is,
    )


def fits(dataset: ManifestDataset, memory: int) -> bool:
    """Whether the images of a dataset can be resident on a device of ``memory`` bytes."""
    if isinstance(dataset.images, RowImages):  # read when asked for, because memory cannot hold them
        return False
    if not isinstance(dataset.stage, EvaluationStage | TrainingStage):  # features, a few kilobytes a batch
        return False
    if isinstance(dataset.stage, TrainingStage) and not dataset.stage.augmentation.on_device:
        return False
    height, width = (max((image.shape[axis] for image in dataset.images), default=0) for axis in (0, 1))
    return len(dataset) * 3 * height * width <= _SHARE_OF_MEMORY * memory


class ResidentBatches:
    """Batches of images that lie on a device, in uint8, and are augmented and normalized there, many at once.

    The same batches as loading gives, but for interpolation: a device's is exact, the CPU's in steps of a 32nd of a
    pixel, which on smooth pictures is half a gray value on average.

    Args:
        dataset: In memory.
        batches: Read anew in every pass.
        device: Where to.
    """

    def __init__(
        self, dataset: ManifestDataset, batches: Sequence[list[Draw]] | EpochBatches, device: torch.device
    ) -> None:
        assert isinstance(dataset.stage, EvaluationStage | TrainingStage)
        self.dataset = dataset
        self.stage = dataset.stage
        self.batches = batches
        self.labels = dataset.labels.to(device)
        images = [dataset.images[row] for row in range(len(dataset))]
        if not isinstance(self.stage, TrainingStage):
            images = [self.stage.square(image) for image in images]
        self.sizes = torch.tensor([image.shape[:2] for image in images])
        height, width = self.sizes.amax(dim=0).tolist()
        pixels = np.zeros((len(images), height, width, 3), np.uint8)
        for row, image in enumerate(images):
            pixels[row, : image.shape[0], : image.shape[1]] = image
        self.pixels = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)  # (N, 3, H, W), channels last

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        waiting: list[list[Draw]] = []
        for batch in self.batches:
            waiting.append(batch)
            if sum(map(len, waiting)) * self.pixels[0, 0].numel() >= _PIXELS_AT_A_TIME:
                yield from self._make(waiting)
                waiting = []
        if waiting:
            yield from self._make(waiting)

    def _make(self, batches: Sequence[list[Draw]]) -> Iterator[tuple[Tensor, Tensor]]:
        draws = [draw for batch in batches for draw in batch]
        rows = torch.tensor([draw.row for draw in draws])
        on_device = rows.to(self.pixels.device)
        pixels, stage = self.pixels[on_device], self.stage
        if isinstance(stage, TrainingStage):
            pixels = stage.augmentation.batch(pixels, self.sizes[rows], self.dataset.numbers(draws))
        sizes = [len(batch) for batch in batches]
        images = stage.normalize.of(pixels).contiguous(memory_format=torch.channels_last)
        yield from zip(images.split(sizes), self.labels[on_device].split(sizes), strict=True)


def _as_it_is(batch: Any) -> tuple[Tensor, Tensor]:
    """The dataset gives whole batches."""
    return batch
