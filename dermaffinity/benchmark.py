"""Many methods on one split: every page × fold × seed as a resumable job, then one table and what it can show.

With ``tuned``, every page that states a grid is tuned first, each with the same budget, and runs as ``<page>.tuned``.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from dermaffinity.compare import check_comparable, find_baseline, test_train_ratio
from dermaffinity.config import EstimatorPage, Page, read_page
from dermaffinity.data.manifest import read_manifest
from dermaffinity.errors import ComparisonError, ConfigError, TrainingError
from dermaffinity.experiments import (
    at_temperatures,
    check_identity,
    joint_temperatures,
    run_experiments,
    single_temperatures,
)
from dermaffinity.files import atomic_write
from dermaffinity.metrics.classification import minority_classes
from dermaffinity.metrics.standings import Standings, standings
from dermaffinity.metrics.summary import Measured, Predictions, summarize_calibration
from dermaffinity.reports.figures import save_figure
from dermaffinity.reports.method_figures import critical_difference_figure, forest_figure, pareto_figure
from dermaffinity.reports.method_tables import (
    MEASURES,
    against_table,
    measures_table,
    ranks_table,
    resolution_table,
    seeds_table,
)
from dermaffinity.reports.tables import markdown_table
from dermaffinity.results import ExperimentFolder, JobFolder, average_models, write_table
from dermaffinity.tracking.base import Tracker
from dermaffinity.training.cross_validation import speaks_for_all
from dermaffinity.training.launchers import Launcher
from dermaffinity.tuning import Settings, combinations, read_chosen, tune

QUICK = (
    "Quick: one fold, one seed, one epoch at 32 pixels. This shows that the benchmark works; its numbers mean nothing."
)


@dataclass(frozen=True)
class Method:
    """A page of the benchmark as it is to be run.

    Args:
        name: The page's name, which tables show.
        page: With its chosen settings, and the name of its experiment.
        tried: Combinations that it was tuned among; 0 for a page as it stands.
        settings: Those chosen.
    """

    name: str
    page: Page
    tried: int = 0
    settings: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark came to; everything is by method's name.

    Args:
        about: What was run, in sentences.
        images: Which images were scored, in words.
        methods: All, those that failed too.
        measured: Those with every fold and seed asked for.
        summaries: Their measures with intervals, ``ece.calibrated`` where a temperature was fitted.
        external: The same for the external images, where they were scored.
        failures: What stopped the others, a line each.
        standings: How the measured ones stand; None with fewer than two.
    """

    about: tuple[str, ...]
    images: str
    methods: dict[str, Method]
    measured: dict[str, Measured]
    summaries: dict[str, pd.DataFrame]
    external: dict[str, pd.DataFrame]
    failures: dict[str, tuple[str, ...]]
    standings: Standings | None

    def tables(self) -> dict[str, pd.DataFrame]:
        """What to show, by title."""
        failed = {name: f"failed: {len(lines)} jobs" for name, lines in self.failures.items()}
        tables = {f"{self.images.capitalize()}: percent [95 % interval]": measures_table(self.summaries, failed)}
        if self.external:
            title = "External images, mean of the folds' models: percent [95 % interval]"
            tables[title] = measures_table(self.external, failed)
        tried = {name: method.tried for name, method in self.methods.items()}
        tables["Over seeds: mean ± standard deviation, percent"] = seeds_table(self.measured, tried)
        if self.standings is None:
            return tables
        tables["Gains: percentage points [95 % interval], p adjusted over the methods"] = against_table(self.standings)
        parts = (
            (f"Against {self.standings.baseline}", self.standings.resolution),
            ("Against the best rival", self.standings.rival_resolution),
        )
        for title, resolution in parts:
            if len(resolution):
                tables[f"{title}: balanced accuracy, percentage points"] = resolution_table(resolution)
        tables["Average ranks over folds and seeds, 1 is best"] = ranks_table(self.standings.ranks)
        return tables

    def notes(self) -> list[str]:
        """How to read the tables, and what failed."""
        notes = [*self.about]
        if self.standings is not None:
            ranks = self.standings.ranks
            notes += [
                "The best rival of a method has the best pooled balanced accuracy of all others. It is picked by its "
                "result, which favors it, so that the comparison is conservative.",
                "p images (sign flip): do these trained models differ? p training (corrected t): would training again "
                "pick the same winner? 'Visible from' is the smallest gain that either test finds in four of five "
                "experiments, at 5 % for all comparisons of a table together.",
                f"Ranks over {ranks.blocks} folds and seeds: Friedman p {ranks.friedman_p:.3g}, Nemenyi critical "
                f"difference {ranks.critical_difference:.2f}. Folds share training images, so that ranks describe and "
                "prove nothing.",
            ]
        return notes + [f"Failed: {line}" for lines in self.failures.values() for line in lines]

    def write(self, folder: Path) -> list[Path]:
        """Writes tables as Markdown and CSV, and figures; returns the files."""
        parts = [f"## {title}\n\n{markdown_table(table)}" for title, table in self.tables().items()]
        with atomic_write(folder / "benchmark.md") as file:
            file.write("\n".join(["\n".join(f"* {note}" for note in self.notes()) + "\n", *parts]))
        write_table(self.wide().reset_index(), folder / "benchmark.csv")
        by_fold = {name: method.by_fold for name, method in self.measured.items()}
        files = [folder / "benchmark.md", folder / "benchmark.csv"]
        if by_fold:
            joined = pd.concat(by_fold, names=["method"]).reset_index(level=0)
            write_table(joined, folder / "per_fold.csv")
            files.append(folder / "per_fold.csv")
        if self.standings is not None:
            files += self._write_comparisons(folder, self.standings)
        return files + self._write_figures(folder)

    def wide(self) -> pd.DataFrame:
        """The one table of numbers: a row a method, fractions rather than percent."""
        rows = {name: self._row(name) for name in self.methods}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")

    def _row(self, name: str) -> dict[str, Any]:
        method = self.methods[name]
        row: dict[str, Any] = {
            "experiment": method.page.name,
            "settings_tried": method.tried,
            "settings": json.dumps(method.settings or {}),
            "failure": "; ".join(self.failures.get(name, ())),
        }
        for prefix, summaries in (("", self.summaries), ("external.", self.external)):
            if name in summaries:
                row |= _flat(summaries[name], MEASURES, prefix)
        if name in self.measured:
            by_seed = self.measured[name].by_seed
            for measure in (one for one in ("balanced_accuracy", "minority_recall") if one in by_seed):
                values = by_seed[measure].tolist()
                spread = statistics.stdev(values) if len(values) > 1 else float("nan")
                row |= {f"{measure}.seed_mean": statistics.fmean(values), f"{measure}.seed_sd": spread}
        if self.standings is None or name not in self.standings.ranks.average:
            return row
        row["average_rank"] = self.standings.ranks.average[name]
        tables = (("baseline", self.standings.resolution), ("rival", self.standings.rival_resolution))
        for prefix, table in tables:
            if name in table.index:
                row |= {f"{prefix}.{column}": value for column, value in table.loc[name].items()}
        return row

    def _write_comparisons(self, folder: Path, stand: Standings) -> list[Path]:
        for name in ("gains", "tests"):
            tables = [
                getattr(comparison, name).reset_index().assign(method=method, against=other)
                for pairs, comparisons in (
                    (dict.fromkeys(stand.against_baseline, stand.baseline), stand.against_baseline),
                    (stand.rivals, stand.against_rival),
                )
                for method, other in pairs.items()
                for comparison in [comparisons[method]]
            ]
            joined = pd.concat(tables).drop(columns="index", errors="ignore").drop_duplicates()
            write_table(
                joined[["method", "against", *joined.columns.drop(["method", "against"])]], folder / f"{name}.csv"
            )
        return [folder / "gains.csv", folder / "tests.csv"]

    def _write_figures(self, folder: Path) -> list[Path]:
        if not self.summaries:
            return []
        figures = {"forest": forest_figure(self.summaries, self.external, self.images)}
        first = next(iter(self.summaries.values()))
        if {"minority_recall", "majority_recall"} <= set(first.index):
            figures["pareto"] = pareto_figure(self.summaries)
        if self.standings is not None:
            figures["ranks"] = critical_difference_figure(self.standings.ranks)
        for name, figure in figures.items():
            save_figure(figure, folder / f"{name}.png")
        return [folder / f"{name}.png" for name in figures]


