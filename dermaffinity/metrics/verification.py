"""Are two faces the same person? Measures of pairs, from one score each.

Axes: P pairs, S seeds, T templates, N images, D embedding dimensions. A score is higher for more alike; a pair is
accepted when its score is at least the threshold. FAR is the share of accepted impostor pairs (different people), TAR
that of accepted genuine pairs (the same person).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from dermaffinity.metrics.statistics import bootstrap_interval

FALSE_ACCEPT_RATES = (0.1, 0.01, 0.001)
"""Where the true accept rate is read off, unless a caller says otherwise."""


class FoldAccuracy(NamedTuple):
    """Accuracy of K folds, each at the threshold that is best on all others."""

    accuracies: np.ndarray  # (K,)
    thresholds: np.ndarray  # (K,)

    @property
    def mean(self) -> float:
        """Mean over folds."""
        return float(self.accuracies.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of that mean: the folds' standard deviation (K - 1 in the divisor) over √K."""
        return float(self.accuracies.std(ddof=1) / math.sqrt(len(self.accuracies)))


class Roc(NamedTuple):
    """The curve from accepting nothing to accepting everything."""

    far: np.ndarray
    tar: np.ndarray
    thresholds: np.ndarray  # the first is infinite


def template_embeddings(embedding: np.ndarray, template: np.ndarray) -> np.ndarray:
    """One unit vector (T, D) for each template: the direction of the mean of its images' unit embeddings.

    A template is all there is of one person's one appearance, an image or the frames of a video.

    Args:
        embedding: (N, D).
        template: (N,), index of each image's template, 0 to T - 1, each at least once.
    """
    from sklearn.preprocessing import normalize

    mean = np.zeros((int(template.max()) + 1, embedding.shape[1]))
    np.add.at(mean, template, normalize(embedding.astype(np.float64)))
    return normalize(mean)  # the length of a sum or of a mean is the same to a direction


