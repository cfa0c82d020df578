"""Choosing a method's settings: every combination of a short grid, judged on the inner validation images.

Each combination is an experiment of its own, ``RUNS/<config>.tune<digits>``, whose digits come from its settings, so
that a grid that grows keeps what was run. The test folds stay unseen. Mind that one setting is chosen for all folds
together: an inner validation image of one fold is a test image of another, so that the choice, but no model, has seen
its label.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from rich.console import Console

from dermaffinity.config import Config, read_config
from dermaffinity.errors import ConfigError, DataError, TrainingError
from dermaffinity.experiments.job import is_main_process
from dermaffinity.experiments.launchers import Launcher
from dermaffinity.experiments.record import as_separate_images, training_numbers, write_table
from dermaffinity.experiments.run import Outcome, run_experiments, shortfalls
from dermaffinity.files import atomic_write
from dermaffinity.metrics.classification import minority_classes
from dermaffinity.metrics.summary import summarize
from dermaffinity.report.tables import training_rows
from dermaffinity.tracking.base import Tracker

_MEASURES = ("balanced_accuracy", "minority_recall", "majority_recall")

Settings = dict[str, Any]  # by dotted key


@dataclass(frozen=True)
class Tuning:
    """What a grid came to.

    Args:
        table: A row a combination, the best first: ``experiment``, ``settings`` (JSON), and of each measure ``value``,
            ``low`` and ``high``; ``failure`` says what stopped a combination and ``remark`` in what its method did not
            act, else they are empty.
        chosen: The best combination's settings.
        folder: Where ``tuning.csv`` and ``chosen.yaml`` lie.
    """

    table: pd.DataFrame
    chosen: Settings
    folder: Path


def combinations(grid: Mapping[str, Sequence[Any]]) -> list[Settings]:
    """Every combination of the grid's values, the first key changing slowest."""
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def tune(
    source: str | Path,
    *,
    grid: Mapping[str, Sequence[Any]] | None = None,
    overrides: Sequence[str] = (),
    runs: Path,
    tracker: Tracker,
    folds: Sequence[int] | None = None,
    seeds: Sequence[int] = (0,),
    launcher: Launcher = "inline",
    console: Console,
) -> Tuning | None:
    """Runs what is not run yet of a config's grid, ranks the combinations and writes the choice.

    The best has the highest balanced accuracy over the inner validation images of all folds and seeds; of equals the
    first. Combinations under which the method did not act, such as CoSen with costs that froze near 1, come after those
    under which it did, and those whose training fails come last.

    Args:
        source: Path of a config, or the name of a shipped one.
        grid: Values by dotted key; the config's own grid if left out.
        overrides: ``key=value`` texts for every combination.
        runs: Folder of all experiments.
        tracker: Where the numbers go.
        folds: Which folds to tune on; None for all.
        seeds: Which seeds.
        launcher: How jobs are run.
        console: For progress.

    Returns:
        The tuning; None in those processes of ``torchrun`` that only help to train.

    Raises:
        ConfigError: When there is no grid, or some combinations give no valid config.
        TrainingError: When no combination could be trained.
    """
    config = read_config(source, overrides)
    grid = grid or config.grid
    if not grid:
        raise ConfigError(f"{config.name} states no grid; add grid: to the config, or --grid loss.tau=0.5,1.0")
    tried = combinations(grid)
    configs = _configs(source, overrides, config.name, tried)
    outcomes = run_experiments(
        configs,
        runs=runs,
        tracker=tracker,
        folds=folds,
        seeds=seeds,
        resume=True,
        scored="inner",
        launcher=launcher,
        keep_going=True,
        console=console,
    )
    if not is_main_process():
        return None
    rows = [
        _row(outcome, one, settings, folds, seeds)
        for outcome, one, settings in zip(outcomes, configs, tried, strict=True)
    ]
    table = pd.DataFrame(rows)
    if table["balanced_accuracy.value"].isna().all():
        failures = [failure for outcome in outcomes for failure in outcome.failures]
        raise TrainingError(f"{config.name}: none of {len(tried)} combinations could be trained", failures)
    table = _ranked(table)
    tuning = Tuning(table, json.loads(table["settings"].iloc[0]), runs / f"{config.name}.tuning")
    _write(tuning, config, grid, outcomes[0], folds, seeds)
    return tuning


