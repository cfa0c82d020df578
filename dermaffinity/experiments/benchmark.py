"""Every config × fold × seed as a resumable job, then the measures of what is there.

With ``tuned``, every config that states a grid is tuned first, each with the same budget, and runs as
``<config>.tuned``.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

from dermaffinity.config import Config, read_config
from dermaffinity.data.manifest import Manifest, read_manifest
from dermaffinity.errors import ComparisonError, ConfigError, DataError, TrainingError
from dermaffinity.experiments.compare import find_baseline
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.job import is_main_process
from dermaffinity.experiments.measure import Benchmark, Method, measure
from dermaffinity.experiments.run import How, Plan, check_identity, run_experiments
from dermaffinity.experiments.tune import combinations, read_chosen, tune_config

QUICK = (
    "Quick: one fold, one seed, one epoch at 32 pixels. This shows that the benchmark works; its numbers mean nothing."
)

Failures = dict[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a benchmark does besides running jobs."""

    baseline: str = "cosen"  # what methods are compared with, see `find_baseline`
    tuned: bool = False  # tune the configs that state a grid first, with the first seed
    budget: int = 4  # the largest number of combinations that a config may be tuned among
    train: bool = True  # False only measures what is there
    quick: bool = False  # one fold, one seed, one epoch at 32 pixels, under names of its own


def benchmark(
    configs: Sequence[str | Path],
    *,
    baseline: str = "cosen",
    tuned: bool = False,
    budget: int = 4,
    train: bool = True,
    quick: bool = False,
    external: bool = False,
    overrides: Sequence[str] = (),
    **how: Unpack[How],
) -> Benchmark | None:
    """Compares many methods on one split: tunes, trains, tests and ranks them; see `Options`, `crossval` and `How`."""
    options = Options(baseline=baseline, tuned=tuned, budget=budget, train=train, quick=quick)
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
    return measure(methods, experiments, failures, base, _about(manifest, plan, options), quick=options.quick)


@dataclass(frozen=True)
class _Source:
    """A config, and what makes it."""

    source: str | Path
    overrides: list[str]
    config: Config


def _read(sources: Sequence[str | Path], overrides: Sequence[str], quick: bool) -> dict[str, _Source]:
    """The configs by name."""
    configs: dict[str, _Source] = {}
    for source in sources:
        config, own = read_config(source, overrides), list(overrides)
        name = config.name
        if name in configs:
            raise ConfigError(f"{source}: every config needs a name of its own, and {name} is there already")
        if quick:
            own += [*config.quick, f"name={json.dumps(f'{name}.quick')}"]
            config = read_config(source, own)
        configs[name] = _Source(source, own, config)
    return configs


def _common_manifest(configs: Mapping[str, _Source], external: bool) -> Manifest:
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


def _check_tuning(configs: Mapping[str, _Source], budget: int) -> None:
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


def _chosen(configs: Mapping[str, _Source], plan: Plan, options: Options) -> tuple[dict[str, Method], Failures]:
    """Every config as it is to be run, tuned where asked, and what went wrong with tuning."""
    methods, failures = {}, {}
    for name, one in configs.items():
        methods[name] = Method(name, one.config)
        if not (options.tuned and one.config.grid):
            continue
        try:
            if options.train:
                tuning = replace(plan, seeds=plan.seeds[:1], external=False)
                tune_config(one.source, tuning, overrides=one.overrides)
            methods[name] = _with_choice(name, one, plan.runs)
        except TrainingError as error:
            failures[name] = error.problems
        except DataError as error:
            if options.train:
                raise
            failures[name] = (error.message,)
    return methods, failures


def _with_choice(name: str, one: _Source, runs: Path) -> Method:
    chosen = read_chosen(one.config, runs)
    settings = {**chosen["overrides"], "name": f"{one.config.name}.tuned", "grid": {}}
    return Method(name, read_config(one.source, one.overrides, settings), chosen["combinations"], chosen["overrides"])


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
    return (*([QUICK] if options.quick else []), run, tuning)
