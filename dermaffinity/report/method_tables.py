"""Tables with methods as rows, for many of them: a benchmark's and a tuning's.

`console_table` and `markdown_table` of `dermaffinity.report.tables` draw them.
"""

import json
from collections.abc import Mapping

import numpy as np
import pandas as pd

from dermaffinity.metrics.ranks import Ranks
from dermaffinity.metrics.standings import Contest
from dermaffinity.metrics.summary import Measured
from dermaffinity.report.tables import OVERALL, cell, p_value, percent_interval, training_rows, training_title

_GAINS = ("balanced_accuracy", "minority_recall", "majority_recall")
_MAIN = (*_GAINS, "worst_class_recall", "macro_auc", "ece")
MEASURES = {name: OVERALL[name] for name in _MAIN} | {"ece.calibrated": "After calibration"}
_P_VALUES = {
    ("sign_flip", "balanced_accuracy"): "p images",
    ("corrected_t", "balanced_accuracy"): "p training",
    ("sign_flip", "minority_recall"): "p images, minority",
}


def measures_table(summaries: Mapping[str, pd.DataFrame], failed: Mapping[str, str]) -> pd.DataFrame:
    """The main measures as `value [low, high]` in percent, best balanced accuracy first, failed methods last.

    Args:
        summaries: By method, index `metric` and columns `value`, `low`, `high`; `ece.calibrated` where there is one.
        failed: By method what went wrong, in a few words.

    Returns:
        Strings: a column a measure; index `part` and `row`, the method.
    """
    best_first = pd.Series({name: summary["value"]["balanced_accuracy"] for name, summary in summaries.items()})
    ordered = best_first.sort_values(ascending=False, kind="stable").index
    present = [name for name in MEASURES if any(name in summary.index for summary in summaries.values())]
    present += training_rows(summaries)
    rows = {}
    for method in ordered:
        known = summaries[method].reindex(present)[["value", "low", "high"]].to_numpy(float)
        rows["measured", method] = [cell(name, *interval) for name, interval in zip(present, known, strict=True)]
    for method, reason in failed.items():
        rows["failed", f"{method} ({reason})"] = ["–"] * len(present)
    return _table(rows, [MEASURES.get(name) or training_title(name) for name in present])


def seeds_table(measured: Mapping[str, Measured], tried: Mapping[str, int]) -> pd.DataFrame:
    """Mean and standard deviation over seeds, in percent, and how many combinations the method was tuned among.

    Args:
        measured: By method.
        tried: Combinations tried, by method; 0 for a config as it stands.
    """
    names = [name for name in ("balanced_accuracy", "minority_recall") if name in next(iter(measured.values())).by_seed]
    rows = {}
    for method, values in measured.items():
        spreads = [_mean_and_deviation(values.by_seed[name]) for name in names]
        rows["methods", method] = [*spreads, str(tried[method]) if tried[method] else "not tuned"]
    return _table(rows, [*(MEASURES[name] for name in names), "Settings tried"])


def method_gains_table(contest: Contest) -> pd.DataFrame:
    """Gains of each method over another one as `+value [low, high]` in percentage points, with adjusted p-values.

    Args:
        contest: One of `dermaffinity.metrics.standings.Standings`.
    """
    names = [f"gain.{name}" for name in _GAINS]
    rows = {}
    for method, comparison in contest.comparisons.items():
        p = comparison.tests.set_index(["test", "metric"])["p_holm"].reindex(list(_P_VALUES))
        gains = comparison.gains.reindex(names)[["value", "low", "high"]].to_numpy(float)
        cells = [percent_interval(value, low, high, "+") for value, low, high in gains]
        rows["methods", method] = [contest.against[method], *cells, *(p_value(one) for one in p)]
    return _table(rows, ["Against", *(MEASURES[name] for name in _GAINS), *_P_VALUES.values()])


def resolution_table(resolution: pd.DataFrame) -> pd.DataFrame:
    """What each comparison shows and could show: gains in percentage points, and the verdict.

    Args:
        resolution: See `dermaffinity.metrics.standings.resolution`.
    """
    rows = {}
    for method, row in resolution.iterrows():
        seeds = row["seeds_needed"]
        rows["methods", str(method)] = [
            row["against"],
            f"{100 * row['gain']:+z.1f}",
            _points(row["visible_images"]),
            _points(row["visible_training"]),
            "–" if np.isnan(seeds) else "no number" if np.isinf(seeds) else f"{seeds:.0f}",
            row["verdict"],
        ]
    columns = ["Against", "Gain", "Visible from: images", "Visible from: training", "Seeds for this gain", "Verdict"]
    return _table(rows, columns)


def ranks_table(ranks: Ranks) -> pd.DataFrame:
    """Average ranks, the best first."""
    ordered = ranks.average.sort_values(kind="stable")
    return _table({("methods", str(name)): [f"{rank:.2f}"] for name, rank in ordered.items()}, ["Average rank"])


def tuning_table(table: pd.DataFrame) -> pd.DataFrame:
    """The combinations of a grid, the best first, with their measures in percent.

    Args:
        table: See `dermaffinity.experiments.tune.Tuning`.
    """
    names = [column.removesuffix(".value") for column in table.columns.astype(str) if column.endswith(".value")]
    rows = {}
    for place, (_, row) in enumerate(table.iterrows()):
        intervals = ([row[f"{name}.{bound}"] for bound in ("value", "low", "high")] for name in names)
        cells = [cell(name, *interval) for name, interval in zip(names, intervals, strict=True)]
        settings = ", ".join(f"{key}={value}" for key, value in json.loads(row["settings"]).items())
        state = "failed" if row["failure"] else "chosen" if place == 0 else "hardly acts" if row["remark"] else ""
        rows["combinations", settings] = [*cells, state]
    return _table(rows, [*(MEASURES.get(name) or training_title(name) for name in names), ""])


def _table(rows: Mapping[tuple[str, str], list[str]], columns: list[str]) -> pd.DataFrame:
    index = pd.MultiIndex.from_tuples(list(rows), names=["part", "row"])
    return pd.DataFrame(list(rows.values()), index=index, columns=columns)


def _mean_and_deviation(values: np.ndarray) -> str:
    mean = f"{100 * values.mean():.1f}"
    return f"{mean} ± {100 * values.std(ddof=1):.1f}" if len(values) > 1 else f"{mean} (one seed)"


def _points(gain: float) -> str:
    return "–" if np.isnan(gain) else f"{100 * gain:.1f}"
