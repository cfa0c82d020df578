import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dermaffinity.metrics.statistics import (
    bootstrap_interval,
    bootstrap_weights,
    corrected_resampled_t,
    holm,
    mcnemar_exact,
    share_interval,
    sign_flip_test,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"), [(18, 24, 0.55, 0.88), (27, 45, 0.45, 0.73), (57, 76, 0.64, 0.83)]
)
def test_wilson_of_small_lesion_classes(successes, total, low, high):
    assert wilson_interval(successes, total) == pytest.approx((low, high), abs=0.005)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 400).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_wilson_agrees_with_scipy(counts):
    expected = stats.binomtest(*counts).proportion_ci(method="wilson")
    assert wilson_interval(*counts) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_nothing_is_nan_and_of_the_impossible_an_error():
    assert all(math.isnan(bound) for bound in wilson_interval(0, 0))
    with pytest.raises(ValueError, match=r"\[0, total\], got 5 of 4"):
        wilson_interval(5, 4)


LESIONS = np.repeat(np.arange(41), [1] * 21 + [2] * 16 + [3] * 4)  # of the 65 images of hamfit-7's df


def answers(share, correlation, runs, rng):
    """(runs, 65) answers, right with a probability, and alike within a lesion with a correlation."""
    alike = rng.random((runs, 65)) < math.sqrt(correlation)
    return np.where(alike, (rng.random((runs, 41)) < share)[:, LESIONS], rng.random((runs, 65)) < share)


@pytest.mark.parametrize("correlation", [0, 0.33, 0.67])
def test_a_share_of_images_in_lesions_is_covered_as_often_as_promised(correlation):
    rng = np.random.default_rng(0)
    covered = {}
    for share in (0.05, 0.3, 0.8):
        intervals = np.array([share_interval(run, LESIONS) for run in answers(share, correlation, 3000, rng)])
        covered[share] = ((intervals[:, 0] <= share) & (share <= intervals[:, 1])).mean()
    assert 0.94 <= covered[0.3] <= 0.96
    assert 0.94 <= covered[0.8] <= 0.965
    assert 0.94 <= covered[0.05] <= 0.975  # few counts are possible: Wilson's own coverage is 0.96 there


def test_images_of_groups_of_their_own_have_wilsons_interval():
    values = np.repeat([1.0, 0.0], [18, 6])
    assert share_interval(values, np.arange(24)) == wilson_interval(18, 24)
    assert share_interval(np.zeros(24), np.arange(24)) == wilson_interval(0, 24)


def test_groups_that_agree_count_once_and_groups_that_disagree_do_not_count():
    pairs = np.repeat(np.arange(10), 2)
    assert share_interval(np.repeat([1, 0], [12, 8]), pairs) == pytest.approx(wilson_interval(6, 10))
    assert share_interval(np.tile([1, 0], 10), pairs) == pytest.approx(wilson_interval(10, 20))
    # Where all are right, nothing says that images of a group differ.
    assert share_interval(np.ones(20), pairs) == pytest.approx(wilson_interval(10, 10))


def test_a_group_worth_part_of_its_images_worked_example():
    # Groups of 2, 2, 1 and 1: 3 of 6 right. Within: 1/2; expected (6 - 4)/4 = 1/2, so no correlation. With the first
    # pair both right: within 0, correlation 1, 6 / (1 + (10/6 - 1)) = 3.6 images.
    groups = np.array(["a", "a", "b", "b", "c", "d"])
    assert share_interval(np.array([1, 0, 0, 0, 1, 1]), groups) == pytest.approx(wilson_interval(3, 6))
    assert share_interval(np.array([1, 1, 0, 0, 0, 1]), groups) == pytest.approx(wilson_interval(1.8, 3.6))
    assert all(math.isnan(bound) for bound in share_interval(np.array([]), np.array([])))


def all_weights(groups, labels, resamples=300, seed=0):
    return np.concatenate(list(bootstrap_weights(groups, labels, resamples=resamples, seed=seed)), axis=1)


def test_bootstrap_draws_whole_groups_and_as_many_of_each_class_as_there_are():
    groups = np.array(["a", "a", "b", "c", "c", "c", "d", "e"])
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 2])
    weights = all_weights(groups, labels, resamples=130)
    assert weights.shape == (8, 130)
    for group in "abcde":
        assert (np.ptp(weights[groups == group], axis=0) == 0).all()
    first_of_group = weights[[0, 2, 3, 6, 7]]
    assert (first_of_group[:2].sum(axis=0) == 2).all()  # two groups of class 0
    assert (first_of_group[2:4].sum(axis=0) == 2).all()
    assert (first_of_group[4] == 1).all()  # the only group of class 2 never vanishes
    assert first_of_group[:4].mean() == pytest.approx(1, abs=0.15)


