"""The one dataset for every library: rows of a manifest, as tensors."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dermaffinity.data.images import decode_image, decode_mask
from dermaffinity.data.library import ImageLibrary
from dermaffinity.data.transforms import FixedStage
from dermaffinity.seeding import derive_seed


class Draw(NamedTuple):
    """One image of one epoch: what a sampler asks a dataset for."""

    epoch: int
    row: int


class RowImages:
    """The images of manifest rows after the fixed stage, read when asked for; (H, W, 3) uint8 each."""

    def __init__(self, library: ImageLibrary, rows: pd.DataFrame, stage: FixedStage) -> None:
        self.library = library
        self.paths = rows["image"].tolist()
        self.masks = [mask if isinstance(mask, str) and mask else None for mask in rows["mask"]]
        self.stage = stage

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> np.ndarray:
        path, mask_path = self.paths[row], self.masks[row]
        image = decode_image(self.library.read(path), path)
        mask = None
        if self.stage.needs_mask and mask_path:
            mask = decode_mask(self.library.read(mask_path), mask_path, image.shape[:2])
        return self.stage((image, mask))


def read_all(images: RowImages, on_progress: Callable[[int, int], None] | None = None) -> list[np.ndarray]:
    """Every image, read once, by several threads (Pillow decodes outside the interpreter's lock)."""
    done = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for image in pool.map(images.__getitem__, range(len(images))):
            done.append(image)
            if on_progress:
                on_progress(len(done), len(images))
    return done


class ManifestDataset(Dataset):
    """Normalized images (3, S, S) and class indices.

    The random part of the transform is seeded from (seed, epoch, row) for each image, so that an epoch is the same
    whatever the number of workers and wherever a run was interrupted.

    Args:
        images: (H, W, 3) uint8 each; a list kept in memory, or ``RowImages``.
        labels: (N,) class indices.
        transform: What remains to be done to an image; where it is random, one that MONAI can seed. One that is not
            random also takes several images alike, (N, H, W, 3).
        seed: Of the augmentation.
    """

    def __init__(
        self,
        images: Sequence[np.ndarray] | RowImages,
        labels: np.ndarray,
        transform: Callable[[np.ndarray], Tensor],
        seed: int = 0,
    ) -> None:
        self.images = images
        self.labels = torch.as_tensor(np.asarray(labels), dtype=torch.long)
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        if hasattr(self.transform, "set_random_state"):
            self.transform.set_random_state(seed=derive_seed("augmentation", self.seed, draw.epoch, draw.row))
        return self.transform(self.images[draw.row]), self.labels[draw.row]

    def __getitems__(self, draws: Sequence[Draw]) -> tuple[Tensor, Tensor]:
        """A batch: torch's loaders ask for all its images at once. Images alike are transformed together."""
        labels = self.labels[[draw.row for draw in draws]]
        if hasattr(self.transform, "set_random_state"):
            return torch.stack([self[draw][0] for draw in draws]), labels
        images = [self.images[draw.row] for draw in draws]
        if len({image.shape for image in images}) == 1:
            return self.transform(np.stack(images)), labels
        return torch.stack([self.transform(image) for image in images]), labels
