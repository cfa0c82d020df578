"""The tables of a report that are not in an experiment's own: sets, coverage, subgroups, cases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from dermaffinity.data.images import decode_image
from dermaffinity.data.labels import holds_numbers, known_numbers, known_texts
from dermaffinity.data.library import ImageLibrary
from dermaffinity.data.manifest import COLUMNS
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.report.revisit import SeenFold
from dermaffinity.experiments.results import arrays
from dermaffinity.metrics.classification import MINORITY_BELOW, Classes
from dermaffinity.metrics.conformal import calibration_scores, in_set, p_values, promised_coverage
from dermaffinity.metrics.curves import coverage_curve
from dermaffinity.metrics.statistics import share_interval
from dermaffinity.metrics.subgroups import subgroup_gaps
from dermaffinity.report.html.render import Case, CaseGroup, Table, thumbnail
from dermaffinity.report.tables import interval_of, percent_interval

_CASES = 12
COVERAGE = 0.9  # of the prediction sets
_AGES = {"under 40": 0, "40 to 59": 40, "60 to 79": 60, "80 and older": 80}  # years, from
_AGE_COLUMNS = ("age", "age_approx")
_MOST_VALUES = 20  # of a column that splits the results; more would be names


@dataclass(frozen=True, eq=False)
class Answers:
    """What was answered about N images, each once.

    Args:
        classes: The C classes.
        rows: Prediction table.
        novelty: By image, where it is known.
    """

    classes: Classes
    rows: pd.DataFrame
    novelty: pd.Series | None = None

    @classmethod
    def of(cls, experiment: Experiment, novelty: pd.Series | None = None) -> "Answers":
        """The first seed's out-of-fold answers, calibrated where they can be."""
        return cls(experiment.classes, _first_seed(experiment, experiment.out_of_fold.best), novelty)

    @cached_property
    def labels(self) -> np.ndarray:
        """(N,) class indices."""
        return arrays(self.rows, self.classes)[0]

    @cached_property
    def probabilities(self) -> np.ndarray:
        """(N, C)."""
        return arrays(self.rows, self.classes)[1]

    @property
    def predicted(self) -> np.ndarray:
        """(N,) class indices."""
        return self.probabilities.argmax(axis=1)

    @property
    def right(self) -> np.ndarray:
        """(N,) bool."""
        return self.predicted == self.labels

    @property
    def groups(self) -> np.ndarray:
        """(N,)."""
        return self.rows["group"].to_numpy()

    def unsureness(self) -> dict[str, np.ndarray]:
        """How unsure each answer is (N,), by the way to tell."""
        found = {"surest by confidence": 1 - self.probabilities.max(axis=1)}
        if self.novelty is not None:
            found["least novel"] = self.novelty.loc[self.rows["image"]].to_numpy()
        return found


def class_table(experiment: Experiment) -> Table:
    """Images, groups and folds of each class."""
    rows = _first_seed(experiment, experiment.out_of_fold.table)
    in_fold = pd.crosstab(rows["label"], rows["fold"])
    groups = rows.groupby("label")["group"].nunique()
    external = None
    if experiment.manifest is not None and len(experiment.manifest.external()):
        external = experiment.manifest.external()["label"].value_counts()
    table = []
    for name in experiment.classes.names:
        kinds = {"malignant": experiment.classes.malignant, "rare": experiment.classes.minority}
        kind = [word for word, among in kinds.items() if name in among]
        cells = [name, ", ".join(kind) or "–", f"{experiment.record.class_counts[name]:,}", f"{groups.get(name, 0):,}"]
        cells += (
            [f"{count:,}" for count in in_fold.loc[name]] if name in in_fold.index else ["0"] * len(in_fold.columns)
        )
        table.append([*cells, *([] if external is None else [f"{external.get(name, 0):,}"])])
    columns = ["Class", "Kind", "Images", "Groups", *(f"Fold {fold}" for fold in in_fold.columns)]
    return Table(
        f"Images of each class; groups are patients or lesions; rare: under {MINORITY_BELOW} images and below the mean",
        [*columns, *([] if external is None else ["Set aside"])],
        table,
    )


