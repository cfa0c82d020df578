"""Which labels look wrong, from the probabilities of models that never saw the image.

Axes: N images, C classes.
"""

import numpy as np
import pandas as pd

_SHRINK = 10  # images that a class's own mean is worth against the mean of all


def label_errors(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    r"""Ranks every image by the probability of its own label, measured by what is usual for that class.

    .. math:: t_c = \frac{\sum_{i : y_i = c} p_{ic} + k \bar t}{n_c + k}, \qquad s_i = p_{i y_i} / t_{y_i}

    with :math:`k = 10` images' worth of the mean confidence :math:`\bar t`, because few images of a rare class tell
    little of what is usual. The division is there because models hardly dare to name a rare class, so that all of its
    labels look wrong. An image is suspected where another class fits better, :math:`p_{ij} / t_j > s_i`, and as well as
    is usual for that class, :math:`p_{ij} \ge t_j`.

    Source: Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70, 2021,
    https://arxiv.org/abs/1911.00068; the ranking by :math:`p / t` is ours, chosen on planted errors.

    Args:
        labels: (N,), class indices as they are given.
        probabilities: (N, C), of models that were not trained on the image.

    Returns:
        One row per image, the most suspect first: ``index`` (of the image), ``suggested`` (class index), ``score``
        (at least 0, low for suspect), ``suspected``.

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.metrics import label_errors
        >>> labels = np.array([0, 0, 0, 1, 1])
        >>> probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7]])
        >>> label_errors(labels, probabilities).head(2).round(1)
           index  suggested  score  suspected
        0      2          1    0.2       True
        1      4          0    1.0      False
    """
    images, own = np.arange(len(labels)), probabilities[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    sums = np.bincount(labels, weights=own, minlength=probabilities.shape[1])
    usual = (sums + _SHRINK * own.mean()) / (counts + _SHRINK)
    fit = probabilities / usual
    others = fit.copy()
    others[images, labels] = -1
    suggested, best, score = others.argmax(axis=1), others.max(axis=1), fit[images, labels]
    table = pd.DataFrame(
        {"index": images, "suggested": suggested, "score": score, "suspected": (best >= 1) & (best > score)}
    )
    return table.sort_values("score", kind="stable", ignore_index=True)
