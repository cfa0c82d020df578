"""Prediction sets that hold the true class as often as they promise, for every class on its own (Mondrian conformal).

An image's score for a class is 1 minus the probability of that class. Calibration images of a class tell how high its
scores get; the class is left out of an image's set when too few of them score as high.

Source: Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2nd ed., Springer 2022, chapter 4.
Axes: N images, C classes.
"""

import math
from collections.abc import Sequence

import numpy as np

_ROUNDING = 1e-9  # 1 - 0.9 is a little less than 0.1


def calibration_scores(labels: np.ndarray, probabilities: np.ndarray) -> list[np.ndarray]:
    """For each of the C classes the sorted scores of its own images, each in [0, 1]; empty for a class without images.

    Args:
        labels: (N,), class indices.
        probabilities: (N, C), of a model that was not trained on these images.

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.metrics import calibration_scores
        >>> calibration_scores(np.array([0, 0, 1]), np.array([[0.75, 0.25], [1.0, 0.0], [0.5, 0.5]]))
        [array([0.  , 0.25]), array([0.5])]
    """
    return [np.sort(1 - probabilities[labels == label, label]) for label in range(probabilities.shape[1])]


def p_values(scores: Sequence[np.ndarray], probabilities: np.ndarray) -> np.ndarray:
    """How usual each image would be among the images of each class: (N, C), in (0, 1].

    The share of the class's n calibration images and the image itself that score at least as high. If the image is
    another one of that class, this is at most a with a probability of at most a.

    Args:
        scores: What `calibration_scores` returns.
        probabilities: (N, C).

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.metrics import p_values
        >>> scores = [np.array([0.1, 0.2, 0.6]), np.array([0.1, 0.2, 0.3])]
        >>> p_values(scores, np.array([[0.7, 0.3]]))
        array([[0.5 , 0.25]])
    """
    columns = []
    for label, known in enumerate(scores):
        below = np.searchsorted(known, 1 - probabilities[:, label], side="left")
        columns.append((len(known) - below + 1) / (len(known) + 1))
    return np.stack(columns, axis=1)


def in_set(values: np.ndarray, coverage: float) -> np.ndarray:
    """Which classes belong to each image's set: (N, C) bool.

    Args:
        values: (N, C), what `p_values` returns, or its mean over models.
        coverage: In (0, 1).

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.metrics import in_set
        >>> in_set(np.array([[0.5, 0.15, 0.05]]), coverage=0.9)
        array([[ True,  True, False]])
    """
    return values > 1 - coverage + _ROUNDING


def promised_coverage(coverage: float, images: Sequence[int]) -> float:
    """The share of a class's images whose set holds that class, at least, on average over calibration images.

    With one model the smallest step of its p-values at or above ``coverage``. The mean of several models' p-values
    promises less, 1 − 2 (1 − coverage), and as a rule keeps ``coverage``. A class of too few images is in every set.

    Source of the mean: Vovk and Wang, "Combining p-values via averaging", Biometrika 107(4), 2020.

    Args:
        coverage: Asked for, in (0, 1).
        images: Calibration images of the class, one number for each model.

    Examples:
        >>> from dermaffinity.metrics import promised_coverage
        >>> promised_coverage(0.9, [6])  # too few images: the class is in every set
        1.0
        >>> round(promised_coverage(0.9, [30]), 3)
        0.903
    """
    error = 1 - coverage
    if in_set(
        np.mean([1 / (count + 1) for count in images], keepdims=True), coverage
    ):  # the smallest p-value there can be
        return 1.0
    if len(images) > 1:
        return max(0.0, 1 - 2 * error)
    # p is a multiple of 1 / (n + 1), and a class is left out at p of at most 1 - coverage.
    return 1 - math.floor((error + _ROUNDING) * (images[0] + 1)) / (images[0] + 1)
