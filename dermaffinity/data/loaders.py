"""In which order images reach the network."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from dermaffinity.data.dataset import Draw, ManifestDataset
from dermaffinity.seeding import derive_seed


class EpochSampler(Sampler[Draw]):
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
        labels: torch.Tensor,
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
        self.length = share // batch_size * batch_size or share
        self.epoch = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Draw]:
        generator = torch.Generator().manual_seed(derive_seed("order", self.seed, self.epoch))
        if self.balanced:
            weights = 1 / torch.bincount(self.labels).double()[self.labels]
            order = torch.multinomial(weights, len(self.labels), replacement=True, generator=generator)
        else:
            order = torch.randperm(len(self.labels), generator=generator)
        for row in order[self.rank :: self.world_size][: self.length].tolist():
            yield Draw(self.epoch, row)


def training_loader(dataset: ManifestDataset, sampler: EpochSampler, batch_size: int, workers: int) -> DataLoader:
    """Batches in the sampler's order; set ``sampler.epoch`` before each pass."""
    # With a generator of its own a loader leaves the global one, which dropout draws from, alone: how often it draws
    # depends on the workers and on interruptions.
    return DataLoader(
        dataset,
        batch_size,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        generator=torch.Generator(),
        collate_fn=_as_it_is,
    )


def evaluation_loader(
    dataset: ManifestDataset, batch_size: int, workers: int, rank: int = 0, world_size: int = 1
) -> DataLoader:
    """Every image once, in order; process ``rank`` of ``world_size`` sees each ``world_size``-th, none is repeated."""
    draws = [Draw(0, row) for row in range(rank, len(dataset), world_size)]
    return DataLoader(dataset, batch_size, sampler=draws, num_workers=workers, collate_fn=_as_it_is)


def shuffled_loader(dataset: ManifestDataset, batch_size: int, workers: int, *, seed: int) -> DataLoader:
    """Every image once, in a random order, in batches of at most ``batch_size`` that differ by at most one image."""
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    # No short last batch, whose statistics would be too poor to normalize by.
    batches = [[Draw(0, row) for row in rows.tolist()] for rows in order.tensor_split(-(-len(order) // batch_size))]
    return DataLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=_as_it_is)


def _as_it_is(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The dataset gives whole batches."""
    return batch