def run_benchmark(
    sources: Sequence[str | Path],
    *,
    baseline: str = "cosen",
    overrides: Sequence[str] = (),
    runs: Path,
    tracker: Tracker,
    folds: Sequence[int] | None = None,
    seeds: Sequence[int] = (0,),
    tuned: bool = False,
    budget: int = 4,
    external: bool = False,
    train: bool = True,
    launcher: Launcher = "inline",
    quick: bool = False,
    console: Console,
) -> Benchmark | None:
    """Runs what is not run yet, and measures everything. Pages whose training fails are reported, the rest goes on.

    Args:
        sources: Pages' paths, or names of shipped ones; all on one split.
        baseline: The name of one of them, or a part that only one of them has.
        overrides: ``key=value`` texts for every page.
        runs: Folder of all experiments.
        tracker: Where the numbers go.
        folds: Which test folds; None for all.
        seeds: Which seeds. Tuning uses the first.
        tuned: Whether to tune the pages that state a grid first.
        budget: The largest number of combinations that a page may be tuned among.
        external: Whether to score the manifest's external images as well.
        train: False only measures what is there.
        launcher: How jobs are run.
        quick: One fold, one seed, one epoch at 32 pixels, under names of its own.
        console: For progress.

    Returns:
        The benchmark; None in those processes of ``torchrun`` that only help to train.

    Raises:
        ConfigError: When the pages cannot be run as asked, before anything is trained.
        ComparisonError: When the baseline is not among them, or they are on different splits.
    """
    if quick:
        folds, seeds = [0], list(seeds)[:1]
    pages = _read(sources, overrides, quick)
    base = find_baseline(baseline, list(pages))
    manifest = _common_manifest([page for page, _ in pages.values()], external)
    if tuned:
        _check_budget([page for page, _ in pages.values()], budget)
    options: dict[str, Any] = {
        "runs": runs,
        "tracker": tracker,
        "folds": folds,
        "launcher": launcher,
        "console": console,
    }
    methods: dict[str, Method] = {}
    failures: dict[str, tuple[str, ...]] = {}
    for (name, (page, own_overrides)), source in zip(pages.items(), sources, strict=True):
        methods[name] = Method(name, page)
        if tuned and page.grid:
            try:
                methods[name] = _tuned(name, source, page, own_overrides, seeds[:1], train, options)
            except TrainingError as error:
                failures[name] = error.problems
    started = {name: method for name, method in methods.items() if name not in failures}
    if train:
        final = [method.page for method in started.values()]
        outcomes = run_experiments(final, seeds=seeds, resume=True, external=external, keep_going=True, **options)
        if not speaks_for_all():
            return None
        failures |= {name: o.failures for name, o in zip(started, outcomes, strict=True) if o.failures}
    jobs = _jobs(started, runs, range(manifest.folds) if folds is None else folds, seeds, failures)
    about = _about(manifest, folds, seeds, tuned, budget, quick)
    return _measure(methods, jobs, failures, base, about)


