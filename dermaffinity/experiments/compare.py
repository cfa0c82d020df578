"""Experiments against a baseline on the same split: measures, gains, tests, figures."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dermaffinity.errors import ComparisonError
from dermaffinity.experiments.record import (
    as_separate_images,
    find_experiment,
    training_numbers,
    with_bounds,
    write_table,
)
from dermaffinity.files import atomic_write
from dermaffinity.metrics.classification import minority_classes
from dermaffinity.metrics.comparison import Comparison, compare_all
from dermaffinity.metrics.summary import summarize
from dermaffinity.report.figures import gain_figure, recall_figure, save_figure
from dermaffinity.report.tables import gains_table, markdown_table, p_value_table, results_table
from dermaffinity.tracking.base import Tracker


@dataclass(frozen=True)
class ComparedExperiments:
    """Measures of every experiment, and its comparison with the baseline, by name."""

    baseline: str
    images: str  # which images, in words
    class_counts: dict[str, int]
    summaries: dict[str, pd.DataFrame]
    comparisons: dict[str, Comparison]  # without the baseline

    @property
    def gains(self) -> dict[str, pd.DataFrame]:
        """Gains over the baseline, by name."""
        return {name: comparison.gains for name, comparison in self.comparisons.items()}

    @property
    def tests(self) -> dict[str, pd.DataFrame]:
        """Paired tests against the baseline, by name."""
        return {name: comparison.tests for name, comparison in self.comparisons.items()}

    def tables(self) -> dict[str, pd.DataFrame]:
        """What to show, by title."""
        return {
            f"{self.images.capitalize()}: percent [95 % interval]": results_table(self.summaries, self.class_counts),
            f"Gain over {self.baseline}: percentage points [95 % interval]": gains_table(self.gains, self.class_counts),
            f"p against {self.baseline}, adjusted for the number of methods": p_value_table(self.tests),
        }

    def write(self, folder: Path) -> list[Path]:
        """Writes everything as Markdown, CSV and figures; returns the files."""
        with atomic_write(folder / "comparison.md") as file:
            file.write("\n".join(f"## {title}\n\n{markdown_table(table)}" for title, table in self.tables().items()))
        tables = {"measures": self.summaries, "gains": self.gains, "tests": self.tests}
        for name, by_method in tables.items():
            joined = pd.concat(by_method, names=["method"])
            write_table(
                joined.reset_index() if joined.index.names[-1] else joined.reset_index(level=0), folder / f"{name}.csv"
            )
        title = "Recall of each class, with 95 % intervals"
        save_figure(recall_figure(self.summaries, self.class_counts, title), folder / "recall.png")
        save_figure(gain_figure(self.gains, self.baseline, self.class_counts), folder / "gain.png")
        return [
            folder / name
            for name in ("comparison.md", "measures.csv", "gains.csv", "tests.csv", "recall.png", "gain.png")
        ]


def compare_experiments(sources: Sequence[str], *, baseline: str, runs: Path, tracker: Tracker) -> ComparedExperiments:
    """Compares experiments on the same split with one of them; gains are added to their tracking runs.

    Args:
        sources: Experiments' folders, or configs' files or names.
        baseline: The name of one of them, its last part, or any part that only one of them has.
        runs: Folder of all experiments.
        tracker: Where the experiments' runs are.

    Raises:
        ComparisonError: When splits, images, folds or seeds differ, or the baseline is not among the sources.
    """
    folders = {folder.path.name: folder for folder in (find_experiment(source, runs) for source in sources)}
    base = find_baseline(baseline, list(folders))
    folders = {base: folders.pop(base), **folders}  # first, so that every figure gives a method the same color
    descriptions = {name: folder.description() for name, folder in folders.items()}
    check_comparable(descriptions)
    facts = descriptions[base]
    measured = {
        "classes": facts["classes"],
        "minority": minority_classes(facts["class_counts"]),
        "malignant": facts["malignant"],
    }
    tables = {name: folder.predictions("predictions") for name, folder in folders.items()}
    ratio = test_train_ratio(facts)
    if facts["identity"]["scored"] == "inner":
        tables = {name: as_separate_images(table) for name, table in tables.items()}
        ratio = None  # models that share images are no resamples of training
    try:
        comparisons = compare_all(
            tables[base],
            {name: table for name, table in tables.items() if name != base},
            **measured,
            test_train_ratio=ratio,
        )
    except ValueError as error:
        raise ComparisonError(f"these experiments cannot be compared: {error}") from error
    summaries = {
        name: pd.concat([summarize(table, **measured), training_numbers(folders[name].jobs())])
        for name, table in tables.items()
    }
    for name, comparison in comparisons.items():
        _track_gains(tracker, descriptions[name], comparison, base)
    first = folders[base]
    return ComparedExperiments(base, first.scored_images(), first.scored_counts(), summaries, comparisons)


def test_train_ratio(facts: dict[str, Any]) -> float | None:
    """Test over training images of a fold; None for a single test set, which says nothing about other folds."""
    if facts["folds"] == 1:
        return None
    # The training folds without their inner validation part are what a model learned from.
    return 1 / ((facts["folds"] - 1) * (1 - facts["validation_fraction"]))


def meant(text: str, names: Iterable[str]) -> list[str]:
    """Of some names those that a text may mean: itself, else those that end in ``_text``, else those that hold it."""
    known = list(names)
    return (
        [name for name in known if name == text]
        or [name for name in known if name.endswith(f"_{text}")]
        or [name for name in known if text in name]
    )


def find_baseline(text: str, names: list[str]) -> str:
    """The one of some names that a text means, as `meant` has it.

    Raises:
        ComparisonError: When there is none or several, or nothing to compare it with.
    """
    matching = meant(text, names)
    if len(matching) != 1:
        raise ComparisonError(
            f"--baseline {text}: {len(matching) or 'none'} of {', '.join(names)} fits; give the full "
            "name of one of them"
        )
    if len(names) < 2:
        raise ComparisonError(f"nothing to compare {matching[0]} with; name at least two experiments")
    return matching[0]


def check_comparable(descriptions: dict[str, dict[str, Any]]) -> None:
    """Holds that experiments, given by their descriptions, scored the same part of the same split.

    Raises:
        ComparisonError: With the splits or parts that differ.
    """
    splits = {name: facts["identity"]["split_hash"] for name, facts in descriptions.items()}
    if len(set(splits.values())) > 1:
        raise ComparisonError(
            "these experiments were run on different splits, so their numbers cannot be paired; run them on one "
            "manifest",
            [f"{name}: {descriptions[name]['dataset']}, split {split[:12]}" for name, split in splits.items()],
        )
    scored = {name: facts["identity"]["scored"] for name, facts in descriptions.items()}
    if len(set(scored.values())) > 1:
        raise ComparisonError(
            "some of these experiments scored the test folds and some the inner validation images",
            [f"{name}: {part}" for name, part in scored.items()],
        )


def _track_gains(tracker: Tracker, facts: dict[str, Any], comparison: Comparison, baseline: str) -> None:
    run = tracker.parent(
        facts["dataset"],
        facts["name"],
        run_id=facts["run_id"],
        tags={"baseline": baseline},
        description=facts["description"],
    )
    run.log_metrics(with_bounds(comparison.gains))
    run.log_table(comparison.tests, f"tests_against_{baseline}.csv")
    run.finish("FINISHED")
