"""Curves over every threshold: one class against the rest, and how accuracy rises when the unsure are left out.

Axes: N images.
"""

import numpy as np
import pandas as pd

_GRID = np.linspace(0, 1, 401)


def roc_curve(positive: np.ndarray, scores: np.ndarray, folds: np.ndarray) -> pd.DataFrame:
    """Sensitivity against 1 − specificity of one class against the rest, averaged over the folds' models.

    The models of different folds need not share a scale, so each fold has a curve of its own. They are averaged with
    their numbers of pairs as weights, so that the area below is the AUC of `classification.weighted_metrics`.

    Source of averaging at equal false positive rates: Fawcett, "An introduction to ROC analysis", Pattern Recognition
    Letters 27(8), 2006, section 8.2.

    Args:
        positive: (N,) bool, whether an image is of the class.
        scores: (N,), its probability of the class.
        folds: (N,), the model that scored it.

    Returns:
        Columns `false_positive_rate` and `true_positive_rate`, from (0, 0) to (1, 1); empty where no fold has both
        images of the class and others.

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.metrics import roc_curve
        >>> positive, scores = np.array([True, True, False, False]), np.array([0.9, 0.4, 0.6, 0.1])
        >>> curve = roc_curve(positive, scores, folds=np.zeros(4))
        >>> float(np.trapezoid(curve["true_positive_rate"], curve["false_positive_rate"]).round(3))
        0.751
    """
    curves, pairs = [], []
    for fold in np.unique(folds):
        own, others = scores[(folds == fold) & positive], scores[(folds == fold) & ~positive]
        if not (len(own) and len(others)):
            continue
        thresholds = np.unique(np.concatenate([own, others]))[::-1]
        true = np.concatenate([[0], len(own) - np.searchsorted(np.sort(own), thresholds, side="left")]) / len(own)
        false = np.concatenate([[0], len(others) - np.searchsorted(np.sort(others), thresholds, side="left")])
        curves.append(np.interp(_GRID, false / len(others), true))
        pairs.append(len(own) * len(others))
    if not curves:
        return pd.DataFrame(columns=["false_positive_rate", "true_positive_rate"], dtype=float)
    mean = np.average(curves, axis=0, weights=pairs)
    start = pd.DataFrame({"false_positive_rate": [0.0], "true_positive_rate": [0.0]})
    return pd.concat(
        [start, pd.DataFrame({"false_positive_rate": _GRID, "true_positive_rate": mean})], ignore_index=True
    )


def coverage_curve(correct: np.ndarray, unsureness: np.ndarray) -> pd.DataFrame:
    """Share of right answers when only the surest images are answered, for every share of them.

    Source: El-Yaniv and Wiener, "On the foundations of noise-free selective classification", JMLR 11, 2010.

    Args:
        correct: (N,), 1 for a right answer.
        unsureness: (N,), low for sure; images of equal unsureness enter together.

    Returns:
        Columns `coverage` in (0, 1], `accuracy` in [0, 1], and `limit`, the unsureness up to which images are answered.

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.metrics import coverage_curve
        >>> coverage_curve(np.array([1, 1, 0, 1]), unsureness=np.array([0.1, 0.2, 0.7, 0.4]))
           coverage  accuracy  limit
        0      0.25      1.00    0.1
        1      0.50      1.00    0.2
        2      0.75      1.00    0.4
        3      1.00      0.75    0.7
    """
    limits, block = np.unique(unsureness, return_inverse=True)
    answered = np.cumsum(np.bincount(block, minlength=len(limits)))
    right = np.cumsum(np.bincount(block, weights=np.asarray(correct, dtype=float), minlength=len(limits)))
    return pd.DataFrame({"coverage": answered / len(block), "accuracy": right / answered, "limit": limits})