def fold_table(experiment: Experiment) -> Table:
    """The main measures of each fold and seed by itself."""
    measured = experiment.out_of_fold.measured.by_fold
    wanted = {"balanced_accuracy": "Balanced accuracy", "minority_recall": "Minority recall", "accuracy": "Accuracy"}
    present = {metric: title for metric, title in wanted.items() if metric in measured}
    rows = [
        [f"{fold}", f"{seed}", *(f"{100 * value:.1f}" for value in values)]
        for fold, seed, *values in measured[["fold", "seed", *present]].itertuples(index=False)
    ]
    return Table("Each fold and seed by itself: percent", ["Test fold", "Seed", *present.values()], rows)


def calibration_table(experiment: Experiment) -> Table:
    """Calibration error and Brier score, as trained and calibrated."""
    kinds = {"as trained": "", "calibrated": ".calibrated"}
    present = {name: end for name, end in kinds.items() if f"ece{end}" in experiment.measures().index}
    ece = [percent_interval(*interval_of(experiment.measures(), f"ece{end}")) for end in present.values()]
    brier = [_plain_interval(*interval_of(experiment.measures(), f"brier{end}")) for end in present.values()]
    return Table(
        "Calibration with 95 % intervals; temperatures are fitted on inner validation images",
        ["Measure", *present],
        [["Calibration error (ECE), percent", *ece], ["Brier score, 0 best, 2 worst", *brier]],
    )


def coverage_curves(answers: Answers) -> dict[str, pd.DataFrame]:
    """Accuracy against coverage, by confidence and, where it is known, by novelty."""
    return {name: coverage_curve(answers.right, values) for name, values in answers.unsureness().items()}


def coverage_table(answers: Answers) -> Table:
    """Accuracy at some shares of images answered."""
    unsureness = answers.unsureness()
    rows = []
    for asked in (1.0, 0.9, 0.8, 0.7, 0.5):
        cells = [f"{100 * asked:.0f} %"]
        for values in unsureness.values():
            # Images of equal unsureness are answered together.
            answered = values <= np.quantile(values, asked, method="inverted_cdf")
            cells.append(_share_interval_text(answers.right[answered], answers.groups[answered]))
        rows.append(cells)
    return Table(
        "Right among the images answered, when the least sure are left out: percent [95 % interval]",
        ["Images answered", *(name[0].upper() + name[1:] for name in unsureness)],
        rows,
    )


def novelties(seen: list[SeenFold] | None) -> pd.Series | None:
    """Novelty by image."""
    if not seen:
        return None
    return pd.concat([pd.Series(fold.novelty, index=fold.images) for fold in seen])


def novelty_sentence(experiment: Experiment, seen: list[SeenFold] | None) -> str:
    """What novelty is, and how often the answers above its limit are wrong."""
    if not seen:
        return "Novelty, the distance from every class center, needs the images and is not shown here."
    above = np.concatenate([fold.novelty > fold.novelty_threshold for fold in seen])
    wrong = np.concatenate([fold.predicted != fold.labels for fold in seen])
    parts = [
        f"{_share_text(wrong[chosen])} of the {int(chosen.sum()):,} images {where} it are misclassified"
        for where, chosen in (("above", above), ("below", ~above))
        if chosen.any()
    ]
    return (
        "Novelty is the distance to the nearest class center, in standard deviations from the mean of inner validation "
        "images. 95 % of those are below the novelty threshold. It is meant for images unlike all training images, not "
        f"for telling two similar classes apart. Here {_share_text(above)} of the test images are above it. "
        f"{'; '.join(parts)}."
    )


