"""How well the classes are told apart, each one and together.

Axes: N images, C classes, B sets of image weights. A class that is never predicted counts as zero. A class without
images has no recall, AUC or F1: those are NaN, and the means over classes leave it out.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from dermaffinity.metrics.reliability import brier_score, expected_calibration_error, negative_log_likelihood

MINORITY_BELOW = 100


def minority_classes(class_counts: Mapping[str, int]) -> tuple[str, ...]:
    """The classes with fewer than 100 images, in the order given."""
    return tuple(name for name, count in class_counts.items() if count < MINORITY_BELOW)


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Images of each true class (rows) by predicted class (columns): (C, C) integers.

    Args:
        labels: (N,), class indices.
        predicted: (N,), class indices.
        num_classes: C.
    """
    cells = np.bincount(np.asarray(labels) * num_classes + np.asarray(predicted), minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def classification_metrics(
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    *,
    minority: Sequence[str],
    malignant: Sequence[str],
) -> dict[str, float]:
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
        classes: The C class codes, in the order of the indices.
        minority: Codes of the minority classes; without any, `minority_recall` is left out, without any
            other class `majority_recall`.
        malignant: Codes of the malignant classes; without any, the `malignant_*` measures are left out.

    Raises:
        ValueError: If the arguments do not fit together.
    """
    measured = weighted_metrics(
        labels, probabilities, np.ones((len(labels), 1)), classes, minority=minority, malignant=malignant
    )
    return {name: float(value[0]) for name, value in measured.items()}


def weighted_metrics(
    labels: np.ndarray,
    probabilities: np.ndarray,
    weights: np.ndarray,
    classes: Sequence[str],
    *,
    minority: Sequence[str],
    malignant: Sequence[str],
    folds: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """The measures of `classification_metrics` under B sets of image weights at once, as a bootstrap needs them.

    Args:
        labels: (N,), class indices.
        probabilities: (N, C), rows sum to 1.
        weights: (N, B), how often each image counts, at least 0.
        classes: The C class codes.
        minority: Codes of the minority classes.
        malignant: Codes of the malignant classes.
        folds: (N,), the model that scored each image. An AUC then ranks only images of the same fold against one
            another, because the models of different folds need not share a scale.

    Returns:
        For each measure its B values.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=float)
    _check(labels, probabilities, weights, classes, minority, malignant)
    folds = np.zeros(len(labels)) if folds is None else folds
    is_minority, is_malignant = np.isin(classes, minority), np.isin(classes, malignant)  # (C,), (C,)

    matrix = _weighted_confusion(labels, probabilities.argmax(axis=1), weights, len(classes))  # (C, C, B)
    true, predicted = matrix.sum(axis=1), matrix.sum(axis=0)  # (C, B), (C, B)
    hits = np.diagonal(matrix).T  # (C, B)
    recall = _ratio(hits, true)
    f1 = np.where(true > 0, _ratio(2 * hits, true + predicted), np.nan)
    auc = np.stack([_auc(labels == c, probabilities[:, c], weights, folds) for c in range(len(classes))])  # (C, B)

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
    metrics |= {f"recall.{name}": values for name, values in zip(classes, recall, strict=True)}
    metrics |= {f"auc.{name}": values for name, values in zip(classes, auc, strict=True)}
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


def _check(
    labels: np.ndarray,
    probabilities: np.ndarray,
    weights: np.ndarray,
    classes: Sequence[str],
    minority: Sequence[str],
    malignant: Sequence[str],
) -> None:
    num_images, num_classes = len(labels), len(classes)
    if num_images == 0:
        raise ValueError("there are no predictions to measure")
    if probabilities.shape != (num_images, num_classes) or len(weights) != num_images:
        raise ValueError(
            f"{num_images} labels and {num_classes} classes ask for probabilities ({num_images}, {num_classes}) and "
            f"{num_images} rows of weights, got {probabilities.shape} and {len(weights)}"
        )
    if len(set(classes)) != num_classes:
        raise ValueError(f"class codes must differ from one another, got {list(classes)}")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"labels must be in 0..{num_classes - 1}, got {labels.min()}..{labels.max()}")
    if not (np.isfinite(probabilities).all() and np.allclose(probabilities.sum(axis=1), 1, atol=1e-3)):
        raise ValueError("probabilities must be finite and every row must sum to 1")
    if unknown := sorted({*minority, *malignant} - set(classes)):
        raise ValueError(f"minority and malignant classes must be among {list(classes)}, got {unknown}")
