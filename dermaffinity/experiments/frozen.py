"""The features of a backbone that does not learn: computed once for each image, and kept for all jobs.

They lie in ``features/`` beside the experiments, in a folder for each backbone and preprocessing, by the digests of the
images. So methods, folds, seeds, and libraries that share images, share their features.
"""

import hashlib
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from dermaffinity.config import NetworkConfig
from dermaffinity.data.dataset import ManifestDataset, RowImages
from dermaffinity.data.loaders import every_image, load
from dermaffinity.data.transforms import EvaluationStage
from dermaffinity.errors import DataError
from dermaffinity.experiments.progress import JobProgress
from dermaffinity.files import atomic_write, hold, sweep_partial
from dermaffinity.inference.predict import BATCH_SIZE

# Images in a file: an interruption costs at most as many.
_AT_A_TIME = 16 * BATCH_SIZE
_HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class FrozenFeatures:
    """Features of one backbone for images that are preprocessed in one way.

    Args:
        folder: Of the features of all backbones.
        config: Says how images are preprocessed, how the backbone was built, and how precisely it computes.
        backbone: In evaluation mode, on the device that is to compute.
    """

    def __init__(self, folder: Path, config: NetworkConfig, backbone: nn.Module) -> None:
        self.backbone = backbone
        self.stage = EvaluationStage(config.data.image_size)
        self.half = _HALF.get(config.training.precision)
        settings = {key: value for key, value in config.resolved()["backbone"].items() if key != "weights"}
        described = [settings, config.data.image_size, config.data.lesion_crop, config.training.precision]
        digest = hashlib.sha256(repr(described).encode())
        for name, tensor in backbone.state_dict().items():
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        self.folder = folder / digest.hexdigest()[:16]

    def of(self, rows: pd.DataFrame, images: RowImages, progress: JobProgress) -> np.ndarray:
        """(N, F, 1, 1) of the images of manifest rows; those that are not there yet are computed and kept.

        Raises:
            DataError: When an image cannot be used, or a file of features is damaged.
        """
        names = _names(rows, images)
        # Held, so that of processes that start together one computes.
        with hold(self.folder, -1):
            sweep_partial(self.folder)
            known = dict(self._read())
            missing = [row for row, name in enumerate(names) if name not in known]
            progress.start("features of images", len(missing))
            for start in range(0, len(missing), _AT_A_TIME):
                some = missing[start : start + _AT_A_TIME]
                computed = self._compute(images, some, progress)
                self._write([names[row] for row in some], computed)
                known |= zip((names[row] for row in some), computed, strict=True)
        return np.stack([known[name] for name in names])[:, :, None, None]

    def _read(self) -> Iterable[tuple[str, np.ndarray]]:
        for path in sorted(self.folder.glob("*.npz")):
            try:
                with np.load(path) as file:
                    yield from zip(file["images"].tolist(), file["features"], strict=True)
            except Exception as error:  # whatever zipfile and numpy raise
                raise DataError(
                    f"{path}: damaged ({error}). Remove it, and its features are computed again: "
                    f"rm {shlex.quote(str(path))}"
                ) from error

    def _write(self, names: Sequence[str], features: np.ndarray) -> None:
        name = hashlib.sha256("".join(names).encode()).hexdigest()[:16]
        with atomic_write(self.folder / f"{name}.npz", "wb") as file:
            np.savez(file, images=np.array(names), features=features)

    @torch.inference_mode()
    def _compute(self, images: RowImages, rows: Sequence[int], progress: JobProgress) -> np.ndarray:
        device = next(self.backbone.parameters()).device
        dataset = ManifestDataset(images, np.zeros(len(images)), self.stage)
        batches = every_image(len(rows), BATCH_SIZE)
        batches = [[draw._replace(row=rows[draw.row]) for draw in batch] for batch in batches]
        parts = []
        for batch, _ in load(dataset, batches, workers=0, device=device):
            with torch.autocast(device.type, dtype=self.half, enabled=self.half is not None):
                features = self.backbone(batch.to(device).contiguous(memory_format=torch.channels_last))
            parts.append(features.float().cpu().numpy())
            progress.images(len(batch))
        return np.concatenate(parts)


def _names(rows: pd.DataFrame, images: RowImages) -> list[str]:
    """The digest of each image; with that of its mask, where the mask decides what is seen of it."""
    names, masks = rows["sha256"].tolist(), images.masks if images.stage.needs_mask else [None] * len(rows)
    return [
        name if mask is None else name + hashlib.sha256(images.library.read(mask)).hexdigest()
        for name, mask in zip(names, masks, strict=True)
    ]
