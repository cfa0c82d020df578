"""Whether the probabilities mean what they say, and making them: calibration error, Brier score, temperature, bins.

Axes: N images, C classes, B sets of image weights.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

BINS = 15

_WIDEST = float(np.log(20))  # of the logarithm of a temperature


def expected_calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    r"""Gap between confidence and accuracy, averaged over 15 equal-width bins of the confidence.

    .. math:: ECE = \sum_b \frac{n_b}{N} |accuracy_b - confidence_b|

    The confidence is the probability of the predicted class. Bins are open on the left, closed on the right.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, https://arxiv.org/abs/1706.04599, Eq. 3.

    Args:
        labels: (N,), class indices.
        probabilities: (N, C), rows sum to 1.
        weights: (N,) or (N, B), at least 0; equal weights if left out.

    Returns:
        In [0, 1]; a scalar, or (B,) for weights (N, B).

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.metrics import expected_calibration_error
        >>> labels, probabilities = np.array([0] * 7 + [1] * 3), np.array([[0.9, 0.1]] * 10)
        >>> float(expected_calibration_error(labels, probabilities).round(3))  # 90 % sure, right in 70 %
        0.2
    """
    confidence, correct, bins = _top_label(labels, probabilities)
    weights = _weights_of(labels, weights)
    from scipy.sparse import csr_array

    gaps = csr_array((correct - confidence, (bins, np.arange(len(labels)))), shape=(BINS, len(labels)))
    return np.abs(gaps @ weights).sum(axis=0) / weights.sum(axis=0)


def brier_score(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Squared distance of the probabilities from the one-hot label, summed over classes: in [0, 2], 0 is best.

    Source: Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78(1), 1950.
    Arguments and result as for `expected_calibration_error`.

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.metrics import brier_score
        >>> float(brier_score(np.array([0, 1]), np.array([[1.0, 0.0], [0.5, 0.5]])))
        0.25
    """
    one_hot = labels[:, None] == np.arange(probabilities.shape[1])  # (N, C)
    return _mean(np.square(probabilities - one_hot).sum(axis=1), _weights_of(labels, weights))


def negative_log_likelihood(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Mean of -log(probability of the true class), in nats: at least 0, 0 is best.

    Arguments and result as for `expected_calibration_error`.

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.metrics import negative_log_likelihood
        >>> float(negative_log_likelihood(np.array([0, 1]), np.array([[1.0, 0.0], [0.5, 0.5]])).round(3))
        0.347
    """
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0].astype(float)
    # A float32 softmax can round to 0; one such image must not make the mean infinite.
    return _mean(-np.log(np.maximum(own, np.finfo(float).eps)), _weights_of(labels, weights))


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray, evidence: np.ndarray | float = 0.0) -> float:
    r"""The temperature T at which `with_temperature` has the least negative log-likelihood.

    Above 1 the model was too sure, below 1 not sure enough. Softmax probabilities are enough: their logarithms are the
    logits but for a constant. scikit-learn finds the same number, but only for an estimator it can call.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, https://arxiv.org/abs/1706.04599.

    Args:
        labels: (N,), class indices, N at least 1.
        probabilities: (N, C), rows sum to 1.
        evidence: As for `with_temperature`: what makes the probabilities those of images in the mix of these labels.

    Returns:
        Between 0.05 and 20: few images, or only right answers, must not make every answer certain or void.

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.metrics import fit_temperature
        >>> probabilities = np.array([[0.99, 0.01]] * 10)
        >>> round(fit_temperature(np.array([0] * 9 + [1]), probabilities), 2)  # too sure: above 1
        2.09
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    logits, images = _logits(probabilities), np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        # Without a floor under the likelihood, which would make it flat, and so falsely best, for what is surest.
        answers = logits / np.exp(log_temperature) + evidence
        return float(np.mean(logsumexp(answers, axis=1) - answers[images, labels]))

    return float(np.exp(minimize_scalar(loss, bounds=(-_WIDEST, _WIDEST), method="bounded").x))


def with_temperature(
    probabilities: np.ndarray, temperature: float | np.ndarray, evidence: np.ndarray | float = 0.0
) -> np.ndarray:
    r"""Probabilities\ :sup:`1/T` · e\ :sup:`evidence`, scaled so that rows sum to 1: (N, C) float64.

    T of 1 without evidence leaves them as they are. The temperature is for what the network learned; evidence is known,
    and comes after it by Bayes' rule.

    Args:
        probabilities: (N, C), rows sum to 1.
        temperature: T, positive; one number, or (N, 1) with one for each image.
        evidence: (C,) or (N, C), logarithms to add: of how much more frequent each class is than the probabilities
            assume, or of how likely what else is known of an image is in each class. A constant changes nothing.

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.metrics import with_temperature
        >>> with_temperature(np.array([[0.8, 0.2]]), 2.0).round(3)
        array([[0.667, 0.333]])
        >>> with_temperature(np.array([[0.8, 0.2]]), 2.0, np.log([0.1, 0.9])).round(3)  # odds 2 : 1 by 1 : 9
        array([[0.182, 0.818]])
    """
    logits = _logits(probabilities) / temperature + evidence
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def reliability_bins(labels: np.ndarray, probabilities: np.ndarray) -> "pd.DataFrame":
    """The bins behind `expected_calibration_error`, for a reliability plot.

    Args:
        labels: (N,), class indices.
        probabilities: (N, C), rows sum to 1.

    Returns:
        One row per bin: `low`, `high` (edges), `images`, and their mean `confidence` and `accuracy` (NaN if empty).

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.metrics import reliability_bins
        >>> bins = reliability_bins(np.array([0, 1]), np.array([[0.9, 0.1], [0.9, 0.1]]))
        >>> bins[bins["images"] > 0].round(2)
             low  high  images  confidence  accuracy
        13  0.87  0.93       2         0.9       0.5
    """
    import pandas as pd  # a classifier answers sooner without it

    confidence, correct, bins = _top_label(labels, probabilities)
    rows = pd.DataFrame({"confidence": confidence, "accuracy": correct}).groupby(bins)
    edges = np.linspace(0, 1, BINS + 1)
    table = pd.DataFrame(
        {"low": edges[:-1], "high": edges[1:], "images": rows.size().reindex(range(BINS), fill_value=0)}
    )
    return table.join(rows.mean())


def _logits(probabilities: np.ndarray) -> np.ndarray:
    # What a float32 softmax rounds to 0 is at most its smallest number.
    return np.log(np.maximum(probabilities, np.finfo(np.float32).tiny, dtype=float))


def _top_label(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    confidence = probabilities.max(axis=1).astype(float)
    correct = (probabilities.argmax(axis=1) == labels).astype(float)
    bins = np.digitize(confidence, np.linspace(0, 1, BINS + 1)[1:-1], right=True)
    return confidence, correct, bins


def _weights_of(labels: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    return np.ones(len(labels)) if weights is None else weights


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return values @ weights / weights.sum(axis=0)
