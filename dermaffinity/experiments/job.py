"""One fold and seed of one config: what every kind of job shares.

A job is resumable, finished once, and knows nothing of the others.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dermaffinity.config import Config, DataSettings
from dermaffinity.data.dataset import RowImages, read_all
from dermaffinity.data.library import ImageLibrary
from dermaffinity.data.manifest import Manifest, read_manifest
from dermaffinity.data.splits import inner_validation
from dermaffinity.data.transforms import FixedStage
from dermaffinity.errors import BusyError, ConfigError, DermaffinityError, TrackingError
from dermaffinity.experiments.progress import JobProgress
from dermaffinity.experiments.record import JobFolder, Scored
from dermaffinity.experiments.results import arrays, write_table
from dermaffinity.metrics.classification import Classes, classification_metrics, confusion_matrix
from dermaffinity.report.figures import confusion_figure
from dermaffinity.seeding import derive_seed
from dermaffinity.tracking.base import Run, Tracker

# A process killed a moment ago may have helpers that hold its folder until they notice, after five seconds.
PATIENCE = 10.0


@dataclass(frozen=True)
class Job:
    """One fold and seed of one config; picklable.

    Args:
        config: The experiment.
        fold: The test fold.
        seed: Of initialization, order, augmentation and the inner validation part.
        folder: The experiment's folder.
        parent: The experiment's tracking run.
        tracker: Where the job's own run goes.
        scored: ``"test"`` for the test fold; ``"inner"`` for the inner validation rows, the test fold unseen.
        external: Whether to score the manifest's external rows as well.
    """

    config: Config
    fold: int
    seed: int
    folder: Path
    parent: Run
    tracker: Tracker
    scored: Scored = "test"
    external: bool = False

    @property
    def label(self) -> str:
        """What a person calls this job."""
        return f"{self.config.name} fold {self.fold} seed {self.seed}"

    @property
    def files(self) -> JobFolder:
        """The job's own folder."""
        return JobFolder.of(self.folder, self.fold, self.seed)


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
        self.library = ImageLibrary(self.manifest.root)
        self.stage = FixedStage(settings.image_size, settings.lesion_crop)
        self.rows = self.manifest.development().reset_index(drop=True)
        self.features: dict[tuple[str, str], np.ndarray] = {}  # what `estimator_job` computed, by rows and settings
        self._decoded: Sequence[np.ndarray] | None = None

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
            self._decoded = read_all(RowImages(self.library, self.rows, self.stage))
        return self._decoded

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


@contextmanager
def ended_when_stopped(*runs: Run) -> Iterator[None]:
    """Marks tracking runs as ended when an error or Ctrl-C stops what they record."""
    try:
        yield
    except (TrackingError, BusyError):
        raise  # a store that refused would be waited for again; a run of another process goes on
    except BaseException as error:
        with suppress(DermaffinityError):  # the first error is the one to fix
            for run in runs:
                run.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise


def parts(job: Job, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions of the rows to fit, to make choices on, and to test; equal for every config with this fold and seed."""
    test = (rows["fold"] == job.fold).to_numpy(dtype=bool)
    training = np.flatnonzero(~test)
    held_out = inner_validation(
        rows["label"].iloc[training].tolist(),
        rows["group"].iloc[training].tolist(),
        fraction=job.config.data.validation_fraction,
        seed=derive_seed("inner validation", job.fold, job.seed),
    )
    return training[~held_out], training[held_out], np.flatnonzero(test)


def keep(
    job: Job,
    manifest: Manifest,
    tables: dict[str, pd.DataFrame],
    run: Run,
    progress: JobProgress,
) -> dict[str, float]:
    """Writes and tracks what a job found.

    Args:
        job: The job.
        manifest: Its images.
        tables: The prediction tables ``validation`` and ``predictions``.
        run: The job's tracking run.
        progress: Told that the job is done.

    Returns:
        The metrics, which the caller writes when the job is finished.
    """
    classes = Classes.of(manifest.class_counts(), manifest.malignant)
    for name, table in tables.items():
        write_table(table, job.files.path / f"{name}.csv")

    scored = tables["predictions"]
    labels, probabilities = arrays(scored, classes)
    metrics = classification_metrics(labels, probabilities, classes)
    matrix = confusion_matrix(labels, probabilities.argmax(axis=1), len(classes.names))
    run.log_metrics(metrics)
    run.log_table(scored, "predictions.csv")
    run.log_json({"classes": list(classes.names), "matrix": matrix.tolist()}, "confusion.json")
    run.log_figure(confusion_figure(matrix, classes.names, job.label), "confusion.png")
    progress.finish(
        f"{job.label}: balanced accuracy {100 * metrics['balanced_accuracy']:.1f} % "
        f"on {len(scored)} {'test' if job.scored == 'test' else 'inner validation'} images"
    )
    return metrics


def open_child(job: Job) -> Run:
    """The job's tracking run, the same one after an interruption."""
    known = job.files.run_id
    tags = {"role": "child", "fold": str(job.fold), "seed": str(job.seed)}
    run = job.tracker.child(job.parent, f"{job.config.name} fold-{job.fold} seed-{job.seed}", run_id=known, tags=tags)
    # At once: a run whose id is lost would be marked as running for ever.
    if run.id and run.id != known:
        job.files.note_run(run.id)
    run.log_params(identity(job.config))
    return run
