"""What an experiment leaves on the disk, and how to find it again.

``RUNS/<config name>/`` holds ``experiment.json``, ``config.yaml``, one folder ``fold-<k>_seed-<s>`` for each job, and,
once all jobs are done, ``out_of_fold.csv``, ``out_of_fold_summary.csv``, ``figures/``, and the folds' models together
in ``classifier/``. A job is finished when its ``metrics.json`` exists and its ``checkpoint.pt`` is gone.
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dermaffinity.errors import ComparisonError, DataError
from dermaffinity.files import atomic_write

EXPERIMENT_FORMAT = 2


@dataclass(frozen=True)
class JobFolder:
    """The files of one fold and seed."""

    path: Path

    @property
    def finished(self) -> bool:
        """Whether everything of this job is there, and tracked."""
        return (self.path / "metrics.json").exists() and not self.checkpoint.exists()

    @property
    def started(self) -> bool:
        """Whether there is an interrupted training to go on with."""
        return self.checkpoint.exists()

    @property
    def checkpoint(self) -> Path:
        """The training in progress; removed when the job is finished."""
        return self.path / "checkpoint.pt"

    @property
    def external(self) -> Path:
        """The predictions for the external images."""
        return self.path / "external.csv"

    @property
    def run_id(self) -> str | None:
        """The job's tracking run, once it is noted."""
        note = self.path / "run_id.txt"
        return note.read_text(encoding="utf-8").strip() if note.exists() else None

    def note_run(self, run_id: str) -> None:
        """Notes the job's tracking run."""
        with atomic_write(self.path / "run_id.txt") as file:
            file.write(run_id)

    def metrics(self) -> dict[str, float]:
        """The job's metrics on the rows it scored."""
        return json.loads((self.path / "metrics.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class ExperimentFolder:
    """The files of one experiment."""

    path: Path

    def job(self, fold: int, seed: int) -> JobFolder:
        """The folder of one fold and seed."""
        return JobFolder(self.path / f"fold-{fold}_seed-{seed}")

    @property
    def classifier(self) -> Path:
        """The model folder of all folds; complete when its ``classifier.json`` exists."""
        return self.path / "classifier"

    def identifier(self) -> str:
        """A word that no other folder has, made at the first call; the folder's tracking runs are told by it."""
        note = self.path / "folder_id.txt"
        if not note.exists():
            with atomic_write(note) as file:
                file.write(uuid.uuid4().hex)
        return note.read_text(encoding="utf-8")

    def jobs(self) -> list[JobFolder]:
        """Every job folder that exists, in order."""
        return [JobFolder(path) for path in sorted(self.path.glob("fold-*_seed-*"))]

    def description(self) -> dict[str, Any]:
        """``experiment.json``: the resolved config, the data, versions, and the tracking run."""
        try:
            facts = json.loads((self.path / "experiment.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.path}: no readable experiment.json ({error}); this is not an experiment's folder"
            ) from error
        if (found := facts.get("format", 1)) != EXPERIMENT_FORMAT:
            raise DataError(
                f"{self.path}: experiment format {found!r}, this version of dermaffinity reads {EXPERIMENT_FORMAT}; "
                "run the experiment again in another --runs folder"
            )
        return facts

    def scored_images(self) -> str:
        """What the predictions are for, in words: out-of-fold, test or inner validation images."""
        facts = self.description()
        tested = "test images" if facts["folds"] == 1 else "out-of-fold images"
        return (
            tested
            if facts["identity"]["scored"] == "test"
            else "inner validation images (for choosing, not for reporting)"
        )

    def scored_counts(self) -> dict[str, int]:
        """Images of each class that the predictions are for."""
        counts = self.predictions("predictions").drop_duplicates("image")["label"].value_counts()
        return {name: int(counts.get(name, 0)) for name in self.description()["classes"]}

    def predictions(self, part: str, jobs: Sequence[JobFolder] | None = None) -> pd.DataFrame:
        """The joined prediction tables of all finished jobs.

        Args:
            part: ``"predictions"`` for the scored rows (test folds), ``"validation"`` or ``"external"``.
            jobs: Only of these.
        """
        files = [job.path / f"{part}.csv" for job in (self.jobs() if jobs is None else jobs) if job.finished]
        tables = [read_table(file) for file in files if file.exists()]
        if not tables:
            raise ComparisonError(f"{self.path}: no finished job has a {part} table; run dermaffinity crossval first")
        return pd.concat(tables, ignore_index=True)


def training_numbers(jobs: Sequence[JobFolder]) -> pd.DataFrame:
    """What finished trainings report of themselves, such as CoSen's final cost ratio; empty where they report nothing.

    Returns:
        Index `metric`, ``training.<name>``; columns `value`, the mean over jobs, and `low` and `high`, the extremes.
    """
    metrics = pd.DataFrame([job.metrics() for job in jobs if job.finished])
    numbers = metrics[[name for name in metrics if str(name).startswith("training.")]]
    table = pd.DataFrame({"value": numbers.mean(), "low": numbers.min(), "high": numbers.max()})
    return table.rename_axis("metric")


def find_experiment(source: str | Path, runs: Path) -> ExperimentFolder:
    """The experiment of a folder, or of a config's file or name under ``runs``.

    Raises:
        ComparisonError: When there is none; the message lists what there is.
    """
    for path in (Path(source), runs / str(source), runs / Path(source).stem):
        if (path / "experiment.json").is_file():
            return ExperimentFolder(path)
    known = sorted(path.parent.name for path in runs.glob("*/experiment.json"))
    raise ComparisonError(f"{source}: no experiment of that name under {runs}; there is {', '.join(known) or 'none'}")


def prediction_table(
    rows: pd.DataFrame, probabilities: np.ndarray, classes: Sequence[str], *, fold: int, seed: int
) -> pd.DataFrame:
    """One row per image: who it is, what it is, what the network says.

    Args:
        rows: Manifest rows (N).
        probabilities: (N, C), in the order of ``classes``.
        classes: Class codes.
        fold: The test fold whose model spoke.
        seed: That model's seed.
    """
    table = pd.DataFrame(
        {"image": rows["image"].to_numpy(), "group": rows["group"].to_numpy(), "label": rows["label"].to_numpy()}
    )
    table["fold"] = fold
    table["seed"] = seed
    table["predicted"] = np.asarray(classes)[probabilities.argmax(axis=1)]
    for index, name in enumerate(classes):
        table[f"p.{name}"] = probabilities[:, index]
    return table


def class_indices(labels: pd.Series, classes: Sequence[str]) -> np.ndarray:
    """(N,) positions of class codes in ``classes``."""
    return pd.Index(classes).get_indexer(pd.Index(labels)).astype(np.int64)


def as_separate_images(table: pd.DataFrame) -> pd.DataFrame:
    """Inner validation rows with every model's images as images of their own, because the models' parts overlap.

    Stopping and settings were chosen by these images, so they are for choosing, not for reporting.
    """
    model = "fold " + table["fold"].astype(str) + " seed " + table["seed"].astype(str)
    return table.assign(image=table["image"] + ", " + model, fold=pd.factorize(model)[0], seed=0)


def average_models(table: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """The ensemble's table: for each image and seed, the mean probabilities of the folds' models; ``fold`` is 0."""
    columns = [f"p.{name}" for name in classes]
    mean = table.groupby(["seed", "image"], sort=True)[columns].mean().reset_index()
    facts = table.drop_duplicates("image")[["image", "group", "label"]]
    joined = mean.merge(facts, on="image")
    joined["fold"] = 0
    joined["predicted"] = np.asarray(classes)[joined[columns].to_numpy().argmax(axis=1)]
    return joined[["image", "group", "label", "fold", "seed", "predicted", *columns]]


def with_bounds(table: pd.DataFrame) -> dict[str, float]:
    """A summary or gains as flat metrics: ``name``, ``interval/name.low`` and ``interval/name.high``.

    MLflow folds what shares the part before a slash into one section, which keeps the bounds out of the way.
    """
    metrics: dict[str, float] = {}
    for name, (value, low, high) in zip(table.index, table[["value", "low", "high"]].to_numpy(float), strict=True):
        metrics |= {name: float(value), f"interval/{name}.low": float(low), f"interval/{name}.high": float(high)}
    return metrics


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Writes a CSV, atomically; nine digits keep every float32 exactly."""
    with atomic_write(path) as file:
        table.to_csv(file, index=False, float_format="%.9g")


def read_table(path: Path) -> pd.DataFrame:
    """A table that ``write_table`` wrote; a class or group called NA stays a text."""
    texts = dict.fromkeys(("image", "group", "label", "predicted"), str)
    return pd.read_csv(path, dtype=texts, keep_default_na=False, na_values={})  # type: ignore[arg-type]
