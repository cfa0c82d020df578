"""What a benchmark came to: every method measured on the same images, compared, as tables, figures and files."""

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from dermaffinity.config import Config
from dermaffinity.errors import TrainingError
from dermaffinity.experiments.compare import check_comparable
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.results import write_table
from dermaffinity.files import atomic_write
from dermaffinity.metrics.ranks import Ranks
from dermaffinity.metrics.standings import Contest, Standings, standings
from dermaffinity.metrics.summary import Measured
from dermaffinity.report.figures import save_figure
from dermaffinity.report.html.notebook import shown
from dermaffinity.report.method_figures import critical_difference_figure, forest_figure, pareto_figure
from dermaffinity.report.method_tables import (
    MEASURES,
    measures_table,
    method_gains_table,
    ranks_table,
    resolution_table,
    seeds_table,
)
from dermaffinity.report.tables import markdown_table, p_value, training_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GAINS = ("gain.balanced_accuracy", "gain.minority_recall", "gain.majority_recall")


@dataclass(frozen=True)
class Method:
    """A config of the benchmark as it is to be run.

    Args:
        name: The config's name, which tables show.
        config: With its chosen settings, and the name of its experiment.
        tried: Combinations that it was tuned among; 0 for a config as it stands.
        settings: Those chosen.
    """

    name: str
    config: Config
    tried: int = 0
    settings: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark came to; everything is by method's name.

    Args:
        about: What was run, in sentences.
        quick: Whether it was only to see that everything works.
        baseline: What methods are compared with; it may be among those that failed.
        methods: All, those that failed too.
        experiments: Those with every fold and seed asked for.
        failures: What stopped the others, a line each.
        standings: How the measured ones stand; None with fewer than two.
        external_standings: The same for the external images.
    """

    about: tuple[str, ...]
    quick: bool
    baseline: str
    methods: dict[str, Method]
    experiments: dict[str, Experiment]
    failures: dict[str, tuple[str, ...]]
    standings: Standings | None
    external_standings: Standings | None

    @property
    def images(self) -> str:
        """Which images were scored, in words."""
        return next(iter(self.experiments.values())).record.images

    @property
    def measured(self) -> dict[str, Measured]:
        """The methods with every fold and seed asked for."""
        return {name: experiment.out_of_fold.measured for name, experiment in self.experiments.items()}

    @property
    def summaries(self) -> dict[str, pd.DataFrame]:
        """Their measures with intervals."""
        return {name: experiment.measures() for name, experiment in self.experiments.items()}

    @property
    def external(self) -> dict[str, pd.DataFrame]:
        """The same for the external images, where they were scored."""
        found = {name: experiment.external for name, experiment in self.experiments.items()}
        return {name: results.summary for name, results in found.items() if results is not None}

    def tables(self) -> dict[str, pd.DataFrame]:
        """What to show, by title."""
        missing = {name: f"without results: {len(lines)} jobs" for name, lines in self.failures.items()}
        tables = {f"{self.images.capitalize()}: percent [95 % interval]": measures_table(self.summaries, missing)}
        if self.external:
            title = "External images, mean of the folds' models: percent [95 % interval]"
            tables[title] = measures_table(self.external, missing)
        tried = {name: method.tried for name, method in self.methods.items()}
        tables["Mean ± standard deviation over seeds, percent"] = seeds_table(self.measured, tried)
        for opponent, contest in self.contests().items():
            title = f"Gain over {opponent}: percentage points [95 % interval], p adjusted over the methods"
            tables[title] = method_gains_table(contest)
            title = f"What the gain over {opponent} in balanced accuracy tells, percentage points"
            tables[title] = resolution_table(contest.resolution)
        for opponent, contest in self.external_contests().items():
            title = f"External images, gain over {opponent}: percentage points [95 % interval], p adjusted"
            tables[title] = method_gains_table(contest)
        if self.standings is not None:
            tables["Average ranks"] = ranks_table(self.standings.ranks)
        warning = "Quick trial, means nothing: " if self.quick else ""
        return {f"{warning}{title}": table for title, table in tables.items()}

    def contests(self) -> dict[str, Contest]:
        """The contests that were held, by what methods were held against."""
        return self._contests(self.standings)

    def external_contests(self) -> dict[str, Contest]:
        """Those on the external images."""
        return self._contests(self.external_standings)

    def _contests(self, held: Standings | None) -> dict[str, Contest]:
        if held is None:
            return {}
        contests = {self.baseline: held.over_baseline, "the best rival": held.over_rival}
        return {opponent: contest for opponent, contest in contests.items() if contest.against}

    def notes(self) -> list[str]:
        """How to read the tables, and what failed."""
        notes = [*self.about]
        if self.standings is not None:
            best = max(self.measured, key=lambda name: self.measured[name].value("balanced_accuracy"))
            notes += [
                "The best rival of a method has the best pooled balanced accuracy of all others. It is picked by its "
                "result, which favors it, so that the comparison is conservative. "
                f"{best} comes first, and is picked by its result as well: expect its gains to shrink elsewhere.",
                "p images (sign flip): do these trained models differ? p training (corrected t): would training again "
                "pick the same winner? 'Visible from' is the smallest gain that either test finds in four of five "
                "experiments, at 5 % for all comparisons of a table together.",
                _ranks_note(self.standings.ranks),
            ]
        return notes + [f"Without results: {line}" for lines in self.failures.values() for line in lines]

    def write(self, folder: str | Path) -> list[Path]:
        """Writes tables as Markdown and CSV, and figures; returns the files."""
        folder = Path(folder)
        parts = [f"## {title}\n\n{markdown_table(table)}" for title, table in self.tables().items()]
        with atomic_write(folder / "benchmark.md") as file:
            file.write("\n".join(["\n".join(f"* {note}" for note in self.notes()) + "\n", *parts]))
        by_fold = pd.concat({name: method.by_fold for name, method in self.measured.items()}, names=["method"])
        tables = {"benchmark": self.wide().reset_index(), "per_fold": by_fold.reset_index(level=0)}
        tables |= _comparison_tables(self.contests())
        external = _comparison_tables(self.external_contests())
        tables |= {f"external_{name}": table for name, table in external.items()}
        for name, table in tables.items():
            write_table(table, folder / f"{name}.csv")
        figures = self._figures()
        for name, figure in figures.items():
            save_figure(figure, folder / f"{name}.png")
        written = ["benchmark.md", *(f"{name}.csv" for name in tables), *(f"{name}.png" for name in figures)]
        return [folder / name for name in written]

    def wide(self) -> pd.DataFrame:
        """The one table of numbers: a row a method, fractions rather than percent."""
        rows = {name: self._row(name) for name in self.methods}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")

    def _row(self, name: str) -> dict[str, Any]:
        method = self.methods[name]
        row: dict[str, Any] = {
            "experiment": method.config.name,
            "settings_tried": method.tried,
            "settings": json.dumps(method.settings or {}),
            "failure": "; ".join(self.failures.get(name, ())),
        }
        for prefix, summaries in (("", self.summaries), ("external.", self.external)):
            if name in summaries:
                row |= _flat(summaries[name], [*MEASURES, *training_rows({name: summaries[name]})], prefix)
        if name in self.measured:
            by_seed = self.measured[name].by_seed
            for measure in (one for one in ("balanced_accuracy", "minority_recall") if one in by_seed):
                values = by_seed[measure].tolist()
                spread = statistics.stdev(values) if len(values) > 1 else float("nan")
                row |= {f"{measure}.seed_mean": statistics.fmean(values), f"{measure}.seed_sd": spread}
        if self.standings is None or name not in self.measured:
            return row
        row["average_rank"] = self.standings.ranks.average[name]
        for opponent, contest in (
            ("baseline", self.standings.over_baseline),
            ("rival", self.standings.over_rival),
        ):
            if name in contest.against:
                row |= {f"{opponent}.{column}": value for column, value in contest.resolution.loc[name].items()}
                row |= _flat(contest.comparisons[name].gains, _GAINS, f"{opponent}.")
        return row

    def _repr_html_(self) -> str:
        return shown(self.tables(), forest_figure(self.summaries, self.external, self.images))

    def _figures(self) -> "dict[str, Figure]":
        figures = {"forest": forest_figure(self.summaries, self.external, self.images)}
        first = next(iter(self.summaries.values()))
        if {"minority_recall", "majority_recall"} <= set(first.index):
            figures["pareto"] = pareto_figure(self.summaries)
        if self.standings is not None:
            figures["ranks"] = critical_difference_figure(self.standings.ranks)
        return figures


def _comparison_tables(contests: Mapping[str, Contest]) -> dict[str, pd.DataFrame]:
    gains, tests = [], []
    for contest in contests.values():
        for name, comparison in contest.comparisons.items():
            names = {"method": name, "against": contest.against[name]}
            gains.append(comparison.gains.reset_index().assign(**names))
            # The adjusted p-values are those of one contest; a pair may be in both.
            tests.append(comparison.tests.assign(**names, comparisons=len(contest.against)))
    tables = {"gains": gains, "tests": tests} if gains else {}
    return {name: pd.concat(parts, ignore_index=True).drop_duplicates() for name, parts in tables.items()}


def measure(
    methods: dict[str, Method],
    experiments: dict[str, Experiment],
    failures: dict[str, tuple[str, ...]],
    baseline: str,
    about: tuple[str, ...],
    *,
    quick: bool = False,
) -> Benchmark:
    """Measures and compares the methods that have all of their jobs.

    Args:
        methods: All that were asked for.
        experiments: Of each method that has all of its jobs, with these jobs.
        failures: What keeps the others from being measured, a line each.
        baseline: The name of one method.
        about: What was run, in sentences.
        quick: Whether it was only to see that everything works.

    Raises:
        TrainingError: When there is no method to measure.
        ComparisonError: When they were run on different splits.
    """
    if not experiments:
        raise TrainingError(
            "no method has all of its folds and seeds", [line for lines in failures.values() for line in lines]
        )
    check_comparable(experiments)
    ratio = next(iter(experiments.values())).record.test_train_ratio
    measured = {name: experiment.out_of_fold.measured for name, experiment in experiments.items()}
    outside = {name: one.external.measured for name, one in experiments.items() if one.external is not None}
    return Benchmark(
        about,
        quick,
        baseline,
        methods,
        experiments,
        failures,
        standings(measured, baseline, test_train_ratio=ratio) if len(measured) > 1 else None,
        standings(outside, baseline) if len(outside) > 1 else None,
    )


def _ranks_note(ranks: Ranks) -> str:
    friedman = f"Friedman p {p_value(ranks.friedman_p)}, " if ranks.friedman_p <= 1 else ""
    critical = ranks.critical_difference
    tested = f"{friedman}Nemenyi critical difference {critical:.2f}" if ranks.blocks > 1 else "no more to be said"
    return (
        f"Ranks over {ranks.blocks} results (folds, each the mean of its seeds): {tested}. Folds share training "
        "images, so that ranks describe and prove nothing."
    )


def _flat(summary: pd.DataFrame, names: Iterable[str], prefix: str) -> dict[str, float]:
    return {
        f"{prefix}{name}.{bound}": float(summary[bound][name])
        for name in names
        if name in summary.index
        for bound in ("value", "low", "high")
    }
