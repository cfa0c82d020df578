"""Figures of many methods at once, up to twenty: how they rank, what they trade, and how sure their values are."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dermaffinity.metrics.ranks import Ranks
from dermaffinity.metrics.standings import pareto_front
from dermaffinity.report.figures import METHOD_COLORS, _figure, _frame, _intervals, _rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GREY = "#666666"
_PALE = "#bbbbbb"


def critical_difference_figure(ranks: Ranks) -> "Figure":
    """Average ranks on a line, best to the left; a bar joins methods that differ by less than the critical difference.

    Source: Demšar, JMLR 7, 2006, Figure 1.

    Args:
        ranks: From `dermaffinity.metrics.ranks.average_ranks`.

    Examples:
        >>> import pandas as pd
        >>> from dermaffinity.metrics import average_ranks
        >>> from dermaffinity.report import critical_difference_figure
        >>> ranks = average_ranks(pd.DataFrame({"cosen": [0.60, 0.58, 0.61], "affinity": [0.64, 0.63, 0.62]}))
        >>> figure = critical_difference_figure(ranks)
    """
    ordered = ranks.average.sort_values(kind="stable")
    count, groups = len(ordered), ranks.groups()
    left, bars = (count + 1) // 2, 0.45 * len(groups)
    depth = bars + left + 0.6  # in rows below the line
    figure = _figure(9, 1.5 + 0.3 * depth)
    axes = figure.add_subplot()
    for place, (name, rank) in enumerate(ordered.items()):
        to_left = place < left
        row = bars + 0.8 + (place if to_left else count - 1 - place)
        end = 0.7 if to_left else count + 0.3
        axes.plot([rank, rank, end], [0, row, row], color=_GREY, linewidth=0.9, zorder=1)
        axes.plot(rank, 0, marker="o", markersize=5, color=METHOD_COLORS[0], zorder=3)
        axes.annotate(
            f"{name}  {rank:.2f}" if to_left else f"{rank:.2f}  {name}",
            (end, row),
            xytext=(-4 if to_left else 4, 0),
            textcoords="offset points",
            ha="right" if to_left else "left",
            va="center",
        )
    for index, group in enumerate(groups):
        height = 0.45 * (index + 1)
        reach = 0.005 * count  # so that a bar is seen to hold the lines at its ends
        axes.hlines(height, ordered[group[0]] - reach, ordered[group[-1]] + reach, color="black", linewidth=4, zorder=2)
    _rank_scale(axes, count, ranks)
    axes.set(xlim=(0.7, count + 0.3), ylim=(depth, -2.1))
    figure.suptitle(_rank_title(ranks), x=0.01, ha="left")
    return figure


def pareto_figure(summaries: Mapping[str, pd.DataFrame]) -> "Figure":
    """Minority recall against majority recall; methods that no other beats in both are joined by a line.

    Args:
        summaries: For each method its `Measured.summary`.

    Examples:
        >>> import pandas as pd
        >>> from dermaffinity.metrics import Classes, Measured, ScoredImages
        >>> from dermaffinity.report import pareto_figure
        >>> scored = ScoredImages.from_table(pd.read_csv("out_of_fold.csv"), Classes(("AK", "ML"), minority=("AK",)))
        >>> summary = Measured.of(scored, resamples=50).summary()
        >>> figure = pareto_figure({"cosen": summary, "affinity_plus": summary})
    """
    names = list(summaries)
    wanted = ["majority_recall", "minority_recall"]
    points = np.array([100 * summaries[name].loc[wanted, "value"].to_numpy(float) for name in names])  # (k, 2)
    front = pareto_front(points)
    figure = _figure(8, max(4.6, 1.6 + 0.32 * len(names)))
    axes = figure.add_subplot()
    steps = points[front][np.argsort(points[front, 0])]
    axes.plot(*steps.T, color=METHOD_COLORS[1], linewidth=1.2, drawstyle="steps-pre", zorder=1)
    for chosen, color, label in ((front, METHOD_COLORS[1], "no other is better in both"), (~front, _GREY, "beaten")):
        if chosen.any():
            axes.scatter(points[chosen, 0], points[chosen, 1], s=42, color=color, label=label, zorder=3)
    span = np.maximum(np.ptp(points, axis=0), 2.0)
    low, high = points.min(axis=0) - 0.08 * span, points.max(axis=0) + 0.08 * span
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    _labels_beside(axes, names, points, front, (points[:, 1] - low[1]) / (high - low)[1])
    axes.set(xlabel="majority recall, %", ylabel="minority recall, %")
    _frame(figure, axes, "What methods trade: common classes against rare ones")
    axes.grid(color="#eeeeee")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def forest_figure(summaries: Mapping[str, pd.DataFrame], external: Mapping[str, pd.DataFrame], images: str) -> "Figure":
    """Balanced accuracy of each method with its interval, the best at the top; external images below where scored.

    Args:
        summaries: For each method its `Measured.summary`.
        external: The same for the external images, for any of these methods.
        images: What the first are for, in words.

    Examples:
        >>> import pandas as pd
        >>> from dermaffinity.metrics import Classes, Measured, ScoredImages
        >>> from dermaffinity.report import forest_figure
        >>> scored = ScoredImages.from_table(pd.read_csv("out_of_fold.csv"), Classes(("AK", "ML")))
        >>> summary = Measured.of(scored, resamples=50).summary()
        >>> figure = forest_figure({"cosen": summary, "affinity_plus": summary}, {}, "out-of-fold images")
    """
    values = {name: summary.loc["balanced_accuracy"] for name, summary in summaries.items()}
    names = sorted(values, key=lambda name: -values[name]["value"])
    figure = _figure(8, 1.7 + len(names) * (0.42 if external else 0.3))
    axes = figure.add_subplot()
    offset = 0.17 if external else 0.0
    own = pd.DataFrame([values[name] for name in names]) * 100
    _intervals(axes, own, np.arange(len(names)) - offset, 0, images)
    if external:
        scored = [index for index, name in enumerate(names) if name in external]
        rows = pd.DataFrame([external[names[index]].loc["balanced_accuracy"] for index in scored]) * 100
        _intervals(axes, rows, np.array(scored) + offset, 1, "external images, mean of the folds' models")
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
    axes.set_xlabel("balanced accuracy, % (95 % interval)")
    _rows(axes, names)
    _frame(figure, axes, "Balanced accuracy" if external else f"Balanced accuracy, {images}")
    return figure


def _rank_scale(axes: "Axes", count: int, ranks: Ranks) -> None:
    axes.hlines(0, 1, count, color="black", linewidth=1.2)
    for rank in range(1, count + 1):
        axes.vlines(rank, -0.25, 0, color="black", linewidth=1)
        axes.text(rank, -0.4, str(rank), ha="center", va="bottom", fontsize=9)
    if ranks.critical_difference <= count - 1:  # not where it is NaN, or would not fit
        end = 1 + ranks.critical_difference
        axes.plot([1, end], [-1.5, -1.5], color="black", linewidth=1.5, marker="|", markersize=9)
        text = f"  critical difference {ranks.critical_difference:.2f}"
        axes.text(end, -1.5, text, ha="left", va="center", fontsize=9)
    axes.set_axis_off()


def _rank_title(ranks: Ranks) -> str:
    title = f"Average rank over {ranks.blocks} folds, 1 is best"
    if np.isnan(ranks.critical_difference):
        return title.replace("1 folds", "one result")
    if ranks.critical_difference > len(ranks.average) - 1:
        return f"{title}; the critical difference of {ranks.critical_difference:.2f} joins all"
    return f"{title}; bars join what cannot be told apart"


def _labels_beside(axes: "Axes", names: list[str], points: np.ndarray, bold: np.ndarray, heights: np.ndarray) -> None:
    """Names in a column to the right, at their points' heights as far as they fit, with a line to each point."""
    order = np.argsort(heights, kind="stable")
    placed = _spread(heights[order], min(1 / 14, 0.8 / max(len(names) - 1, 1)))
    for index, height in zip(order, placed, strict=True):
        axes.annotate(
            names[index],
            points[index],
            xytext=(1.04, height),
            textcoords="axes fraction",
            va="center",
            fontweight="bold" if bold[index] else "normal",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": _PALE, "linewidth": 0.7, "shrinkB": 4, "relpos": (0, 0.5)},
        )


def _spread(heights: np.ndarray, distance: float) -> np.ndarray:
    """Rising heights in [0, 1], moved apart to some distance, which must leave room for all."""
    from scipy.optimize import isotonic_regression

    least = distance * np.arange(len(heights))
    placed = isotonic_regression(heights - least).x  # as near to the heights as can be
    return np.clip(placed, 0, 1 - least[-1]) + least
