import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from dermaffinity.metrics.verification import (
    area_under,
    best_threshold,
    cosine_scores,
    equal_error_rate,
    fold_accuracy,
    roc,
    template_embeddings,
    true_accept_rate,
    unmeasured,
    verification_summary,
)

PAIRS = st.integers(0, 2**20).map(lambda seed: random_pairs(seed))


def random_pairs(seed, number=40):
    """Scores with ties, of which genuine pairs tend to have the higher ones."""
    rng = np.random.default_rng(seed)
    same = rng.random(number) < 0.4
    same[:2] = True, False
    return np.round(rng.normal(same * 1.0, 1.0), 1), same


def identity_pairs(people=8, images=3, noise=0.3, seed=0):
    """All pairs of images with random embeddings around a center for each person."""
    rng = np.random.default_rng(seed)
    shown = [(f"p{person}", person) for person in range(people) for _ in range(images)]
    embedding = rng.normal(size=(people, 4))[[person for _, person in shown]]
    embedding = embedding + noise * rng.normal(size=embedding.shape)
    chosen = list(itertools.combinations(range(len(shown)), 2))
    table = pd.DataFrame(
        [(shown[a][0] == shown[b][0], shown[a][0], shown[b][0]) for a, b in chosen],
        columns=["same", "first_identity", "second_identity"],
    )
    scores = -np.array([np.linalg.norm(embedding[a] - embedding[b]) for a, b in chosen])
    return scores[None], table


def right_decisions(scores, same, threshold):
    return sum((score >= threshold) == truth for score, truth in zip(scores, same, strict=True))


def test_of_several_best_thresholds_the_middle_one_is_taken():
    # Right decisions at thresholds below 1, 1.25, 1.75, 2.5 and above 3: 2, 3, 2, 3, 2. The best are 1.25 and 2.5.
    assert best_threshold(np.array([3.0, 2.0, 1.5, 1.0]), np.array([True, False, True, False])) == 2.5
    # All of five thresholds are as good: none decides more than half rightly.
    assert best_threshold(np.array([1.0, 1.0]), np.array([True, False])) == math.inf


@settings(deadline=None, max_examples=20)
@given(PAIRS)
def test_no_threshold_decides_more_pairs_rightly(pairs):
    scores, same = pairs
    found = right_decisions(scores, same, best_threshold(scores, same))
    assert found == max(right_decisions(scores, same, t) for t in [*scores, math.inf])


def test_a_threshold_lies_midway_between_two_scores_wherever_both_kinds_are_told_apart():
    assert best_threshold(np.array([0.9, 0.7, 0.2, 0.1]), np.array([True, True, False, False])) == pytest.approx(0.45)


def test_the_accuracy_of_a_fold_uses_the_threshold_of_the_others():
    # Fold 0 alone would be perfect at 0.5; fold 1 puts the threshold at 5, where fold 0 accepts nothing.
    scores = np.array([0.9, 0.1, 9.0, 1.0])
    same = np.array([True, False, True, False])
    found = fold_accuracy(scores, same, np.array([0, 0, 1, 1]))
    assert found.thresholds.tolist() == pytest.approx([5.0, 0.5])
    assert found.accuracies.tolist() == [0.5, 0.5]


@settings(deadline=None, max_examples=8)
@given(PAIRS)
def test_fold_accuracies_equal_a_plain_loop(pairs):
    scores, same = pairs
    folds = np.arange(len(scores)) % 10
    found = fold_accuracy(scores, same, folds)
    expected = []
    for fold in range(10):
        threshold = best_threshold(scores[folds != fold], same[folds != fold])
        expected.append(right_decisions(scores[folds == fold], same[folds == fold], threshold) / sum(folds == fold))
    assert found.accuracies.tolist() == pytest.approx(expected)
    assert found.mean == pytest.approx(sum(expected) / 10)
    variance = sum((value - found.mean) ** 2 for value in expected) / 9
    assert found.standard_error == pytest.approx(math.sqrt(variance / 10))


def test_one_fold_has_no_others_to_choose_on_and_a_missing_score_is_refused():
    scores, same = random_pairs(0)
    with pytest.raises(ValueError, match="at least 2, found 1"):
        fold_accuracy(scores, same, np.zeros(len(scores)))
    scores[3] = math.nan
    with pytest.raises(ValueError, match="every pair needs a finite score, 1 have none"):
        fold_accuracy(scores, same, np.arange(len(scores)) % 10)
    with pytest.raises(ValueError, match="all 2 are of one kind"):
        roc(np.zeros(2), np.ones(2, dtype=bool))


@settings(deadline=None, max_examples=20)
@given(PAIRS)
def test_the_curve_and_its_area_are_those_of_scikit_learn_and_of_a_plain_loop(pairs):
    scores, same = pairs
    curve = roc(scores, same)
    corners = roc_curve(same, scores)  # without the points on straight lines
    assert set(zip(*corners, strict=True)) <= set(zip(*curve, strict=True))
    assert area_under(curve) == pytest.approx(roc_auc_score(same, scores))
    for threshold, rate_far, rate_tar in zip(curve.thresholds, curve.far, curve.tar, strict=True):
        accepted = scores >= threshold
        assert rate_far == pytest.approx(accepted[~same].mean())
        assert rate_tar == pytest.approx(accepted[same].mean())


