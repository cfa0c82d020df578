"""What is known of the experiment that a report is about, and of the experiments beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from dermaffinity.data.manifest import Manifest, read_manifest
from dermaffinity.data.splits import Leak, measure_leak
from dermaffinity.errors import ComparisonError, DataError, ManifestError
from dermaffinity.experiments.compare import ComparedExperiments, compare_experiments, meant
from dermaffinity.experiments.record import ExperimentFolder, class_indices, read_table
from dermaffinity.inference.model_folder import Description, FoldModel, read_description
from dermaffinity.metrics.classification import confusion_matrix, minority_classes
from dermaffinity.metrics.reliability import with_temperature
from dermaffinity.tracking.base import NullTracker

_USUAL_BASELINE = "cosen"


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of the experiment that the report is about, for C classes."""

    folder: ExperimentFolder
    facts: dict[str, Any]  # experiment.json
    manifest: Manifest | None
    model: Description | None  # of the first fold
    fold_models: dict[tuple[int, int], FoldModel]  # by fold and seed; empty where the models are gone
    table: pd.DataFrame  # out of fold, all seeds
    calibrated: pd.DataFrame  # the same at each model's temperature, or as it is without models
    summary: pd.DataFrame
    external: pd.DataFrame | None
    external_summary: pd.DataFrame | None

    @classmethod
    def of(cls, folder: ExperimentFolder, manifest: Manifest | None, notes: list[str]) -> "Evidence":
        """Reads an experiment; what cannot be read is noted."""
        facts = folder.description()
        table = read_table(folder.path / "out_of_fold.csv")
        model: Description | None = None
        fold_models: dict[tuple[int, int], FoldModel] = {}
        try:
            for job in folder.jobs():
                model = read_description(job.path)
                if list(model.classes) != facts["classes"]:
                    raise DataError(f"{job.path}: its model has other classes than the experiment")
                fold_models |= {(fold_model.fold, fold_model.seed): fold_model for fold_model in model.fold_models}
        except DataError as error:
            model, fold_models = None, {}
            notes.append(f"Calibrated probabilities and prediction sets are left out: {error.message}.")
        calibrated = table.copy()
        if fold_models:
            columns = [f"p.{name}" for name in facts["classes"]]
            keys = zip(table["fold"], table["seed"], strict=True)
            own = np.array([fold_models[key].calibration.temperature for key in keys])
            calibrated[columns] = with_temperature(table[columns].to_numpy(), own[:, None])
        has_external = (folder.path / "external.csv").exists()
        return cls(
            folder,
            facts,
            manifest,
            model,
            fold_models,
            table,
            calibrated,
            _read_summary(folder.path / "out_of_fold_summary.csv"),
            read_table(folder.path / "external.csv") if has_external else None,
            _read_summary(folder.path / "external_summary.csv") if has_external else None,
        )

    @property
    def name(self) -> str:
        """Name of the experiment."""
        return self.folder.path.name

    @property
    def classes(self) -> list[str]:
        """The C class codes."""
        return self.facts["classes"]

    @property
    def counts(self) -> dict[str, int]:
        """Images of each class."""
        return self.facts["class_counts"]

    @property
    def minority(self) -> tuple[str, ...]:
        """Codes of the rare classes."""
        return minority_classes(self.counts)

    @property
    def malignant(self) -> list[str]:
        """Codes of the malignant classes."""
        return self.facts["malignant"]

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config, without paths of the machine it was run on."""
        return self.facts["identity"]["config"]

    @property
    def split_hash(self) -> str:
        """Of the manifest."""
        return self.facts["identity"]["split_hash"]

    @property
    def seeds(self) -> list[int]:
        """Seeds of the training, ascending."""
        return sorted(map(int, self.table["seed"].unique()))

    @property
    def source(self) -> str:
        """Where the images come from."""
        known = self.manifest or (self.model.data if self.model else None)
        return known.source if known else "not recorded with these results"

    @property
    def license(self) -> str:
        """Terms of the images."""
        known = self.manifest or (self.model.data if self.model else None)
        return (known.license if known else "") or "not recorded with these results"

    @property
    def leak(self) -> Leak:
        """How many test images have relatives in training."""
        rows = self.first_seed(self.table)
        return measure_leak(rows["label"].tolist(), rows["group"].tolist(), rows["fold"].tolist())

    def first_seed(self, table: pd.DataFrame) -> pd.DataFrame:
        """One row per image, for what looks at single images."""
        return table[table["seed"] == self.seeds[0]].reset_index(drop=True)

    def scored(self, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Class indices (N,) and probabilities (N, C) of a prediction table."""
        columns = [f"p.{name}" for name in self.classes]
        return class_indices(table["label"], self.classes), table[columns].to_numpy(float)


