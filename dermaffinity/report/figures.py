"""Figures of one method or several. Each function returns a matplotlib figure and leaves saving it to the caller.

No function touches matplotlib's global state, so that they work in any thread and beside a user's own plots.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dermaffinity.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import LayoutEngine

# Okabe and Ito's palette, which readers with any kind of color vision can tell apart; black and yellow left out.
METHOD_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_LINES = ("-", "--", ":")
_GREY = "#666666"
_PANEL_COLUMNS = 3


def confusion_figure(matrix: np.ndarray, classes: Sequence[str], title: str) -> "Figure":
    """A confusion matrix: counts in the cells, colored by their share of the true class.

    Args:
        matrix: (C, C), images of each true class (rows) by predicted class.
        classes: The C class codes.
        title: Shown above.

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.report import confusion_figure
        >>> figure = confusion_figure(np.array([[50, 15], [20, 56]]), ("df", "mel"), "hamfit-7")
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['df (65)', 'mel (76)']
    """
    size = 2.4 + 0.62 * len(classes)
    figure = _figure(size + 1.2, size)
    axes = figure.add_subplot()
    matrix = np.asarray(matrix)
    totals = matrix.sum(axis=1)
    share = 100 * matrix / np.maximum(totals, 1)[:, None]
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    for (row, column), count in np.ndenumerate(matrix):
        color = "white" if share[row, column] > 55 else "black" if count else "#b0b0b0"
        axes.text(column, row, f"{count:g}", ha="center", va="center", color=color, fontsize=10)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(classes)), [f"{name} ({total:g})" for name, total in zip(classes, totals, strict=True)])
    axes.set(xlabel="predicted class", ylabel="true class (images)")
    axes.set_title(title, loc="left")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.8, label="% of the true class")
    return figure


def recall_figure(summaries: Mapping[str, pd.DataFrame], class_counts: Mapping[str, int], title: str) -> "Figure":
    """Recall of each class with its interval, methods side by side, the most frequent class at the top.

    Args:
        summaries: For each method its `Measured.summary`.
        class_counts: Images of each class.
        title: Shown above.

    Examples:
        >>> import pandas as pd
        >>> from dermaffinity.metrics import Classes, Measured, ScoredImages
        >>> from dermaffinity.report import recall_figure
        >>> scored = ScoredImages.from_table(pd.read_csv("out_of_fold.csv"), Classes(("AK", "ML")))
        >>> summary = Measured.of(scored, resamples=50).summary()
        >>> figure = recall_figure({"softmax": summary, "cosen": summary}, {"AK": 4, "ML": 4}, "recall of each class")
        >>> figure.axes[0].get_xlabel()
        "recall, % of the class's images (95 % interval)"
    """
    classes = _most_frequent_first(class_counts)
    rows = {name: 100 * summary.loc[[f"recall.{code}" for code in classes]] for name, summary in summaries.items()}
    figure, axes = _side_by_side(rows, list(classes.values()), title)
    axes.set(xlim=(0, 100), xlabel="recall, % of the class's images (95 % interval)")
    return figure


def gain_figure(gains: Mapping[str, pd.DataFrame], baseline: str, class_counts: Mapping[str, int]) -> "Figure":
    """Gains over the baseline with their intervals, in percentage points: to the right of zero the method is better.

    Args:
        gains: For each method the `gains` of `dermaffinity.metrics.comparison.compare`.
        baseline: Name of the method they are measured against.
        class_counts: Images of each class.

    Examples:
        >>> import pandas as pd
        >>> from dermaffinity.metrics import Classes, Measured, ScoredImages, compare
        >>> from dermaffinity.report import gain_figure
        >>> scored = ScoredImages.from_table(pd.read_csv("out_of_fold.csv"), Classes(("AK", "ML")))
        >>> measured = Measured.of(scored, resamples=50)
        >>> figure = gain_figure({"affinity_plus": compare(measured, measured).gains}, "cosen", {"AK": 4, "ML": 4})
        >>> len(figure.axes)
        1
    """
    classes, present = _most_frequent_first(class_counts), next(iter(gains.values())).index
    overall = [name for name in ("minority_recall", "balanced_accuracy", "accuracy") if f"gain.{name}" in present]
    labels = classes | {name: name.replace("_", " ") for name in overall}
    rows = {method: 100 * table.loc[[f"gain.{name}" for name in labels]] for method, table in gains.items()}
    # In a recall figure that starts with the baseline, each method then has the same color as here.
    figure, axes = _side_by_side(rows, list(labels.values()), f"Gain over {baseline}", first_color=1)
    # Symmetric, so that zero and the words below it stand in the middle.
    reach = max(1.0, *(105 * float(np.nanmax(np.abs(table.to_numpy()))) for table in gains.values()))
    axes.set_xlim(-reach, reach)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_xlabel(f"← worse than {baseline}   |   better than {baseline} →\ngain, percentage points (95 % interval)")
    axes.axhline(len(classes) - 0.5, color=_GREY, linewidth=1)
    return figure


def reliability_figure(bins: Mapping[str, pd.DataFrame], title: str) -> "Figure":
    """Accuracy against confidence, with the number of images behind each bin below.

    Args:
        bins: For each curve's name what `dermaffinity.metrics.reliability.reliability_bins` returns.
        title: Shown above.

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.metrics import reliability_bins
        >>> from dermaffinity.report import reliability_figure
        >>> bins = reliability_bins(np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]]))
        >>> figure = reliability_figure({"affinity_plus": bins}, "how far to trust the probabilities")
        >>> figure.axes[0].get_ylabel()
        'share that is right'
    """
    figure = _figure(5.4, 6.4)
    axes, histogram = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1, label="perfectly calibrated")
    for index, (name, curve) in enumerate(bins.items()):
        color, filled = METHOD_COLORS[index], curve[curve["images"] > 0]
        axes.plot(filled["confidence"], filled["accuracy"], marker=_MARKERS[index], color=color, label=name)
        share = (curve["high"] - curve["low"]) * 0.9 / len(bins)  # the curves' bars stand side by side
        left = curve["low"] + 0.05 * (curve["high"] - curve["low"]) + index * share
        histogram.bar(left, curve["images"], width=share, align="edge", color=color)
    axes.set(ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
    histogram.set(xlabel="confidence: probability of the predicted class", ylabel="images")
    histogram.spines[["top", "right"]].set_visible(False)
    _frame(figure, axes, title)
    # Below: inside it would lie on the curve of a model that is unsure and right.
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=_columns(labels, 50), frameon=False)
    return figure


def history_figure(history: pd.DataFrame, title: str) -> "Figure":
    """How training went: one small panel per measured quantity, over epochs.

    Args:
        history: One row per epoch (and fold and seed): the column `epoch`, if there are several runs `fold` and `seed`,
            and one numeric column for each quantity.
        title: Shown above.

    Examples:
        >>> import pandas as pd
        >>> from dermaffinity.report import history_figure
        >>> history = pd.DataFrame({"epoch": [0, 1, 2], "loss": [1.2, 0.8, 0.7]})
        >>> figure = history_figure(history, "training")
        >>> len(figure.axes)
        1
    """
    runs = [name for name in ("fold", "seed") if name in history and history[name].nunique() > 1]
    measured = (
        history.select_dtypes("number")
        .drop(columns=["epoch", "fold", "seed"], errors="ignore")
        .dropna(axis=1, how="all")
    )
    figure, panels = _panels(len(measured.columns), (1, 3), (1, 2.2))
    parts = list(history.groupby(runs)) if runs else [((), history)]
    for axes, name in zip(panels, measured, strict=True):
        for index, (key, part) in enumerate(parts):
            part = part.dropna(subset=[name]).sort_values("epoch")
            label = ", ".join(f"{run} {value}" for run, value in zip(runs, key, strict=True))
            # A dot where a line of one epoch would be invisible.
            marker = "." if len(part) < 10 else ""
            axes.plot(
                part["epoch"],
                part[name],
                label=label,
                marker=marker,
                color=METHOD_COLORS[index % len(METHOD_COLORS)],
                linestyle=_LINES[index // len(METHOD_COLORS) % len(_LINES)],
                linewidth=1.2,
            )
        axes.set_title(str(name).replace("_", " "), loc="left", fontsize=10)
        axes.set_xlabel("epoch")
        axes.locator_params(axis="x", integer=True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#eeeeee")
    figure.suptitle(title, x=0.01, ha="left")
    if runs:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return figure


def roc_figure(
    curves: Mapping[str, Mapping[str, pd.DataFrame]], summary: pd.DataFrame, of: str, class_counts: Mapping[str, int]
) -> "Figure":
    """One panel for each class against the rest, the most frequent class first, with the AUC and its interval.

    Args:
        curves: For each method and class what `dermaffinity.metrics.curves.roc_curve` returns.
        summary: The `Measured.summary` of the method whose AUCs are written.
        of: Name of that method; it is drawn on top.
        class_counts: Images of each class.

    Examples:
        >>> import pandas as pd
        >>> from dermaffinity.metrics import Classes, Measured, ScoredImages, roc_curve
        >>> from dermaffinity.report import roc_figure
        >>> table, classes = pd.read_csv("out_of_fold.csv"), Classes(("AK", "ML"))
        >>> summary = Measured.of(ScoredImages.from_table(table, classes), resamples=50).summary()
        >>> label, fold = table["label"].to_numpy(), table["fold"].to_numpy()
        >>> curves = {name: roc_curve(label == name, table[f"p.{name}"].to_numpy(), fold) for name in classes.names}
        >>> figure = roc_figure({"cosen": curves}, summary, "cosen", {"AK": 4, "ML": 4})
        >>> len(figure.axes)
        2
    """
    classes = _most_frequent_first(class_counts)
    figure, panels = _panels(len(classes), (0.6, 2.45), (0.7, 2.6), shared=True)
    for axes, name in zip(panels, classes, strict=True):
        axes.plot([0, 1], [0, 1], color=_GREY, linestyle=":", linewidth=1)
        for index, (method, by_class) in enumerate(curves.items()):
            color, line = METHOD_COLORS[index % len(METHOD_COLORS)], "-" if method == of else "--"
            curve = by_class[name]
            order = 3 if method == of else 2
            axes.plot(
                curve["false_positive_rate"], curve["true_positive_rate"], color=color, linestyle=line, label=method,
                linewidth=1.6, zorder=order,
            )  # fmt: skip
        value, low, high = summary.loc[f"auc.{name}", ["value", "low", "high"]].to_numpy(float)
        text = "no images" if np.isnan(value) else f"AUC {100 * value:.1f}\n[{100 * low:.1f}, {100 * high:.1f}]"
        axes.text(0.97, 0.05, text, ha="right", va="bottom", fontsize=9)
        axes.set_title(f"{name}\nn = {class_counts[name]}", loc="left", fontsize=9)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
    for axes in panels[-_PANEL_COLUMNS:]:
        axes.tick_params(labelbottom=True)  # the lowest of its column, even where the last row is not full
    figure.supxlabel("1 − specificity", fontsize=10)
    figure.supylabel("sensitivity", fontsize=10)
    if len(curves) > 1:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(curves), frameon=False)
    return figure


def coverage_figure(curves: Mapping[str, pd.DataFrame]) -> "Figure":
    """Share of right answers against the share of images answered, the surest first.

    Args:
        curves: For each way to tell the sure from the unsure what `dermaffinity.metrics.curves.coverage_curve` returns.

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.metrics import coverage_curve
        >>> from dermaffinity.report import coverage_figure
        >>> curve = coverage_curve(np.array([1, 1, 0, 1]), unsureness=np.array([0.1, 0.2, 0.7, 0.4]))
        >>> coverage_figure({"by confidence": curve}).axes[0].get_xlabel()
        'images answered, %'
    """
    figure = _figure(5.4, 4.2)
    axes = figure.add_subplot()
    lowest = 100.0
    for index, (name, curve) in enumerate(curves.items()):
        # The first few images say nothing, and swing wildly.
        steady = 100 * curve.loc[curve["coverage"] >= 0.05, ["coverage", "accuracy"]]
        axes.plot(
            steady["coverage"], steady["accuracy"], color=METHOD_COLORS[index], linestyle=_LINES[index], label=name
        )
        lowest = min(lowest, float(steady["accuracy"].min()))
    axes.axhline(100 * float(next(iter(curves.values()))["accuracy"].iloc[-1]), color=_GREY, linestyle=":", linewidth=1)
    axes.set(xlabel="images answered, %", ylabel="right among those answered, %")
    axes.set(xlim=(0, 100), ylim=(max(0.0, 10 * np.floor(lowest / 10 - 0.3)), 101))
    axes.grid(color="#eeeeee")
    _frame(figure, axes, "")
    _legend_below(figure, list(curves))
    return figure


def decision_figure(curve: pd.DataFrame) -> "Figure":
    """Net benefit of a model against acting on every image and on none.

    Args:
        curve: What `dermaffinity.metrics.operating.decision_curve` returns.

    Examples:
        >>> import pandas as pd
        >>> from dermaffinity.report import decision_figure
        >>> curve = pd.DataFrame({"threshold": [0.1, 0.2], "value": 0.1, "low": 0.0, "high": 0.2, "all": [0.1, -0.1]})
        >>> [text.get_text() for text in decision_figure(curve).axes[0].get_legend().get_texts()]
        ['model', 'act on all', 'act on none']
    """
    figure = _figure(5.4, 4.2)
    axes = figure.add_subplot()
    risk = 100 * curve["threshold"]
    axes.plot(risk, curve["value"], color=METHOD_COLORS[0], label="model")
    axes.fill_between(risk, curve["low"], curve["high"], color=METHOD_COLORS[0], alpha=0.2, linewidth=0)
    axes.plot(risk, curve["all"], color=METHOD_COLORS[1], linestyle="--", label="act on all")
    axes.axhline(0, color=_GREY, linestyle=":", label="act on none")
    top = max(float(curve["high"].max()), float(curve["all"].max()))
    axes.set(xlabel="risk from which on one would act, %", ylabel="net benefit, true positives per image")
    axes.set(xlim=(0, float(risk.max())), ylim=(-0.2 * top, 1.05 * top))
    axes.legend(loc="upper right", frameon=False)
    axes.grid(color="#eeeeee")
    _frame(figure, axes, "")
    return figure


def embedding_figure(
    points: np.ndarray,
    labels: np.ndarray,
    right: np.ndarray,
    centers: np.ndarray,
    classes: Sequence[str],
    shares: Sequence[float],
) -> "Figure":
    """Embeddings in the plane of their two main directions, with the centers of each class.

    Args:
        points: (N, 2), the images.
        labels: (N,), class indices.
        right: (N,) bool, whether an image is predicted right; others are drawn hollow.
        centers: (C, M, 2).
        classes: The C class codes.
        shares: The share of the variance along either direction, in [0, 1].
    """
    figure = _figure(6.4, 6.0)
    axes = figure.add_subplot()
    for index, name in enumerate(classes):
        color = METHOD_COLORS[index % len(METHOD_COLORS)]
        # Another marker in the second round of colors.
        marker = _MARKERS[(index + index // len(METHOD_COLORS)) % len(_MARKERS)]
        for chosen, face in (((labels == index) & right, color), ((labels == index) & ~right, "none")):
            axes.scatter(
                points[chosen, 0], points[chosen, 1], s=16, marker=marker, facecolors=face, edgecolors=color,
                linewidths=0.9,
            )  # fmt: skip
        axes.scatter(
            centers[index, :, 0], centers[index, :, 1], s=120, marker=marker, facecolors=color, edgecolors="black",
            linewidths=1.8, label=name, zorder=3,
        )  # fmt: skip
    axes.set(xticks=(), yticks=())
    axes.set_xlabel(f"first main direction, {100 * shares[0]:.0f} % of the variance")
    axes.set_ylabel(f"second, {100 * shares[1]:.0f} %")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=_columns(classes, 50), frameon=False, markerscale=0.7)
    return figure


def curve_figure(
    curves: Mapping[str, pd.DataFrame],
    *,
    x_label: str,
    y_label: str,
    title: str,
    published: tuple[float, float] | None = None,
) -> "Figure":
    """A measure against a setting, one curve a method, each with a band.

    Args:
        curves: For each method the columns `x`, `value`, `low`, `high`; rows with a missing value leave a gap.
        x_label: The setting.
        y_label: The measure.
        title: Shown above.
        published: The range of the setting that a publication finds best, to be shaded.
    """
    figure = _figure(7, 4.6)
    axes = figure.add_subplot()
    for index, (name, curve) in enumerate(curves.items()):
        curve, color = curve.sort_values("x"), METHOD_COLORS[index % len(METHOD_COLORS)]
        axes.plot(curve["x"], curve["value"], marker=_MARKERS[index % len(_MARKERS)], color=color, label=name)
        axes.fill_between(curve["x"], curve["low"], curve["high"], color=color, alpha=0.2, linewidth=0)
    if published is not None:
        axes.axvspan(*published, color="#dddddd", zorder=0, label="best in the publication")
    values = np.unique(np.concatenate([curve["x"].to_numpy(float) for curve in curves.values()]))
    # A ratio of settings, such as 0.1 to 50, is read as steps only on a logarithmic scale.
    if values.min() > 0 and values.max() / values.min() > 10:
        axes.set_xscale("log")
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.minorticks_off()
    axes.set(xlabel=x_label, ylabel=y_label)
    _frame(figure, axes, title)
    axes.grid(axis="y", color="#eeeeee")
    figure.legend(loc="outside lower center", ncols=len(curves) + 1, frameon=False)
    return figure


def rows_figure(measured: Mapping[str, pd.DataFrame], *, x_label: str, title: str) -> "Figure":
    """A measure in several rows, such as those of a table, with its range; methods side by side.

    Args:
        measured: For each method the columns `value`, `low`, `high`; the same index, the rows' names, for each.
        x_label: The measure.
        title: Shown above.
    """
    figure, axes = _side_by_side(measured, list(next(iter(measured.values())).index), title)
    axes.set_xlabel(x_label)
    return figure


def plane_figure(
    embeddings: Mapping[str, tuple[np.ndarray, np.ndarray]], classes: Sequence[str], rare: Sequence[str], title: str
) -> "Figure":
    """Two-dimensional embeddings, one panel a method, one color a class, each class named at its mean.

    Args:
        embeddings: For each method the points (N, 2) and their class indices (N,).
        classes: The C class codes.
        rare: Those whose points are drawn as triangles.
        title: Shown above.
    """
    from matplotlib import colormaps

    figure = _figure(4.2 * len(embeddings), 4.8)
    for axes, (method, (points, labels)) in zip(
        figure.subplots(1, len(embeddings), squeeze=False).flat, embeddings.items(), strict=True
    ):
        for index, name in enumerate(classes):
            own = points[labels == index]
            marker = "^" if name in rare else "."
            axes.scatter(*own.T, s=6, marker=marker, color=colormaps["tab10"](index % 10), alpha=0.5, linewidth=0)
        for index, name in enumerate(classes):
            box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0}
            axes.annotate(name, points[labels == index].mean(axis=0), ha="center", va="center", bbox=box)
        axes.set_title(method, loc="left")
        axes.set_aspect("equal", adjustable="datalim")
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def verification_figure(
    curves: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]], impostors: int, title: str
) -> "Figure":
    """ROC of each method: the mean over seeds, and the band from the worst to the best seed.

    Args:
        curves: For each method one (false accept rates, true accept rates) a seed, rising.
        impostors: Number of impostor pairs; the axis starts where one of them is accepted.
        title: Shown above.
    """
    figure = _figure(6, 5)
    axes = figure.add_subplot()
    rates = np.geomspace(1 / impostors, 1, 400)
    for index, (method, seeds) in enumerate(curves.items()):
        color, line = METHOD_COLORS[index % len(METHOD_COLORS)], _LINES[index // len(METHOD_COLORS) % len(_LINES)]
        # A rate between two points is that of the point before: no threshold gives more.
        accepted = np.array([tar[np.searchsorted(far, rates + 1e-12, side="right") - 1] for far, tar in seeds])
        axes.fill_between(rates, accepted.min(axis=0), accepted.max(axis=0), color=color, alpha=0.2, linewidth=0)
        axes.plot(rates, accepted.mean(axis=0), color=color, linestyle=line, label=method)
    axes.set(xscale="log", xlim=(rates[0], 1), ylim=(0, 1.02))
    axes.set(xlabel=f"false accept rate ({impostors:,} impostor pairs)", ylabel="true accept rate")
    _frame(figure, axes, title)
    _legend_below(figure, list(curves))
    return figure


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG, atomically; the folder is made if need be.

    Examples:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from dermaffinity.report import confusion_figure, save_figure
        >>> save_figure(confusion_figure(np.eye(2), ("df", "mel"), "hamfit-7"), Path("confusion.png"))
        >>> Path("confusion.png").exists()
        True
    """
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png")


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout=_layout())
    FigureCanvasAgg(figure)
    return figure


