"""The jobs of a cross-validation: one fold and seed of one config, trained and scored on its own.

A job is resumable, finished once, and knows nothing of the others; how jobs are run is the launcher's business
(``launchers.py``), and what becomes of their results that of ``dermaffinity.experiments``.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric

from dermaffinity.config import Config, DataSettings, NetworkConfig
from dermaffinity.data.augmentation import training_transform
from dermaffinity.data.dataset import ManifestDataset, RowImages, read_all
from dermaffinity.data.library import ImageLibrary
from dermaffinity.data.manifest import Manifest, read_manifest
from dermaffinity.data.splits import inner_validation
from dermaffinity.data.transforms import EvaluationStage, FixedStage
from dermaffinity.errors import BusyError, ConfigError, DermaffinityError, TrackingError
from dermaffinity.files import hold, sweep_partial, write_json
from dermaffinity.heads import Predictions
from dermaffinity.metrics.classification import classification_metrics, confusion_matrix, minority_classes
from dermaffinity.model_folder import (
    Facts,
    TrainingExamples,
    build_network,
    load_networks,
    read_description,
    save_model,
)
from dermaffinity.prediction import predict
from dermaffinity.reports.figures import confusion_figure, history_figure
from dermaffinity.results import ExperimentFolder, JobFolder, class_indices, prediction_table, write_table
from dermaffinity.seeding import derive_seed, seed_everything
from dermaffinity.tracking.base import Run, Tracker
from dermaffinity.training.calibration import calibrate
from dermaffinity.training.progress import JobProgress
from dermaffinity.training.trainer import Trainer

Scored = Literal["test", "inner"]

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
    folder: ExperimentFolder
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
        return self.folder.job(self.fold, self.seed)


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
        self.features: dict[tuple[str, str], np.ndarray] = {}  # what `estimation` computed, by rows and settings
        self._decoded: list[np.ndarray] | None = None

    @property
    def labels(self) -> np.ndarray:
        """(N,) class indices of the development rows."""
        return self.indices(self.rows)

    def indices(self, rows: pd.DataFrame) -> np.ndarray:
        """Class indices of manifest rows."""
        return class_indices(rows["label"], self.manifest.classes)

    def decoded(self) -> list[np.ndarray]:
        """Every development image after the fixed stage, read once."""
        if self._decoded is None:
            self._decoded = read_all(RowImages(self.library, self.rows, self.stage))
        return self._decoded

    def external(self) -> tuple[pd.DataFrame, RowImages]:
        """The external rows and their images, which are not kept in memory."""
        rows = self.manifest.external().reset_index(drop=True)
        return rows, RowImages(self.library, rows, self.stage)


def run_job(job: Job, images: Images, progress: JobProgress) -> None:
    """Trains and scores one fold and seed, going on where an earlier call stopped; what is finished is not done again.

    Raises:
        TrainingError: When training cannot go on.
        BusyError: When another process is at this job.
    """
    files = job.files
    if files.finished and (not job.external or files.external.exists()):
        progress.finish(f"{job.label}: finished before")
        return
    fabric = _fabric(_config(job))
    # Under torchrun one process holds the folder for all.
    with hold(files.path, PATIENCE) if fabric.is_global_zero else nullcontext():
        if fabric.is_global_zero:
            sweep_partial(files.path)
        if not files.finished:
            run = open_child(job)
            with ended_when_stopped(run):
                _train_and_score(job, images, fabric, run, progress)
            run.finish("FINISHED")
            # The job is finished from here on, and not before its tracking run is.
            if fabric.is_global_zero:
                files.checkpoint.unlink(missing_ok=True)
        if job.external:
            _score_external(job, images, fabric, progress)


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


def _train_and_score(job: Job, images: Images, fabric: Fabric, run: Run, progress: JobProgress) -> None:
    config, classes = _config(job), images.manifest.classes
    settings = config.training
    rows, labels, decoded = images.rows, images.labels, images.decoded()
    fit_rows, inner_rows, test_rows = parts(job, rows)

    seed_everything(derive_seed("initialization", job.seed, job.fold))
    network = build_network(config.resolved(), len(classes), pretrained=True)
    counts = torch.bincount(torch.as_tensor(labels[fit_rows]), minlength=len(classes))
    loss = config.loss.build(counts, network.head.embedding_dim)
    mixing = None if config.mixing is None else config.mixing.build()
    seed = derive_seed("training", job.seed, job.fold)
    trainer = Trainer(network, loss, settings, seed=seed, fabric=fabric, mixing=mixing)

    fixed = EvaluationStage(config.data.image_size)
    augmentation = config.augmentation.build(config.data.image_size)
    augmented = training_transform(augmentation) if augmentation.random else fixed

    def dataset(which: np.ndarray, transform: Callable[[np.ndarray], torch.Tensor]) -> ManifestDataset:
        return ManifestDataset([decoded[i] for i in which], labels[which], transform, seed=trainer.seed)

    images_per_epoch = len(fit_rows) // settings.batch_size * settings.batch_size or len(fit_rows)
    progress.start(job.label, settings.epochs * images_per_epoch)

    def on_epoch(history: list[dict[str, float]]) -> None:
        run.log_history(history)
        progress.skip(len(history) * images_per_epoch)
        if history:
            last = history[-1]
            progress.epoch(len(history), settings.epochs, last["loss"], last["validation_balanced_accuracy"])

    inner = dataset(inner_rows, fixed)
    trainer.fit(dataset(fit_rows, augmented), inner, job.files.checkpoint, on_images=progress.images, on_epoch=on_epoch)

    def table(which: np.ndarray, predictions: Predictions) -> pd.DataFrame:
        probabilities = predictions.probabilities.numpy()
        return prediction_table(rows.iloc[which], probabilities, classes, fold=job.fold, seed=job.seed)

    learned, seen = trainer.predict(dataset(fit_rows, fixed)), trainer.predict(inner)
    if config.refit is not None:
        # Predictions are on the CPU. While the head is there as well, a network on a GPU cannot predict.
        chosen = config.refit.build()(network.head.cpu(), learned, seen, seed=derive_seed("refit", seed))
        network.head.to(fabric.device)
        run.log_metrics({f"refit.{name}": value for name, value in chosen.items()}, step=settings.epochs)
        seen = trainer.predict(inner)
    validation = table(inner_rows, seen)
    scored = validation if job.scored == "inner" else table(test_rows, trainer.predict(dataset(test_rows, fixed)))
    examples = rows.iloc[fit_rows]
    if fabric.is_global_zero:
        save_model(
            job.files.path,
            network,
            _facts(config, images.manifest),
            fold=job.fold,
            seed=job.seed,
            calibration=calibrate(seen, network.head, classes),
            examples=TrainingExamples(examples["image"].tolist(), examples["label"].tolist(), learned.embedding),
        )
        history = pd.DataFrame(trainer.history)
        write_table(history, job.files.path / "history.csv")
        run.log_figure(history_figure(history, job.label), "history.png")
        tables = {"validation": validation, "predictions": scored}
        reported = {f"training.{name}": trainer.history[-1][name] for name in loss.acts_from}
        metrics = keep(job, images.manifest, tables, run, progress, reported=reported, step=settings.epochs)
        write_json(job.files.path / "metrics.json", metrics)
    fabric.barrier()


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


def _score_external(job: Job, images: Images, fabric: Fabric, progress: JobProgress) -> None:
    """Scores the external images with the finished model, once."""
    if job.files.external.exists():
        return
    config = _config(job)
    description = read_description(job.files.path)
    (network,) = load_networks(job.files.path, description, job.config.plugins)
    rows, content = images.external()
    dataset = ManifestDataset(content, images.indices(rows), EvaluationStage(config.data.image_size))
    progress.start(f"{job.label}, external images", len(rows))
    predictions = predict(
        network.to(fabric.device).to(memory_format=torch.channels_last),
        dataset,
        device=fabric.device,
        workers=config.training.workers,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        on_images=progress.images,
    )
    if fabric.is_global_zero:
        table = prediction_table(
            rows, predictions.probabilities.numpy(), description.classes, fold=job.fold, seed=job.seed
        )
        write_table(table, job.files.external)
    fabric.barrier()


def _facts(config: NetworkConfig, manifest: Manifest) -> Facts:
    """What the classifier's file says about it, but for what belongs to one fold."""
    resolved = config.resolved()
    return Facts.model_validate(
        {
            "name": config.name,
            "classes": manifest.classes,
            "malignant": manifest.malignant,
            "preprocessing": {"image_size": config.data.image_size, "lesion_crop": config.data.lesion_crop},
            **{section: resolved[section] for section in ("backbone", "neck", "head")},
            "data": {
                "name": manifest.name,
                "split_hash": manifest.split_hash,
                "images_digest": manifest.images_digest,
                "class_counts": manifest.class_counts(),
                "source": manifest.source,
                "license": manifest.license,
            },
        }
    )


