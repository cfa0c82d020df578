import itertools

import numpy as np
import pandas as pd
import pytest

from dermaffinity.metrics.calibration import reliability_bins
from dermaffinity.reports.figures import (
    confusion_figure,
    gain_figure,
    history_figure,
    recall_figure,
    reliability_figure,
    roc_figure,
)

COUNTS = {
    "actinic_keratosis": 45, "basal_cell_carcinoma": 239, "melanocytic_nevus": 331, "seborrheic_keratosis": 257,
    "squamous_cell_carcinoma": 88, "intraepithelial_carcinoma": 78, "vascular_lesion": 97, "pyogenic_granuloma": 24,
    "dermatofibroma": 65, "malignant_melanoma": 76,
}  # fmt: skip
METHODS = ("cosen", "softmax", "affinity", "affinity_10_centers_unit_neck")


def intervals(prefix, seed, extra=(), low=0.2, high=0.8):
    values = np.random.default_rng(seed).uniform(low, high, len(COUNTS) + len(extra))
    index = pd.Index([f"{prefix}{name}" for name in (*COUNTS, *extra)], name="metric")
    return pd.DataFrame({"value": values, "low": values - 0.1, "high": values + 0.1}, index=index)


def recalls():
    return recall_figure({name: intervals("recall.", k) for k, name in enumerate(METHODS)}, COUNTS, "Recall")


def gains():
    extra = ("balanced_accuracy", "minority_recall", "accuracy", "macro_auc")
    tables = {name: intervals("gain.", k, extra, -0.1, 0.3) for k, name in enumerate(METHODS[1:])}
    return gain_figure(tables, "cosen", COUNTS)


def confusion():
    matrix = np.random.default_rng(0).integers(0, 90, (10, 10))
    return confusion_figure(matrix, tuple(COUNTS), "Confusion")


def reliability():
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=300)
    curves = {
        name: reliability_bins(labels, rng.dirichlet([a] * 4, 300)) for name, a in (("raw", 0.6), ("calibrated", 2))
    }
    return reliability_figure(curves, "Reliability")


def history():
    runs = itertools.product(range(3), range(2), range(12))
    table = pd.DataFrame(runs, columns=["fold", "seed", "epoch"])
    return history_figure(
        table.assign(objective=1 / (table["epoch"] + 1), max_margin=0.5, validation_balanced_accuracy=0.7, idle=np.nan),
        "Training",
    )


def rocs():
    rng = np.random.default_rng(0)
    far = np.linspace(0, 1, 200)
    return roc_figure({name: [(far, far ** rng.uniform(0.1, 0.5)) for _ in range(3)] for name in METHODS}, 400, "ROC")


@pytest.mark.parametrize("draw", [recalls, gains, confusion, reliability, history, rocs])
def test_no_text_overlaps_another_or_leaves_the_picture(draw):
    from matplotlib.text import Text

    figure = draw()
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    # Of a rotated text the box holds mostly nothing, and ticks beyond the limits are never drawn.
    texts = [t for t in figure.findobj(Text) if t.get_text() and t.get_visible() and t.get_rotation() % 90 == 0]
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in texts if _is_drawn(figure, t)]
    assert len(boxes) > 5
    for name, box in boxes:
        assert box.x0 >= -1, name
        assert box.y0 >= -1, name
        assert box.x1 <= figure.bbox.x1 + 1, name
        assert box.y1 <= figure.bbox.y1 + 1, name
    for (name, box), (other, other_box) in itertools.combinations(boxes, 2):
        assert not box.padded(-1).overlaps(other_box.padded(-1)), (name, other)


def _is_drawn(figure, text):
    for axes in figure.axes:
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            for tick, place in zip(axis.get_major_ticks(), axis.get_majorticklocs(), strict=False):
                if text in (tick.label1, tick.label2):
                    return axes.get_visible() and min(limits) <= place <= max(limits)
    return text.axes is None or text.axes.get_visible()


def test_confusion_cells_show_counts_and_colors_show_shares_of_the_row():
    axes = confusion_figure(np.array([[30, 10], [0, 5]]), ("ML", "MEL"), "t").axes[0]
    assert [text.get_text() for text in axes.texts] == ["30", "10", "0", "5"]
    np.testing.assert_allclose(axes.images[0].get_array(), [[75, 25], [0, 100]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ML (40)", "MEL (5)"]


def test_a_class_without_images_is_an_empty_row_of_the_confusion():
    image = confusion_figure(np.array([[3, 1], [0, 0]]), ("ML", "MEL"), "t").axes[0].images[0]
    np.testing.assert_allclose(image.get_array(), [[75, 25], [0, 0]])


def test_recall_classes_go_from_frequent_to_rare_with_values_in_percent():
    axes = recalls().axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[0] == "melanocytic_nevus  n = 331"
    assert labels[-1] == "pyogenic_granuloma  n = 24"
    cosen = next(line for line in axes.lines if line.get_label() == "cosen")
    expected = 100 * intervals("recall.", 0).loc[["recall.melanocytic_nevus", "recall.pyogenic_granuloma"], "value"]
    assert [cosen.get_xdata()[0], cosen.get_xdata()[-1]] == pytest.approx(list(expected))


def test_gains_are_symmetric_around_zero_and_name_the_baseline():
    axes = gains().axes[0]
    assert axes.get_xlim()[0] == -axes.get_xlim()[1]
    assert "better than cosen" in axes.get_xlabel()
    assert [label.get_text() for label in axes.get_yticklabels()][-3:] == [
        "minority recall", "balanced accuracy", "accuracy"
    ]  # fmt: skip


def test_a_method_keeps_its_color_from_recall_to_gain():
    def colors(figure):
        return {line.get_label(): line.get_color() for line in figure.axes[0].lines if line.get_label() in METHODS}

    recall_colors, gain_colors = colors(recalls()), colors(gains())
    assert len(set(recall_colors.values())) == 4
    assert gain_colors == {name: recall_colors[name] for name in METHODS[1:]}


def test_history_has_a_panel_for_each_measured_quantity_and_a_line_for_each_run():
    figure = history()
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "objective", "max margin", "validation balanced accuracy"
    ]  # fmt: skip
    assert len(figure.axes[0].lines) == 6
    assert figure.axes[0].lines[0].get_label() == "fold 0, seed 0"


def test_drawing_leaves_the_global_state_alone():
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    before = dict(mpl.rcParams)
    for draw in (recalls, gains, confusion, reliability, history, rocs):
        draw()
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []


def test_a_roc_is_a_step_of_the_mean_over_seeds_with_a_band_from_worst_to_best():
    far = np.array([0, 0.1, 0.1, 1])
    axes = roc_figure({"a": [(far, np.array([0, 0.2, 0.6, 1])), (far, np.array([0, 0.4, 0.8, 1]))]}, 100, "t").axes[0]
    x, y = axes.lines[0].get_data()
    assert axes.get_xscale() == "log"
    assert (x[0], x[-1]) == pytest.approx((0.01, 1))
    np.testing.assert_allclose(y[x < 0.0999], 0)  # nothing in between two points that a threshold can reach
    np.testing.assert_allclose(y[(x > 0.1001) & (x < 1)], 0.7)
    band = axes.collections[0].get_paths()[0].vertices
    inside = band[(band[:, 0] > 0.2) & (band[:, 0] < 0.9), 1]
    assert set(np.round(inside, 9)) == {0.6, 0.8}
