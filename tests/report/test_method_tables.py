import json

import numpy as np
import pandas as pd

from dermaffinity.metrics.comparison import Comparison
from dermaffinity.metrics.ranks import Ranks
from dermaffinity.metrics.standings import Contest
from dermaffinity.report.method_tables import (
    measures_table,
    method_gains_table,
    ranks_table,
    resolution_table,
    tuning_table,
)
from dermaffinity.report.tables import markdown_table


def intervals(rows):
    return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"])


def test_measures_go_from_best_to_worst_and_end_with_what_failed():
    summaries = {
        "cosen": intervals({"balanced_accuracy": (0.5, 0.4, 0.6), "ece": (0.1, 0.05, 0.2)}),
        "affinity": intervals({"balanced_accuracy": (0.6, 0.5, 0.7), "ece.calibrated": (0.02, 0.01, 0.03)}),
    }
    table = measures_table(summaries, {"ldam": "without results: 3 jobs"})
    assert markdown_table(table).splitlines()[2:] == [
        "| affinity | 60.0 [50.0, 70.0] | – | 2.0 [1.0, 3.0] |",
        "| cosen | 50.0 [40.0, 60.0] | 10.0 [5.0, 20.0] | – |",
        "| ldam (without results: 3 jobs) | – | – | – |",
    ]


def test_gains_name_what_they_are_over_and_leave_out_what_there_is_not():
    gains = intervals({"gain.balanced_accuracy": (0.05, 0.01, 0.09), "gain.minority_recall": (-0.02, -0.1, 0.06)})
    tests = pd.DataFrame(
        {
            "test": ["sign_flip", "corrected_t", "sign_flip"],
            "metric": ["balanced_accuracy", "balanced_accuracy", "minority_recall"],
            "p": 0.5,
            "p_holm": [0.0004, np.nan, 0.25],
        }
    )
    contest = Contest({"affinity": "cosen"}, {"affinity": Comparison(gains, tests, 5, 3)}, pd.DataFrame())
    assert method_gains_table(contest).loc[("methods", "affinity")].to_dict() == {
        "Against": "cosen",
        "Balanced accuracy": "+5.0 [+1.0, +9.0]",
        "Minority recall": "-2.0 [-10.0, +6.0]",
        "Majority recall": "–",
        "p images": "< 0.001",
        "p training": "–",
        "p images, minority": "0.250",
    }


def test_the_resolution_is_in_points_and_counts_the_seeds():
    columns = ["against", "gain", "visible_images", "visible_training", "seeds_needed", "verdict"]
    rows = {
        "affinity": ("cosen", 0.05, 0.034, 0.08, 7.0, "better"),
        "softmax": ("cosen", -0.001, 0.034, 0.08, np.inf, "cannot be told apart"),
        "quick": ("cosen", 0.0, 0.034, np.nan, np.nan, "cannot be told apart"),
    }
    table = resolution_table(pd.DataFrame.from_dict(rows, orient="index", columns=columns))
    assert table.to_numpy().tolist() == [
        ["cosen", "+5.0", "3.4", "8.0", "7", "better"],
        ["cosen", "-0.1", "3.4", "8.0", "no number", "cannot be told apart"],
        ["cosen", "+0.0", "3.4", "–", "–", "cannot be told apart"],
    ]


def test_ranks_start_with_the_best():
    table = ranks_table(Ranks(pd.Series({"cosen": 2.0, "affinity": 1.0}), 3, np.nan, 0.5))
    assert table["Average rank"].to_dict() == {("methods", "affinity"): "1.00", ("methods", "cosen"): "2.00"}


def test_combinations_are_said_as_settings_and_the_first_is_chosen():
    rows = [
        {"settings": json.dumps({"loss.tau": 0.5, "training.learning_rate": 0.01}), "failure": "", "remark": ""},
        {"settings": json.dumps({"loss.tau": 1.0, "training.learning_rate": 0.01}), "failure": "", "remark": "froze"},
        {
            "settings": json.dumps({"loss.tau": 9.0, "training.learning_rate": 0.01}),
            "failure": "nan",
            "remark": "failed",
        },
    ]
    values = ((0.6, 0.5, 0.7), (0.5, 0.4, 0.6), (np.nan, np.nan, np.nan))
    for row, value in zip(rows, values, strict=True):
        row |= {f"balanced_accuracy.{bound}": one for bound, one in zip(("value", "low", "high"), value, strict=True)}
    table = tuning_table(pd.DataFrame(rows))
    assert table.index.get_level_values("row")[0] == "loss.tau=0.5, training.learning_rate=0.01"
    assert table["Balanced accuracy"].tolist() == ["60.0 [50.0, 70.0]", "50.0 [40.0, 60.0]", "–"]
    assert table[""].tolist() == ["chosen", "hardly acts", "failed"]