def read_chosen(config: Config, runs: Path) -> dict[str, Any]:
    """What ``chosen.yaml`` says of a config that was tuned: ``overrides``, ``combinations`` and how they were judged.

    Raises:
        DataError: When the config was not tuned, or on another grid.
    """
    path = runs / f"{config.name}.tuning" / "chosen.yaml"
    try:
        chosen = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"{path}: no readable choice ({error}); run dermaffinity tune for this config first") from error
    if chosen["grid"] != _plain(config.grid):
        raise DataError(f"{path}: this is the choice from another grid; run dermaffinity tune for this config again")
    return chosen


def _configs(source: str | Path, overrides: Sequence[str], name: str, tried: Sequence[Settings]) -> list[Config]:
    configs, problems = [], []
    for settings in tried:
        try:
            own_name = f"{name}.tune{_digits(settings)}"
            configs.append(read_config(source, overrides, {**settings, "name": own_name, "grid": {}}))
        except ConfigError as error:
            problems += [f"{_said(settings)}: {problem}" for problem in error.problems or (error.message,)]
    if problems:
        raise ConfigError(f"{name}: some combinations of the grid give no valid config", problems)
    return configs


def _digits(settings: Settings) -> str:
    text = json.dumps(settings, sort_keys=True, default=str)
    return f"{int(hashlib.sha256(text.encode()).hexdigest(), 16) % 10**6:06}"


def _plain(grid: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    return json.loads(json.dumps(grid))


def _said(settings: Settings) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items())


def _ranked(table: pd.DataFrame) -> pd.DataFrame:
    best_first = table.sort_values("balanced_accuracy.value", ascending=False, kind="stable")
    return best_first.sort_values("remark", key=lambda remarks: remarks != "", kind="stable", ignore_index=True)


def _row(
    outcome: Outcome, config: Config, settings: Settings, folds: Sequence[int] | None, seeds: Sequence[int]
) -> dict[str, str | float]:
    row: dict[str, str | float] = {
        "experiment": outcome.folder.path.name,
        "settings": json.dumps(settings),
        "failure": "; ".join(outcome.failures),
        "remark": "failed" if outcome.failures else "",
    }
    if outcome.failures:
        return row | {f"{measure}.{bound}": float("nan") for measure in _MEASURES for bound in ("value", "low", "high")}
    facts = outcome.folder.description()
    asked = [outcome.folder.job(k, s) for k in (range(facts["folds"]) if folds is None else folds) for s in seeds]
    table = as_separate_images(outcome.folder.predictions("predictions", asked))
    minority = minority_classes(facts["class_counts"])
    summary = summarize(table, facts["classes"], minority=minority, malignant=facts["malignant"])
    row["remark"] = "; ".join(shortfalls(config, asked))
    summary = pd.concat([summary, training_numbers(asked)])
    for measure in [*_MEASURES, *training_rows({"": summary})]:
        if measure not in summary.index:
            continue
        row |= {f"{measure}.{bound}": float(summary[bound][measure]) for bound in ("value", "low", "high")}
    return row


def _write(
    tuning: Tuning,
    config: Config,
    grid: Mapping[str, Sequence[Any]],
    outcome: Outcome,
    folds: Sequence[int] | None,
    seeds: Sequence[int],
) -> None:
    facts, best = outcome.folder.description(), tuning.table.iloc[0]
    choice = {
        "config": config.name,
        "overrides": tuning.chosen,
        "experiment": best["experiment"],
        "balanced_accuracy": {bound: float(best[f"balanced_accuracy.{bound}"]) for bound in ("value", "low", "high")},
        "combinations": len(tuning.table),
        "grid": _plain(grid),
        "folds": list(range(facts["folds"]) if folds is None else folds),
        "seeds": list(seeds),
        "split_hash": facts["identity"]["split_hash"],
    }
    write_table(tuning.table, tuning.folder / "tuning.csv")
    with atomic_write(tuning.folder / "chosen.yaml") as file:
        file.write("# Chosen on inner validation images; the balanced accuracy is for choosing, not for reporting.\n")
        yaml.safe_dump(choice, file, sort_keys=False)
