"""Every config × fold × seed as a resumable job, then the measures of what is there.

With ``tuned``, every config that states a grid is tuned first, each with the same budget, and runs as
``<config>.tuned``.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from dermaffinity.config import Config, EstimatorConfig, read_config
from dermaffinity.data.manifest import Manifest, read_manifest
from dermaffinity.errors import ComparisonError, ConfigError, DataError, TrainingError
from dermaffinity.experiments.compare import find_baseline
from dermaffinity.experiments.job import is_main_process
from dermaffinity.experiments.launchers import Launcher
from dermaffinity.experiments.measure import Benchmark, Method, measure
from dermaffinity.experiments.record import ExperimentFolder, JobFolder
from dermaffinity.experiments.run import check_identity, run_experiments
from dermaffinity.experiments.tune import combinations, read_chosen, tune
from dermaffinity.tracking.base import Tracker

QUICK = (
    "Quick: one fold, one seed, one epoch at 32 pixels. This shows that the benchmark works; its numbers mean nothing."
)

Failures = dict[str, tuple[str, ...]]


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
    """Runs what is not run yet, and measures everything. Configs whose training fails are reported, the rest goes on.

    Args:
        sources: Configs' paths, or names of shipped ones; all on one split.
        baseline: The name of one of them, or a part that only one of them has.
        overrides: ``key=value`` texts for every config.
        runs: Folder of all experiments.
        tracker: Where the numbers go.
        folds: Which test folds; None for all.
        seeds: Which seeds. Tuning uses the first.
        tuned: Whether to tune the configs that state a grid first.
        budget: The largest number of combinations that a config may be tuned among.
        external: Whether to score the manifest's external images as well.
        train: False only measures what is there.
        launcher: How jobs are run.
        quick: One fold, one seed, one epoch at 32 pixels, under names of its own.
        console: For progress.

    Returns:
        The benchmark; None in those processes of ``torchrun`` that only help to train.

    Raises:
        ConfigError: When the configs cannot be run as asked, before anything is trained.
        ComparisonError: When the baseline is not among them, or they are on different splits.
        TrainingError: When no config has all of its jobs.
    """
    if quick:
        folds, seeds = [0], list(seeds)[:1]
    configs = _read(sources, overrides, quick)
    base = find_baseline(baseline, list(configs))
    manifest = _common_manifest(configs, external)
    if tuned:
        _check_tuning(configs, budget)
    how: dict[str, Any] = {"runs": runs, "tracker": tracker, "folds": folds, "launcher": launcher, "console": console}
    methods, failures = _chosen(configs, seeds[:1], tuned, train, how)
    started = {name: method for name, method in methods.items() if name not in failures}
    if train and started:
        final = [method.config for method in started.values()]
        outcomes = run_experiments(final, seeds=seeds, resume=True, external=external, keep_going=True, **how)
        if not is_main_process():
            return None
        failures |= {name: one.failures for name, one in zip(started, outcomes, strict=True) if one.failures}
    asked = [(fold, seed) for fold in (range(manifest.folds) if folds is None else folds) for seed in seeds]
    jobs = _jobs(started, manifest, runs, asked, failures)
    about = _about(manifest, folds, seeds, budget if tuned else 0, quick)
    return measure(methods, jobs, failures, base, about, quick=quick)


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
            own += ["data.image_size=32", f"name={json.dumps(f'{name}.quick')}"]
            own += [] if isinstance(config, EstimatorConfig) else ["training.epochs=1"]
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


def _chosen(
    configs: Mapping[str, _Source], seeds: Sequence[int], tuned: bool, train: bool, how: dict[str, Any]
) -> tuple[dict[str, Method], Failures]:
    """Every config as it is to be run, tuned where asked, and what went wrong with tuning."""
    methods, failures = {}, {}
    for name, one in configs.items():
        methods[name] = Method(name, one.config)
        if not (tuned and one.config.grid):
            continue
        try:
            if train:
                tune(one.source, overrides=one.overrides, seeds=seeds, **how)
            methods[name] = _with_choice(name, one, how["runs"])
        except TrainingError as error:
            failures[name] = error.problems
        except DataError as error:
            if train:
                raise
            failures[name] = (error.message,)
    return methods, failures


def _with_choice(name: str, one: _Source, runs: Path) -> Method:
    chosen = read_chosen(one.config, runs)
    settings = {**chosen["overrides"], "name": f"{one.config.name}.tuned", "grid": {}}
    return Method(name, read_config(one.source, one.overrides, settings), chosen["combinations"], chosen["overrides"])


def _jobs(
    methods: Mapping[str, Method],
    manifest: Manifest,
    runs: Path,
    asked: Sequence[tuple[int, int]],
    failures: Failures,
) -> dict[str, list[JobFolder]]:
    """The jobs of every method that has all of them; what the others lack goes to the failures."""
    found = {}
    for name, method in methods.items():
        folder = ExperimentFolder(runs / method.config.name)
        check_identity(method.config, manifest, folder, "test")
        missing = [(fold, seed) for fold, seed in asked if not folder.job(fold, seed).finished]
        if missing:
            lines = (f"{method.config.name} fold {fold} seed {seed}: not run yet" for fold, seed in missing)
            failures.setdefault(name, tuple(lines))
        else:
            found[name] = [folder.job(fold, seed) for fold, seed in asked]
    return found


def _about(
    manifest: Manifest, folds: Sequence[int] | None, seeds: Sequence[int], budget: int, quick: bool
) -> tuple[str, ...]:
    which = f"{manifest.folds} folds" if folds is None else f"fold {', '.join(map(str, folds))} of {manifest.folds}"
    run = (
        f"{manifest.name}, split {manifest.split_hash[:12]}, protocol {manifest.protocol}: {which}, "
        f"seeds {', '.join(map(str, seeds))}."
    )
    tuning = (
        f"Configs that state a grid were tuned among at most {budget} combinations on inner validation images, with "
        f"seed {seeds[0]}; one choice for all folds."
        if budget
        else "Configs as they stand, not tuned here."
    )
    return (*([QUICK] if quick else []), run, tuning)