def prediction_sets(experiment: Experiment) -> tuple[Table | None, str]:
    """How often prediction sets hold the true class, for each class on its own, against the promise."""
    if not experiment.record.has_network:
        return None, "Prediction sets need a trained model, and this method leaves none."
    answers, names = Answers.of(experiment), experiment.classes.names
    folds = answers.rows["fold"].to_numpy()
    inside = np.zeros((len(folds), len(names)), dtype=bool)
    inner = _first_seed(experiment, experiment.validation)
    scores = {
        fold: calibration_scores(*arrays(own, experiment.classes)) for fold, own in inner.groupby("fold", sort=True)
    }
    for fold, own_scores in scores.items():
        inside[folds == fold] = in_set(p_values(own_scores, answers.probabilities[folds == fold]), COVERAGE)
    known = {name: [len(own[index]) for own in scores.values()] for index, name in enumerate(names)}
    promised = [min(promised_coverage(COVERAGE, [count]) for count in known[name]) for name in names]
    note = (
        "Each fold's model makes sets from its own inner validation images (conformal prediction, for each class on "
        "its own). The stated coverage is an average over the choice of those images; with few of them, the share "
        f"measured here may differ. {sizes_of_sets(inside)}"
    )
    if experiment.record.joined:
        note += (
            " These are sets of the mean. The classifier makes its sets from the mean of its networks' p values, which "
            "promises less; it says how much."
        )
    return sets_table(answers, inside, known, promised), note


def sets_table(
    answers: Answers,
    inside: np.ndarray,
    known: Mapping[str, Sequence[int]],
    promised: Sequence[float],
    coverage: float = COVERAGE,
) -> Table:
    """How often prediction sets hold the true class.

    Args:
        answers: About N images.
        inside: (N, C) bool, the sets.
        known: For each class its calibration images, of each model.
        promised: For each class the share of its sets that hold it.
        coverage: What was asked for.
    """
    labels, sizes, groups = answers.labels, inside.sum(axis=1), answers.groups
    held = inside[np.arange(len(labels)), labels]
    table = []
    for index, name in enumerate(answers.classes.names):
        own = labels == index
        table.append([
            name, f"{own.sum():,}", "–".join(map(str, sorted({min(known[name]), max(known[name])}))),
            f"{100 * promised[index]:.0f} %", _share_interval_text(held[own], groups[own]) if own.any() else "–",
            f"{sizes[own].mean():.1f}" if own.any() else "–",
        ])  # fmt: skip
    table.append(["all", f"{len(held):,}", "", "", _share_interval_text(held, groups), f"{sizes.mean():.1f}"])
    columns = [
        "Class",
        "Test images",
        "Calibration images",
        "Stated coverage, at least",
        "Sets with the true class",
        "Classes in a set",
    ]
    caption = f"Prediction sets asked to hold the true class of {100 * coverage:g} % of each class's images"
    return Table(caption, columns, table, frozenset({len(answers.classes.names)}))


def sizes_of_sets(inside: np.ndarray) -> str:
    """How many sets (N, C) name a single class, or none, in a sentence."""
    sizes = inside.sum(axis=1)
    return f"{_share_text(sizes == 1)} of the sets name a single class, {_share_text(sizes == 0)} are empty."


def subgroups(answers: Answers, rows: pd.DataFrame) -> dict[str, Table]:
    """Results by what the rows of a manifest know of patients, by column."""
    facts = rows.set_index("image").loc[answers.rows["image"]]
    values = {name: _subgroup_values(facts[name], name) for name in facts.columns if name not in COLUMNS}
    return {
        name: _subgroup_table(answers, column.to_numpy(dtype=object), name)
        for name, column in values.items()
        if column is not None
    }


def _subgroup_values(column: pd.Series, name: str) -> pd.Series | None:
    """Which subgroup each image is in; None for a column that makes no subgroups."""
    texts = known_texts(column)
    folded = texts.str.casefold()
    values = folded.map(texts.groupby(folded).agg(lambda own: own.mode()[0]))  # one subgroup, spelled as most are
    if holds_numbers(column):
        if name.lower() in _AGE_COLUMNS:
            bins = [*_AGES.values(), np.inf]
            values = pd.cut(known_numbers(column), bins, right=False, labels=list(_AGES))
        elif "skin" not in name.lower() and "fitzpatrick" not in name.lower():
            return None  # a measurement, and no scale of few steps
    if not 1 < values.nunique() <= _MOST_VALUES:
        return None
    return values.astype(object).where(values.notna(), "not recorded")