def test_a_group_of_several_classes_counts_for_the_most_frequent_and_on_a_tie_for_the_rarest():
    # Group a is 2:1 for class 0; group b is 1:1 of classes 0 and 2, the rarer, and so the only group of its class.
    groups = np.array(["a", "a", "a", "b", "b", "c", "d"])
    labels = np.array([0, 0, 1, 0, 2, 1, 0])
    weights = all_weights(groups, labels)
    assert (weights[3:5] == 1).all()
    assert (weights[0] + weights[6] == 2).all()


def test_the_same_seed_draws_the_same_groups():
    groups, labels = np.arange(30) // 2, np.arange(30) % 3
    np.testing.assert_array_equal(all_weights(groups, labels), all_weights(groups, labels))
    assert (all_weights(groups, labels) != all_weights(groups, labels, seed=1)).any()


def test_bootstrap_interval_undoes_the_shift_of_resampling_and_stays_within_limits():
    draws = np.linspace(0.3, 0.5, 1001)
    assert bootstrap_interval(0.4, draws, (0, 1)) == pytest.approx((0.305, 0.495))
    assert bootstrap_interval(0.2, draws, (0, 1)) == pytest.approx((0.105, 0.295))
    assert bootstrap_interval(0.05, draws, (0, 1)) == pytest.approx((0, 0.145))
    assert all(math.isnan(bound) for bound in bootstrap_interval(0.5, np.full(9, np.nan), (0, 1)))


def test_equal_draws_are_not_taken_for_certainty():
    assert bootstrap_interval(0.0, np.zeros(99), (0, 1), groups=9) == pytest.approx((0, wilson_interval(0, 9)[1]))
    assert bootstrap_interval(1.0, np.ones(99), (0, 1), groups=9) == pytest.approx((wilson_interval(9, 9)[0], 1))
    assert bootstrap_interval(0.0, np.zeros(99), (0, 1)) == (0, 0)


def test_bootstrap_over_groups_covers_the_truth_where_one_over_images_does_not():
    # Four images per group with the same answer: 50 groups are 50 observations, not 200.
    rng = np.random.default_rng(0)
    groups, labels, covered = np.repeat(np.arange(50), 4), np.zeros(200, dtype=int), {"groups": 0, "images": 0}
    for seed in range(150):
        right = np.repeat(rng.random(50) < 0.7, 4)
        for name, units in (("groups", groups), ("images", np.arange(200))):
            weights = all_weights(units, labels, resamples=200, seed=seed)
            low, high = bootstrap_interval(right.mean(), right @ weights / weights.sum(axis=0), (0, 1))
            covered[name] += low <= 0.7 <= high
    assert 0.89 <= covered["groups"] / 150 <= 0.99
    assert covered["images"] / 150 < 0.8


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (5, 0), (3, 3), (12, 4), (7, 30), (900, 850)])
def test_mcnemar_is_the_binomial_test_on_the_disagreements(gained, lost):
    p = mcnemar_exact(gained, lost)
    assert p.exact_p == pytest.approx(stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1)
    total, fewer = gained + lost, min(gained, lost)
    mid = 2 * stats.binom.cdf(fewer, total, 0.5) - stats.binom.pmf(fewer, total, 0.5)
    assert p.mid_p == pytest.approx(mid)
    assert p.mid_p <= p.exact_p
    assert p == mcnemar_exact(lost, gained)


def test_sign_flip_agrees_with_trying_every_flip():
    differences = np.array([0.5, 0.5, -0.25, 1.0, 0.0, 0.75, 0.25])
    groups = np.array(["a", "a", "b", "c", "c", "d", "e"])
    sums = np.array([1.0, -0.25, 1.0, 0.75, 0.25])
    flips = np.array(list(itertools.product([-1, 1], repeat=5)))
    exact = (np.abs(flips @ sums) >= sums.sum() - 1e-9).mean()
    assert sign_flip_test(differences, groups, permutations=20_000) == pytest.approx(exact, abs=0.01)


