"""One fold and seed of one config: what every kind of job shares.

A job is resumable, finished once, knows nothing of the others, and writes files and nothing else.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dermaffinity.config import Config, DataSettings, import_class
from dermaffinity.data.dataset import RowImages, read_all
from dermaffinity.data.library import ImageLibrary
from dermaffinity.data.manifest import Manifest, read_manifest
from dermaffinity.data.splits import inner_validation
from dermaffinity.data.transforms import FixedStage
from dermaffinity.errors import ConfigError
from dermaffinity.experiments.progress import JobProgress
from dermaffinity.experiments.record import JobFolder, Scored
from dermaffinity.experiments.results import arrays, write_table
from dermaffinity.metrics.classification import Classes, classification_metrics
from dermaffinity.seeding import derive_seed

# A process killed a moment ago may have helpers that hold its folder until they notice, after five seconds.
PATIENCE = 10.0


@dataclass(frozen=True)
class Job(ABC):
    """One fold and seed of one config: a value that any process on any machine can run.

    Args:
        config: The experiment.
        fold: The test fold.
        seed: Of initialization, order, augmentation and the inner validation part.
        folder: The experiment's folder.
        scored: ``"test"`` for the test fold; ``"inner"`` for the inner validation rows, the test fold unseen;
            ``"none"`` to train on every fold.
        external: Whether to score the manifest's external rows as well.
    """

    config: Config
    fold: int
    seed: int
    folder: Path
    scored: Scored = "test"
    external: bool = False

    @staticmethod
    def of(
        config: Config, fold: int, seed: int, folder: Path, scored: Scored = "test", external: bool = False
    ) -> "Job":
        """The job of the kind that a config asks for."""
        kind: type[Job] = import_class(config.job)
        return kind(config, fold, seed, folder, scored, external)

    @property
    def label(self) -> str:
        """What a person calls this job."""
        return f"{self.config.name} fold {self.fold} seed {self.seed}"

    @property
    def files(self) -> JobFolder:
        """The job's own folder."""
        return JobFolder.of(self.folder, self.fold, self.seed)

    @property
    def done(self) -> bool:
        """Whether all that was asked for is there."""
        return self.files.finished and (not self.external or self.files.external.exists())

    @property
    def result(self) -> str:
        """What a finished job found, in a few words."""
        with self.files.predictions.open(encoding="utf-8") as lines:
            images = sum(1 for _ in lines) - 1
        found = 100 * self.files.metrics()["balanced_accuracy"]
        return (
            f"balanced accuracy {found:.1f} % on {images} {'test' if self.scored == 'test' else 'inner validation'} "
            "images"
        )

    @property
    def shared(self) -> str:
        """What `prepare` adds to the images, in a word that jobs which share it have in common."""
        return ""

    def memory(self) -> float:
        """Roughly the bytes that it takes besides the images, on a GPU where there is one."""
        return 0.0

    @abstractmethod
    def check(self, manifest: Manifest) -> None:
        """Refuses, before anything is computed, what only the manifest shows."""

    @abstractmethod
    def prepare(self, images: "Images", progress: JobProgress) -> None:
        """Reads or computes what all jobs with these images share, once."""

    @abstractmethod
    def run(self, images: "Images", progress: JobProgress) -> None:
        """Trains and scores; continues an earlier call that was stopped, and leaves finished work alone.

        Raises:
            TrainingError: When training cannot go on.
            DataError: When an image cannot be used.
            BusyError: When another process is at this job.
        """


class Images:
    """The decoded images of one manifest, shared by the jobs of one process.

    Args:
        settings: The config's ``data`` section.
    """

    def __init__(self, settings: DataSettings) -> None:
        self.manifest = read_manifest(settings.manifest, settings.root)
        if self.manifest.root is None:
            raise ConfigError(
                f"{settings.manifest}: the folder of its images is not known here. Say where it is with "
                "--set data.root=FOLDER, or run dermaffinity prepare again"
            )
        self.stage = FixedStage(settings.image_size, settings.lesion_crop)
        self.rows = self.manifest.development().reset_index(drop=True)
        self.features: dict[tuple[str, str], np.ndarray] = {}  # what jobs computed, by rows and settings
        self._decoded: Sequence[np.ndarray] | None = None

    @cached_property
    def library(self) -> ImageLibrary:
        """Where they are read; opened late, since a process with decoded images needs none."""
        assert self.manifest.root is not None
        return ImageLibrary(self.manifest.root)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "library"}

    @property
    def labels(self) -> np.ndarray:
        """(N,) class indices of the development rows."""
        return self.indices(self.rows)

    def indices(self, rows: pd.DataFrame) -> np.ndarray:
        """Class indices of manifest rows."""
        return Classes(self.manifest.classes).indices(rows["label"])

    def decoded(self) -> Sequence[np.ndarray]:
        """Every development image after the fixed stage, read once; in memory, or mapped where it would not fit."""
        if self._decoded is None:
            self._decoded = read_all(self.development()[1])
        return self._decoded

    def development(self) -> tuple[pd.DataFrame, RowImages]:
        """The development rows and their images, which are not kept in memory."""
        return self.rows, RowImages(self.library, self.rows, self.stage)

    def external(self) -> tuple[pd.DataFrame, RowImages]:
        """The external rows and their images, which are not kept in memory."""
        rows = self.manifest.external().reset_index(drop=True)
        return rows, RowImages(self.library, rows, self.stage)


def identity(config: Config) -> dict[str, Any]:
    """What makes two configs the same experiment: all but where files lie and how many processes read them."""
    resolved = config.portable()
    for section, key in (("data", "root"), ("data", "manifest"), ("training", "workers")):
        resolved.get(section, {}).pop(key, None)
    return resolved


def is_main_process() -> bool:
    """Whether this process writes and prints; of those that torchrun starts, the first one."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["RANK"] == "0"


def parts(job: Job, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions of the rows to fit, to make choices on, and to test; equal for every config with this fold and seed."""
    test = (rows["fold"] == job.fold).to_numpy(dtype=bool) & (job.scored != "none")
    training = np.flatnonzero(~test)
    held_out = inner_validation(
        rows["label"].iloc[training].tolist(),
        rows["group"].iloc[training].tolist(),
        fraction=job.config.data.validation_fraction,
        seed=derive_seed("inner validation", job.fold, job.seed),
    )
    return training[~held_out], training[held_out], np.flatnonzero(test)


def keep(job: Job, manifest: Manifest, tables: dict[str, pd.DataFrame]) -> dict[str, float]:
    """Writes what a job predicted.

    Args:
        job: The job.
        manifest: Its images.
        tables: The prediction tables ``validation`` and ``predictions``.

    Returns:
        The metrics, which the caller writes when the job is finished.
    """
    for name, table in tables.items():
        write_table(table, job.files.path / f"{name}.csv")
    classes = Classes.of(manifest.class_counts(), manifest.malignant)
    return classification_metrics(*arrays(tables["predictions"], classes), classes)