@settings(deadline=None, max_examples=20)
@given(PAIRS, st.sampled_from([0.05, 0.1, 0.2, 0.5, 1.0]))
def test_the_true_accept_rate_is_the_largest_that_keeps_the_false_accept_rate(pairs, far):
    scores, same = pairs
    rates = [(np.mean(scores[~same] >= t), np.mean(scores[same] >= t)) for t in [*scores, math.inf]]
    expected = max(tar for rate, tar in rates if rate <= far)
    impostors = int(np.count_nonzero(~same))
    found = true_accept_rate(roc(scores, same), far, impostors)
    assert math.isnan(found) if far * impostors < 1 else found == pytest.approx(expected)


def test_a_rate_that_the_impostors_are_too_few_for_is_not_measured_and_the_note_says_so():
    same = np.array([True] * 5 + [False] * 100)
    curve = roc(np.linspace(1, 0, 105), same)
    assert true_accept_rate(curve, 0.01, 100) == 1.0
    assert math.isnan(true_accept_rate(curve, 0.001, 100))
    assert unmeasured(same, (0.1, 0.01, 0.001)) == [
        "TAR at FAR 0.001 is not measured: it takes at least 1,000 impostor pairs, there are 100"
    ]


def test_equal_error_rate_of_worked_examples():
    same = np.array([True, True, False, False])
    assert equal_error_rate(roc(np.array([4.0, 3.0, 2.0, 1.0]), same)) == 0
    assert equal_error_rate(roc(np.array([4.0, 2.0, 3.0, 1.0]), same)) == pytest.approx(0.5)
    assert equal_error_rate(roc(np.array([2.0, 1.0, 4.0, 3.0]), same)) == pytest.approx(1)
    assert equal_error_rate(roc(np.zeros(4), same)) == pytest.approx(0.5)  # all alike: chance


@settings(deadline=None, max_examples=20)
@given(PAIRS)
def test_at_the_equal_error_rate_both_errors_are_equal(pairs):
    curve = roc(*pairs)
    rate = equal_error_rate(curve)
    # Along a vertical step of the curve one FAR has many TAR: the point lies between the lowest and the highest.
    on_curve = curve.tar[np.isclose(curve.far, rate)]
    if len(on_curve):
        assert on_curve.min() - 1e-9 <= 1 - rate <= on_curve.max() + 1e-9
    else:
        assert np.interp(rate, curve.far, curve.tar) == pytest.approx(1 - rate)


def test_a_template_is_the_mean_direction_of_its_images():
    embedding = np.array([[2.0, 0.0], [0.0, 5.0], [0.0, -3.0]])
    templates = template_embeddings(embedding, np.array([0, 0, 1]))
    np.testing.assert_allclose(templates, [[math.sqrt(0.5), math.sqrt(0.5)], [0, -1]])
    scores = cosine_scores(templates, np.array([0, 0, 1]), np.array([0, 1, 1]))
    assert scores.tolist() == pytest.approx([1, -math.sqrt(0.5), 1])
    np.testing.assert_allclose(template_embeddings(7 * embedding, np.array([0, 0, 1])), templates)


def test_a_summary_is_the_mean_over_seeds_and_its_intervals_hold_the_value():
    scores, pairs = identity_pairs()
    other, _ = identity_pairs(seed=0, noise=1.0)
    summary = verification_summary(np.concatenate([scores, other]), pairs, fars=(0.1, 0.001), resamples=80)
    same = pairs["same"].to_numpy()
    assert list(summary.index) == ["auc", "equal_error_rate", "tar.far_0.1", "tar.far_0.001"]
    areas = [roc_auc_score(same, scores[0]), roc_auc_score(same, other[0])]
    assert summary.loc["auc", "value"] == pytest.approx(np.mean(areas))
    assert summary.loc["tar.far_0.001"].isna().all()  # 252 impostor pairs
    measured = summary.drop("tar.far_0.001")
    assert ((measured["low"] <= measured["value"]) & (measured["value"] <= measured["high"])).all()


def test_drawing_people_gives_wider_intervals_than_taking_pairs_for_independent_ones():
    scores, pairs = identity_pairs(people=6, images=6, noise=0.8)
    by_person = verification_summary(scores, pairs, fars=(), resamples=100)
    rng = np.random.default_rng(0)
    same = pairs["same"].to_numpy()
    drawn = [rng.integers(len(same), size=len(same)) for _ in range(100)]
    areas = [roc_auc_score(same[rows], scores[0][rows]) for rows in drawn]
    low, high = np.quantile(areas, [0.025, 0.975])
    assert by_person.loc["auc", "high"] - by_person.loc["auc", "low"] > 1.5 * (high - low)


def test_without_identities_there_is_a_value_and_no_interval():
    scores, pairs = identity_pairs()
    summary = verification_summary(scores, pairs.assign(second_identity=None), fars=(), resamples=20)
    assert summary["value"].notna().all()
    assert summary[["low", "high"]].isna().all(axis=None)
