"""One page about one image, for a reader who knows skin and not networks."""

import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

    from dermaffinity.inference.explain.explanation import Explanation

_WIDTH = 9.0  # inches
_IN_SET, _OUT_OF_SET, _ALARM, _GREY = "#0072B2", "#B5CFE0", "#D55E00", "#666666"
# Below this loss of probability the map's colors stay pale: noise must not look like a finding.
_FAINTEST_SCALE = 0.05


def explanation_sheet(explanation: "Explanation", thumbnails: Sequence[np.ndarray]) -> "Figure":
    """Prediction, image, what it hangs on, probabilities, distances, novelty and nearest training images on one page.

    Args:
        explanation: Of one image.
        thumbnails: (S, S, 3) uint8 of each of its examples, or none.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    title, lines = _headline(explanation)
    top = 0.35 + 0.3 * (title.count("\n") + 1) + 0.3 * explanation.novel + 0.18 * (lines.count("\n") + 1)
    bars = 1.0 + 0.3 * len(explanation.classes)
    last = 2.7 if thumbnails else 0.5 + 0.165 * (0 if explanation.examples is None else len(explanation.examples))
    heights = [top, 4.1, bars, 1.35, last, 0.4]
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.06)
    figure = Figure(figsize=(_WIDTH, sum(heights)), dpi=120, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    head, images, classes, novelty, examples, foot = figure.subfigures(6, 1, squeeze=False, height_ratios=heights)[:, 0]
    head.text(0.02, 1 - 0.12 / top, title, va="top", fontsize=17, weight="bold")
    head.text(0.98, 1 - 0.12 / top, _wrapped(explanation.name, 30), va="top", ha="right", fontsize=9, color=_GREY)
    head.text(0.02, 0.08 / top, lines, va="bottom", fontsize=10)
    if explanation.novel:
        words = "Novel: this image is unlike those that the classifier learned from."
        height = 0.2 + 0.18 * (lines.count("\n") + 1)
        head.text(0.02, height / top, words, va="bottom", fontsize=11, weight="bold", color=_ALARM)
    _images(images, explanation)
    _classes(classes, explanation)
    _novelty(novelty, explanation)
    _examples(examples, explanation, thumbnails)
    foot.text(0.02, 0.5, _wrapped(explanation.intended_use, 110), va="center", fontsize=9, weight="bold")
    return figure


def _headline(explanation: "Explanation") -> tuple[str, str]:
    """What is said above all else: in large letters, and below them in small ones."""
    title = f"{explanation.predicted}, {_percent(explanation.probabilities.max())}"
    inside = ", ".join(explanation.prediction_set) or "none, it is unlike all of them"
    lines = [f"Classes it may well be ({100 * explanation.coverage:g} % set): {inside}"]
    if explanation.disagreement > 0:
        lines.append(f"{_percent(explanation.disagreement)} of the classifier's networks name another class.")
    return _wrapped(title, 45), "\n".join(_wrapped(line, 100) for line in lines)


def _images(part: "SubFigure", explanation: "Explanation") -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    plain, overlay = part.subplots(1, 2)
    plain.imshow(explanation.image)
    plain.set_title("What the classifier sees", loc="left", fontsize=11)
    lost, top = explanation.saliency, max(_FAINTEST_SCALE, float(explanation.saliency.max()))
    grey = explanation.image.mean(axis=2)
    overlay.imshow(grey, cmap="gray", vmin=0, vmax=255)
    overlay.imshow(lost, cmap="inferno", vmin=0, vmax=top, alpha=0.75 * lost / top)
    overlay.set_title("Where it looks", loc="left", fontsize=11)
    colors = ScalarMappable(Normalize(0, 100 * top), cmap="inferno")
    bar = part.colorbar(colors, ax=overlay, shrink=0.8)
    bar.set_label(
        f"lost of the {_percent(explanation.probabilities.max())} when\nthe spot is covered, percentage points"
    )
    for axes in (plain, overlay):
        axes.set_axis_off()


def _classes(part: "SubFigure", explanation: "Explanation") -> None:
    order = np.argsort(-explanation.probabilities, kind="stable")
    names = [explanation.classes[index] for index in order]
    bars, near = part.subplots(1, 2, sharey=True)
    percents = 100 * explanation.probabilities[order]
    colors = [_IN_SET if name in explanation.prediction_set else _OUT_OF_SET for name in names]
    bars.barh(range(len(names)), percents, color=colors, height=0.7)
    for row, percent in enumerate(percents):
        bars.text(percent + 1.5, row, _percent(percent / 100), va="center", fontsize=9)
        if names[row] in explanation.prediction_set:
            bars.text(140, row, "in the set", va="center", ha="right", fontsize=9, color=_IN_SET)
    bars.set(xlim=(0, 140), xticks=range(0, 101, 25), xlabel="probability, %")
    bars.set_yticks(range(len(names)), [_wrapped(name, 28) for name in names])
    bars.set_ylim(len(names) - 0.5, -0.5)
    bars.set_title("How likely each class is", loc="left", fontsize=11)

    centers = explanation.centers
    mean = centers.groupby("class")["novelty"].mean()
    row_of = {name: row for row, name in enumerate(names)}
    near.plot(centers["novelty"], centers["class"].map(row_of), "o", color=_IN_SET, alpha=0.35, markersize=5)
    near.plot(mean, [row_of[name] for name in mean.index], "|", color="black", markersize=13, markeredgewidth=2)
    near.axvline(explanation.novelty_threshold, color=_ALARM, linewidth=1.2, linestyle="--")
    near.set_xlabel("distance in units of novelty, dashed: its limit\n(dots: single networks; bar: their mean)")
    near.set_title("How far each class's nearest center is", loc="left", fontsize=11)
    for axes in (bars, near):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#eeeeee")
        axes.set_axisbelow(True)


def _novelty(part: "SubFigure", explanation: "Explanation") -> None:
    axes = part.subplots()
    novelty, limit = explanation.novelty, explanation.novelty_threshold
    low, high = min(-2.5, novelty - 0.5), max(limit + 2.0, novelty + 0.5)
    color = _ALARM if explanation.novel else _IN_SET
    axes.axvspan(limit, high, color=_ALARM, alpha=0.18, linewidth=0)
    axes.axvline(limit, color=_ALARM, linewidth=1.5)
    axes.plot([novelty], [0], "v", color=color, markersize=13, clip_on=False)
    axes.set(xlim=(low, high), ylim=(-0.5, 1), yticks=[], xlabel=f"novelty {novelty:.2f}, limit {limit:.2f}")
    axes.spines[["top", "right", "left"]].set_visible(False)
    words = (
        "Novelty is above its limit: do not rely on the classes above."
        if explanation.novel
        else "Novelty is below its limit: the image looks like those that the classifier learned from."
    )
    axes.set_title(words, loc="left", fontsize=11, color=color)


def _examples(part: "SubFigure", explanation: "Explanation", thumbnails: Sequence[np.ndarray]) -> None:
    if explanation.examples is None:
        part.text(0.02, 0.7, "This classifier was saved without training examples.", fontsize=10, color=_GREY)
        return
    title = "Training images most alike to the networks (0: the same; 1: as far as the median training image)"
    part.suptitle(title, x=0.02, ha="left", fontsize=11)
    # Columns by themselves: pandas knows no types of the rows of a table.
    columns = (explanation.examples[name].tolist() for name in ("image", "label", "distance"))
    rows = [(f"{distance:.2f}", str(label), str(image)) for image, label, distance in zip(*columns, strict=True)]
    if not thumbnails:
        part.text(0.02, 0.05, "\n".join("    ".join(row) for row in rows), va="bottom", fontsize=9)
        return
    grid = part.subplots(1, len(rows), squeeze=False)[0]
    for axes, (distance, label, image), picture in zip(grid, rows, thumbnails, strict=True):
        axes.imshow(picture)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_title(f"{_wrapped(label, 20)}\n{distance}", fontsize=8.5)
        axes.set_xlabel(_wrapped(image, 24), fontsize=6.5, color=_GREY)


def _percent(share: float) -> str:
    return "< 1 %" if 0 < share < 0.01 else "> 99 %" if 0.99 < share < 1 else f"{100 * share:.0f} %"


def _wrapped(text: str, width: int) -> str:
    """In lines that may also end where a part of a name or path does."""
    lines = textwrap.wrap(re.sub(r"([_/])(?=\S)", r"\1 ", text), width)
    return "\n".join(re.sub("([_/]) ", r"\1", line) for line in lines)
