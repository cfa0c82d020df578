"""The one dataset for every library: rows of a manifest, as tensors."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import PIL
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dermaffinity.data.image_cache import cached
from dermaffinity.data.images import decode_image, decode_mask
from dermaffinity.data.library import ImageLibrary
from dermaffinity.data.transforms import EvaluationStage, FixedStage, TrainingStage
from dermaffinity.seeding import derive_seed

if TYPE_CHECKING:
    import pandas as pd  # a classifier answers sooner without it


# Of the machine's memory, what decoded images may take: the jobs of one machine share them.
_SHARE_OF_MEMORY = 1 / 3


class Draw(NamedTuple):
    """One image of one epoch: what a sampler asks a dataset for. The position in the epoch decides its version."""

    epoch: int
    position: int
    row: int


class RowImages(Sequence[np.ndarray]):
    """The images of manifest rows after the fixed stage, read when asked for; (H, W, 3) uint8 each."""

    def __init__(self, library: ImageLibrary, rows: "pd.DataFrame", stage: FixedStage) -> None:
        self.library = library
        self.rows = rows
        self.paths = rows["image"].tolist()
        self.masks = [mask if isinstance(mask, str) and mask else None for mask in rows["mask"]]
        self.stage = stage

    def size(self) -> int:
        """Roughly the bytes of all images."""
        side, rows = self.stage.resize.size, self.rows
        # The fixed stage keeps the aspect of an image up to 2:1; a crop is no longer than its image.
        aspect = rows[["width", "height"]].max(axis=1) / rows[["width", "height"]].min(axis=1)
        return int(3 * side**2 * aspect.clip(upper=2).sum())

    def facts(self) -> dict[str, str]:
        """All that decides about the pixels, but for the content of masks."""
        columns = ["image", "sha256", "mask"] if self.stage.needs_mask else ["image", "sha256"]
        content = hashlib.sha256(self.rows[columns].fillna("").to_csv(index=False).encode())
        margin = None if self.stage.crop is None else self.stage.crop.margin
        return {
            "images": f"{len(self)}, rows {content.hexdigest()}",
            "root": str(self.library.root),
            "stage": f"short side {self.stage.resize.size}, lesion crop {margin}",
            "pillow": PIL.__version__,
        }

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> np.ndarray:  # type: ignore[override]
        path, mask_path = self.paths[row], self.masks[row]
        image = decode_image(self.library.read(path), path)
        mask = None
        if self.stage.needs_mask and mask_path:
            mask = decode_mask(self.library.read(mask_path), mask_path, image.shape[:2])
        return self.stage((image, mask))


def read_all(images: RowImages, on_progress: Callable[[int, int], None] | None = None) -> Sequence[np.ndarray]:
    """Every image, decoded once by several threads: in memory, or mapped from files where they take a third of it."""
    if images.size() > _SHARE_OF_MEMORY * _memory():
        return cached(images, images.facts(), images.size(), on_progress)
    done = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside the interpreter's lock
        for image in pool.map(images.__getitem__, range(len(images))):
            done.append(image)
            if on_progress:
                on_progress(len(done), len(images))
    return done


def _memory() -> int:
    """Bytes that this process may take: the machine's, or fewer where a container or a job is limited."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**63
    with suppress(OSError, ValueError):  # "max"
        found = min(found, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return found


class ManifestDataset(Dataset):
    """Normalized images (3, S, S) and class indices.

    Random versions depend on (seed, epoch, position in the epoch) alone: not on the number of workers, the device, or
    interruptions.

    Args:
        images: (H, W, 3) uint8 each; in memory, mapped, or ``RowImages``.
        labels: (N,) class indices.
        stage: What remains to be done to an image; of a network's features, to make tensors of arrays (N, …) of them.
        seed: Of the augmentation.

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.data import EvaluationStage, ManifestDataset
        >>> dataset = ManifestDataset([np.zeros((24, 30, 3), np.uint8)] * 2, np.array([0, 1]), EvaluationStage(24))
        >>> len(dataset), dataset.labels
        (2, tensor([0, 1]))
    """

    def __init__(
        self,
        images: Sequence[np.ndarray],
        labels: np.ndarray,
        stage: EvaluationStage | TrainingStage | Callable[[np.ndarray], Tensor],
        seed: int = 0,
    ) -> None:
        self.images = images
        self.labels = torch.as_tensor(np.asarray(labels), dtype=torch.long)
        self.stage = stage
        self.seed = seed
        self._numbers: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        images, labels = self.__getitems__([draw])
        return images[0], labels[0]

    def __getitems__(self, draws: Sequence[Draw]) -> tuple[Tensor, Tensor]:
        """A batch (N, 3, S, S) and its labels (N,): torch's loaders ask for all its images at once."""
        images = [self.images[draw.row] for draw in draws]
        labels = self.labels[[draw.row for draw in draws]]
        if isinstance(self.stage, TrainingStage):
            return self.stage(images, self.numbers(draws)), labels
        if len({image.shape for image in images}) == 1:
            return self.stage(np.stack(images)), labels
        return torch.stack([self.stage(image) for image in images]), labels

    def numbers(self, draws: Sequence[Draw]) -> np.ndarray:
        """The uniform numbers (N, ``draws`` of the augmentation) that the versions of these draws of one epoch are."""
        assert isinstance(self.stage, TrainingStage)
        epoch = draws[0].epoch
        if self._numbers is None or self._numbers[0] != epoch:
            generator = np.random.default_rng(derive_seed("augmentation", self.seed, epoch))
            self._numbers = epoch, generator.random((len(self), self.stage.augmentation.draws))
        return self._numbers[1][[draw.position for draw in draws]]
