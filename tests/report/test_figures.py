import itertools

import numpy as np
import pandas as pd
import pytest

from dermaffinity.metrics.curves import coverage_curve, roc_curve
from dermaffinity.metrics.ranks import average_ranks
from dermaffinity.metrics.reliability import reliability_bins
from dermaffinity.report.figures import (
    confusion_figure,
    coverage_figure,
    curve_figure,
    embedding_figure,
    gain_figure,
    history_figure,
    plane_figure,
    recall_figure,
    reliability_figure,
    roc_figure,
    rows_figure,
    verification_figure,
)
from dermaffinity.report.method_figures import critical_difference_figure, forest_figure, pareto_figure

COUNTS = {
    "actinic_keratosis": 45, "basal_cell_carcinoma": 239, "melanocytic_nevus": 331, "seborrheic_keratosis": 257,
    "squamous_cell_carcinoma": 88, "intraepithelial_carcinoma": 78, "vascular_lesion": 97, "pyogenic_granuloma": 24,
    "dermatofibroma": 65, "malignant_melanoma": 76,
}  # fmt: skip
METHODS = ("cosen", "softmax", "affinity", "affinity_10_centers_unit_neck")
MANY = [f"library_of_lesions_method_{number:02}" for number in range(20)]


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
        name: reliability_bins(labels, rng.dirichlet([a] * 4, 300))
        for name, a in (("as trained", 0.6), ("calibrated", 2), ("adapted", 3))
    }
    return reliability_figure(curves, "Reliability")


def history():
    runs = itertools.product(range(3), range(2), range(12))
    table = pd.DataFrame(runs, columns=["fold", "seed", "epoch"])
    return history_figure(
        table.assign(objective=1 / (table["epoch"] + 1), max_margin=0.5, validation_balanced_accuracy=0.7, idle=np.nan),
        "Training",
    )


def rocs(methods=("cosen", "affinity")):
    rng = np.random.default_rng(0)

    def curve():
        positive = rng.random(200) < 0.3
        return roc_curve(positive, rng.normal(positive * 1.5), rng.integers(3, size=200))

    curves = {method: {name: curve() for name in COUNTS} for method in methods}
    return roc_figure(curves, intervals("auc.", 3), methods[-1], COUNTS)


def coverage():
    rng = np.random.default_rng(0)
    unsure = rng.random((2, 300))
    return coverage_figure(
        {
            name: coverage_curve(rng.random(300) > own * 0.6, own)
            for name, own in zip(("confidence", "novelty"), unsure, strict=True)
        }
    )


def embedding():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(10, 3, 2)) * 3
    labels = rng.integers(10, size=200)
    points = centers[labels, rng.integers(3, size=200)] + rng.normal(size=(200, 2))
    return embedding_figure(points, labels, rng.random(200) > 0.3, centers, tuple(COUNTS), (0.4, 0.2))


def verification():
    rng = np.random.default_rng(0)
    far = np.linspace(0, 1, 200)
    curves = {name: [(far, far ** rng.uniform(0.1, 0.5)) for _ in range(3)] for name in METHODS}
    return verification_figure(curves, 400, "ROC")


def ranks(count=20, blocks=15):
    rng = np.random.default_rng(0)
    scores = rng.normal(0.6, 0.03, count) + rng.normal(0, 0.015, (blocks, count))
    return critical_difference_figure(average_ranks(pd.DataFrame(scores, columns=MANY[:count])))


def few_ranks():
    return ranks(3, 9)


def many_summaries():
    rng = np.random.default_rng(0)
    rows = ["balanced_accuracy", "minority_recall", "majority_recall"]
    tables = {}
    for name in MANY:
        value = rng.normal([0.6, 0.4, 0.7], [0.03, 0.05, 0.02])
        tables[name] = pd.DataFrame({"value": value, "low": value - 0.03, "high": value + 0.03}, index=rows)
    return tables


def pareto():
    return pareto_figure(many_summaries())


def forest():
    summaries = many_summaries()
    return forest_figure(summaries, {name: summaries[name] - 0.05 for name in MANY[:15]}, "out-of-fold images")


DRAWN = [recalls, gains, confusion, reliability, history, rocs, coverage, embedding, verification]
DRAWN += [ranks, few_ranks, pareto, forest]


@pytest.mark.parametrize("draw", DRAWN)
def test_no_text_overlaps_another_or_leaves_the_picture(draw):
    from matplotlib.text import Text

    figure = draw()
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    # Of a rotated text the box holds mostly nothing, and ticks beyond the limits are never drawn.
    texts = [t for t in figure.findobj(Text) if t.get_text() and t.get_visible() and t.get_rotation() % 90 == 0]
    # That of a text alone: an annotation's own box holds its arrow as well.
    boxes = [(t.get_text(), Text.get_window_extent(t, renderer)) for t in texts if _is_drawn(figure, t)]
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


def test_a_roc_panel_for_each_class_states_its_auc_and_interval():
    figure = rocs()
    first, interval = figure.axes[0], intervals("auc.", 3).loc["auc.melanocytic_nevus"] * 100
    assert first.get_title(loc="left") == "melanocytic_nevus\nn = 331"
    (text,) = [text.get_text() for text in first.texts]
    assert text == f"AUC {interval['value']:.1f}\n[{interval['low']:.1f}, {interval['high']:.1f}]"
    assert [line.get_label() for line in first.lines[1:]] == ["cosen", "affinity"]


