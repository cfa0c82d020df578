import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermaffinity.metrics.classification import (
    Classes,
    classification_metrics,
    confusion_matrix,
    weighted_metrics,
)

CLASSES = ("AK", "BCC", "ML", "MEL")


def random_predictions(seed, images=120, classes=4, decimals=None):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(classes, size=images - classes)])
    scores = rng.normal(size=(images, classes))
    scores[np.arange(images), labels] += 1
    probabilities = np.exp(scores)
    if decimals is not None:  # coarse probabilities tie
        probabilities = np.round(probabilities / probabilities.sum(axis=1, keepdims=True), decimals) + 0.01
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True)


def metrics_of(labels, probabilities, classes=CLASSES, minority=("AK",), malignant=("BCC", "MEL")):
    return classification_metrics(labels, probabilities, Classes(tuple(classes), minority, malignant))


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from([None, 1]))
def test_agrees_with_scikit_learn(seed, decimals):
    from sklearn import metrics as sk

    labels, probabilities = random_predictions(seed, decimals=decimals)
    predicted = probabilities.argmax(axis=1)
    ours = metrics_of(labels, probabilities)
    recall = sk.recall_score(labels, predicted, average=None, zero_division=0)
    one_hot = np.eye(4)[labels]
    malignant = np.isin(labels, [1, 3])
    expected = {
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
        "accuracy": sk.accuracy_score(labels, predicted),
        "macro_f1": sk.f1_score(labels, predicted, average="macro", zero_division=0),
        "macro_auc": sk.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro"),
        "minority_recall": recall[0],
        "majority_recall": recall[1:].mean(),
        "worst_class_recall": recall.min(),
        "malignant_sensitivity": sk.recall_score(malignant, np.isin(predicted, [1, 3])),
        "malignant_specificity": sk.recall_score(~malignant, ~np.isin(predicted, [1, 3])),
        "malignant_auc": sk.roc_auc_score(malignant, probabilities[:, [1, 3]].sum(axis=1)),
        "brier": sk.brier_score_loss(labels, probabilities, labels=range(4), scale_by_half=False),
        "nll": sk.log_loss(labels, probabilities),
        **{f"recall.{name}": value for name, value in zip(CLASSES, recall, strict=True)},
        **{f"auc.{n}": sk.roc_auc_score(one_hot[:, c], probabilities[:, c]) for c, n in enumerate(CLASSES)},
    }
    assert {name: ours[name] for name in expected} == pytest.approx(expected)
    assert set(ours) == {*expected, "ece"}
    np.testing.assert_array_equal(confusion_matrix(labels, predicted, 4), sk.confusion_matrix(labels, predicted))


@pytest.mark.slow  # importing MONAI
def test_recall_agrees_with_monai():
    torch = pytest.importorskip("torch")
    from monai.metrics import ConfusionMatrixMetric

    labels, probabilities = random_predictions(3)
    sensitivity = ConfusionMatrixMetric(metric_name="sensitivity", reduction="mean_batch")
    sensitivity(torch.eye(4)[probabilities.argmax(axis=1)], torch.eye(4)[labels])
    ours = metrics_of(labels, probabilities)
    assert sensitivity.aggregate()[0].numpy() == pytest.approx([ours[f"recall.{name}"] for name in CLASSES])


def test_worked_example():
    labels = np.array([0, 0, 0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.4, 0.6], [0.3, 0.7], [0.75, 0.25]])
    ours = metrics_of(labels, probabilities, ("ML", "MEL"), ("MEL",), ("MEL",))
    # ML: 3 of 4 right; MEL: 1 of 2. F1: 2·3/(4+4) and 2·1/(2+2).
    assert ours["balanced_accuracy"] == pytest.approx(0.625)
    assert ours["accuracy"] == pytest.approx(4 / 6)
    assert ours["macro_f1"] == pytest.approx((0.75 + 0.5) / 2)
    assert ours["minority_recall"] == ours["malignant_sensitivity"] == ours["worst_class_recall"] == 0.5
    assert ours["majority_recall"] == 0.75
    assert ours["malignant_specificity"] == 0.75
    # MEL scores .7 and .25 against .1 .2 .3 .6: .7 beats 4, .25 beats 2.
    assert ours["auc.MEL"] == pytest.approx(6 / 8)


