"""Several methods on the same images: each against the baseline and its best rival, ranks, and what cannot be seen.

The best rival of a method is the one with the best balanced accuracy among all others. Picking it by its result favors
it, so that a comparison with it is conservative. The method that comes out first is picked by its result as well, so
that its own gains are likely to shrink on other images.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dermaffinity.metrics.comparison import Comparison, adjusted, check_paired, compare
from dermaffinity.metrics.power import seeds_needed, smallest_gain, smallest_resampled_gain
from dermaffinity.metrics.ranks import Ranks, average_ranks
from dermaffinity.metrics.summary import Measured, fold_gains

LEVEL = 0.05
_MEASURE = "balanced_accuracy"
_COLUMNS = [
    "against",
    "gain",
    "p_images",
    "p_training",
    "visible_images",
    "visible_training",
    "seeds_needed",
    "verdict",
]


@dataclass(frozen=True)
class Contest:
    """Methods, each against another one.

    Args:
        against: The other one of each method.
        comparisons: Of each with it, p-values adjusted over the methods.
        resolution: See `resolution`.
    """

    against: dict[str, str]
    comparisons: dict[str, Comparison]
    resolution: pd.DataFrame


@dataclass(frozen=True)
class Standings:
    """How methods stand.

    Args:
        over_baseline: Each but the baseline against it; empty where the baseline could not be measured.
        over_rival: Each against its best rival.
        ranks: By balanced accuracy, over folds, as the mean over seeds.
    """

    over_baseline: Contest
    over_rival: Contest
    ranks: Ranks


def standings(
    measured: Mapping[str, Measured],
    baseline: str,
    *,
    test_train_ratio: float | None = None,
) -> Standings:
    """Compares every method with the baseline and with its best rival.

    Args:
        measured: By method, on the same images and folds, with the same seeds and resamples; at least two.
        baseline: One of them, or one that could not be measured.
        test_train_ratio: As for `dermaffinity.metrics.comparison.compare`.

    Raises:
        ValueError: With every difference between what the methods scored.
    """
    by_fold = {name: method.by_fold.groupby("fold")[_MEASURE].mean() for name, method in measured.items()}
    others = {name: baseline for name in measured if name != baseline and baseline in measured}
    rivals = best_rivals({name: method.value(_MEASURE) for name, method in measured.items()})
    return Standings(
        contest(measured, others, test_train_ratio=test_train_ratio),
        contest(measured, rivals, test_train_ratio=test_train_ratio),
        average_ranks(pd.DataFrame(by_fold)),  # not over seeds as well: those of a fold are no results of their own
    )


def contest(
    measured: Mapping[str, Measured],
    against: dict[str, str],
    *,
    test_train_ratio: float | None = None,
) -> Contest:
    """Compares methods, each with another one.

    Args:
        measured: By method.
        against: The other one of each method.
        test_train_ratio: As for `dermaffinity.metrics.comparison.compare`.

    Raises:
        ValueError: With every difference between what the methods scored.
    """
    check_paired(measured)
    comparisons = {
        name: compare(measured[other], measured[name], test_train_ratio=test_train_ratio)
        for name, other in against.items()
    }
    comparisons = adjusted(comparisons) if comparisons else {}
    return Contest(against, comparisons, resolution(measured, against, comparisons, test_train_ratio))


def best_rivals(balanced_accuracy: Mapping[str, float]) -> dict[str, str]:
    """For each method the best of all others, the first of equals; a method alone has none.

    Examples:
        >>> from dermaffinity.metrics import best_rivals
        >>> best_rivals({"cosen": 0.62, "vs": 0.63, "affinity_plus": 0.64})
        {'cosen': 'affinity_plus', 'vs': 'affinity_plus', 'affinity_plus': 'vs'}
    """
    return {
        name: max((other for other in balanced_accuracy if other != name), key=lambda other: balanced_accuracy[other])
        for name in balanced_accuracy
        if len(balanced_accuracy) > 1
    }


def resolution(
    measured: Mapping[str, Measured],
    against: Mapping[str, str],
    comparisons: Mapping[str, Comparison],
    test_train_ratio: float | None,
) -> pd.DataFrame:
    """What each comparison of balanced accuracies shows, and what it could show at all.

    The smallest gains are those that a test finds in four of five experiments, at a level of 5 % shared equally by all
    the comparisons, and with the spread that was observed.

    Args:
        measured: By method.
        against: The method that each is compared with.
        comparisons: With p-values adjusted over the methods.
        test_train_ratio: Test over training images of a fold; None where nothing can be said about other folds.

    Returns:
        Index `method`; columns `against`, `gain`, `p_images` (sign flip) and `p_training` (corrected t), adjusted,
        `visible_images` and `visible_training` (smallest gains that these tests find), `seeds_needed` (for the last to
        find the observed gain; infinite if none are enough) and `verdict`. NaN where a test needs more folds or seeds.
    """
    rows = {}
    for name, other in against.items():
        method, base = measured[name], measured[other]
        tests = comparisons[name].tests.set_index(["test", "metric"])["p_holm"]
        row = {
            "against": other,
            "gain": method.value(_MEASURE) - base.value(_MEASURE),
            "p_images": tests["sign_flip", _MEASURE],
            "p_training": tests["corrected_t", _MEASURE],
            **_visible(method, base, LEVEL / len(against), test_train_ratio),
        }
        rows[name] = row | {"verdict": verdict(row["gain"], row["p_images"], row["p_training"], row["visible_images"])}
    return pd.DataFrame.from_dict(rows, orient="index", columns=_COLUMNS).rename_axis("method")


def verdict(gain: float, p_images: float, p_training: float, visible: float) -> str:
    """A comparison in words.

    Args:
        gain: Difference of the balanced accuracies.
        p_images: Adjusted, of the sign-flip test: do these trained models differ?
        p_training: Adjusted, of the corrected t-test: would training again pick the same winner? NaN if it cannot tell.
        visible: Smallest gain that the first test finds in four of five experiments.
    """
    if not p_images < LEVEL:
        return f"no detectable difference (smallest detectable gain: {100 * visible:.1f} points)"
    word = "better" if gain > 0 else "worse"
    if p_training < LEVEL:
        return word
    return f"{word} on these images; whether it would be when trained again is open"


def pareto_front(scores: np.ndarray) -> np.ndarray:
    """Which methods no other beats: (k,) bool. One beats another if it is at least as good in all and better in one.

    Args:
        scores: (k, measures), higher is better.

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.metrics import pareto_front
        >>> pareto_front(np.array([[0.40, 0.71], [0.54, 0.68], [0.36, 0.70]]))  # recall of rare and of common classes
        array([ True,  True, False])
    """
    as_good = (scores[:, None] >= scores[None]).all(axis=2)  # (k, k): row at least as good as column
    better = (scores[:, None] > scores[None]).any(axis=2)
    return np.logical_not(np.any(as_good & better, axis=0))


def _visible(method: Measured, base: Measured, level: float, ratio: float | None) -> dict[str, float]:
    spread = float(np.nanstd(method.draws[_MEASURE] - base.draws[_MEASURE]))
    differences = fold_gains(base, method, _MEASURE)
    found = {
        "visible_images": smallest_gain(spread, level=level),
        "visible_training": math.nan,
        "seeds_needed": math.nan,
    }
    if ratio is None or len(differences) < 2:
        return found
    deviation = float(differences.mean(axis=1).std(ddof=1))
    found["visible_training"] = smallest_resampled_gain(deviation, len(differences), ratio, level=level)
    gain = method.value(_MEASURE) - base.value(_MEASURE)
    found["seeds_needed"] = seeds_needed(gain, differences, ratio, level=level)
    return found
