import numpy as np
import pandas as pd
import pytest

from dermaffinity.metrics.classification import Classes
from dermaffinity.metrics.operating import (
    decision_curve,
    net_benefit,
    operating_points,
    sensitivity_at,
    threshold_at,
)
from dermaffinity.metrics.statistics import bootstrap_weights
from dermaffinity.metrics.summary import ScoredImages


@pytest.fixture
def scored():
    """Three classes, two images a patient, scores in steps so that many are equal."""
    rng = np.random.default_rng(0)
    labels = np.repeat(rng.integers(3, size=150), 2)
    raw = np.round(rng.dirichlet((1, 1, 1), size=300) + 0.4 * np.eye(3)[labels], 1)
    probabilities = raw / raw.sum(axis=1, keepdims=True)
    names = np.array(["bkl", "mel", "nv"], dtype=object)
    table = pd.DataFrame(probabilities, columns=[f"p.{name}" for name in names])
    table = table.assign(
        image=[f"{i:03}.jpg" for i in range(300)], group=[f"P{i // 2:03}" for i in range(300)], label=names[labels],
        fold=0, seed=0, predicted=names[probabilities.argmax(axis=1)],
    )  # fmt: skip
    return ScoredImages.from_table(table, Classes(tuple(names), malignant=("mel",)))


def best_by_trying(positive, scores, weights, specificity):
    """Over every threshold, one image after the other."""
    best = 0.0
    for threshold in [*np.unique(scores), np.inf]:
        called = scores >= threshold
        if weights[~positive & ~called].sum() / weights[~positive].sum() >= specificity - 1e-9:
            best = max(best, weights[positive & called].sum() / weights[positive].sum())
    return best


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95, 1.0])
def test_the_sensitivity_is_the_best_of_all_thresholds_under_any_weights(scored, level):
    positive, scores = scored.labels == 1, scored.probabilities[0][:, 1]
    (weights,) = bootstrap_weights(scored.groups, scored.labels, resamples=5, seed=1)
    found = sensitivity_at(positive, scores, weights, level)
    known = [best_by_trying(positive, scores, weights[:, b], level) for b in range(5)]
    np.testing.assert_allclose(found, known)


@pytest.mark.parametrize("level", [0.6, 0.9])
def test_the_thresholds_give_the_numbers_of_their_row(scored, level):
    row = operating_points(scored, level, resamples=50).loc["mel"]
    positive, scores = scored.labels == 1, scored.probabilities[0][:, 1]
    called = scores >= row["threshold.sensitivity"]
    assert called[positive].mean() == pytest.approx(row["sensitivity"])
    assert (~called[~positive]).mean() >= level
    called = scores >= row["threshold.specificity"]
    assert (~called[~positive]).mean() == pytest.approx(row["specificity"])
    assert called[positive].mean() >= level
    for kind in ("sensitivity", "specificity"):
        assert 0 <= row[f"{kind}.low"] < row[kind] <= row[f"{kind}.high"] <= 1


def test_without_a_threshold_nothing_is_called_positive():
    positive, scores = np.array([True, False]), np.array([0.1, 0.9])
    assert threshold_at(positive, scores, 1.0) == np.inf
    assert sensitivity_at(positive, scores, np.ones((2, 1)), 1.0) == [0]


def test_malignant_classes_count_as_one_and_classes_without_images_are_left_out(scored):
    classes = Classes(("bkl", "mel", "nv"), malignant=("mel", "bkl"))
    only = ScoredImages(classes, *(getattr(scored, name) for name in ("images", "groups", "labels", "folds", "seeds", "probabilities")))  # fmt: skip  # noqa: E501
    points = operating_points(only, 0.8, resamples=20)
    assert points.index.tolist() == ["malignant", "bkl", "mel", "nv"]
    assert points.loc["malignant", "images"] == (scored.labels != 2).sum()
    # Told apart from the rest by 1 - p(nv) as well as the rest from it by p(nv).
    assert points.loc["malignant", "sensitivity"] == pytest.approx(
        sensitivity_at(scored.labels != 2, 1 - scored.probabilities[0][:, 2], np.ones((300, 1)), 0.8)[0]
    )


def test_the_net_benefit_is_that_of_counting(scored):
    positive, risk = scored.labels == 1, scored.probabilities[0][:, 1]
    thresholds = np.array([0.05, 0.2, 0.5, 0.99])
    (weights,) = bootstrap_weights(scored.groups, scored.labels, resamples=3, seed=2)
    found = net_benefit(positive, risk, thresholds, weights)
    for t, threshold in enumerate(thresholds):
        acted = risk >= threshold
        for b in range(3):
            w = weights[:, b]
            true, false = w[acted & positive].sum() / w.sum(), w[acted & ~positive].sum() / w.sum()
            assert found[t, b] == pytest.approx(true - false * threshold / (1 - threshold))


def test_a_decision_curve_starts_at_acting_on_all(scored):
    curve = decision_curve(scored, ("mel",), np.array([0.0001, 0.3]), resamples=50)
    share = (scored.labels == 1).mean()
    assert curve.loc[0, "all"] == pytest.approx(share, abs=1e-3)
    assert curve.loc[1, "all"] == pytest.approx(share - (1 - share) * 3 / 7)
    assert (curve["low"] < curve["value"]).all()
    assert curve.loc[1, "value"] > curve.loc[1, "all"]
