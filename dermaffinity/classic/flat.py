"""All classes in one decision."""

from collections.abc import Sequence

import numpy as np

from dermaffinity.classic.base import Estimator
from dermaffinity.classic.decision import Decision, nearest_neighbors


class FlatKNN(Estimator):
    """The nearest neighbors of an image vote, each with the inverse of its distance.

    Source: the flat rival in Ballerini et al., 2013, https://doi.org/10.1007/978-94-007-5389-1_4.

    Args:
        classes: See `Estimator`.
        seed: See `Estimator`.
        neighbors: Number of neighbors k.
        num_features: How many features forward selection keeps.

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.classic import FlatKNN
        >>> labels = np.repeat([0, 1], 10)
        >>> features = np.column_stack([labels + np.linspace(0, 0.1, 20), np.zeros(20)])
        >>> estimator = FlatKNN(("mel", "nv"), seed=0, neighbors=3, num_features=1)
        >>> estimator.fit(features, labels, groups=np.arange(20))
        >>> estimator.predict_proba(features[[0, 19]])
        array([[1., 0.],
               [0., 1.]])
    """

    def __init__(self, classes: Sequence[str], seed: int, *, neighbors: int = 15, num_features: int = 10) -> None:
        super().__init__(classes, seed)
        self.decision = Decision(nearest_neighbors(neighbors), num_features, seed)

    def fit(self, features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> None:
        """See :meth:`Estimator.fit`."""
        self.decision.fit(features, labels, groups)

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """See :meth:`Estimator.predict_proba`."""
        return self.decision.predict_proba(features)

    @property
    def selected(self) -> dict[str, np.ndarray]:
        """See :attr:`Estimator.selected`."""
        return {"all classes": self.decision.selected}