def test_sign_flip_takes_images_of_one_group_as_one_observation():
    differences = np.ones(12)
    assert sign_flip_test(differences, np.arange(12)) < 0.005
    assert sign_flip_test(differences, np.repeat([0, 1], 6)) == pytest.approx(0.5, abs=0.02)
    assert sign_flip_test(np.zeros(12), np.arange(12)) == 1


def test_sign_flip_has_its_level_when_methods_are_alike():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 2)
    p_values = [
        sign_flip_test(np.repeat(rng.choice([-1.0, 0, 1], 30), 2), groups, permutations=200, seed=seed)
        for seed in range(300)
    ]
    assert np.mean(np.array(p_values) <= 0.05) < 0.09


def test_corrected_t_needs_393_standard_deviations_with_three_folds():
    differences = np.array([[-1.0], [0.0], [1.0]])  # standard deviation 1
    assert corrected_resampled_t(differences + 3.93, 0.5).p == pytest.approx(0.05, abs=2e-4)
    result = corrected_resampled_t(differences + 2, 0.5)
    assert result.t == pytest.approx(2 / math.sqrt(1 / 3 + 1 / 2))
    assert result.p == pytest.approx(2 * stats.t.sf(result.t, 2))
    assert result.degrees_of_freedom == 2


@pytest.mark.parametrize(("folds", "needed"), [(3, 3.93), (5, 1.86), (10, 1.04)])
def test_corrected_t_needs_fewer_standard_deviations_with_more_folds(folds, needed):
    spread = stats.zscore(np.arange(folds), ddof=1)[:, None]
    assert corrected_resampled_t(spread + needed, 1 / (folds - 1)).p == pytest.approx(0.05, abs=7e-4)


def test_corrected_t_takes_the_seeds_of_a_fold_as_one():
    differences = np.array([-0.01, 0.02, 0.03])
    noise = np.array([-0.005, 0.0, 0.005])
    once = corrected_resampled_t(differences[:, None], 0.5)
    assert corrected_resampled_t(differences[:, None] + noise, 0.5) == pytest.approx(once)


@pytest.mark.parametrize("noise", [0.1, 1.0])
def test_corrected_t_has_its_level_however_much_seeds_vary(noise):
    # Folds of methods that are alike, correlated by r / (1 + r), which the correction assumes.
    rng, ratio, folds, seeds, runs = np.random.default_rng(0), 0.5, 3, 3, 4000
    shared = rng.normal(0, math.sqrt(ratio), (runs, 1, 1))
    by_fold = shared + rng.normal(size=(runs, folds, 1))
    differences = by_fold + noise * rng.normal(size=(runs, folds, seeds))
    alarms = np.mean([corrected_resampled_t(run, ratio).p < 0.05 for run in differences])
    # Noise of seeds only makes the mean more variable by what s² counts more than once.
    assert 0.04 - 0.01 * noise < alarms < 0.06


def test_corrected_t_comes_close_to_the_plain_test_when_the_test_set_is_tiny():
    differences = np.random.default_rng(0).normal(0.3, 1, 20)
    plain = stats.ttest_1samp(differences, 0)
    assert corrected_resampled_t(differences[:, None], 1e-12).p == pytest.approx(plain.pvalue)


def test_corrected_t_without_spread_judges_equality_only():
    assert corrected_resampled_t(np.zeros((3, 2)), 0.5).p == 1
    assert math.isnan(corrected_resampled_t(np.full((3, 2), 0.1), 0.5).p)
    with pytest.raises(ValueError, match="at least 2 folds"):
        corrected_resampled_t(np.array([[0.1, 0.2]]), 0.5)


def test_holm_worked_example():
    # Sorted: 0.01·4, 0.02·3, 0.03·2 raised to the one before, 0.2·1.
    assert holm([0.03, 0.01, 0.2, 0.02]) == pytest.approx([0.06, 0.04, 0.2, 0.06])
    assert holm([0.7, math.nan, 0.6]) == pytest.approx([1, math.nan, 1], nan_ok=True)
    assert holm([0.04]) == pytest.approx([0.04])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_lies_between_plain_and_bonferroni(p_values):
    adjusted, plain = holm(p_values), np.array(p_values)
    assert (adjusted >= plain).all()
    assert (adjusted <= np.minimum(1, plain * len(plain)) + 1e-12).all()
    assert (np.diff(adjusted[np.argsort(plain)]) >= 0).all()
