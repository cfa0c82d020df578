"""What was run: one small file per experiment, written once when it begins, and the folders of its jobs."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from dermaffinity.config import explain, flatten
from dermaffinity.errors import DataError
from dermaffinity.metrics.classification import Classes

FILE = "experiment.json"
FORMAT = 3

Scored = Literal["test", "inner", "none"]

# What any method may have; its own are head, neck, loss, refit and how fast it learns.
_SHARED = (
    "data", "augmentation", "backbone", "mixing", "growth", "average", "sharpness", "metadata", "prior_strength"
)  # fmt: skip
_SHARED_TRAINING = ("epochs", "batch_size", "balanced_sampling", "patience")


class ExperimentRecord(BaseModel):
    """What was run; equal for every process and every call that works on the experiment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[3] = 3
    name: str  # of the config
    config: dict[str, Any]  # resolved, without what may differ between machines
    joined: dict[str, dict[str, Any]] = {}  # configs of the experiments that it is the mean of, by name; see `join`
    scored: Scored  # "test" for the test folds; "inner" for the inner validation images; "none": see `fit`
    dataset: str  # name of the manifest
    split_hash: str  # of ids, labels, groups and folds: the same at any resolution
    images_digest: str  # of the image files that are trained on
    protocol: str
    folds: int
    class_counts: dict[str, int]  # images that are trained on, in class order
    malignant: tuple[str, ...]
    versions: dict[str, str]  # of the software that began the experiment

    @classmethod
    def read(cls, folder: Path) -> "ExperimentRecord":
        """That of an experiment's folder.

        Raises:
            DataError: When it cannot be read, is of another format, or does not describe an experiment.
        """
        try:
            values = json.loads((folder / FILE).read_text(encoding="utf-8"))
            found = values.get("format", 1)
        except (OSError, ValueError, AttributeError) as error:
            raise DataError(f"{folder}: no readable {FILE} ({error}); this is not an experiment's folder") from error
        if found != FORMAT:
            raise DataError(
                f"{folder}: experiment format {found!r}, this version of dermaffinity reads {FORMAT}; run the "
                "experiment again in another --runs folder"
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise DataError(f"{folder / FILE}: does not describe an experiment", explain(error, "", cls)) from error

    @property
    def classes(self) -> Classes:
        """The C classes, with the rare and the malignant ones."""
        return Classes.of(self.class_counts, self.malignant)

    @property
    def has_network(self) -> bool:
        """Whether it trains networks, which leave models; else it fits estimators."""
        return "backbone" in self.config

    @property
    def images(self) -> str:
        """What the predictions are for, in words."""
        if self.scored != "test":
            return "inner validation images (for choosing, not for reporting)"
        return "test images" if self.folds == 1 else "out-of-fold images"

    @property
    def title(self) -> str:
        """What was done, in a sentence."""
        name = f"{self.name} (the mean of {' and '.join(self.joined)})" if self.joined else self.name
        if self.scored == "none":
            return f"{name}, trained on all images of {self.dataset} and not scored"
        if self.protocol == "presplit":
            return f"{name} on the test set of {self.dataset}"
        return f"{self.folds}-fold cross-validation of {name} on {self.dataset}, {self.protocol} protocol"

    @property
    def again(self) -> str:
        """What to do when something of it is missing."""
        if self.joined:
            return f"run dermaffinity join {self.name} {' '.join(self.joined)} again"
        return f"run the command that made it, such as dermaffinity crossval {self.name}, again with --resume"

    @property
    def test_train_ratio(self) -> float | None:
        """Test over training images of a fold; None where nothing can be said about other folds."""
        if self.folds == 1 or self.scored != "test":  # models that share images are no resamples of training
            return None
        # The training folds without their inner validation part are what a model learned from.
        return 1 / ((self.folds - 1) * (1 - self.config["data"]["validation_fraction"]))

    def differences(self, other: "ExperimentRecord") -> list[str]:
        """In what another one is not the same experiment, a line each."""
        if list(self.joined) != list(other.joined):
            there, here = (
                f"the mean of {', '.join(record.joined)}, in this order" if record.joined else "no mean"
                for record in (self, other)
            )
            return [f"what it is: there {there}; now {here}"]
        compared = {"config", "joined", "split_hash", "images_digest", "scored"}
        # A setting that is left out equals one that did not exist when the experiment was begun.
        before, now = (
            {key: value for key, value in flatten(record.model_dump(include=compared)) if value is not None}
            for record in (self, other)
        )
        return [
            f"{key.removeprefix('config.')}: there {before.get(key)!r}, now {now.get(key)!r}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key)
        ]


def unlike(records: Mapping[str, ExperimentRecord], base: str) -> list[str]:
    """In what experiments differ from one of them besides the method: sentences, one for all that differ alike.

    Head, neck, loss, refit and learning rates are the method; whatever else differs has a share in the gain.
    Experiments without networks differ in everything, and are left out.
    """
    alike: dict[str, list[str]] = defaultdict(list)
    for name, record in records.items():
        if record.has_network and records[base].has_network and (found := "; ".join(_apart(record, records[base]))):
            alike[found].append(name)
    return [
        f"{', '.join(names)} {'differs' if len(names) == 1 else 'differ'} from {base} in more than the method: "
        f"{found}. A gain is one of all this together; run both with the same to see the method's own."
        for found, names in alike.items()
    ]


def _apart(record: ExperimentRecord, base: ExperimentRecord) -> Iterator[str]:
    """``backbone.views 8 (1)``: a shared setting, what it is, and what it is in the baseline."""
    if record.joined != base.joined:
        yield f"mean of {_word(list(record.joined) or None)} ({_word(list(base.joined) or None)})"
        return
    for section in (*_SHARED, "training"):
        own, other = (one.config.get(section) for one in (record, base))
        if not (isinstance(own, dict) and isinstance(other, dict) and own.get("class") == other.get("class")):
            own, other, prefix = {section: own}, {section: other}, ""
        else:
            own, other, prefix = dict(flatten(own)), dict(flatten(other)), f"{section}."
        for key in sorted(own.keys() | other.keys()) if section != "training" else _SHARED_TRAINING:
            if own.get(key) != other.get(key):
                yield f"{prefix}{key} {_word(own.get(key))} ({_word(other.get(key))})"


def _word(value: object) -> str:
    if isinstance(value, Mapping):
        return str(value["class"]).rpartition(".")[2]
    if isinstance(value, list | tuple):
        return " and ".join(map(str, value))
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class JobFolder:
    """The files of one fold and seed; finished when ``metrics.json`` exists and ``checkpoint.pt`` is gone."""

    path: Path

    @classmethod
    def of(cls, experiment: Path, fold: int, seed: int) -> "JobFolder":
        """The one in an experiment's folder."""
        return cls(experiment / f"fold-{fold}_seed-{seed}")

    @property
    def finished(self) -> bool:
        """Whether everything of this job is there."""
        return (self.path / "metrics.json").exists() and not self.checkpoint.exists()

    @property
    def started(self) -> bool:
        """Whether there is an interrupted training to resume."""
        return self.checkpoint.exists()

    @property
    def checkpoint(self) -> Path:
        """The training in progress; removed when the job is finished."""
        return self.path / "checkpoint.pt"

    @property
    def history(self) -> Path:
        """The curves of the training, a row for each epoch; grows while it trains."""
        return self.path / "history.csv"

    @property
    def predictions(self) -> Path:
        """The predictions for the scored images."""
        return self.path / "predictions.csv"

    @property
    def selected(self) -> Path:
        """The features that an estimator selected."""
        return self.path / "selected_features.json"

    @property
    def external(self) -> Path:
        """The predictions for the external images."""
        return self.path / "external.csv"

    def metrics(self) -> dict[str, float]:
        """The job's metrics on the rows it scored."""
        return json.loads((self.path / "metrics.json").read_text(encoding="utf-8"))


def training_numbers(jobs: Sequence[JobFolder]) -> pd.DataFrame:
    """What finished trainings report of themselves, such as CoSen's final cost ratio; empty where they report nothing.

    Returns:
        Index `metric`, ``training.<name>``; columns `value`, the mean over jobs, and `low` and `high`, the extremes.
    """
    metrics = pd.DataFrame([job.metrics() for job in jobs if job.finished])
    numbers = metrics[[name for name in metrics if str(name).startswith("training.")]]
    table = pd.DataFrame({"value": numbers.mean(), "low": numbers.min(), "high": numbers.max()})
    return table.rename_axis("metric")
