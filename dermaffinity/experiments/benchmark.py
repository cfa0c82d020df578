"""Every config × fold × seed as a resumable job, then the measures of what is there.

With ``tuned``, every config that states a grid is tuned first, each with the same budget, and runs as
``<config>.tuned``.
"""

import json
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import pandas as pd

from dermaffinity.config import Config, read_config
from dermaffinity.config.parts import flatten
from dermaffinity.data.manifest import Manifest, read_manifest
from dermaffinity.errors import ComparisonError, ConfigError, DataError, TrainingError
from dermaffinity.experiments.compare import find_baseline
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.job import is_main_process
from dermaffinity.experiments.record import unlike
from dermaffinity.experiments.results import write_table
from dermaffinity.experiments.run import How, Plan, check_identity, run_experiments
from dermaffinity.experiments.tune import combinations, read_chosen, tune_config
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

QUICK = (
    "Quick: one fold, one seed, one epoch at 32 pixels. This shows that the benchmark works; its numbers mean nothing."
)

_GAINS = ("gain.balanced_accuracy", "gain.minority_recall", "gain.majority_recall")

Failures = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Method:
    """A config of the benchmark as it is to be run.

    Args:
        source: Path of the config, or the name of a shipped one.
        overrides: ``key=value`` texts that it was read with.
        config: With its chosen settings, and the name of its experiment.
        tried: Combinations that it was tuned among; 0 for a config as it stands.
        settings: Those chosen.
    """

    source: str | Path
    overrides: list[str]
    config: Config
    tried: int = 0
    settings: Mapping[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class Benchmark:
    """What a benchmark came to; everything is by method's name.

    Args:
        about: What was run, in sentences.
        quick: Whether it was only to see that everything works.
        baseline: What methods are compared with; it may be among those that failed.
        methods: All, those that failed too.
        experiments: Those with every fold and seed asked for, at least one.
        failures: What stopped the others, a line each.
    """

    about: tuple[str, ...]
    quick: bool
    baseline: str
    methods: dict[str, Method]
    experiments: dict[str, Experiment]
    failures: dict[str, tuple[str, ...]]

    @cached_property
    def standings(self) -> Standings | None:
        """How the measured methods stand; None with fewer than two."""
        ratio = next(iter(self.experiments.values())).record.test_train_ratio
        return standings(self.measured, self.baseline, test_train_ratio=ratio) if len(self.experiments) > 1 else None

    @cached_property
    def external_standings(self) -> Standings | None:
        """The same for the external images."""
        outside = {name: one.external.measured for name, one in self.experiments.items() if one.external is not None}
        return standings(outside, self.baseline) if len(outside) > 1 else None

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
            title = "External images, mean of the fold models: percent [95 % interval]"
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
        if self.baseline in self.experiments:
            notes += unlike({name: one.record for name, one in self.experiments.items()}, self.baseline)
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


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a benchmark does besides running jobs."""

    baseline: str = "cosen"  # what methods are compared with, see `find_baseline`
    tuned: bool = False  # tune the configs that state a grid first, with the first seed
    budget: int = 4  # the largest number of combinations that a config may be tuned among
    train: bool = True  # False only measures what is there
    quick: bool = False  # one fold, one seed, one epoch at 32 pixels, under names of its own
    ensemble: bool = False  # score the mean of the seeds' models in each fold, see `Experiment.ensemble`


def benchmark(
    configs: Sequence[str | Path],
    *,
    baseline: str = "cosen",
    tuned: bool = False,
    budget: int = 4,
    train: bool = True,
    quick: bool = False,
    ensemble: bool = False,
    external: bool = False,
    overrides: Sequence[str] = (),
    **how: Unpack[How],
) -> Benchmark | None:
    """Compares many methods on one split: tunes, trains, tests and ranks them; see `Options`, `crossval` and `How`.

    Examples:
        >>> import dermaffinity as da
        >>> configs = ["small_softmax.yaml", "small_cosen.yaml"]
        >>> found = da.benchmark(configs, baseline="small_cosen", train=False)  # only measures what is trained
        >>> type(found).__name__
        'Benchmark'
    """
    options = Options(baseline=baseline, tuned=tuned, budget=budget, train=train, quick=quick, ensemble=ensemble)
    return run_benchmark(configs, Plan.of(how, external=external), options, overrides=overrides)


def run_benchmark(
    sources: Sequence[str | Path], plan: Plan, options: Options, *, overrides: Sequence[str] = ()
) -> Benchmark | None:
    """Runs what is not run yet, and measures everything. Configs whose training fails are reported, the rest goes on.

    Args:
        sources: Configs' paths, or names of shipped ones; all on one split.
        plan: Which jobs to run, where and how.
        options: What else to do.
        overrides: ``key=value`` texts for every config.

    Returns:
        The benchmark; None in those processes of ``torchrun`` that only help to train.

    Raises:
        ConfigError: When the configs cannot be run as asked, before anything is trained.
        ComparisonError: When the baseline is not among them, or they are on different splits.
        TrainingError: When no config has all of its jobs.
    """
    if options.quick:
        plan = replace(plan, folds=[0], seeds=list(plan.seeds)[:1])
    plan = replace(plan, resume=True, keep_going=True)
    configs = _read(sources, overrides, options.quick)
    base = find_baseline(options.baseline, configs)
    if options.ensemble and len(plan.seeds) < 2 and not options.quick:
        raise ConfigError("--ensemble: the mean of one model is that model; name two seeds or more, --seeds 0,1,2")
    if len(configs) < 2:
        raise ComparisonError(f"nothing to compare {base} with; name at least two configs")
    manifest = _common_manifest(configs, plan.external)
    if options.tuned:
        _check_tuning(configs, options.budget)
    methods, failures = _chosen(configs, plan, options)
    started = {name: method for name, method in methods.items() if name not in failures}
    if options.train and started:
        ran = run_experiments([method.config for method in started.values()], plan)
        if not is_main_process():
            return None
        failures |= {name: one.failures for name, one in zip(started, ran, strict=True) if one.failures}
    experiments = _finished(started, manifest, plan, failures)
    if options.ensemble:
        experiments = {name: one.ensemble() for name, one in experiments.items()}
    if not experiments:
        raise TrainingError(
            "no method has all of its folds and seeds", [one for lines in failures.values() for one in lines]
        )
    return Benchmark(_about(manifest, plan, options), options.quick, base, methods, experiments, failures)


def _read(sources: Sequence[str | Path], overrides: Sequence[str], quick: bool) -> dict[str, Method]:
    """The configs by name."""
    configs: dict[str, Method] = {}
    for source in sources:
        config, own = read_config(source, overrides), list(overrides)
        name = config.name
        if name in configs:
            raise ConfigError(f"{source}: every config needs a name of its own, and {name} is there already")
        if quick:
            before, after = (dict(flatten(one.resolved())) for one in (config, config.quick()))
            own += [f"{key}={json.dumps(value)}" for key, value in after.items() if value != before[key]]
            config = read_config(source, own)
        configs[name] = Method(source, own, config)
    return configs


def _common_manifest(configs: Mapping[str, Method], external: bool) -> Manifest:
    settings = {name: one.config.data for name, one in configs.items()}
    manifests = {name: read_manifest(data.manifest, data.root) for name, data in settings.items()}
    if len({manifest.split_hash for manifest in manifests.values()}) > 1:
        raise ComparisonError(
            "these configs are on different splits, so their numbers cannot be paired; give all of them one manifest "
            "with --set data.manifest=FILE",
            [f"{name}: {one.name}, split {one.split_hash[:12]}" for name, one in manifests.items()],
        )
    manifest = next(iter(manifests.values()))
    if external and manifest.external().empty:
        raise ConfigError(f"--external: {next(iter(settings.values())).manifest} has no external images")
    return manifest


def _check_tuning(configs: Mapping[str, Method], budget: int) -> None:
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # The other processes would read the choice before the first one has written it.
        raise ConfigError(
            "--tuned: torchrun trains one config; run dermaffinity tune with it, then crossval as that says"
        )
    sizes = {name: len(combinations(one.config.grid)) for name, one in configs.items() if one.config.grid}
    if not sizes:
        raise ConfigError("--tuned: none of these configs states a grid; add grid: to a config, or leave --tuned out")
    larger = [f"{name}: {size} combinations" for name, size in sizes.items() if size > budget]
    if larger:
        raise ConfigError(
            f"--tuned: some grids are larger than the budget of {budget} combinations that every method has; shorten "
            "them, or give every method more with --budget",
            larger,
        )


def _chosen(configs: Mapping[str, Method], plan: Plan, options: Options) -> tuple[dict[str, Method], Failures]:
    """Every config as it is to be run, tuned where asked, and what went wrong with tuning."""
    methods, failures = dict(configs), {}
    for name, one in configs.items():
        if not (options.tuned and one.config.grid):
            continue
        try:
            if options.train:
                tune_config(one.source, replace(plan, seeds=plan.seeds[:1], external=False), overrides=one.overrides)
            chosen = read_chosen(one.config, plan.runs)
        except TrainingError as error:
            failures[name] = error.problems
        except DataError as error:
            if options.train:
                raise
            failures[name] = (error.message,)
        else:
            settings = {**chosen["overrides"], "name": f"{one.config.name}.tuned", "grid": {}}
            config = read_config(one.source, one.overrides, settings)
            methods[name] = replace(one, config=config, tried=chosen["combinations"], settings=chosen["overrides"])
    return methods, failures


def _finished(
    methods: Mapping[str, Method], manifest: Manifest, plan: Plan, failures: Failures
) -> dict[str, Experiment]:
    """The experiment of every method that has all of its jobs; what the others lack goes to the failures."""
    found = {}
    for name, method in methods.items():
        experiment = Experiment(plan.runs / method.config.name)
        check_identity(method.config, manifest, experiment, "test")
        asked = {(fold, seed): experiment.job(fold, seed) for fold, seed in plan.jobs(manifest.folds)}
        missing = [key for key, job in asked.items() if not job.finished]
        if missing:
            lines = (f"{method.config.name} fold {fold} seed {seed}: not run yet" for fold, seed in sorted(missing))
            failures.setdefault(name, tuple(lines))
        else:
            found[name] = Experiment(experiment.path, jobs=list(asked.values()))
    return found


def _about(manifest: Manifest, plan: Plan, options: Options) -> tuple[str, ...]:
    folds, seeds = plan.folds, plan.seeds
    which = f"{manifest.folds} folds" if folds is None else f"fold {', '.join(map(str, folds))} of {manifest.folds}"
    run = (
        f"{manifest.name}, split {manifest.split_hash[:12]}, protocol {manifest.protocol}: {which}, "
        f"seeds {', '.join(map(str, seeds))}."
    )
    tuning = (
        f"Configs that state a grid were tuned among at most {options.budget} combinations on inner validation images, "
        f"with seed {seeds[0]}; one choice for all folds."
        if options.tuned
        else "Configs as they stand, not tuned here."
    )
    joined = f"Every method is the mean of {len(seeds)} models in each fold, one a seed, and calibrated as such."
    return (*([QUICK] if options.quick else []), run, tuning, *([joined] if options.ensemble else []))


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
