"""How small a gain the data can show at all: what a test that finds nothing has, and has not, ruled out.

Everything is two-sided. The usual power of 80 % means that a true gain of the size given is found in four of five
experiments.
"""

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

_NORMAL = NormalDist()


def smallest_gain(standard_error: float, *, level: float = 0.05, power: float = 0.8) -> float:
    r"""Smallest gain that a test of a nearly normal difference finds: about 2.80 standard errors at the defaults.

    .. math:: 1 - \Phi(z - \delta / s) + \Phi(-z - \delta / s) = power

    Args:
        standard_error: s of the difference, at least 0, such as the spread of a paired bootstrap.
        level: Chance of a false alarm, in (0, 1).
        power: In (level, 1).

    Examples:
        >>> from dermaffinity.metrics import smallest_gain
        >>> round(smallest_gain(0.01), 4)  # 2.8 standard errors
        0.028
    """
    _check(level, power)
    bound = _NORMAL.inv_cdf(1 - level / 2)

    def found(ratio: float) -> float:
        return 1 - _NORMAL.cdf(bound - ratio) + _NORMAL.cdf(-bound - ratio)

    return standard_error * _root(found, power)


def smallest_resampled_gain(
    deviation: float, folds: int, test_train_ratio: float, *, level: float = 0.05, power: float = 0.8
) -> float:
    r"""Smallest gain that the corrected resampled t-test finds, from the noncentral t distribution.

    The gain divided by :math:`s \sqrt{1/K + n_{test}/n_{train}}` is the noncentrality, with K - 1 degrees of freedom.

    Source: Nadeau and Bengio, "Inference for the generalization error", Machine Learning 52, 2003, for the error.

    Args:
        deviation: s, standard deviation over the folds of the difference, each fold's averaged over its seeds.
        folds: K; below 2 nothing can be found, and the answer is infinite.
        test_train_ratio: Test images over training images of a fold; positive.
        level: Chance of a false alarm, in (0, 1).
        power: In (level, 1).

    Examples:
        >>> from dermaffinity.metrics import smallest_resampled_gain
        >>> [round(smallest_resampled_gain(0.01, folds, 1 / (folds - 1)), 3) for folds in (3, 10)]
        [0.052, 0.014]
    """
    _check(level, power)
    if folds < 2:
        return math.inf
    from scipy.special import ncfdtr, stdtrit

    freedom = folds - 1
    bound = float(stdtrit(freedom, 1 - level / 2))

    def found(noncentrality: float) -> float:
        # The square of t is F, which has both tails in one.
        return 1 - float(ncfdtr(1, freedom, noncentrality**2, bound**2))

    return deviation * math.sqrt(1 / folds + test_train_ratio) * _root(found, power)


def seeds_needed(
    gain: float, differences: np.ndarray, test_train_ratio: float, *, level: float = 0.05, power: float = 0.8
) -> float:
    """Seeds after which `smallest_resampled_gain` is at most a gain, if the spread stays as it is.

    Seeds take away only the part of the folds' spread that is their own: :math:`s^2 = s_{fold}^2 + s_{seed}^2 / S`.

    Args:
        gain: Of either sign.
        differences: (K, S), observed for each fold and seed.
        test_train_ratio: As for `smallest_resampled_gain`.
        level: As for `smallest_resampled_gain`.
        power: As for `smallest_resampled_gain`.

    Returns:
        Infinite if no number of seeds is enough; NaN with a single seed, which does not show its part of the spread.

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.metrics import seeds_needed
        >>> differences = np.array([[0.02, 0.06], [0.03, 0.05], [0.05, 0.03]])  # of three folds, two seeds each
        >>> seeds_needed(0.04, differences, test_train_ratio=0.5)
        7
    """
    folds, seeds = differences.shape
    if seeds < 2:
        return math.nan
    of_seeds = differences.var(axis=1, ddof=1).mean()
    of_folds = max(0.0, differences.mean(axis=1).var(ddof=1) - of_seeds / seeds)
    largest = (gain / smallest_resampled_gain(1.0, folds, test_train_ratio, level=level, power=power)) ** 2
    return max(1, math.ceil(of_seeds / (largest - of_folds))) if largest > of_folds else math.inf


def _root(found: Callable[[float], float], power: float) -> float:
    """The effect, in standard errors, that is found with a power; the power rises with the effect."""
    from scipy.optimize import brentq

    high = 1.0
    while found(high) < power:
        high *= 2
    return float(brentq(lambda effect: found(effect) - power, 0, high, xtol=1e-10))


def _check(level: float, power: float) -> None:
    if not 0 < level < power < 1:
        raise ValueError(f"level and power must be in (0, 1) and the level below the power, got {level} and {power}")
