import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermaffinity.metrics.calibration import (
    BINS,
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
    reliability_bins,
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
