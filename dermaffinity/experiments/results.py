"""What an experiment says about images: prediction tables, as trained and calibrated, and what they measure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from dermaffinity.files import atomic_write
from dermaffinity.metrics.classification import Classes, confusion_matrix
from dermaffinity.metrics.reliability import reliability_bins, with_temperature
from dermaffinity.metrics.summary import Measured, ScoredImages, summarize_calibration

Model = tuple[int, int]  # its fold and seed; of a mean over folds or seeds, 0 in their place


@dataclass(frozen=True, eq=False)
class Results:
    """What an experiment says about one part of the images.

    Args:
        part: ``out_of_fold`` for what it scored, or ``external``.
        classes: The C classes.
        table: Prediction table as trained; where class frequencies are told, calibrated as well, because they are told
            to calibrated models.
        calibrated: The same at the models' temperatures; None where there are none.
        training: Rows that join the summary, see `training_numbers`.
    """

    part: str
    classes: Classes
    table: pd.DataFrame
    calibrated: pd.DataFrame | None = None
    training: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def best(self) -> pd.DataFrame:
        """The prediction table, calibrated where it can be."""
        return self.table if self.calibrated is None else self.calibrated

    @cached_property
    def measured(self) -> Measured:
        """Every measure on the images and on resamples of their groups."""
        return Measured.of(ScoredImages.from_table(self.table, self.classes))

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Index `metric`; columns `value`, `low`, `high`: every measure with its 95 % interval, as fractions.

        ``ece.calibrated`` and ``brier.calibrated`` are there where a temperature was fitted.
        """
        parts = [self.measured.summary(), self.training]
        if self.calibrated is not None:
            parts.insert(1, summarize_calibration(self.calibrated, self.classes).rename("{}.calibrated".format))
        return pd.concat([part for part in parts if len(part)]).rename_axis("metric")

    @property
    def counts(self) -> dict[str, int]:
        """Images of each class, each image once."""
        counts = self.table.drop_duplicates("image")["label"].value_counts()
        return {name: int(counts.get(name, 0)) for name in self.classes.names}

    @property
    def matrix(self) -> np.ndarray:
        """Confusion matrix (C, C); true classes as rows."""
        labels, probabilities = arrays(self.table, self.classes)
        return confusion_matrix(labels, probabilities.argmax(axis=1), len(self.classes.names))

    def bins(self) -> dict[str, pd.DataFrame]:
        """See `reliability_bins`; as trained and calibrated."""
        tables = {"as trained": self.table, "calibrated": self.calibrated}
        return {
            name: reliability_bins(*arrays(table, self.classes)) for name, table in tables.items() if table is not None
        }


def arrays(table: pd.DataFrame, classes: Classes) -> tuple[np.ndarray, np.ndarray]:
    """Class indices (N,) and probabilities (N, C) of a prediction table."""
    return classes.indices(table["label"]), table[classes.columns].to_numpy(float)


def at_temperatures(
    table: pd.DataFrame, temperatures: Mapping[Model, float], evidence: np.ndarray | float, classes: Classes
) -> pd.DataFrame:
    """The table with each model's probabilities at its temperature, and evidence (N, C) after it."""
    own = np.array([temperatures[model] for model in models_of(table)])
    calibrated = with_temperature(table[classes.columns].to_numpy(), own[:, None], evidence)
    columns = pd.DataFrame(calibrated, columns=classes.columns, index=table.index)
    return table.assign(predicted=np.asarray(classes.names)[calibrated.argmax(axis=1)], **columns)


def models_of(table: pd.DataFrame) -> list[Model]:
    """Fold and seed of each row."""
    return list(zip(table["fold"].tolist(), table["seed"].tolist(), strict=True))


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


def as_separate_images(table: pd.DataFrame) -> pd.DataFrame:
    """Inner validation rows with every model's images as images of their own, because the models' parts overlap.

    Stopping and settings were chosen by these images, so they are for choosing, not for reporting.
    """
    model = "fold " + table["fold"].astype(str) + " seed " + table["seed"].astype(str)
    return table.assign(image=table["image"] + ", " + model, fold=pd.factorize(model)[0], seed=0)


def average_models(table: pd.DataFrame, classes: Classes, keep: Sequence[str] = ("seed",)) -> pd.DataFrame:
    """The ensembles' table: the mean probabilities of several models for each image.

    Args:
        table: Prediction table.
        classes: The C classes.
        keep: What is not averaged over, of ``fold`` and ``seed``; the other is 0.
    """
    columns, facts = classes.columns, ["group", "label"]
    if set(keep) == {"fold", "seed"}:
        return table
    of_images = table.groupby([*keep, "image"], sort=True)
    joined = of_images[columns].mean().join(of_images[facts].first()).reset_index()
    joined = joined.assign(**{name: 0 for name in ("fold", "seed") if name not in keep})
    joined["predicted"] = np.asarray(classes.names)[joined[columns].to_numpy().argmax(axis=1)]
    return joined[["image", "group", "label", "fold", "seed", "predicted", *columns]]


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Writes a CSV, atomically; nine digits keep every float32 exactly."""
    with atomic_write(path) as file:
        table.to_csv(file, index=False, float_format="%.9g")


def read_table(path: Path) -> pd.DataFrame:
    """A table that ``write_table`` wrote; a class or group called NA stays a text."""
    texts = dict.fromkeys(("image", "group", "label", "predicted"), str)
    return pd.read_csv(path, dtype=texts, keep_default_na=False, na_values={})  # type: ignore[arg-type]