def _subgroup_table(answers: Answers, values: np.ndarray, column: str) -> Table:
    gaps = subgroup_gaps(answers.labels, answers.right, values.astype(str), answers.groups)
    is_malignant = np.isin(answers.classes.names, answers.classes.malignant)
    order = [name for name in _AGES if column.lower() in _AGE_COLUMNS and name in values]
    order += [name for name in pd.Series(values).value_counts().index if name not in (*_AGES, "not recorded")]
    table = []
    for value in [*order, *(["not recorded"] if "not recorded" in values else [])]:
        here = values == value
        expected, *gap = gaps.loc[[str(value)], ["expected", "gap", "low", "high"]].to_numpy(float)[0]
        cells = [str(value), f"{here.sum():,} ({100 * here.mean():.0f} %)"]
        cells.append(_share_interval_text(answers.right[here], answers.groups[here]))
        cells.append(f"{100 * expected:.1f}")
        cells.append(percent_interval(gap[0], gap[1], gap[2], sign="+"))
        if is_malignant.any():
            ill = here & is_malignant[answers.labels]
            found = is_malignant[answers.predicted[ill]]
            cells.append(f"{_share_interval_text(found, answers.groups[ill])}, n = {ill.sum()}" if ill.any() else "–")
        table.append(cells)
    columns = [column.capitalize(), "Images", "Recognized, %", "Expected, %", "Gap, points"]
    return Table(
        f"Results by {column}: percent [95 % interval]",
        [*columns, *(["Malignant called malignant, %"] if is_malignant.any() else [])],
        table,
    )


def case_groups(answers: Answers, library: ImageLibrary | None) -> list[CaseGroup]:
    """Images that a person should look at: sure errors, unsure answers, strange images.

    Args:
        answers: About N images.
        library: Where their pictures are; None to name them only.
    """
    rows, labels, probabilities, predicted = answers.rows, answers.labels, answers.probabilities, answers.predicted
    confidence, names = probabilities.max(axis=1), answers.classes.names
    own = probabilities[np.arange(len(labels)), labels]
    wrong = np.flatnonzero(predicted != labels)
    surest = wrong[np.argsort(-confidence[wrong], kind="stable")][:_CASES]
    unsure = np.argsort(confidence, kind="stable")[:_CASES]
    novelties = answers.unsureness().get("least novel")

    def cases(chosen: np.ndarray) -> list[Case]:
        found = []
        for index in chosen:
            image = rows["image"].iloc[index]
            facts = [f"confidence {100 * confidence[index]:.0f} %"]
            if predicted[index] != labels[index]:
                facts.append(f"true class {100 * own[index]:.0f} %")
            if novelties is not None:
                facts.append(f"novelty {novelties[index]:z.1f}".replace("-", "−"))
            shown = None if library is None else thumbnail(decode_image(library.read(image), image))
            found.append(Case(image, names[labels[index]], names[predicted[index]], facts, shown))
        return found

    groups = [
        CaseGroup("Most confident errors", "Wrong with high confidence. Look for uncertain labels, hair, "
                  "rulers, cropping, or lesions that a person would call the same.", cases(surest)),
        CaseGroup("Least confident answers", "The predicted class has the lowest probability here; whether it is "
                  "right is close to chance.", cases(unsure)),
    ]  # fmt: skip
    if novelties is not None:
        strangest = np.argsort(-novelties, kind="stable")[:_CASES]
        lead = "Farthest from every class center: images unlike those of the training."
        groups.append(CaseGroup("Most novel images", lead, cases(strangest)))
    return groups


def _plain_interval(value: float, low: float, high: float) -> str:
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _share_interval_text(chosen: np.ndarray, groups: np.ndarray) -> str:
    return percent_interval(chosen.mean(), *share_interval(chosen, groups))


def _share_text(chosen: np.ndarray) -> str:
    return f"{100 * chosen.mean():.1f} %"


def _first_seed(experiment: Experiment, table: pd.DataFrame) -> pd.DataFrame:
    """One row per image, for what looks at single images."""
    return table[table["seed"] == experiment.seeds[0]].reset_index(drop=True)
