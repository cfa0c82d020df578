"""One page about one image, for a reader who knows skin and not networks."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from dermaffinity.explanation.explanation import Explanation

_WIDTH = 9.0  # inches
_IN_SET, _OUT_OF_SET, _ALARM, _GREY = "#0072B2", "#B5CFE0", "#D55E00", "#666666"
# Below this loss of probability the map's colors stay pale: noise must not look like a finding.
_FAINTEST_SCALE = 0.05


def explanation_sheet(explanation: "Explanation", thumbnails: Sequence[np.ndarray]) -> "Figure":
    """Prediction, image, what it hangs on, probabilities, distances, doubt and nearest training images on one page.

    Args:
        explanation: Of one image.
        thumbnails: (S, S, 3) uint8 of each of its examples, or none.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bars = 1.0 + 0.3 * len(explanation.classes)
    last = 2.3 if thumbnails else 0.55 + 0.2 * (0 if explanation.examples is None else len(explanation.examples))
    heights = [1.05, 4.3, bars, 1.35, last, 0.4]
    figure = Figure(figsize=(_WIDTH, sum(heights)), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    head, images, classes, doubt, examples, foot = figure.subfigures(6, 1, height_ratios=heights)
    _headline(head, explanation)
    _images(images, explanation)
    _classes(classes, explanation)
    _doubt(doubt, explanation)
    _examples(examples, explanation, thumbnails)
    foot.text(0.02, 0.5, _wrapped(explanation.intended_use, 110), va="center", fontsize=9, weight="bold")
    return figure


def _headline(part: "SubFigure", explanation: "Explanation") -> None:
    share = explanation.probabilities.max()
    inside = ", ".join(explanation.prediction_set) or "none: it is unlike all of them"
    part.text(0.02, 0.93, f"{explanation.predicted}, {_percent(share)}", va="top", fontsize=17, weight="bold")
    lines = [f"Classes it may well be ({100 * explanation.coverage:g} % set): {inside}"]
    if explanation.disagreement > 0:
        lines.append(f"{_percent(explanation.disagreement)} of the classifier's networks name another class.")
    part.text(0.02, 0.5, "\n".join(_wrapped(line, 105) for line in lines), va="top", fontsize=10)
    part.text(0.98, 0.93, _wrapped(explanation.name, 30), va="top", ha="right", fontsize=9, color=_GREY)


def _images(part: "SubFigure", explanation: "Explanation") -> None:
    plain, overlay = part.subplots(1, 2)
    plain.imshow(explanation.image)
    plain.set_title("What the classifier sees", loc="left", fontsize=11)
    lost, top = explanation.saliency, max(_FAINTEST_SCALE, float(explanation.saliency.max()))
    grey = explanation.image.mean(axis=2)
    overlay.imshow(grey, cmap="gray", vmin=0, vmax=255)
    overlay.imshow(lost, cmap="inferno", vmin=0, vmax=top, alpha=0.75 * lost / top)
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    overlay.set_title("Where it looks", loc="left", fontsize=11)
    colors = ScalarMappable(Normalize(0, 100 * top), cmap="inferno")
    bar = part.colorbar(colors, ax=overlay, shrink=0.8)
    bar.set_label(
        f"lost of the {_percent(explanation.probabilities.max())} when\nthe spot is covered, percentage points"
    )
    for axes in (plain, overlay):
        axes.set_axis_off()


def _classes(part: "SubFigure", explanation: "Explanation") -> None:
    from matplotlib.patches import Patch

    order = np.argsort(-explanation.probabilities, kind="stable")
    names = [explanation.classes[index] for index in order]
    bars, near = part.subplots(1, 2, sharey=True)
    percents = 100 * explanation.probabilities[order]
    colors = [_IN_SET if name in explanation.prediction_set else _OUT_OF_SET for name in names]
    bars.barh(range(len(names)), percents, color=colors, height=0.7)
    for row, percent in enumerate(percents):
        bars.text(percent + 1.5, row, _percent(percent / 100), va="center", fontsize=9)
    bars.set(xlim=(0, 118), xticks=range(0, 101, 25), xlabel="probability, %")
    bars.set_yticks(range(len(names)), [_wrapped(name, 28) for name in names])
    bars.set_ylim(len(names) - 0.5, -0.5)
    key = [Patch(color=_IN_SET, label="in the set"), Patch(color=_OUT_OF_SET, label="not in it")]
    bars.legend(handles=key, loc="lower right", fontsize=8, frameon=False)
    bars.set_title("How likely each class is", loc="left", fontsize=11)

    centers = explanation.centers
    mean = centers.groupby("class")["doubt"].mean()
    row_of = {name: row for row, name in enumerate(names)}
    near.plot(centers["doubt"], centers["class"].map(row_of), "o", color=_IN_SET, alpha=0.35, markersize=5)
    near.plot(mean, [row_of[name] for name in mean.index], "|", color="black", markersize=13, markeredgewidth=2)
    near.set_xlabel("doubt if it were this class (dots: networks; bar: mean)")
    near.set_title("How far its nearest center is", loc="left", fontsize=11)
    for axes in (bars, near):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#eeeeee")
        axes.set_axisbelow(True)


def _doubt(part: "SubFigure", explanation: "Explanation") -> None:
    axes = part.subplots()
    doubt, limit = explanation.doubt, explanation.doubt_limit
    low, high = min(-2.5, doubt - 0.5), max(limit + 2.0, doubt + 0.5)
    color = _ALARM if explanation.doubtful else _IN_SET
    axes.axvspan(limit, high, color=_ALARM, alpha=0.18, linewidth=0)
    axes.axvline(limit, color=_ALARM, linewidth=1.5)
    axes.plot([doubt], [0], "v", color=color, markersize=13, clip_on=False)
    axes.set(xlim=(low, high), ylim=(-0.5, 1), yticks=[], xlabel=f"doubt {doubt:.2f}, limit {limit:.2f}")
    axes.spines[["top", "right", "left"]].set_visible(False)
    words = (
        "Doubt is above its limit: the image is unlike what the classifier learned from. Do not rely on its classes."
        if explanation.doubtful
        else "Doubt is below its limit: the image looks like those that the classifier learned from."
    )
    axes.set_title(words, loc="left", fontsize=11, color=color)


def _examples(part: "SubFigure", explanation: "Explanation", thumbnails: Sequence[np.ndarray]) -> None:
    if explanation.examples is None:
        part.text(0.02, 0.7, "This classifier was saved without training examples.", fontsize=10, color=_GREY)
        return
    part.suptitle(
        "Training images that look most alike to it (0: the same, 1: median training image)",
        x=0.02, ha="left", fontsize=11,
    )  # fmt: skip
    rows = list(explanation.examples.itertuples(index=False))
    if not thumbnails:
        lines = [f"{row.distance:.2f}   {row.label}   {row.image}" for row in rows]
        part.text(0.02, 0.75, "\n".join(lines), va="top", fontsize=9)
        return
    grid = part.subplots(1, len(rows), squeeze=False)[0]
    for axes, row, picture in zip(grid, rows, thumbnails, strict=True):
        axes.imshow(picture)
        axes.set_axis_off()
        _caption(axes, f"{_wrapped(row.label, 22)}\n{row.distance:.2f}\n{_wrapped(row.image, 24)}")


def _caption(axes: "Axes", text: str) -> None:
    axes.text(0.5, -0.04, text, transform=axes.transAxes, ha="center", va="top", fontsize=7)


def _percent(share: float) -> str:
    return "< 1 %" if 0 < share < 0.01 else "> 99 %" if 0.99 < share < 1 else f"{100 * share:.0f} %"


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(text, width)
