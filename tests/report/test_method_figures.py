import numpy as np
import pandas as pd
import pytest

from dermaffinity.metrics.ranks import Ranks
from dermaffinity.report.method_figures import critical_difference_figure, forest_figure, pareto_figure


def summary(balanced_accuracy=0.5, minority=0.5, majority=0.5):
    values = {"balanced_accuracy": balanced_accuracy, "minority_recall": minority, "majority_recall": majority}
    return pd.DataFrame({name: (value, value - 0.1, value + 0.1) for name, value in values.items()}).T.set_axis(
        ["value", "low", "high"], axis=1
    )


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_ranks_are_named_beside_their_place_and_bars_join_what_is_near():
    average = pd.Series({"cosen": 2.2, "affinity": 1.3, "softmax": 2.5})
    figure = critical_difference_figure(Ranks(average, 9, 0.01, 1.1))
    assert {"affinity  1.30", "cosen  2.20", "2.50  softmax", "  critical difference 1.10"} <= set(texts(figure))
    bars = [part for part in figure.axes[0].collections if part.get_linewidth()[0] == 4]
    # affinity to cosen, cosen to softmax
    reaches = [(bar.get_segments()[0][0][0], bar.get_segments()[0][1][0]) for bar in bars]
    assert np.round(reaches, 1).tolist() == [[1.3, 2.2], [2.2, 2.5]]
    assert figure.get_suptitle() == ("Average rank over 9 folds, 1 is best; bars join what cannot be told apart")


def test_ranks_of_one_result_have_no_bars():
    average = pd.Series({"cosen": 2.0, "affinity": 1.0})
    figure = critical_difference_figure(Ranks(average, 1, np.nan, np.nan))
    assert not [part for part in figure.axes[0].collections if part.get_linewidth()[0] == 4]
    assert figure.get_suptitle() == "Average rank over one result, 1 is best"


def test_the_front_is_joined_from_left_to_right_and_bold():
    tables = {
        "rare": summary(minority=0.6, majority=0.6),
        "beaten": summary(minority=0.3, majority=0.6),
        "common": summary(minority=0.4, majority=0.8),
    }
    axes = pareto_figure(tables).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[60, 60], [80, 40]])
    bold = {text.get_text() for text in axes.texts if text.get_fontweight() == "bold"}
    assert bold == {"rare", "common"}
    # Each name is at the height of its point, where there is room.
    heights = {text.get_text(): axes.get_ylim()[0] + text.xyann[1] * np.ptp(axes.get_ylim()) for text in axes.texts}
    assert heights == pytest.approx({"rare": 60, "common": 40, "beaten": 30})


def test_the_forest_goes_from_best_to_worst_with_what_is_outside_below():
    tables = {"cosen": summary(0.5), "affinity": summary(0.7), "softmax": summary(0.6)}
    figure = forest_figure(tables, {"cosen": summary(0.4)}, "out-of-fold images")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["affinity", "softmax", "cosen"]
    own, external = (line for line in axes.lines if line.get_marker() in ("o", "s"))
    assert own.get_xdata() == pytest.approx([70, 60, 50])
    assert external.get_xdata() == pytest.approx([40])
    assert external.get_ydata()[0] > own.get_ydata()[2]  # below, because rows count downward
    alone = forest_figure(tables, {}, "out-of-fold images")
    assert alone.get_suptitle() == "Balanced accuracy, out-of-fold images"
