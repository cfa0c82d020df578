import math

import numpy as np
import pandas as pd
import pytest

from dermaffinity.metrics.classification import Classes
from dermaffinity.metrics.comparison import adjusted, compare
from dermaffinity.metrics.power import seeds_needed, smallest_gain, smallest_resampled_gain
from dermaffinity.metrics.standings import best_rivals, pareto_front, standings, verdict
from dermaffinity.metrics.summary import Measured, ScoredImages, fold_gains

CLASSES = ("ML", "BCC", "MEL")
ROLES = Classes(CLASSES, minority=("MEL",), malignant=("BCC", "MEL"))
LABELS = np.repeat([0, 1, 2], [60, 40, 20])


def prediction_table(wrong: float, seeds=(0, 1, 2), draw=0) -> pd.DataFrame:
    """A method that errs on a share of the images, others for every seed and draw."""
    rows = []
    for seed in seeds:
        rng = np.random.default_rng([draw, seed])
        predicted = np.where(rng.random(len(LABELS)) < wrong, (LABELS + 1) % 3, LABELS)
        probabilities = np.where(np.eye(3)[predicted] == 1, 0.8, 0.1)
        table = pd.DataFrame(probabilities, columns=[f"p.{name}" for name in CLASSES])
        table["image"] = [f"image{i:03}.png" for i in range(len(LABELS))]
        table["group"] = [f"lesion{i // 2}" for i in range(len(LABELS))]
        table["label"] = np.array(CLASSES)[LABELS]
        table["fold"] = np.arange(len(LABELS)) // 2 % 3
        rows.append(table.assign(seed=seed, predicted=np.array(CLASSES)[predicted]))
    return pd.concat(rows, ignore_index=True)


TABLES = {
    "cosen": prediction_table(0.45),
    "softmax": prediction_table(0.43, draw=1),
    "affinity": prediction_table(0.10, draw=2),
    "worst": prediction_table(0.75, draw=3),
}


@pytest.fixture(scope="module")
def measured():
    return {name: Measured.of(ScoredImages.from_table(table, ROLES), resamples=300) for name, table in TABLES.items()}


@pytest.fixture(scope="module")
def found(measured):
    return standings(measured, "cosen", test_train_ratio=0.5)


def test_every_method_meets_the_baseline_and_its_best_rival(found):
    assert found.over_baseline.against == {"softmax": "cosen", "affinity": "cosen", "worst": "cosen"}
    assert found.over_rival.against == {
        "cosen": "affinity",
        "softmax": "affinity",
        "affinity": "softmax",
        "worst": "affinity",
    }
    assert found.ranks.blocks == 3  # folds; their seeds are no results of their own
    assert found.ranks.average.idxmin() == "affinity"
    assert found.ranks.average["worst"] == 4


def test_comparisons_are_those_of_the_tables_adjusted_over_the_methods(found, measured):
    others = [name for name in TABLES if name != "cosen"]
    expected = {name: compare(measured["cosen"], measured[name], test_train_ratio=0.5) for name in others}
    for name, comparison in adjusted(expected).items():
        ours = found.over_baseline.comparisons[name]
        pd.testing.assert_frame_equal(ours.gains, comparison.gains)
        pd.testing.assert_frame_equal(ours.tests, comparison.tests)


def test_the_resolution_is_that_of_the_spread_that_was_observed(found, measured):
    row = found.over_baseline.resolution.loc["softmax"]
    softmax, cosen = measured["softmax"], measured["cosen"]
    assert row["gain"] == pytest.approx(softmax.value("balanced_accuracy") - cosen.value("balanced_accuracy"))
    level = 0.05 / 3  # three methods share it
    spread = (softmax.draws["balanced_accuracy"] - cosen.draws["balanced_accuracy"]).std()
    assert row["visible_images"] == pytest.approx(smallest_gain(spread, level=level))
    by_fold = [method.by_fold.groupby("fold")["balanced_accuracy"].mean() for method in (softmax, cosen)]
    spread = (by_fold[0] - by_fold[1]).std()
    assert row["visible_training"] == pytest.approx(smallest_resampled_gain(spread, 3, 0.5, level=level))
    assert row["verdict"] == (
        f"no detectable difference (smallest detectable gain: {100 * row['visible_images']:.1f} points)"
    )
    verdicts = found.over_baseline.resolution["verdict"]
    assert verdicts["affinity"].startswith("better")
    assert verdicts["worst"].startswith("worse")
    row = found.over_baseline.resolution.loc["affinity"]
    gains = fold_gains(cosen, measured["affinity"], "balanced_accuracy")
    assert gains.shape == (3, 3)
    assert row["seeds_needed"] == seeds_needed(row["gain"], gains, 0.5, level=level) > 3


def test_a_baseline_that_was_not_measured_leaves_the_rivals(measured):
    found = standings(measured, "failed", test_train_ratio=0.5)
    assert found.over_baseline.against == {}
    assert found.over_baseline.resolution.empty
    assert list(found.over_rival.resolution.index) == list(measured)


def test_one_fold_says_nothing_about_training_again():
    tables = {name: table[table["fold"] == 0] for name, table in TABLES.items()}
    one = {name: Measured.of(ScoredImages.from_table(table, ROLES), resamples=50) for name, table in tables.items()}
    row = standings(one, "cosen", test_train_ratio=0.5).over_baseline.resolution.loc["affinity"]
    assert math.isnan(row["visible_training"])
    assert math.isnan(row["seeds_needed"])
    assert row["visible_images"] > 0


def test_methods_on_other_images_are_refused(measured):
    fewer = TABLES["softmax"][TABLES["softmax"]["image"] != "image000.png"]
    other = Measured.of(ScoredImages.from_table(fewer, ROLES), resamples=5)
    with pytest.raises(ValueError, match=r"fewer: 1 images are only in the baseline, the first is image000\.png"):
        standings({**measured, "fewer": other}, "cosen", test_train_ratio=0.5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((0.05, 0.01, 0.02, 0.03), "better"),
        ((-0.05, 0.01, 0.02, 0.03), "worse"),
        ((0.05, 0.01, 0.20, 0.03), "better on these images; whether it would be when trained again is open"),
        ((-0.05, 0.01, math.nan, 0.03), "worse on these images; whether it would be when trained again is open"),
        ((0.02, 0.06, 0.01, 0.034), "no detectable difference (smallest detectable gain: 3.4 points)"),
    ],
)
def test_verdicts(arguments, said):
    assert verdict(*arguments) == said


def test_best_rivals_are_the_first_of_equals_and_none_for_one_alone():
    assert best_rivals({"a": 0.5, "b": 0.7, "c": 0.7}) == {"a": "b", "b": "c", "c": "b"}
    assert best_rivals({"a": 0.5}) == {}


def test_the_front_holds_what_no_other_beats():
    scores = np.array([[9, 1], [5, 5], [1, 9], [5, 4], [5, 5], [0, 9]])
    assert pareto_front(scores).tolist() == [True, True, True, False, True, False]
