"""A short grid on the inner validation images."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console

from dermaffinity.config import read_config
from dermaffinity.errors import ConfigError, DataError, TrainingError
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.run import Plan
from dermaffinity.experiments.tune import _ranked, combinations, read_chosen, tune_config

QUICKLY = ["training.epochs=1"]


@pytest.fixture
def config(tiny_config, tmp_path):
    """With a value that cannot be trained, which must not stop the others."""
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny_config.read_text() + "grid: {training.learning_rate: [1.0e+30, 0.02, 0.01]}\n")
    return path


def run(config, runs, **options):
    grid = options.pop("grid", None)
    plan = Plan(runs=runs, console=Console(quiet=True), **options)
    return tune_config(config, plan, grid=grid, overrides=QUICKLY)


def test_a_grid_is_every_combination_the_first_key_slowest():
    assert combinations({"a": (1, 2), "b": (3, 4)}) == [
        {"a": 1, "b": 3},
        {"a": 1, "b": 4},
        {"a": 2, "b": 3},
        {"a": 2, "b": 4},
    ]


def test_a_method_that_did_not_act_is_chosen_only_where_nothing_else_is():
    rows = [("best", 0.9, "frozen"), ("none", np.nan, "failed"), ("second", 0.7, ""), ("first", 0.8, "")]
    table = pd.DataFrame(rows, columns=["experiment", "balanced_accuracy.value", "remark"])
    assert _ranked(table)["experiment"].tolist() == ["first", "second", "best", "none"]


def test_the_table_says_how_far_the_costs_of_cosen_went(tiny_config, tmp_path):
    grid = {"loss.cost_rate": (0.0, 1.0)}
    still, moved = run(tiny_config, tmp_path, folds=[0], grid=grid).table.sort_values("settings").to_dict("records")
    assert still["training.largest_cost_ratio.value"] == 1
    assert still["remark"] == (
        "largest cost ratio ended at 1.00 in at least one training; below 2 CoSenLoss hardly acts"
    )
    (job,) = Experiment(tmp_path / moved["experiment"]).jobs
    last = pd.read_csv(job.path / "history.csv")["largest_cost_ratio"].iloc[-1]
    assert moved["training.largest_cost_ratio.value"] == pytest.approx(last)
    assert (moved["remark"] == "") == (last >= 2)


def test_the_best_on_inner_images_is_chosen_and_a_longer_grid_keeps_what_was_run(config, tmp_path):
    runs = tmp_path / "runs"
    tuning = run(config, runs, folds=[0, 2])
    table = tuning.table
    assert table["balanced_accuracy.value"].iloc[0] == table["balanced_accuracy.value"].max()
    assert json.loads(table["settings"].iloc[-1]) == {"training.learning_rate": 1e30}
    assert "is not finite" in table["failure"].iloc[-1]
    assert (table["failure"].iloc[:2] == "").all()
    best = Experiment(runs / table["experiment"].iloc[0])
    assert best.path.name.startswith("tiny.tune")
    assert best.record.scored == "inner"
    rate = best.record.config["training"]["learning_rate"]
    assert tuning.chosen == {"training.learning_rate": rate}
    scored = best.predictions()
    assert sorted(scored["fold"].unique()) == [0, 2]
    # The mean over classes of the share that is right, over the images of both models.
    right = (scored["label"] == scored["predicted"]).groupby(scored["label"]).mean().mean()
    assert table["balanced_accuracy.value"].iloc[0] == pytest.approx(right)

    written = pd.read_csv(runs / "tiny.tuning/tuning.csv")
    assert written["experiment"].tolist() == table["experiment"].tolist()
    chosen = yaml.safe_load((runs / "tiny.tuning/chosen.yaml").read_text())
    assert chosen["overrides"] == tuning.chosen
    assert (chosen["combinations"], chosen["folds"], chosen["seeds"]) == (3, [0, 2], [0])
    assert chosen["split_hash"] == best.record.split_hash

    before = {path: path.stat().st_mtime_ns for path in runs.glob("*/fold-*/metrics.json")}
    longer = run(config, runs, folds=[0, 2], grid={"training.learning_rate": (0.01, 0.02, 0.03)})
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert len(before) == 4
    assert set(table["experiment"].iloc[:2]) < set(longer.table["experiment"])
    with pytest.raises(DataError, match="this is the choice from another grid; run dermaffinity tune for this config"):
        read_chosen(read_config(config, QUICKLY), runs)


def test_equals_go_to_the_first_of_the_grid(tiny_config, tmp_path):
    tuning = run(tiny_config, tmp_path, folds=[0], grid={"training.weight_decay": (1e-9, 0.0)})
    assert tuning.table["balanced_accuracy.value"].nunique() == 1
    assert tuning.chosen == {"training.weight_decay": 1e-9}


def test_what_cannot_be_tuned_is_refused_before_anything_is_trained(tiny_config, tmp_path):
    with pytest.raises(ConfigError, match="tiny states no grid; add grid: to the config, or --grid"):
        run(tiny_config, tmp_path)
    with pytest.raises(ConfigError, match="some combinations of the grid give no valid config") as error:
        run(tiny_config, tmp_path, grid={"training.epochs": (1, 0, -1)})
    assert [problem.partition(": ")[0] for problem in error.value.problems] == [
        "training.epochs=0",
        "training.epochs=-1",
    ]
    with pytest.raises(DataError, match=r"no readable choice .* run dermaffinity tune"):
        read_chosen(read_config(tiny_config), tmp_path)
    assert not list(tmp_path.glob("*/experiment.json"))


def test_a_grid_of_which_nothing_trains_is_an_error(tiny_config, tmp_path):
    with pytest.raises(TrainingError, match="tiny: none of 1 combinations could be trained") as error:
        run(tiny_config, tmp_path, folds=[0], grid={"training.learning_rate": (1e30,)})
    assert "is not finite" in error.value.problems[0]