def _read(sources: Sequence[str | Path], overrides: Sequence[str], quick: bool) -> dict[str, tuple[Page, list[str]]]:
    """The pages by name, each with the overrides that make it."""
    pages: dict[str, tuple[Page, list[str]]] = {}
    for source in sources:
        page, own = read_page(source, overrides), list(overrides)
        name = page.name
        if name in pages:
            raise ConfigError(f"{source}: every page needs a name of its own, and {name} is there already")
        if quick:
            own += ["data.image_size=32", f"name={json.dumps(f'{name}.quick')}"]
            own += [] if isinstance(page, EstimatorPage) else ["training.epochs=1"]
            page = read_page(source, own)
        pages[name] = page, own
    return pages


def _common_manifest(pages: Sequence[Page], external: bool) -> Any:
    manifests = {page.name: read_manifest(page.data.manifest, page.data.root) for page in pages}
    if len({manifest.split_hash for manifest in manifests.values()}) > 1:
        raise ComparisonError(
            "these pages are on different splits, so their numbers cannot be paired; give all of them one manifest "
            "with --set data.manifest=FILE",
            [f"{name}: {one.name}, split {one.split_hash[:12]}" for name, one in manifests.items()],
        )
    manifest = next(iter(manifests.values()))
    if external and manifest.external().empty:
        raise ConfigError(f"--external: {pages[0].data.manifest} has no external images")
    return manifest


def _check_budget(pages: Sequence[Page], budget: int) -> None:
    sizes = {page.name: len(combinations(page.grid)) for page in pages if page.grid}
    if not sizes:
        raise ConfigError("--tuned: none of these pages states a grid; add grid: to a page, or leave --tuned out")
    larger = [f"{name}: {size} combinations" for name, size in sizes.items() if size > budget]
    if larger:
        raise ConfigError(
            f"--tuned: some grids are larger than the budget of {budget} combinations that every method has; shorten "
            "them, or give all methods more with --budget",
            larger,
        )


def _tuned(
    name: str,
    source: str | Path,
    page: Page,
    overrides: Sequence[str],
    seeds: Sequence[int],
    train: bool,
    options: dict[str, Any],
) -> Method:
    """The page with its chosen settings, tuned now or, without training, before."""
    if train:
        tune(source, overrides=overrides, seeds=seeds, **options)
    chosen = read_chosen(page, options["runs"])
    settings: Settings = chosen["overrides"]
    final = read_page(source, overrides, {**settings, "name": f"{page.name}.tuned", "grid": {}})
    return Method(name, final, chosen["combinations"], settings)


