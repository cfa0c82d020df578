import math

import numpy as np
import pytest

from dermaffinity.metrics.power import seeds_needed, smallest_gain, smallest_resampled_gain
from dermaffinity.metrics.statistics import corrected_resampled_t, sign_flip_test


def test_a_normal_difference_needs_the_sum_of_two_quantiles():
    # 1.95996 + 0.84162, the numbers of every textbook; the far tail adds less than the fifth digit.
    assert smallest_gain(1.0) == pytest.approx(2.80158, abs=1e-4)
    assert smallest_gain(0.01, level=0.01, power=0.9) == pytest.approx(0.01 * (2.57583 + 1.28155), abs=1e-6)
    assert smallest_gain(0.0) == 0


def test_the_sign_flip_test_finds_the_smallest_gain_four_times_in_five():
    rng = np.random.default_rng(1)
    images, experiments = 300, 400
    groups = np.arange(images)
    found = 0
    noise = 1.0
    gain = smallest_gain(noise / math.sqrt(images))
    for experiment in range(experiments):
        differences = rng.normal(gain, noise, images)
        found += sign_flip_test(differences, groups, permutations=400, seed=experiment) < 0.05
    assert found / experiments == pytest.approx(0.8, abs=0.06)


def test_the_corrected_t_test_finds_the_smallest_gain_four_times_in_five():
    # Independent differences with the variance that the correction assumes for their mean.
    rng = np.random.default_rng(2)
    results, ratio, deviation = 9, 0.5, 0.02
    gain = smallest_resampled_gain(deviation, results, ratio)
    shared = rng.normal(0, deviation * math.sqrt(ratio), 4000)  # what all folds have in common
    own = rng.normal(0, deviation, (4000, results))
    p = np.array([corrected_resampled_t(gain + s + d, ratio).p for s, d in zip(shared, own, strict=True)])
    assert (p < 0.05).mean() == pytest.approx(0.8, abs=0.02)


def test_few_results_hide_much_and_many_tend_to_the_normal():
    # A paired t-test of three pairs needs an effect of 3.26 standard deviations (noncentrality 5.65).
    assert smallest_resampled_gain(1.0, 3, 1e-12) == pytest.approx(3.26, abs=0.01)
    assert smallest_resampled_gain(1.0, 1, 0.5) == math.inf
    assert smallest_resampled_gain(1.0, 100_000, 0.5) == pytest.approx(math.sqrt(0.5) * smallest_gain(1.0), rel=1e-3)
    assert smallest_resampled_gain(0.0, 9, 0.5) == 0


def test_seeds_needed_are_the_fewest_that_show_the_gain():
    # Three folds, ratio 1/2, one point of spread.
    needed = seeds_needed(0.025, 0.01, 3, 0.5)
    assert needed is not None
    assert smallest_resampled_gain(0.01, 3 * needed, 0.5) <= 0.025
    assert smallest_resampled_gain(0.01, 3 * (needed - 1), 0.5) > 0.025
    assert seeds_needed(-0.025, 0.01, 3, 0.5) == needed
    # However many seeds: 2.80 · 0.01 · √(1/2) = 1.98 points.
    assert seeds_needed(0.019, 0.01, 3, 0.5) is None
    assert seeds_needed(0.5, 0.01, 3, 0.5) == 1


def test_impossible_levels_are_refused():
    with pytest.raises(ValueError, match=r"the level below the power, got 0\.9 and 0\.8"):
        smallest_gain(1.0, level=0.9)
    with pytest.raises(ValueError, match=r"got 0\.05 and 1"):
        smallest_resampled_gain(1.0, 9, 0.5, power=1)
