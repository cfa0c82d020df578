import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from dermaffinity.metrics.classification import Classes, weighted_metrics
from dermaffinity.metrics.curves import coverage_curve, roc_curve


def area(curve) -> float:
    return float(np.trapezoid(curve["true_positive_rate"], curve["false_positive_rate"]))


@pytest.fixture
def scored():
    rng = np.random.default_rng(0)
    positive = rng.random(400) < 0.3
    return positive, np.round(rng.normal(positive * 1.0), 2), rng.integers(3, size=400)


def test_with_one_fold_the_roc_is_that_of_scikit_learn(scored):
    positive, scores, _ = scored
    curve = roc_curve(positive, scores, np.zeros(400))
    assert area(curve) == pytest.approx(roc_auc_score(positive, scores), abs=2e-3)
    false, true, _ = sklearn_roc_curve(positive, scores, drop_intermediate=False)
    between = curve[curve["false_positive_rate"].between(0.01, 0.99)]
    np.testing.assert_allclose(
        between["true_positive_rate"], np.interp(between["false_positive_rate"], false, true), atol=1e-12
    )


def test_the_area_below_the_averaged_roc_is_the_auc_within_folds(scored):
    positive, scores, folds = scored
    scores = scores + 5 * folds  # another scale in each fold, which a pooled curve would suffer from
    probabilities = np.stack([1 / (1 + np.exp(scores)), 1 / (1 + np.exp(-scores))], axis=1)
    known = weighted_metrics(
        positive.astype(int), probabilities, np.ones((400, 1)), Classes(("no", "yes")), folds=folds
    )
    curve = roc_curve(positive, probabilities[:, 1], folds)
    assert area(curve) == pytest.approx(known["auc.yes"][0], abs=5e-3)
    assert roc_auc_score(positive, scores) < area(curve) - 0.1


def test_a_roc_rises_from_corner_to_corner(scored):
    curve = roc_curve(*scored)
    assert tuple(curve.iloc[0]) == (0, 0)
    assert tuple(curve.iloc[-1]) == (1, 1)
    assert (curve.diff().dropna() >= 0).all(axis=None)


def test_a_class_without_images_has_no_roc():
    assert roc_curve(np.zeros(5, dtype=bool), np.arange(5.0), np.zeros(5)).empty


def test_coverage_of_a_worked_example():
    # Surest first: right; then two equally unsure, one of them right; then wrong.
    curve = coverage_curve(np.array([0, 1, 1, 0]), np.array([0.9, 0.1, 0.5, 0.5]))
    assert curve["coverage"].tolist() == [0.25, 0.75, 1.0]
    assert curve["accuracy"].tolist() == pytest.approx([1, 2 / 3, 1 / 2])
    assert curve["limit"].tolist() == [0.1, 0.5, 0.9]


def test_coverage_does_not_depend_on_the_order_of_images():
    rng = np.random.default_rng(1)
    correct, unsure, order = rng.integers(2, size=60), rng.integers(9, size=60) / 9, rng.permutation(60)
    assert coverage_curve(correct, unsure).equals(coverage_curve(correct[order], unsure[order]))
