"""Decisions about one class, or some classes together, against the rest: operating points and net benefit.

Axes: N images, B sets of image weights (see `dermaffinity.metrics.statistics.bootstrap_weights`), T thresholds.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from dermaffinity.metrics.classification import Classes
from dermaffinity.metrics.statistics import bootstrap_interval
from dermaffinity.metrics.summary import ScoredImages

_ROUNDING = 1e-12  # of sums of weights


def sensitivity_at(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray, specificity: float) -> np.ndarray:
    """The most sensitivity that any threshold has whose specificity is at least the one asked for: (B,).

    With ``~positive`` and ``-scores`` it is the specificity at a sensitivity.

    Args:
        positive: (N,) bool, whether an image is of the class.
        scores: (N,), high for the class; images of equal scores are on the same side of every threshold.
        weights: (N, B), how often each image counts.
        specificity: In (0, 1].

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.metrics import sensitivity_at
        >>> ill, scores = np.array([True, True, True, False, False]), np.array([0.9, 0.6, 0.2, 0.7, 0.1])
        >>> sensitivity_at(ill, scores, np.ones((5, 1)), specificity=0.5).round(2)  # one false alarm is allowed
        array([1.])
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # last image of each score
    own, others = (np.cumsum(weights[order] * which[order, None], axis=0)[ends] for which in (positive, ~positive))
    allowed = (others <= (1 - specificity) * others[-1] + _ROUNDING).sum(axis=0)  # (B,), rising thresholds
    found = np.concatenate([np.zeros((1, own.shape[1])), own])
    return np.divide(
        found[allowed, np.arange(own.shape[1])], own[-1], out=np.full(own.shape[1], np.nan), where=own[-1] > 0
    )


def threshold_at(positive: np.ndarray, scores: np.ndarray, specificity: float) -> float:
    """The lowest score that may count as positive for a specificity of at least the one asked for; inf without one."""
    candidates = np.append(np.unique(scores), np.inf)
    cleared = np.searchsorted(np.sort(scores[~positive]), candidates, side="left") / max(1, (~positive).sum())
    return float(candidates[np.argmax(cleared >= specificity - _ROUNDING)])