def _read_summary(path: Path) -> pd.DataFrame:
    empty = {column: [""] for column in ("value", "low", "high")}
    table = pd.read_csv(path, dtype={"metric": str}, keep_default_na=False, na_values=empty)  # type: ignore[arg-type]
    return table.set_index("metric")


def check_finished(folder: ExperimentFolder) -> None:
    """Raises DataError for an experiment that has no out-of-fold results to report."""
    if folder.description()["identity"]["scored"] != "test":
        raise DataError(
            f"{folder.path}: scored its inner validation images, which are for choosing settings and not for "
            "reporting; run the chosen config with dermaffinity crossval, without --inner"
        )
    if not (folder.path / "out_of_fold.csv").exists():
        raise DataError(
            f"{folder.path}: some folds are still to be run; run dermaffinity crossval CONFIG --resume, then "
            "report again"
        )


def find_manifest(folder: ExperimentFolder, named: Path | None, notes: list[str]) -> Manifest | None:
    """The experiment's manifest: the one named, or the one its config names, seen from here or from beside the runs."""
    facts = folder.description()
    split = facts["identity"]["split_hash"]
    if named is not None:
        manifest = read_manifest(named)
        if manifest.split_hash != split:
            raise ManifestError(
                f"{named}: split {manifest.split_hash[:12]}, but {folder.path.name} was run on {facts['dataset']}, "
                f"split {split[:12]}; name that manifest"
            )
        return manifest
    config = yaml.safe_load((folder.path / "config.yaml").read_text(encoding="utf-8"))
    path = Path(config["data"]["manifest"])
    root = config["data"].get("root")
    for place in (path, folder.path.absolute().parent.parent / path):
        if place.is_file():
            try:
                manifest = read_manifest(place, Path(root) if root else None)
            except ManifestError as error:
                notes.append(f"What the manifest knows is left out: {error.message}.")
                return None
            if manifest.split_hash == split:
                return manifest
    notes.append(
        f"Facts of patients are left out: the manifest {path.name} of split {split[:12]} was not found where this "
        "report was written."
    )
    return None


def compare_with_baseline(
    subject: ExperimentFolder, others: list[ExperimentFolder], baseline: str | None, notes: list[str]
) -> ComparedExperiments | None:
    """The subject beside a baseline and the other experiments asked for; None when there is nothing beside it."""
    named = {folder.path.name: folder for folder in (subject, *others)}
    for folder in others:
        check_finished(folder)
    wanted = baseline or _USUAL_BASELINE
    known = named | {folder.path.name: folder for folder in _neighbors(subject) if folder.path.name not in named}
    fitting = meant(wanted, known)
    if len(fitting) != 1:
        if baseline is not None or others:
            raise ComparisonError(
                f"--baseline {wanted}: {len(fitting) or 'none'} of {', '.join(known)} fits, which are the finished "
                "experiments on this split; give the full name of one of them"
            )
        return None
    (base,) = fitting
    chosen = {**named, base: known[base]}
    if len(chosen) == 1:
        return None
    try:
        return compare_experiments(
            [str(folder.path) for folder in chosen.values()],
            baseline=base,
            runs=subject.path.parent,
            tracker=NullTracker(),
        )
    except ComparisonError as error:
        if baseline is not None or others:
            raise
        notes.append(f"The comparison with {base}, which lies beside this experiment, is left out: {error.message}.")
        return None


def _neighbors(subject: ExperimentFolder) -> list[ExperimentFolder]:
    """Finished experiments on the same split, in the same folder."""
    split, found = subject.description()["identity"]["split_hash"], []
    for path in sorted(subject.path.absolute().parent.glob("*/experiment.json")):
        folder = ExperimentFolder(path.parent)
        identity = folder.description()["identity"]
        finished = (folder.path / "out_of_fold.csv").exists()
        if folder.path.name != subject.path.name and finished and identity["scored"] == "test":
            found += [folder] if identity["split_hash"] == split else []
    return found


def matrix_of(evidence: Evidence, table: pd.DataFrame) -> np.ndarray:
    """Confusion matrix (C, C) of a prediction table; true classes as rows."""
    labels, probabilities = evidence.scored(table)
    return confusion_matrix(labels, probabilities.argmax(axis=1), len(evidence.classes))


def label_counts(table: pd.DataFrame, classes: Sequence[str]) -> dict[str, int]:
    """Images of each class in a prediction table, each image once."""
    labels = table.drop_duplicates("image")["label"]
    return {name: int((labels == name).sum()) for name in classes}


def interval_of(summary: pd.DataFrame, metric: str) -> tuple[float, float, float]:
    """Value, lower and upper bound of one metric of a summary."""
    value, low, high = summary.loc[[metric], ["value", "low", "high"]].to_numpy(float)[0]
    return float(value), float(low), float(high)