def keep(
    job: Job,
    manifest: Manifest,
    tables: dict[str, pd.DataFrame],
    run: Run,
    progress: JobProgress,
    *,
    reported: Mapping[str, float] | None = None,
    step: int = 0,
) -> dict[str, float]:
    """Writes and tracks what a job found.

    Args:
        job: The job.
        manifest: Its images.
        tables: The prediction tables ``validation`` and ``predictions``.
        run: The job's tracking run.
        progress: Told that the job is done.
        reported: What is known of the training besides, which joins the metrics.
        step: At which the run's metrics stand, such as the number of epochs.

    Returns:
        The metrics, which the caller writes when the job is finished.
    """
    classes = manifest.classes
    for name, table in tables.items():
        write_table(table, job.files.path / f"{name}.csv")

    scored = tables["predictions"]
    labels, probabilities = (
        class_indices(scored["label"], classes),
        scored[[f"p.{name}" for name in classes]].to_numpy(),
    )
    metrics = classification_metrics(
        labels, probabilities, classes, minority=minority_classes(manifest.class_counts()), malignant=manifest.malignant
    )
    metrics |= reported or {}
    matrix = confusion_matrix(labels, probabilities.argmax(axis=1), len(classes))
    run.log_metrics(metrics, step=step)
    run.log_table(scored, "predictions.csv")
    run.log_json({"classes": list(classes), "matrix": matrix.tolist()}, "confusion.json")
    run.log_figure(confusion_figure(matrix, classes, job.label), "confusion.png")
    progress.finish(
        f"{job.label}: balanced accuracy {100 * metrics['balanced_accuracy']:.1f} % "
        f"on {len(scored)} {'test' if job.scored == 'test' else 'inner validation'} images"
    )
    return metrics


def _config(job: Job) -> NetworkConfig:
    assert isinstance(job.config, NetworkConfig)
    return job.config


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


def _fabric(config: NetworkConfig) -> Fabric:
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces the precision for every fold
    # One device, unless torchrun says otherwise.
    devices, processes = (int(os.environ.get(name, 1)) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    fabric = Fabric(devices=devices, num_nodes=processes // devices, precision=config.training.precision)  # type: ignore[arg-type]
    fabric.launch()
    return fabric
