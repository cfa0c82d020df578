import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermaffinity.metrics.conformal import calibration_scores, in_set, p_values, promised_coverage


def draw(rng, images, classes=3):
    """Labels, and probabilities that lean toward them."""
    labels = rng.integers(classes, size=images)
    logits = rng.normal(size=(images, classes)) + 1.5 * (labels[:, None] == np.arange(classes))
    return labels, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_worked_example():
    # Class 0 scores .1 and .4 in calibration. An image that scores .3: one of the two is as high, so (1 + 1) / 3.
    scores = calibration_scores(np.array([0, 1, 0]), np.array([[0.9, 0.1], [0.5, 0.5], [0.6, 0.4]]))
    assert [own.tolist() for own in scores] == [pytest.approx([0.1, 0.4]), [0.5]]
    assert p_values(scores, np.array([[0.7, 0.3]])).tolist() == [pytest.approx([2 / 3, 1 / 2])]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_p_values_equal_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    labels, known = draw(rng, 12)
    _, probabilities = draw(rng, 5)
    found = p_values(calibration_scores(labels, known), probabilities)
    for row in range(5):
        for label in range(3):
            own = [1 - known[i, label] for i in range(12) if labels[i] == label]
            as_high = sum(score >= 1 - probabilities[row, label] for score in own)
            assert found[row, label] == pytest.approx((as_high + 1) / (len(own) + 1))


def test_sets_hold_the_true_class_as_often_as_promised_for_every_class():
    rng = np.random.default_rng(0)
    held = np.zeros((3, 2))
    for _ in range(300):
        labels, known = draw(rng, 90)
        true, probabilities = draw(rng, 30)
        inside = in_set(p_values(calibration_scores(labels, known), probabilities), 0.8)[np.arange(30), true]
        held[:, 0] += np.bincount(true, inside, 3)
        held[:, 1] += np.bincount(true, minlength=3)
    share = held[:, 0] / held[:, 1]
    # About 30 images of a class: steps of 1 / 31 above the promise; 3,000 images leave an error below 0.02.
    assert (share > 0.78).all()
    assert (share < 0.86).all()


@pytest.mark.parametrize(
    ("coverage", "images", "promise"),
    [
        (0.9, [9], 0.9),  # nine images are just enough: 1 / 10 is an error of 0.1
        (0.9, [8], 1.0),
        (0.9, [0], 1.0),
        (0.9, [10], 10 / 11),
        (0.9, [29], 0.9),
        (0.8, [5], 5 / 6),
        (0.9, [9, 9, 9], 0.8),  # a mean of p-values may err twice as often
        (0.9, [2, 2, 2], 1.0),
        (0.6, [9, 9], 0.2),
    ],
)
def test_the_promise_follows_from_the_number_of_images(coverage, images, promise):
    assert promised_coverage(coverage, images) == pytest.approx(promise)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 60), st.sampled_from([0.5, 0.8, 0.9, 0.95]))
def test_one_model_promises_what_counting_its_p_values_gives(count, coverage):
    steps = np.arange(1, count + 2) / (count + 1)  # equally likely for another image of the class
    assert promised_coverage(coverage, [count]) == pytest.approx(in_set(steps, coverage).mean())
