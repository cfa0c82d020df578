"""What every estimator must do, found by walking the package; nearest neighbors and the hierarchy by example."""

import importlib
import inspect
import pkgutil

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from dermaffinity import classic
from dermaffinity.classic import Estimator, Features, FlatKNN, HierarchicalBayes, HierarchicalKNN
from dermaffinity.classic.decision import Decision, nearest_neighbors

CLASSES = ("akiec", "bcc", "mel", "nv")
GROUPS = (("bcc", "akiec"), ("mel", "nv"))


def concrete(base: type) -> list[type]:
    for module in pkgutil.iter_modules(classic.__path__):
        importlib.import_module(f"dermaffinity.classic.{module.name}")
    found = [c for c in base.__subclasses__() if c.__module__.startswith("dermaffinity.") and not inspect.isabstract(c)]
    return sorted(found, key=lambda c: c.__name__)


ESTIMATORS = concrete(Estimator)
every_estimator = pytest.mark.parametrize("found", ESTIMATORS, ids=lambda c: c.__name__)


def rows(number: int = 120, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of which 3, 7 and 11 tell the classes, labels, and groups of two images."""
    rng = np.random.default_rng(0)
    labels = np.arange(number) // 2 % len(CLASSES)
    features = rng.normal(size=(number, 15))
    corners = np.array([[2, 2, 0], [2, -2, 0], [-2, 0, 2], [-2, 0, -2]])
    features[:, [3, 7, 11]] = corners[labels] + rng.normal(0, noise, (number, 3))
    return features, labels, np.arange(number) // 2


def fitted(estimator: Estimator, features=None) -> Estimator:
    table, labels, groups = rows()
    estimator.fit(table if features is None else features, labels, groups)
    return estimator


def test_the_three_rows_of_the_table_are_found():
    assert [FlatKNN, HierarchicalBayes, HierarchicalKNN] == ESTIMATORS


@pytest.mark.parametrize("found", [*ESTIMATORS, *concrete(Features)], ids=lambda c: c.__name__)
def test_a_class_is_documented_and_its_hyper_parameters_are_keyword_only_with_defaults(found):
    parameters = list(inspect.signature(found).parameters.values())
    options = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert [p.name for p in parameters if p not in options] == (["classes", "seed"] if found in ESTIMATORS else [])
    assert all(p.default is not p.empty and p.annotation is not p.empty for p in options)
    assert all(f"{p.name}:" in found.__doc__ for p in options), "every hyper-parameter is explained"


@every_estimator
def test_an_estimator_learns_and_its_probabilities_sum_to_1(found):
    estimator = fitted(found(CLASSES, 0, num_features=3))
    table, labels, _ = rows()
    probabilities = estimator.predict_proba(table)
    assert probabilities.shape == (120, 4)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-9)
    assert probabilities.min() >= 0
    assert (probabilities.argmax(axis=1) == labels).mean() > 0.9
    np.testing.assert_allclose(estimator.predict_proba(table[:1]), probabilities[:1])
    assert estimator.selected
    assert all(len(chosen) == 3 for chosen in estimator.selected.values())


@every_estimator
def test_the_same_rows_give_the_same_estimator_and_missing_numbers_are_taken(found):
    table, _, _ = rows()
    holes = table.copy()
    holes[::7, 3] = np.nan
    holes[:, 5] = np.nan
    first, second = (fitted(found(CLASSES, 4, num_features=2), holes).predict_proba(holes) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.isfinite(first).all()


@every_estimator
def test_the_scale_and_origin_of_a_feature_do_not_matter(found):
    table, _, _ = rows()
    other = table * np.geomspace(0.01, 100, 15) + np.arange(15)
    expected = fitted(found(CLASSES, 0, num_features=2)).predict_proba(table)
    np.testing.assert_allclose(
        fitted(found(CLASSES, 0, num_features=2), other).predict_proba(other), expected, atol=1e-6
    )


def test_flat_neighbors_on_all_features_are_scikit_learns():
    table, labels, groups = rows(noise=2.0)
    ours = FlatKNN(CLASSES, 0, neighbors=7, num_features=15)
    ours.fit(table[:80], labels[:80], groups[:80])
    scaler = StandardScaler().fit(table[:80])
    theirs = KNeighborsClassifier(7, weights="distance").fit(scaler.transform(table[:80]), labels[:80])
    np.testing.assert_allclose(ours.predict_proba(table[80:]), theirs.predict_proba(scaler.transform(table[80:])))


def test_the_features_that_tell_the_classes_are_selected_even_among_hundreds():
    table, labels, groups = rows()
    table = np.hstack([table, np.random.default_rng(1).normal(size=(120, 200))])
    decision = Decision(nearest_neighbors(5), 3, seed=0)
    decision.fit(table, labels, groups)
    assert decision.selected.tolist() == [3, 7, 11]


def test_selection_keeps_groups_whole():
    # Feature 0 is a number of each group alone: telling for a neighbor of the same group, worthless for another.
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 3)
    labels = rng.integers(0, 2, 40)[groups]
    table = rng.normal(size=(120, 2))
    table[:, 0] = rng.permutation(40)[groups]
    table[:, 1] += 1.5 * labels
    decision = Decision(nearest_neighbors(1), 1, seed=0)
    decision.fit(table, labels, groups)
    assert decision.selected.tolist() == [1]


def test_probabilities_of_the_hierarchy_are_products_along_its_branches():
    table, labels, _ = rows(noise=2.0)
    estimator = fitted(HierarchicalKNN(CLASSES, 0, groups=GROUPS, neighbors=9, num_features=15), table)
    keratinocytes = np.isin(labels, (0, 1))

    def knn(chosen, target):
        scaler = StandardScaler().fit(table[chosen])
        model = KNeighborsClassifier(9, weights="distance").fit(scaler.transform(table[chosen]), target[chosen])
        return model.predict_proba(scaler.transform(new))

    new = np.random.default_rng(3).normal(size=(20, 15))
    top = knn(np.full(len(labels), True), (~keratinocytes).astype(int))
    expected = np.hstack([top[:, :1] * knn(keratinocytes, labels), top[:, 1:] * knn(~keratinocytes, labels)])
    np.testing.assert_allclose(estimator.predict_proba(new), expected)
    assert estimator.selected.keys() == {"groups", "bcc, akiec", "mel, nv"}


@pytest.mark.parametrize("groups", [(), (CLASSES,), (("nv",),)])
def test_a_hierarchy_that_tells_nothing_apart_first_is_the_flat_method(groups):
    table, _, _ = rows(noise=2.0)
    flat = fitted(FlatKNN(CLASSES, 0, num_features=3), table).predict_proba(table + 0.1)
    tree = fitted(HierarchicalKNN(CLASSES, 0, groups=groups, num_features=3), table).predict_proba(table + 0.1)
    if groups == (("nv",),):  # nv comes first among the groups, so that ties of a selection may fall otherwise
        assert np.abs(flat - tree).mean() < 0.1
    else:
        np.testing.assert_allclose(tree, flat)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: HierarchicalKNN(CLASSES, 0, groups=(("AK", "bcc"),)), "groups name AK, but the classes are akiec"),
        (lambda: HierarchicalBayes(CLASSES, 0, groups=(("bcc",), ("bcc", "nv"))), "groups name bcc more than once"),
        (lambda: HierarchicalBayes(CLASSES, 0, shrinkage=1.1), "shrinkage must be above 0 and at most 1, got 1.1"),
        (lambda: FlatKNN(CLASSES, 0, neighbors=0), "neighbors must be at least 1, got 0"),
        (lambda: FlatKNN(CLASSES, 0, num_features=0), "num_features must be at least 1, got 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@every_estimator
def test_one_image_of_a_class_is_enough_for_neighbors_and_is_said_to_be_too_few_for_a_gaussian(found):
    table, labels, groups = rows()
    keep = np.flatnonzero((labels != 3) | (np.arange(120) == 6))
    estimator = found(CLASSES, 0, num_features=2)
    if found is HierarchicalBayes:
        with pytest.raises(ValueError, match="a Gaussian needs 3 images of every class, but there are nv 1"):
            estimator.fit(table[keep], labels[keep], groups[keep])
    else:
        estimator.fit(table[keep], labels[keep], groups[keep])
        assert estimator.predict_proba(table).shape == (120, 4)