def test_a_class_that_is_never_predicted_counts_as_zero():
    labels, probabilities = np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]])
    ours = metrics_of(labels, probabilities, ("ML", "MEL"), (), ())
    assert (ours["recall.MEL"], ours["balanced_accuracy"], ours["worst_class_recall"]) == (0, 0.5, 0)
    assert ours["macro_f1"] == pytest.approx((2 * 2 / 5 + 0) / 2)


def test_a_class_without_images_is_nan_and_left_out_of_the_means():
    labels, probabilities = np.array([0, 0, 1]), np.array([[0.9, 0.1, 0], [0.2, 0.1, 0.7], [0.1, 0.9, 0]])
    ours = metrics_of(labels, probabilities, ("ML", "MEL", "DF"), ("DF",), ())
    assert math.isnan(ours["recall.DF"])
    assert math.isnan(ours["auc.DF"])
    assert math.isnan(ours["minority_recall"])
    assert ours["balanced_accuracy"] == pytest.approx(0.75)
    assert ours["macro_auc"] == pytest.approx(1)
    assert ours["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)


def test_measures_without_their_classes_are_left_out():
    ours = metrics_of(*random_predictions(0), minority=(), malignant=())
    assert not [name for name in ours if name.startswith(("minority", "malignant"))]
    assert ours["majority_recall"] == ours["balanced_accuracy"]
    assert "majority_recall" not in metrics_of(*random_predictions(0), minority=CLASSES)


def test_weights_count_images_as_if_they_were_repeated():
    labels, probabilities = random_predictions(1, images=40, decimals=1)
    weights = np.random.default_rng(0).integers(0, 4, size=40)
    weights[:4] = 1
    weighted = weighted_metrics(
        labels, probabilities, weights[:, None].astype(float), Classes(CLASSES, ("AK",), ("MEL",))
    )
    repeated = metrics_of(np.repeat(labels, weights), np.repeat(probabilities, weights, axis=0), malignant=("MEL",))
    assert {name: value[0] for name, value in weighted.items()} == pytest.approx(repeated)


def test_auc_ranks_images_only_within_their_fold():
    # Each fold ranks perfectly on a scale of its own; pooled, the second fold's melanoma falls behind.
    labels, folds = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
    scores = np.array([0.6, 0.9, 0.1, 0.3])
    arguments = (labels, np.stack([1 - scores, scores], axis=1), np.ones((4, 1)), Classes(("ML", "MEL")))
    pooled = weighted_metrics(*arguments)
    by_fold = weighted_metrics(*arguments, folds=folds)
    assert (pooled["auc.MEL"][0], by_fold["auc.MEL"][0]) == (0.75, 1)


def test_minority_classes_have_fewer_than_100_images_and_fewer_than_the_mean():
    classes = Classes.of({"ML": 331, "PYO": 24, "VASC": 99, "DF": 100}, malignant=["ML"])
    assert classes == Classes(("ML", "PYO", "VASC", "DF"), minority=("PYO", "VASC"), malignant=("ML",))
    assert Classes.of({"NV": 80, "BKL": 39, "MEL": 25, "DF": 12}).minority == ("MEL", "DF")  # the mean is 39
    assert Classes.of({"A": 20, "B": 20}).minority == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.array([0, 4])}, r"labels must be in 0\.\.3, got 0\.\.4"),
        ({"labels": np.array([], dtype=int)}, "no predictions"),
        ({"probabilities": np.full((2, 3), 1 / 3)}, r"ask for probabilities \(2, 4\)"),
        ({"probabilities": np.full((2, 4), 0.5)}, "every row must sum to 1"),
        ({"probabilities": np.full((2, 4), np.nan)}, "must be finite"),
        ({"classes": ("A", "A", "B", "C")}, "differ from one another"),
        ({"minority": ("XX",)}, "got \\['XX'\\]"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, message):
    fine = {"labels": np.array([0, 1]), "probabilities": np.full((2, 4), 0.25)}
    with pytest.raises(ValueError, match=message):
        metrics_of(**(fine | change))
