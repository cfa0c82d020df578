"""Choosing a method's settings: every combination of a short grid, judged on the inner validation images.

Each combination is an experiment of its own, ``RUNS/<config>.tune<digits>``, whose digits come from its settings, so
that a grid that grows keeps what was run. The test folds stay unseen. Mind that one setting is chosen for all folds
together: an inner validation image of one fold is a test image of another, so that the choice, but no model, has seen
its label.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Unpack

import pandas as pd
import yaml

from dermaffinity.config import Config, read_config
from dermaffinity.errors import ConfigError, DataError, TrainingError
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.job import is_main_process
from dermaffinity.experiments.results import write_table
from dermaffinity.experiments.run import How, Plan, run_experiments, shortfalls
from dermaffinity.files import atomic_write
from dermaffinity.report.tables import training_rows

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
    config: str | Path,
    *,
    grid: Mapping[str, Sequence[Any]] | None = None,
    overrides: Sequence[str] = (),
    **how: Unpack[How],
) -> Tuning | None:
    """Chooses a config's settings on the inner validation images; see `tune_config` and `How`.

    Examples:
        >>> import dermaffinity as da
        >>> tuning = da.tune("small_softmax.yaml", grid={"training.learning_rate": [0.01]}, folds=[0])
        >>> tuning.chosen
        {'training.learning_rate': 0.01}
    """
    return tune_config(config, Plan.of(how), grid=grid, overrides=overrides)


def tune_config(
    source: str | Path, plan: Plan, *, grid: Mapping[str, Sequence[Any]] | None = None, overrides: Sequence[str] = ()
) -> Tuning | None:
    """Runs what is not run yet of a config's grid, ranks the combinations and writes the choice.

    The best has the highest balanced accuracy over the inner validation images of all folds and seeds; of equals the
    first. Combinations under which the method did not act, such as CoSen with costs that froze near 1, come after those
    under which it did, and those whose training fails come last.

    Args:
        source: Path of a config, or the name of a shipped one.
        plan: Which folds and seeds to tune on, where and how.
        grid: Values by dotted key; the config's own grid if left out.
        overrides: ``key=value`` texts for every combination.

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
    experiments = run_experiments(configs, replace(plan, resume=True, scored="inner", keep_going=True))
    if not is_main_process():
        return None
    rows = [_row(one, own, settings, plan) for one, own, settings in zip(experiments, configs, tried, strict=True)]
    table = pd.DataFrame(rows)
    if table["balanced_accuracy.value"].isna().all():
        failures = [failure for experiment in experiments for failure in experiment.failures]
        raise TrainingError(f"{config.name}: none of {len(tried)} combinations could be trained", failures)
    table = _ranked(table)
    tuning = Tuning(table, json.loads(table["settings"].iloc[0]), plan.runs / f"{config.name}.tuning")
    _write(tuning, config, grid, experiments[0], plan)
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


def _row(experiment: Experiment, config: Config, settings: Settings, plan: Plan) -> dict[str, str | float]:
    failures = experiment.failures
    row: dict[str, str | float] = {
        "experiment": experiment.name,
        "settings": json.dumps(settings),
        "failure": "; ".join(failures),
        "remark": "failed" if failures else "",
    }
    if failures:
        return row | {f"{measure}.{bound}": float("nan") for measure in _MEASURES for bound in ("value", "low", "high")}
    asked = [experiment.job(fold, seed) for fold, seed in plan.jobs(experiment.record.folds)]
    row["remark"] = "; ".join(shortfalls(config, asked))
    summary = Experiment(experiment.path, jobs=asked).measures()
    for measure in [*_MEASURES, *training_rows({"": summary})]:
        if measure in summary.index:
            row |= {f"{measure}.{bound}": float(summary[bound][measure]) for bound in ("value", "low", "high")}
    return row


def _write(
    tuning: Tuning, config: Config, grid: Mapping[str, Sequence[Any]], experiment: Experiment, plan: Plan
) -> None:
    best, record = tuning.table.iloc[0], experiment.record
    choice = {
        "config": config.name,
        "overrides": tuning.chosen,
        "experiment": best["experiment"],
        "balanced_accuracy": {bound: float(best[f"balanced_accuracy.{bound}"]) for bound in ("value", "low", "high")},
        "combinations": len(tuning.table),
        "grid": _plain(grid),
        "folds": sorted({fold for fold, _ in plan.jobs(record.folds)}),
        "seeds": list(plan.seeds),
        "split_hash": record.split_hash,
    }
    write_table(tuning.table, tuning.folder / "tuning.csv")
    with atomic_write(tuning.folder / "chosen.yaml") as file:
        file.write("# Chosen on inner validation images; the balanced accuracy is for choosing, not for reporting.\n")
        yaml.safe_dump(choice, file, sort_keys=False)
