"""Whether some people's images are recognized less often than their diagnoses let expect.

Axes: N images, C classes, V subgroups, B resamples.
"""

import numpy as np
import pandas as pd

from dermaffinity.metrics.statistics import bootstrap_interval, bootstrap_weights


def subgroup_gaps(
    labels: np.ndarray, right: np.ndarray, subgroups: np.ndarray, groups: np.ndarray, *, resamples: int = 1000
) -> pd.DataFrame:
    """Share recognized in each subgroup, what its mix of classes lets expect, and the gap with a 95 % interval.

    Expected is what would be recognized if each class were recognized as well in the subgroup as in all images.

    Args:
        labels: (N,), class indices.
        right: (N,), whether an image was recognized.
        subgroups: (N,), the name of each image's subgroup.
        groups: (N,), the patient or lesion of each image; whole groups are resampled.
        resamples: B.

    Returns:
        Index ``subgroup``; columns ``images``, ``recognized``, ``expected``, ``gap``, ``low``, ``high``, as fractions.

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.metrics import subgroup_gaps
        >>> labels, right = np.array([0, 0, 0, 0, 1, 1]), np.array([1, 1, 1, 0, 1, 0])
        >>> sex = np.array(["f", "f", "m", "m", "m", "m"])
        >>> subgroup_gaps(labels, right, sex, np.arange(6), resamples=50)[["recognized", "expected", "gap"]]
                  recognized  expected    gap
        subgroup
        f                1.0     0.750  0.250
        m                0.5     0.625 -0.125
    """
    from scipy.sparse import csr_array

    names, value = np.unique(subgroups, return_inverse=True)
    num_classes = int(labels.max()) + 1
    cell = value * num_classes + labels
    cells = csr_array((np.ones(len(labels)), (cell, np.arange(len(labels)))), (len(names) * num_classes, len(labels)))

    def shares(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Recognized and expected (V, B)."""
        images, hits = (
            (cells @ part).reshape(len(names), num_classes, -1) for part in (weights, weights * right[:, None])
        )
        by_class = images.sum(axis=0)
        recall = np.divide(hits.sum(axis=0), by_class, out=np.zeros_like(by_class), where=by_class > 0)  # (C, B)
        total = images.sum(axis=1)
        found, expected = hits.sum(axis=1), (images * recall).sum(axis=1)
        nothing = np.full(total.shape, np.nan)
        return tuple(np.divide(part, total, out=nothing.copy(), where=total > 0) for part in (found, expected))  # type: ignore[return-value]

    recognized, expected = (part[:, 0] for part in shares(np.ones((len(labels), 1))))
    drawn = [shares(weights) for weights in bootstrap_weights(groups, labels, resamples=resamples, seed=0)]
    gaps = np.concatenate([found - hoped for found, hoped in drawn], axis=1)  # (V, B)
    table = pd.DataFrame({
        "images": np.bincount(value), "recognized": recognized, "expected": expected, "gap": recognized - expected,
    }, index=pd.Index(names, name="subgroup"))  # fmt: skip
    intervals = [bootstrap_interval(gap, own, (-1, 1)) for gap, own in zip(table["gap"], gaps, strict=True)]
    return table.assign(low=[low for low, _ in intervals], high=[high for _, high in intervals])
