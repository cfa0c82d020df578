import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermaffinity.metrics.reliability import (
    BINS,
    brier_score,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability_bins,
    with_temperature,
)


def random_predictions(seed, images=200):
    rng = np.random.default_rng(seed)
    return rng.integers(4, size=images), rng.dirichlet([0.5] * 4, size=images)


def test_worked_example():
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.95, 0.05], [0.45, 0.55]])
    # Bin of 0.95: 3 images, 2 right; bin of 0.55: 1 image, right.
    expected = 3 / 4 * (0.95 - 2 / 3) + 1 / 4 * (1 - 0.55)
    assert expected_calibration_error(labels, probabilities) == pytest.approx(expected)
    assert brier_score(labels, probabilities) == pytest.approx((2 * 2 * 0.05**2 + 2 * 0.95**2 + 2 * 0.45**2) / 4)
    assert negative_log_likelihood(labels, probabilities) == pytest.approx(
        -(2 * np.log(0.95) + np.log(0.05) + np.log(0.55)) / 4
    )


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_calibration_error_equals_a_plain_loop_and_the_reliability_bins(seed):
    labels, probabilities = random_predictions(seed)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    error = 0.0
    for k in range(BINS):
        inside = (confidence > k / BINS) & (confidence <= (k + 1) / BINS)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    bins = reliability_bins(labels, probabilities)
    from_bins = (bins["images"] / len(labels) * (bins["accuracy"] - bins["confidence"]).abs()).sum()
    assert expected_calibration_error(labels, probabilities) == pytest.approx(error)
    assert from_bins == pytest.approx(error)
    assert len(bins) == BINS
    assert bins["images"].sum() == len(labels)


def test_sure_and_right_is_perfect_and_sure_and_wrong_is_the_worst():
    labels, sure = np.array([0, 1, 2]), np.eye(3)
    assert (expected_calibration_error(labels, sure), brier_score(labels, sure)) == (0, 0)
    assert negative_log_likelihood(labels, sure) == 0
    wrong = np.roll(sure, 1, axis=1)
    assert (expected_calibration_error(labels, wrong), brier_score(labels, wrong)) == (1, 2)
    assert np.isfinite(negative_log_likelihood(labels, wrong))


def test_columns_of_weights_are_measured_each_on_its_own():
    labels, probabilities = random_predictions(0)
    weights = np.random.default_rng(1).integers(0, 3, size=(200, 5))
    for measure in (expected_calibration_error, brier_score, negative_log_likelihood):
        together = measure(labels, probabilities, weights)
        alone = [measure(np.repeat(labels, column), np.repeat(probabilities, column, axis=0)) for column in weights.T]
        assert together == pytest.approx(alone)


def test_the_edge_of_a_bin_belongs_to_the_bin_below():
    bins = reliability_bins(np.array([0]), np.array([[0.8, 0.2]]))  # 0.8 = 12/15
    assert bins["images"].to_numpy().nonzero()[0].tolist() == [11]


@pytest.mark.parametrize("seed", range(3))
def test_the_temperature_is_the_one_scikit_learn_finds(seed):
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=300)
    features = rng.normal(size=(300, 4)) + labels[:, None]
    model = LogisticRegression(C=100).fit(features[:30], labels[:30])
    features, labels = features[30:], labels[30:]
    theirs = CalibratedClassifierCV(FrozenEstimator(model), method="temperature").fit(features, labels)
    raw = model.predict_proba(features)
    temperature = fit_temperature(labels, raw)
    assert temperature == pytest.approx(1 / theirs.calibrated_classifiers_[0].calibrators[0].beta_, rel=1e-3)
    assert with_temperature(raw, temperature) == pytest.approx(theirs.predict_proba(features), abs=1e-4)


def test_a_temperature_works_on_probabilities_as_on_the_logits_behind_them():
    logits = np.random.default_rng(0).normal(size=(20, 4), scale=3)
    raw = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    cooled = np.exp(logits / 2.5) / np.exp(logits / 2.5).sum(axis=1, keepdims=True)
    assert with_temperature(raw, 2.5) == pytest.approx(cooled)
    assert with_temperature(raw, 1.0) == pytest.approx(raw)
    each = with_temperature(raw, np.full((20, 1), 2.5))
    assert np.array_equal(each, with_temperature(raw, 2.5))


def test_fitting_a_temperature_undoes_one_and_never_leaves_its_bounds():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1.0] * 3, size=20_000)
    labels = (probabilities.cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)  # drawn as the probabilities say
    assert fit_temperature(labels, probabilities) == pytest.approx(1, abs=0.03)
    assert fit_temperature(labels, with_temperature(probabilities, 1 / 3)) == pytest.approx(3, rel=0.03)
    sure = np.eye(3)[[0, 1, 2]]
    assert 0.05 <= fit_temperature(np.array([0, 1, 2]), sure * 0.97 + 0.01) < 0.2  # only right answers
    assert 19 < fit_temperature(np.array([1, 2, 0]), sure) <= 20  # only wrong ones, and certain
    assert np.isfinite(with_temperature(sure.astype(np.float32), 0.05)).all()