def _jobs(
    methods: Mapping[str, Method],
    runs: Path,
    folds: Sequence[int],
    seeds: Sequence[int],
    failures: dict[str, tuple[str, ...]],
) -> dict[str, list[JobFolder]]:
    """The jobs of every method that has all of them; the others go to the failures."""
    found = {}
    for name, method in methods.items():
        folder = ExperimentFolder(runs / method.page.name)
        check_identity(method.page, read_manifest(method.page.data.manifest, method.page.data.root), folder, "test")
        jobs = [(fold, seed) for fold in folds for seed in seeds]
        missing = tuple(
            f"{method.page.name} fold {fold} seed {seed}: not run yet"
            for fold, seed in jobs
            if not folder.job(fold, seed).finished
        )
        if missing:
            failures.setdefault(name, missing)
        else:
            found[name] = [folder.job(fold, seed) for fold, seed in jobs]
    return found


def _measure(
    methods: dict[str, Method],
    jobs: Mapping[str, list[JobFolder]],
    failures: dict[str, tuple[str, ...]],
    baseline: str,
    about: tuple[str, ...],
) -> Benchmark:
    if not jobs:
        raise TrainingError(
            "no method has all of its folds and seeds", [line for lines in failures.values() for line in lines]
        )
    folders = {name: ExperimentFolder(own[0].path.parent) for name, own in jobs.items()}
    descriptions = {name: folder.description() for name, folder in folders.items()}
    check_comparable(descriptions)
    first = next(iter(jobs))
    facts = descriptions[first]
    measured, summaries, external = {}, {}, {}
    for name, own in jobs.items():
        measured[name], summaries[name] = _out_of_fold(folders[name], own, facts)
        if all(job.external.exists() for job in own):
            external[name] = _external(folders[name], own, facts)
    compared = None
    if len(measured) > 1:
        compared = standings(
            measured,
            baseline,
            minority=minority_classes(facts["class_counts"]),
            folds=facts["folds"],
            test_train_ratio=test_train_ratio(facts),
        )
    images = folders[first].scored_images()
    return Benchmark(about, images, methods, measured, summaries, external, failures, compared)


def _out_of_fold(
    folder: ExperimentFolder, jobs: Sequence[JobFolder], facts: dict[str, Any]
) -> tuple[Measured, pd.DataFrame]:
    table = folder.predictions("predictions", jobs)
    measured = _measured(table, facts)
    summary = measured.summary()
    if not _leaves_models(folder):
        return measured, summary
    calibrated = at_temperatures(table, single_temperatures(jobs), facts["classes"])
    return measured, _with_calibrated(summary, calibrated, facts)


def _external(folder: ExperimentFolder, jobs: Sequence[JobFolder], facts: dict[str, Any]) -> pd.DataFrame:
    classes = facts["classes"]
    ensemble = average_models(folder.predictions("external", jobs), classes)
    summary = _measured(ensemble, facts).summary()
    table = folder.predictions("predictions", jobs)
    # The temperature of the mean of all folds' models needs all of them.
    if not _leaves_models(folder) or table["fold"].nunique() < facts["folds"]:
        return summary
    validation = folder.predictions("validation", jobs)
    several = facts["folds"] > 1
    temperatures = joint_temperatures(table, validation, classes) if several else single_temperatures(jobs)
    return _with_calibrated(summary, at_temperatures(ensemble, temperatures, classes), facts)


def _measured(table: pd.DataFrame, facts: dict[str, Any]) -> Measured:
    predictions = Predictions.from_table(table, facts["classes"])
    return Measured.of(predictions, minority=minority_classes(facts["class_counts"]), malignant=facts["malignant"])


def _with_calibrated(summary: pd.DataFrame, calibrated: pd.DataFrame, facts: dict[str, Any]) -> pd.DataFrame:
    own = summarize_calibration(calibrated, facts["classes"])
    return pd.concat([summary, own.rename("{}.calibrated".format)])


def _leaves_models(folder: ExperimentFolder) -> bool:
    return "estimator" not in folder.description()["identity"]["page"]


def _about(
    manifest: Any, folds: Sequence[int] | None, seeds: Sequence[int], tuned: bool, budget: int, quick: bool
) -> tuple[str, ...]:
    which = f"{manifest.folds} folds" if folds is None else f"fold {', '.join(map(str, folds))} of {manifest.folds}"
    run = (
        f"{manifest.name}, split {manifest.split_hash[:12]}, protocol {manifest.protocol}: {which}, "
        f"seeds {', '.join(map(str, seeds))}."
    )
    tuning = (
        f"Pages with a grid were tuned among at most {budget} combinations on inner validation images, with seed "
        f"{seeds[0]}; one choice for all folds."
    )
    return (*([QUICK] if quick else []), run, *([tuning] if tuned else ["Pages as they stand, not tuned here."]))


def _flat(summary: pd.DataFrame, names: Mapping[str, str], prefix: str) -> dict[str, float]:
    return {
        f"{prefix}{name}.{bound}": float(summary[bound][name])
        for name in names
        if name in summary.index
        for bound in ("value", "low", "high")
    }
