"""One method's prediction table in numbers with intervals, and fold by fold.

A prediction table has one row per image and seed, with the columns `image`, `group`, `label` (class code), `fold`
(empty for external images), `seed`, `predicted` (class code) and one probability column `p.<class>` per class.
Axes: S seeds, N images, C classes, B resamples.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from dermaffinity.metrics.classification import Classes, classification_metrics, weighted_metrics
from dermaffinity.metrics.reliability import brier_score, expected_calibration_error
from dermaffinity.metrics.statistics import bootstrap_interval, bootstrap_weights, share_interval

_LIMITS = {"brier": (0, 2), "nll": (0, math.inf)}  # all else lies in [0, 1]
Measure = Callable[[np.ndarray, np.ndarray, np.ndarray], dict[str, np.ndarray]]  # of labels, probabilities, weights

_FACTS = ("group", "label", "fold")  # of an image: the same for every seed


@dataclass(frozen=True)
class ScoredImages:
    """A checked prediction table as arrays, sorted by image.

    Examples:
        >>> import pandas as pd
        >>> from dermaffinity.metrics import Classes, ScoredImages
        >>> scored = ScoredImages.from_table(pd.read_csv("out_of_fold.csv"), Classes(("AK", "ML")))
        >>> scored.probabilities.shape  # seeds, images, classes
        (1, 8, 2)
        >>> scored.correct()
        array([1., 1., 0., 1., 1., 1., 0., 1.])
    """

    classes: Classes
    images: np.ndarray  # (N,)
    groups: np.ndarray  # (N,), codes
    labels: np.ndarray  # (N,), class indices
    folds: np.ndarray  # (N,), -1 without a fold
    seeds: np.ndarray  # (S,)
    probabilities: np.ndarray  # (S, N, C)

    @classmethod
    def from_table(cls, table: pd.DataFrame, classes: Classes) -> "ScoredImages":
        """Reads a prediction table.

        Raises:
            ValueError: With all that is wrong with the table.
        """
        columns = ["image", *_FACTS, "seed", "predicted", *classes.columns]
        if missing := [name for name in columns if name not in table]:
            raise ValueError(f"the prediction table lacks the columns {missing}")
        if problems := _problems(table, classes):
            raise ValueError("the prediction table cannot be used: " + "; ".join(problems))
        table = table.sort_values(["seed", "image"], kind="stable")
        seeds = table["seed"].unique()
        first = table.iloc[: len(table) // len(seeds)]
        return cls(
            classes=classes,
            images=first["image"].to_numpy(dtype=object),
            groups=first["group"].to_numpy(dtype=object).astype(str),
            labels=classes.indices(first["label"]),
            folds=first["fold"].astype("Int64").fillna(-1).to_numpy(dtype=int),
            seeds=np.asarray(seeds),
            probabilities=table[classes.columns].to_numpy(float).reshape(len(seeds), len(first), -1),
        )

    def correct(self) -> np.ndarray:
        """Share of the seeds that predict each image right: (N,), in [0, 1]."""
        return (self.probabilities.argmax(axis=2) == self.labels).mean(axis=0)

    def groups_behind(self, metric: str) -> int:
        """How many groups a measure rests on: those of the class it names, or of the class that has the fewest.

        Accuracy, in which classes do not count alike, rests on all.
        """
        if metric == "accuracy":
            return len(np.unique(self.groups))
        counts = {
            name: len(np.unique(self.groups[self.labels == index])) for index, name in enumerate(self.classes.names)
        }
        return counts.get(metric.partition(".")[2]) or min(filter(None, counts.values()))

    def resampled(self, measure: Measure, resamples: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Each measure for each seed (S,), and its mean over the seeds on each resample of the groups (B,).

        The same groups are drawn for every seed and method.
        """

        def by_seed(weights: np.ndarray) -> dict[str, np.ndarray]:
            parts = [measure(self.labels, scores, weights) for scores in self.probabilities]
            return {name: np.stack([part[name] for part in parts]) for name in parts[0]}  # (S, B) each

        own = {name: values[:, 0] for name, values in by_seed(np.ones((len(self.labels), 1))).items()}
        draws = [by_seed(w) for w in bootstrap_weights(self.groups, self.labels, resamples=resamples, seed=0)]
        return own, {name: np.concatenate([part[name].mean(axis=0) for part in draws]) for name in own}

    def metrics_by_fold(self) -> pd.DataFrame:
        """The measures of every fold and seed on its own: columns `fold`, `seed` and one per measure.

        A class without images in a fold has NaN there.
        """
        rows = []
        for fold in np.unique(self.folds):
            here = self.folds == fold
            for seed, probabilities in zip(self.seeds, self.probabilities, strict=True):
                metrics = classification_metrics(self.labels[here], probabilities[here], self.classes)
                rows.append({"fold": fold, "seed": seed, **metrics})
        return pd.DataFrame(rows)


