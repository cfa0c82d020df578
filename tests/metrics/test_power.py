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
    folds, ratio, deviation = 5, 0.25, 0.02
    gain = smallest_resampled_gain(deviation, folds, ratio)
    shared = rng.normal(0, deviation * math.sqrt(ratio), 4000)  # what all folds have in common
    own = rng.normal(0, deviation, (4000, folds))
    p = np.array([corrected_resampled_t(gain + s + d[:, None], ratio).p for s, d in zip(shared, own, strict=True)])
    assert (p < 0.05).mean() == pytest.approx(0.8, abs=0.02)


def test_few_results_hide_much_and_many_tend_to_the_normal():
    # A paired t-test of three pairs needs an effect of 3.26 standard deviations (noncentrality 5.65).
    assert smallest_resampled_gain(1.0, 3, 1e-12) == pytest.approx(3.26, abs=0.01)
    assert smallest_resampled_gain(1.0, 1, 0.5) == math.inf
    assert smallest_resampled_gain(1.0, 100_000, 0.5) == pytest.approx(math.sqrt(0.5) * smallest_gain(1.0), rel=1e-3)
    assert smallest_resampled_gain(0.0, 9, 0.5) == 0


def test_seeds_needed_are_the_fewest_that_show_the_gain():
    # Means of five folds with a spread of one point, as large as that of the seeds of a fold.
    rng = np.random.default_rng(0)
    of_folds = 0.01 * np.array([-1.0, -0.5, 0.0, 0.5, 1.0]) / math.sqrt(0.625)
    of_seeds = 0.01 * np.array([-1.0, 0.0, 1.0])
    differences = of_folds[:, None] + np.stack([rng.permutation(of_seeds) for _ in range(5)])

    def visible(seeds):
        deviation = 0.01 * math.sqrt(1 - 1 / 3 + 1 / seeds) if seeds else math.inf
        return smallest_resampled_gain(deviation, 5, 0.25)

    for gain in (0.024, 0.025, 0.03):
        needed = seeds_needed(gain, differences + 0.7, 0.25)
        assert visible(needed) <= gain < visible(needed - 1)
        assert seeds_needed(-gain, differences, 0.25) == needed
    assert seeds_needed(0.5, differences, 0.25) == 1


def test_no_number_of_seeds_shows_what_the_folds_hide_and_one_seed_does_not_tell():
    differences = np.array([[0.00, 0.01], [0.05, 0.06], [0.10, 0.11]])
    # Five points of spread between the folds remain: 5.05 points times √(1/3 + 1/2) times what 80 % power asks for.
    hidden = smallest_resampled_gain(0.05 * 0.999, 3, 0.5)
    assert hidden > 0.25
    assert seeds_needed(hidden * 0.99, differences, 0.5) == math.inf
    assert seeds_needed(hidden * 1.01, differences, 0.5) < 5
    assert math.isnan(seeds_needed(0.5, differences[:, :1], 0.5))


def test_impossible_levels_are_refused():
    with pytest.raises(ValueError, match=r"the level below the power, got 0\.9 and 0\.8"):
        smallest_gain(1.0, level=0.9)
    with pytest.raises(ValueError, match=r"got 0\.05 and 1"):
        smallest_resampled_gain(1.0, 9, 0.5, power=1)
