"""One decision between classes: standardized features, the best of them chosen step by step, and a classifier."""

import warnings
from typing import Any

import numpy as np

_SPLITS = 3
# Forward selection fits a classifier for each candidate at each step, so that it gets the most telling ones only.
_CANDIDATES = 40


class Decision:
    """Fills missing features with their means, standardizes, selects forward, and fits a scikit-learn classifier.

    Forward selection adds, one after the other, the feature with which the classifier has the best balanced accuracy in
    stratified cross-validation inside the given rows; groups stay whole. Its candidates are the 40 features whose means
    differ most between classes (F test).

    Source: Whitney, "A Direct Method of Nonparametric Measurement Selection", IEEE Trans. Computers C-20, 1971.

    Args:
        classifier: A scikit-learn classifier.
        num_features: How many to select, at least 1; all of them where there are no more.
        seed: Of the cross-validation's splits.
    """

    def __init__(self, classifier: Any, num_features: int, seed: int) -> None:
        if num_features < 1:
            raise ValueError(f"num_features must be at least 1, got {num_features}")
        self.classifier = classifier
        self.num_features = num_features
        self.seed = seed

    def fit(self, features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> None:
        """Learns from rows (N, F), labels (N,) and groups (N,)."""
        from sklearn.base import clone
        from sklearn.impute import SimpleImputer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        # A number that no image has stays in its column, so that positions keep their names.
        self.scaling = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler())
        scaled = self.scaling.fit_transform(features)
        classifier = clone(self.classifier)
        self.selected = np.arange(features.shape[1])
        if self.num_features < features.shape[1]:
            self.selected = self._select(scaled, labels, groups)
        self.fitted = _few_enough_neighbors(classifier, len(labels)).fit(scaled[:, self.selected], labels)

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Probabilities (N, classes seen), in the order of their indices."""
        return self.fitted.predict_proba(self.scaling.transform(features)[:, self.selected])

    def _select(self, scaled: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
        from sklearn import config_context
        from sklearn.base import clone
        from sklearn.feature_selection import SelectKBest, SequentialFeatureSelector
        from sklearn.model_selection import StratifiedGroupKFold

        splitter = StratifiedGroupKFold(_SPLITS, shuffle=True, random_state=self.seed)
        # The rows have been checked, and thousands of small fits would check them again.
        with config_context(assume_finite=True, skip_parameter_validation=True), warnings.catch_warnings():
            # A class of one or two groups cannot be in every part; the others still tell good features from bad.
            warnings.filterwarnings("ignore", message="The least populated class")
            warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")
            splits = list(splitter.split(scaled, labels, groups))
            # A Gaussian cannot be drawn through one image; where no split has two of every class, all are as good.
            splits = [split for split in splits if _fewest_images(labels[split[0]], labels) > 1] or splits
            candidates = np.flatnonzero(scaled.std(axis=0))  # one that never changes tells nothing
            most = max(_CANDIDATES, self.num_features)
            if len(candidates) > most:
                filtered = SelectKBest(k=most).fit(scaled[:, candidates], labels)
                candidates = candidates[filtered.get_support()]
            if len(candidates) <= self.num_features:
                return candidates
            fewest = min(len(training) for training, _ in splits)
            selector = SequentialFeatureSelector(
                _few_enough_neighbors(clone(self.classifier), fewest),
                n_features_to_select=self.num_features,
                scoring="balanced_accuracy",
                cv=splits,
            )
            return candidates[selector.fit(scaled[:, candidates], labels).get_support()]


def nearest_neighbors(neighbors: int) -> Any:
    """scikit-learn's classifier by ``neighbors`` votes, each with the inverse of its distance."""
    from sklearn.neighbors import KNeighborsClassifier

    if neighbors < 1:
        raise ValueError(f"neighbors must be at least 1, got {neighbors}")
    return KNeighborsClassifier(neighbors, weights="distance")


def _few_enough_neighbors(classifier: Any, rows: int) -> Any:
    """A nearest-neighbor classifier that asks for no more neighbors than there are rows; others as they are."""
    wanted = classifier.get_params().get("n_neighbors")
    return classifier if wanted is None or wanted <= rows else classifier.set_params(n_neighbors=rows)


def _fewest_images(part: np.ndarray, labels: np.ndarray) -> int:
    """Of any class of ``labels``, in a part of them."""
    return min(int((part == label).sum()) for label in np.unique(labels))
