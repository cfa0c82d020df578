"""How well the classes are told apart, each one and together.

Axes: N images, C classes, B sets of image weights. A class that is never predicted counts as zero. A class without
images has no recall, AUC or F1: those are NaN, and the means over classes leave it out.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np

from dermaffinity.metrics.reliability import brier_score, expected_calibration_error, negative_log_likelihood

MINORITY_BELOW = 100


@dataclass(frozen=True)
class Classes:
    """The C classes of predictions, and which of them measures treat apart.

    Args:
        names: Class codes, in the order of the indices and probabilities.
        minority: The rare ones; without any, `minority_recall` is left out, without any other class `majority_recall`.
        malignant: The malignant ones; without any, the `malignant_*` measures are left out.

    Raises:
        ValueError: If codes repeat, or a minority or malignant class is none of them.

    Examples:
        >>> from dermaffinity.metrics import Classes
        >>> classes = Classes.of({"nv": 331, "mel": 76, "df": 65}, malignant=["mel"])
        >>> classes.minority
        ('mel', 'df')
    """

    names: tuple[str, ...]
    minority: tuple[str, ...] = ()
    malignant: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"class codes must differ from one another, got {list(self.names)}")
        if unknown := sorted({*self.minority, *self.malignant} - set(self.names)):
            raise ValueError(f"minority and malignant classes must be among {list(self.names)}, got {unknown}")

    @classmethod
    def of(cls, counts: Mapping[str, int], malignant: Sequence[str] = ()) -> "Classes":
        """Those of a library with so many images of each class.

        A minority class has fewer than 100, and fewer than the mean of the classes: small libraries have frequent ones.
        """
        below = min(MINORITY_BELOW, sum(counts.values()) / max(1, len(counts)))
        return cls(tuple(counts), tuple(name for name, count in counts.items() if count < below), tuple(malignant))

    @property
    def columns(self) -> list[str]:
        """Their probability columns in a prediction table."""
        return [f"p.{name}" for name in self.names]

    def indices(self, labels: Iterable[str]) -> np.ndarray:
        """(N,) class indices of codes."""
        position = {name: index for index, name in enumerate(self.names)}
        return np.array([position.get(label, -1) for label in labels], dtype=np.int64)

    def log_frequencies(self, frequencies: Mapping[str, float]) -> np.ndarray:
        """(C,) logarithms of how frequent each class is; frequencies need not sum to 1.

        Raises:
            TypeError: For frequencies that are no mapping.
            ValueError: Unless every class, and nothing else, has a positive number.
        """
        if not isinstance(frequencies, Mapping):
            raise TypeError(f"frequencies are a dict of numbers by class, got {type(frequencies).__name__}")
        by_folded = {name.casefold(): f" (is it {name!r}?)" for name in self.names}
        problems = {
            "missing": [name for name in self.names if name not in frequencies],
            "unknown": [
                f"{name!r}{by_folded.get(str(name).casefold(), '')}" for name in frequencies if name not in self.names
            ],
            "not a positive number": [
                f"{name} {value!r}"
                for name, value in frequencies.items()
                if name in self.names and not (isinstance(value, Real) and 0 < value < math.inf)
            ],
        }
        if found := [f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names]:
            raise ValueError(
                f"give each of the classes {', '.join(self.names)} its frequency, a positive number; {'; '.join(found)}"
            )
        shares = np.array([frequencies[name] for name in self.names], dtype=float)
        return np.log(shares / shares.sum())


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Images of each true class (rows) by predicted class (columns): (C, C) integers.

    Args:
        labels: (N,), class indices.
        predicted: (N,), class indices.
        num_classes: C.

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.metrics import confusion_matrix
        >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), num_classes=2)
        array([[1, 1],
               [0, 1]])
    """
    cells = np.bincount(np.asarray(labels) * num_classes + np.asarray(predicted), minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def classification_metrics(labels: np.ndarray, probabilities: np.ndarray, classes: Classes) -> dict[str, float]:
    """All measures of one set of predictions; the predicted class is the one with the highest probability.

    * `balanced_accuracy`, `accuracy`, `macro_f1`, `macro_auc`, `worst_class_recall`
    * `recall.<CLASS>`, `auc.<CLASS>` (one class against the rest)
    * `minority_recall`, the mean recall of the minority classes, and `majority_recall`, that of all others
    * `malignant_sensitivity` and `malignant_specificity`, where an image counts as predicted malignant if its predicted
      class is a malignant one; `malignant_auc`, from the summed probability of the malignant classes
    * `ece`, `brier`, `nll`, see `dermaffinity.metrics.reliability`

    Args:
        labels: (N,), class indices, N at least 1.
        probabilities: (N, C), rows sum to 1.
        classes: The C classes.

    Raises:
        ValueError: If the arguments do not fit together.

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.metrics import Classes, classification_metrics
        >>> labels, probabilities = np.array([0, 0, 0, 1]), np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.2, 0.8]])
        >>> measured = classification_metrics(labels, probabilities, Classes(("nv", "mel"), minority=("mel",)))
        >>> round(measured["recall.nv"], 3), measured["recall.mel"], round(measured["balanced_accuracy"], 3)
        (0.667, 1.0, 0.833)
    """
    measured = weighted_metrics(labels, probabilities, np.ones((len(labels), 1)), classes)
    return {name: float(value[0]) for name, value in measured.items()}


def weighted_metrics(
    labels: np.ndarray,
    probabilities: np.ndarray,
    weights: np.ndarray,
    classes: Classes,
    *,
    folds: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """The measures of `classification_metrics` under B sets of image weights at once, as a bootstrap needs them.

    Args:
        labels: (N,), class indices.
        probabilities: (N, C), rows sum to 1.
        weights: (N, B), how often each image counts, at least 0.
        classes: The C classes.
        folds: (N,), the model that scored each image. An AUC then ranks only images of the same fold against one
            another, because the models of different folds need not share a scale.

    Returns:
        For each measure its B values.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=float)
    names = classes.names
    _check(labels, probabilities, weights, len(names))
    folds = np.zeros(len(labels)) if folds is None else folds
    is_minority, is_malignant = (np.isin(names, few) for few in (classes.minority, classes.malignant))  # (C,), (C,)

    matrix = _weighted_confusion(labels, probabilities.argmax(axis=1), weights, len(names))  # (C, C, B)
    true, predicted = matrix.sum(axis=1), matrix.sum(axis=0)  # (C, B), (C, B)
    hits = np.diagonal(matrix).T  # (C, B)
    recall = _ratio(hits, true)
    f1 = np.where(true > 0, _ratio(2 * hits, true + predicted), np.nan)
    auc = np.stack([_auc(labels == c, probabilities[:, c], weights, folds) for c in range(len(names))])  # (C, B)

    metrics = {
        "balanced_accuracy": _mean_over_classes(recall),
        "accuracy": hits.sum(axis=0) / weights.sum(axis=0),
        "macro_f1": _mean_over_classes(f1),
        "macro_auc": _mean_over_classes(auc),
        "worst_class_recall": np.fmin.reduce(recall),
    }
    if is_minority.any():
        metrics["minority_recall"] = _mean_over_classes(recall[is_minority])
    if not is_minority.all():
        metrics["majority_recall"] = _mean_over_classes(recall[~is_minority])
    if is_malignant.any():
        found = matrix[np.ix_(is_malignant, is_malignant)].sum(axis=(0, 1))
        cleared = matrix[np.ix_(~is_malignant, ~is_malignant)].sum(axis=(0, 1))
        metrics["malignant_sensitivity"] = _ratio(found, true[is_malignant].sum(axis=0))
        metrics["malignant_specificity"] = _ratio(cleared, true[~is_malignant].sum(axis=0))
        risk = probabilities[:, is_malignant].sum(axis=1)
        metrics["malignant_auc"] = _auc(is_malignant[labels], risk, weights, folds)
    metrics["ece"] = expected_calibration_error(labels, probabilities, weights)
    metrics["brier"] = brier_score(labels, probabilities, weights)
    metrics["nll"] = negative_log_likelihood(labels, probabilities, weights)
    metrics |= {f"recall.{name}": values for name, values in zip(names, recall, strict=True)}
    metrics |= {f"auc.{name}": values for name, values in zip(names, auc, strict=True)}
    return metrics


def _weighted_confusion(labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray, num_classes: int) -> np.ndarray:
    from scipy.sparse import csr_array

    images = np.arange(len(labels))
    # Sparse: each image lies in one cell only, and a dense product would be C² times the work.
    cells = csr_array((np.ones(len(labels)), (labels * num_classes + predicted, images)), (num_classes**2, len(labels)))
    return (cells @ weights).reshape(num_classes, num_classes, -1)  # (C, C, B)


def _auc(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Share of (positive, other) pairs of the same fold in which the positive scores higher; ties count half: (B,)."""
    won, pairs = np.zeros(weights.shape[1]), np.zeros(weights.shape[1])
    for fold in np.unique(folds):
        own, others = np.flatnonzero(positive & (folds == fold)), np.flatnonzero(~positive & (folds == fold))
        others = others[np.argsort(scores[others])]
        below = np.zeros((len(others) + 1, weights.shape[1]))  # row k: weight of the k lowest others
        np.cumsum(weights[others], axis=0, out=below[1:])
        for side in ("left", "right"):
            rank = np.searchsorted(scores[others], scores[own], side)  # type: ignore[call-overload]
            won += np.einsum("pb,pb->b", below[rank], weights[own]) / 2
        pairs += weights[own].sum(axis=0) * below[-1]
    return _ratio(won, pairs)


def _mean_over_classes(values: np.ndarray) -> np.ndarray:
    present = ~np.isnan(values)  # (C, B)
    return _ratio(np.where(present, values, 0).sum(axis=0), present.sum(axis=0))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _check(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, num_classes: int) -> None:
    num_images = len(labels)
    if num_images == 0:
        raise ValueError("there are no predictions to measure")
    if probabilities.shape != (num_images, num_classes) or len(weights) != num_images:
        raise ValueError(
            f"{num_images} labels and {num_classes} classes ask for probabilities ({num_images}, {num_classes}) and "
            f"{num_images} rows of weights, got {probabilities.shape} and {len(weights)}"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"labels must be in 0..{num_classes - 1}, got {labels.min()}..{labels.max()}")
    if not (np.isfinite(probabilities).all() and np.allclose(probabilities.sum(axis=1), 1, atol=1e-3)):
        raise ValueError("probabilities must be finite and every row must sum to 1")