def cosine_scores(templates: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine (P,) of each pair of unit templates (T, D); it orders pairs as their Euclidean distance √(2 - 2cos) does.

    Args:
        templates: (T, D), each of length 1.
        first: (P,), template index.
        second: (P,), template index.
    """
    return np.einsum("pd,pd->p", templates[first], templates[second])


def fold_accuracy(scores: np.ndarray, same: np.ndarray, folds: np.ndarray) -> FoldAccuracy:
    """Accuracy of each fold at the threshold that is best on the other folds.

    Source: Huang et al., "Labeled Faces in the Wild", University of Massachusetts TR 07-49, 2007, view 2.

    Args:
        scores: (P,), finite.
        same: (P,), bool.
        folds: (P,), fold of each pair; at least 2 different ones.

    Raises:
        ValueError: Fewer than 2 folds, or a score that is not finite.
    """
    _check_finite(scores)
    names = np.unique(folds)
    if len(names) < 2:
        raise ValueError(f"a threshold is chosen on the other folds, so there must be at least 2, found {len(names)}")
    accuracies, thresholds = [], []
    for name in names:
        test = folds == name
        threshold = best_threshold(scores[~test], same[~test])
        accuracies.append(np.mean((scores[test] >= threshold) == same[test]))
        thresholds.append(threshold)
    return FoldAccuracy(np.array(accuracies), np.array(thresholds))


def best_threshold(scores: np.ndarray, same: np.ndarray) -> float:
    """The threshold with the most right decisions, midway between two scores; of several the middle one.

    Args:
        scores: (P,), finite.
        same: (P,), bool.
    """
    values, place = np.unique(scores, return_inverse=True)
    gain = np.bincount(place, weights=np.where(same, 1, -1))  # what accepting all pairs of a value adds
    right = np.concatenate([np.cumsum(gain[::-1])[::-1], [0]])  # up to a constant, for a threshold below value i
    borders = np.concatenate([[-np.inf], (values[1:] + values[:-1]) / 2, [np.inf]])
    best = np.flatnonzero(right == right.max())
    return float(borders[best[len(best) // 2]])


def roc(scores: np.ndarray, same: np.ndarray, weights: np.ndarray | None = None) -> Roc:
    """The ROC with a point for every different score.

    Args:
        scores: (P,), finite.
        same: (P,), bool; both kinds occur.
        weights: (P,), how often each pair counts; once by default.

    Raises:
        ValueError: A score that is not finite, or pairs of one kind only.
    """
    from sklearn.metrics import roc_curve

    _check_finite(scores)
    if same.all() or not same.any():
        raise ValueError(f"a ROC needs pairs of the same and of different people, all {len(same)} are of one kind")
    return Roc(*roc_curve(same, scores, sample_weight=weights, drop_intermediate=False))


def area_under(curve: Roc) -> float:
    """Area under the ROC, in [0, 1]: how often a genuine pair scores higher than an impostor pair."""
    return float(np.trapezoid(curve.tar, curve.far))


def equal_error_rate(curve: Roc) -> float:
    """Where the false accept rate equals the false reject rate 1 - TAR, on the straight line between two points."""
    difference = curve.far - (1 - curve.tar)  # rises from -1 to 1
    after = int(np.argmax(difference >= 0))
    low, high = difference[after - 1], difference[after]
    share = -low / (high - low)
    return float(curve.far[after - 1] + share * (curve.far[after] - curve.far[after - 1]))


def true_accept_rate(curve: Roc, far: float, impostors: int) -> float:
    """The largest TAR whose FAR is at most ``far``; NaN where so small a FAR cannot be told from zero.

    Args:
        curve: Of `roc`.
        far: In (0, 1].
        impostors: Number of impostor pairs behind the curve; a FAR below 1/impostors would be zero false accepts.
    """
    if far * impostors < 1 - 1e-9:
        return math.nan
    return float(curve.tar[curve.far <= far + 1e-12].max())


def unmeasured(same: np.ndarray, fars: Sequence[float] = FALSE_ACCEPT_RATES) -> list[str]:
    """A sentence for each false accept rate that these pairs are too few for."""
    impostors = int(np.count_nonzero(~same))
    return [
        f"TAR at FAR {far:g} is not measured: it takes at least {math.ceil(1 / far - 1e-9):,} impostor pairs, "
        f"there are {impostors:,}"
        for far in fars
        if far * impostors < 1 - 1e-9
    ]


def verification_summary(
    scores: np.ndarray,
    pairs: pd.DataFrame,
    *,
    fars: Sequence[float] = FALSE_ACCEPT_RATES,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """AUC, EER and TAR at several FAR, mean over seeds, with 95 % intervals.

    The intervals draw identities with replacement, because pairs that share a person are not independent; a genuine
    pair then counts as often as its person was drawn, an impostor pair as often as its two were drawn together. They
    are for other people of the same kind, with the trained networks as they are. Where a pair has no identity, or
    there are fewer than 3, they are NaN.

    Source: Snijders and Borgatti, "Non-parametric standard errors and tests for network statistics", Connections
    22(2), 1999 (vertex bootstrap).

    Args:
        scores: (S, P).
        pairs: P rows; of the columns of `dermaffinity.data.pairs`, ``same`` and both identities.
        fars: False accept rates, in (0, 1].
        resamples: Number of draws.
        seed: Of the draws.

    Returns:
        Index ``metric`` (``auc``, ``equal_error_rate``, ``tar.far_0.01``, …), columns value, low, high.

    Examples:
        >>> import numpy as np
        >>> import pandas as pd
        >>> from dermaffinity.metrics import verification_summary
        >>> people = {"first_identity": list("abcabc"), "second_identity": list("abcbca")}
        >>> pairs = pd.DataFrame({"same": [True] * 3 + [False] * 3, **people})
        >>> scores = np.array([[0.9, 0.8, 0.4, 0.5, 0.3, 0.1]])  # of one seed
        >>> verification_summary(scores, pairs, fars=[0.5], resamples=50)["value"].round(2)
        metric
        auc                 0.89
        equal_error_rate    0.33
        tar.far_0.5         1.00
        Name: value, dtype: float64
    """
    same = pairs["same"].to_numpy(dtype=bool)
    impostors = int(np.count_nonzero(~same))

    def measure(weights: np.ndarray | None) -> np.ndarray:
        rows = []
        for one in scores:
            curve = roc(one, same, weights)
            tars = [true_accept_rate(curve, far, impostors) for far in fars]
            rows.append([area_under(curve), equal_error_rate(curve), *tars])
        return np.mean(rows, axis=0)

    values = measure(None)
    draws = []
    for weights in _identity_weights(pairs, resamples, seed):
        if weights[same].any() and weights[~same].any():
            draws.append(measure(weights))
    drawn = np.array(draws).reshape(-1, len(values))
    rows = [(value, *bootstrap_interval(value, drawn[:, i], (0.0, 1.0))) for i, value in enumerate(values)]
    index = pd.Index(["auc", "equal_error_rate", *(f"tar.far_{far:g}" for far in fars)], name="metric")
    return pd.DataFrame(rows, index=index, columns=["value", "low", "high"])


def _identity_weights(pairs: pd.DataFrame, resamples: int, seed: int) -> list[np.ndarray]:
    """How often each pair counts in each draw of identities."""
    people = pd.concat([pairs["first_identity"], pairs["second_identity"]])
    if people.isna().any() or people.nunique() < 3:
        return []
    names, index = np.unique(people.to_numpy(dtype=str), return_inverse=True)
    of_first, of_second = index[: len(pairs)], index[len(pairs) :]
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples).astype(float)
    one_person = of_first == of_second
    return [np.where(one_person, count[of_first], count[of_first] * count[of_second]) for count in counts]


def _check_finite(scores: np.ndarray) -> None:
    if not np.isfinite(scores).all():
        raise ValueError(f"every pair needs a finite score, {np.count_nonzero(~np.isfinite(scores))} have none")