@dataclass(frozen=True)
class Measured:
    """A method's measures on the images themselves and on resamples of their groups.

    Examples:
        >>> import pandas as pd
        >>> from dermaffinity.metrics import Classes, Measured, ScoredImages
        >>> scored = ScoredImages.from_table(pd.read_csv("out_of_fold.csv"), Classes(("AK", "ML"), minority=("AK",)))
        >>> Measured.of(scored, resamples=100).summary().loc[["recall.AK", "recall.ML"]].round(2)
                   value   low  high
        metric
        recall.AK   0.75  0.24  0.97
        recall.ML   0.75  0.30  0.95
    """

    predictions: ScoredImages
    by_seed: dict[str, np.ndarray]  # (S,) each
    by_fold: pd.DataFrame  # see `ScoredImages.metrics_by_fold`
    draws: dict[str, np.ndarray]  # (B,) each, the mean over seeds on each resample

    @classmethod
    def of(cls, predictions: ScoredImages, *, resamples: int = 2000) -> "Measured":
        """Measures predictions.

        Each measure is taken per seed and averaged over the seeds. AUCs rank only images of the same fold against one
        another.
        """
        measure = partial(weighted_metrics, classes=predictions.classes, folds=predictions.folds)
        by_seed, draws = predictions.resampled(measure, resamples)
        return cls(predictions, by_seed, predictions.metrics_by_fold(), draws)

    def value(self, metric: str) -> float:
        """A measure, averaged over the seeds."""
        return float(self.by_seed[metric].mean())

    def summary(self) -> pd.DataFrame:
        """Every measure with a 95 % interval.

        `recall.<CLASS>` has a Wilson interval for as many images as its groups are worth (see
        `dermaffinity.metrics.statistics.share_interval`); all else has an interval from resampling whole groups. The
        intervals tell how far the numbers could move with other patients under these trained models; how far they move
        when training again is the spread over seeds, see `by_fold`.

        Returns:
            Index `metric`, names as in `classification_metrics`; columns `value`, `low`, `high`, fractions rather than
            percent. NaN for a class without images.
        """
        right, rows = self.predictions.correct(), {}
        for name in self.by_seed:
            value = self.value(name)
            kind, _, class_code = name.partition(".")
            if kind == "recall":
                own = self.predictions.labels == self.predictions.classes.names.index(class_code)
                interval = share_interval(right[own], self.predictions.groups[own])
            else:
                groups = self.predictions.groups_behind(name)
                interval = bootstrap_interval(value, self.draws[name], _LIMITS.get(name, (0, 1)), groups=groups)
            rows[name] = (value, *interval)
        return interval_table(rows)


def summarize_calibration(table: pd.DataFrame, classes: Classes) -> pd.DataFrame:
    """`ece` and `brier` of a prediction table as `Measured.summary` gives them, and nothing else.

    Raises:
        ValueError: With all that is wrong with the table.
    """

    def measure(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
        ece = expected_calibration_error(labels, scores, weights)
        return {"ece": ece, "brier": brier_score(labels, scores, weights)}

    by_seed, draws = ScoredImages.from_table(table, classes).resampled(measure, 2000)
    rows = {}
    for name, values in by_seed.items():
        value = float(values.mean())
        rows[name] = (value, *bootstrap_interval(value, draws[name], _LIMITS.get(name, (0, 1))))
    return interval_table(rows)


def interval_table(rows: dict[str, tuple[float, float, float]]) -> pd.DataFrame:
    """Index `metric`; columns `value`, `low`, `high`."""
    return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"]).rename_axis("metric")


def fold_gains(base: Measured, other: Measured, metric: str) -> np.ndarray:
    """A measure of one method minus that of another, by fold and seed: (K, S), without folds where it does not exist.

    Args:
        base: Measured on the same images, folds and seeds as the other.
        other: The method that gains.
        metric: A column of `Measured.by_fold`.
    """
    before, after = (method.by_fold.set_index(["fold", "seed"])[metric] for method in (base, other))
    return (after - before).unstack("seed").dropna().to_numpy()


def _problems(table: pd.DataFrame, classes: Classes) -> list[str]:
    if table.empty:
        return ["it has no rows"]
    problems = []
    for column in ("label", "predicted"):
        if unknown := sorted(set(table[column].astype(str)) - set(classes.names)):
            problems.append(f"{column} holds {unknown}, which are not among the classes {list(classes.names)}")
    for column in ("image", "group", "seed"):
        if empty := int(table[column].isna().sum()):
            problems.append(f"{column} is empty in {empty} rows")
    if repeated := int(table.duplicated(["image", "seed"]).sum()):
        problems.append(f"{repeated} rows repeat an image and seed (average the models of one seed first)")
    per_image = table.groupby("image")
    if partial := int((per_image["seed"].nunique() < table["seed"].nunique()).sum()):
        problems.append(f"{partial} images are not predicted by every one of the {table['seed'].nunique()} seeds")
    for column in _FACTS:
        if changing := int((per_image[column].nunique(dropna=False) > 1).sum()):
            problems.append(f"the {column} of {changing} images differs between seeds")
    probabilities = table[classes.columns].to_numpy(float)
    predicted = classes.indices(table["predicted"])
    # A tie, or one that rounding makes, is no contradiction.
    behind = probabilities.max(axis=1) - probabilities[np.arange(len(table)), predicted] > 1e-6
    if contradicted := int((behind & (predicted >= 0)).sum()):
        problems.append(f"in {contradicted} rows another class than the predicted one has the highest probability")
    return problems