def _layout() -> "LayoutEngine":
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)


def _most_frequent_first(class_counts: Mapping[str, int]) -> dict[str, str]:
    """What figures call each class: its code and its images."""
    return {
        name: f"{name}  n = {class_counts[name]}" for name in sorted(class_counts, key=lambda name: -class_counts[name])
    }


def _side_by_side(
    measured: Mapping[str, pd.DataFrame], labels: Sequence[str], title: str, first_color: int = 0
) -> "tuple[Figure, Axes]":
    """Intervals of several methods, whose tables have one row for each label, side by side."""
    figure = _figure(8, 1.6 + len(labels) * (0.22 + 0.15 * len(measured)))
    axes = figure.add_subplot()
    for index, (method, rows) in enumerate(measured.items()):
        offset = 0.7 * ((index + 0.5) / len(measured) - 0.5)
        _intervals(axes, rows, np.arange(len(labels)) + offset, first_color + index, method)
    _rows(axes, labels)
    _frame(figure, axes, title)
    _legend_below(figure, list(measured))
    return figure, axes


def _panels(
    number: int, width: tuple[float, float], height: tuple[float, float], *, shared: bool = False
) -> "tuple[Figure, list[Axes]]":
    """Panels in rows of three; ``width`` and ``height`` in inches are that of the frame and of each panel."""
    columns = min(_PANEL_COLUMNS, number)
    rows = -(-number // columns)
    figure = _figure(width[0] + width[1] * columns, height[0] + height[1] * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared)
    for axes in grid.flat[number:]:
        axes.set_visible(False)
    return figure, list(grid.flat[:number])


def _intervals(axes: "Axes", rows: pd.DataFrame, positions: np.ndarray, index: int, label: str) -> None:
    color, marker = METHOD_COLORS[index % len(METHOD_COLORS)], _MARKERS[index % len(_MARKERS)]
    axes.hlines(positions, rows["low"], rows["high"], color=color, linewidth=2)
    axes.plot(rows["value"], positions, linestyle="none", marker=marker, markersize=6, color=color, label=label)


def _rows(axes: "Axes", labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    for boundary in range(1, len(labels)):
        axes.axhline(boundary - 0.5, color="#dddddd", linewidth=0.8)


def _frame(figure: "Figure", axes: "Axes", title: str) -> None:
    figure.suptitle(title, x=0.01, ha="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)


def _legend_below(figure: "Figure", names: Sequence[str]) -> None:
    # Below the plot: inside it would lie on some interval. Long names share two columns.
    columns = len(names) if sum(map(len, names)) <= 60 else 2
    figure.legend(loc="outside lower center", ncols=columns, frameon=False)


def _columns(names: Sequence[str], letters: int) -> int:
    """Columns of a legend whose rows hold some letters."""
    return max(1, min(len(names), letters // (4 + max(map(len, names)))))