def test_a_class_without_images_has_an_empty_roc_panel():
    curves = {"affinity": {"ML": roc_curve(np.ones(4) > 0, np.ones(4), np.zeros(4))}}
    summary = pd.DataFrame({"value": np.nan, "low": np.nan, "high": np.nan}, index=["auc.ML"])
    assert [text.get_text() for text in roc_figure(curves, summary, "affinity", {"ML": 0}).axes[0].texts] == [
        "no images"
    ]


def test_coverage_ends_at_all_images_and_leaves_out_the_first_few():
    axes = coverage().axes[0]
    for line in axes.lines[:2]:
        assert line.get_xdata()[0] >= 5
        assert line.get_xdata()[-1] == 100
    assert axes.lines[0].get_ydata()[-1] == axes.lines[2].get_ydata()[0]


def test_the_map_shows_every_image_right_ones_filled_and_every_center():
    figure = embedding_figure(
        np.arange(8.0).reshape(4, 2), np.array([0, 0, 1, 1]), np.array([True, False, True, True]),
        np.zeros((2, 3, 2)), ("ML", "MEL"), (0.5, 0.25),
    )  # fmt: skip
    axes = figure.axes[0]
    sizes = [len(collection.get_offsets()) for collection in axes.collections]
    assert sizes == [1, 1, 3, 2, 0, 3]  # right, wrong and centers of either class
    assert [len(collection.get_facecolors()) for collection in axes.collections] == [1, 0, 1, 1, 0, 1]
    assert axes.get_xlabel() == "first main direction, 50 % of the variance"


def test_drawing_leaves_the_global_state_alone():
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    before = dict(mpl.rcParams)
    for draw in DRAWN:
        draw()
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []


def test_a_curve_shows_its_values_its_band_and_the_published_range():
    curve = pd.DataFrame(
        {"x": [10.0, 0.1, 1.0], "value": [3.0, 1.0, 2.0], "low": [2.5, 0.5, 2.0], "high": [3.5, 1.5, 2.0]}
    )
    figure = curve_figure(
        {"one": curve, "other": curve + 1}, x_label="sigma", y_label="accuracy", title="t", published=(5, 20)
    )
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert axes.lines[0].get_xydata().tolist() == [[0.1, 1], [1, 2], [10, 3]]
    band = axes.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (0.5, 3.5)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "other", "best in the publication"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.1", "1", "1.1", "2", "10", "11"]


def test_a_curve_that_starts_at_zero_is_linear_and_a_missing_value_leaves_a_gap():
    curve = pd.DataFrame(
        {"x": [0.0, 0.5, 50], "value": [1.0, np.nan, 2.0], "low": [1.0, np.nan, 2.0], "high": [1.0, np.nan, 2.0]}
    )
    (axes,) = curve_figure({"one": curve}, x_label="x", y_label="y", title="t").axes
    assert axes.get_xscale() == "linear"
    assert np.isnan(axes.lines[0].get_ydata()[1])


def test_rows_stand_in_their_order_with_a_mark_for_each_method():
    rows = pd.DataFrame({"value": [98.0, 99.0], "low": [97.0, 99.0], "high": [98.5, 99.0]}, index=["first", "second"])
    figure = rows_figure({"a": rows, "b": rows}, x_label="accuracy", title="t")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["first", "second"]
    marks = [line.get_xydata() for line in axes.lines if line.get_linestyle() == "None"]
    assert [mark[:, 0].tolist() for mark in marks] == [[98, 99], [98, 99]]
    assert (marks[0][:, 1] < marks[1][:, 1]).all()


def test_an_embedding_has_a_panel_a_method_and_names_each_class_at_its_mean():
    points, labels = np.array([[0.0, 0.0], [2.0, 2.0], [5.0, 5.0]]), np.array([0, 0, 1])
    figure = plane_figure({"softmax": (points, labels), "center": (points + 1, labels)}, ["a", "b"], ["b"], "t")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["softmax", "center"]
    second = figure.axes[1]
    assert [(text.get_text(), tuple(text.xy)) for text in second.texts] == [("a", (2, 2)), ("b", (6, 6))]
    assert [len(drawn.get_offsets()) for drawn in second.collections] == [2, 1]


def test_a_roc_is_a_step_of_the_mean_over_seeds_with_a_band_from_worst_to_best():
    far = np.array([0, 0.1, 0.1, 1])
    curves = {"a": [(far, np.array([0, 0.2, 0.6, 1])), (far, np.array([0, 0.4, 0.8, 1]))]}
    axes = verification_figure(curves, 100, "t").axes[0]
    x, y = axes.lines[0].get_data()
    assert axes.get_xscale() == "log"
    assert (x[0], x[-1]) == pytest.approx((0.01, 1))
    np.testing.assert_allclose(y[x < 0.0999], 0)  # nothing in between two points that a threshold can reach
    np.testing.assert_allclose(y[(x > 0.1001) & (x < 1)], 0.7)
    band = axes.collections[0].get_paths()[0].vertices
    inside = band[(band[:, 0] > 0.2) & (band[:, 0] < 0.9), 1]
    assert set(np.round(inside, 9)) == {0.6, 0.8}


def test_the_legend_of_a_coverage_curve_hides_no_curve():
    figure = coverage()
    figure.canvas.draw()
    (legend,) = figure.legends
    assert legend.get_window_extent().y1 <= figure.axes[0].get_window_extent().y0