def operating_points(scored: ScoredImages, level: float, *, resamples: int = 1000) -> pd.DataFrame:
    """Sensitivity where the specificity is ``level``, and the other way round, for each class against the rest.

    The thresholds are chosen on the very images that are counted, in each resample anew: on new images they keep the
    level only about.

    Args:
        scored: Predictions of one seed.
        level: In (0, 1).
        resamples: Of whole groups.

    Returns:
        Index ``class``, `malignant` first where there are malignant classes, then every class that has images; columns
        ``images``, ``sensitivity``, ``sensitivity.low``, ``sensitivity.high`` at the specificity, ``specificity``, …
        at the sensitivity, and ``threshold.sensitivity`` and ``threshold.specificity``, the probability from which on
        an image counts as positive for either.

    Examples:
        >>> import pandas as pd
        >>> from dermaffinity.metrics import Classes, ScoredImages, operating_points
        >>> scored = ScoredImages.from_table(pd.read_csv("out_of_fold.csv"), Classes(("AK", "ML"), malignant=("AK",)))
        >>> operating_points(scored, 0.75, resamples=50)[["images", "sensitivity", "threshold.sensitivity"]]
                   images  sensitivity  threshold.sensitivity
        class
        malignant       4          1.0                    0.4
        AK              4          1.0                    0.4
        ML              4          1.0                    0.4
    """
    targets = {name: chosen for name, chosen in _targets(scored.classes).items() if chosen[scored.labels].any()}

    def measure(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
        found = {}
        for name, chosen in targets.items():
            positive, scores = chosen[labels], probabilities[:, chosen].sum(axis=1)
            found[f"sensitivity {name}"] = sensitivity_at(positive, scores, weights, level)
            found[f"specificity {name}"] = sensitivity_at(~positive, -scores, weights, level)
        return found

    own, draws = scored.resampled(measure, resamples)
    rows = {}
    for name, chosen in targets.items():
        positive, scores = chosen[scored.labels], scored.probabilities[0][:, chosen].sum(axis=1)
        row: dict[str, float] = {"images": int(positive.sum())}
        for kind in ("sensitivity", "specificity"):
            value = float(own[f"{kind} {name}"].mean())
            low, high = bootstrap_interval(value, draws[f"{kind} {name}"], (0, 1))
            row |= {kind: value, f"{kind}.low": low, f"{kind}.high": high}
        # With the roles exchanged the bound is the highest score that counts as negative: the next one up is positive.
        highest = -threshold_at(~positive, -scores, level)
        row |= {"threshold.sensitivity": threshold_at(positive, scores, level)}
        row |= {"threshold.specificity": float(scores[scores > highest].min(initial=np.inf))}
        rows[name] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("class").astype({"images": int})


def net_benefit(
    positive: np.ndarray, probabilities: np.ndarray, thresholds: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    r"""What acting on a model gains over never acting, in true positives per image: (T, B).

    .. math:: \frac{TP}{n} - \frac{FP}{n} \cdot \frac{p_t}{1 - p_t}

    The threshold :math:`p_t` is the risk from which on one would act: at 10 % a true positive is worth nine false ones.
    It only means something for calibrated probabilities and for a share of positives like that where it is used.

    Source: Vickers and Elkin, "Decision curve analysis", Medical Decision Making 26(6), 2006.

    Args:
        positive: (N,) bool.
        probabilities: (N,), of being positive.
        thresholds: (T,), in (0, 1).
        weights: (N, B), how often each image counts.

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.metrics import net_benefit
        >>> ill, risk = np.array([True, False, False, False]), np.array([0.6, 0.3, 0.1, 0.1])
        >>> net_benefit(ill, risk, np.array([0.2]), np.ones((4, 1)))  # one found, one false alarm: (1 - 0.25) / 4
        array([[0.1875]])
    """
    order = np.argsort(probabilities, kind="stable")
    start = np.searchsorted(probabilities[order], thresholds, side="left")  # from here on one acts
    found, alarms = (
        np.concatenate(
            [np.cumsum((weights[order] * which[order, None])[::-1], axis=0)[::-1], np.zeros((1, weights.shape[1]))]
        )[start]
        for which in (positive, ~positive)
    )
    return (found - alarms * (thresholds / (1 - thresholds))[:, None]) / weights.sum(axis=0)


def decision_curve(
    scored: ScoredImages, classes: tuple[str, ...], thresholds: np.ndarray, *, resamples: int = 1000
) -> pd.DataFrame:
    """Net benefit of acting on the summed probability of some classes, with 95 % intervals, beside acting on all.

    Args:
        scored: Calibrated predictions of one seed.
        classes: Class codes that call for action, such as the malignant ones.
        thresholds: (T,), in (0, 1).
        resamples: Of whole groups.

    Returns:
        Columns ``threshold``, ``value``, ``low``, ``high``, and ``all``, the net benefit of acting on every image.

    Examples:
        >>> import numpy as np
        >>> import pandas as pd
        >>> from dermaffinity.metrics import Classes, ScoredImages, decision_curve
        >>> scored = ScoredImages.from_table(pd.read_csv("out_of_fold.csv"), Classes(("AK", "ML")))
        >>> decision_curve(scored, ("AK",), np.array([0.25, 0.5]), resamples=50)[["threshold", "value", "all"]]
           threshold     value       all
        0       0.25  0.416667  0.333333
        1       0.50  0.250000  0.000000
    """
    chosen = np.isin(scored.classes.names, classes)

    def measure(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
        benefit = net_benefit(chosen[labels], probabilities[:, chosen].sum(axis=1), thresholds, weights)
        return {str(index): row for index, row in enumerate(benefit)}

    own, draws = scored.resampled(measure, resamples)
    share = chosen[scored.labels].mean()
    rows = []
    for index, threshold in enumerate(thresholds):
        value = float(own[str(index)].mean())
        interval = bootstrap_interval(value, draws[str(index)], (-np.inf, np.inf))
        rows.append((threshold, value, *interval, share - (1 - share) * threshold / (1 - threshold)))
    return pd.DataFrame(rows, columns=["threshold", "value", "low", "high", "all"])


def _targets(classes: Classes) -> Mapping[str, np.ndarray]:
    """Which classes (C,) count as positive, by name."""
    names = np.array(classes.names)
    malignant = {"malignant": np.isin(names, classes.malignant)} if classes.malignant else {}
    return malignant | {name: names == name for name in classes.names}
