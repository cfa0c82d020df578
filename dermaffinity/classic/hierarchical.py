"""Two decisions, one after the other: among groups of classes, then among the classes of a group."""

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.covariance import empirical_covariance

from dermaffinity.classic.base import Estimator
from dermaffinity.classic.decision import Decision, nearest_neighbors

_TOP = "groups"
_FEWEST_IMAGES = 3  # of a class with a Gaussian: two to draw it through, and one to see how good it is


class Tree:
    """A hierarchy of two levels, with features selected for each decision on its own.

    The probability of a class is that of its group times its own within the group, so that an image near the border of
    two groups is not lost at the first decision.

    Args:
        classes: The C class codes.
        groups: Disjoint groups of them; a class that none names is a group of its own.
        decide: Makes a new decision.

    Raises:
        ValueError: When the groups name unknown classes, or one twice.
    """

    def __init__(self, classes: Sequence[str], groups: Sequence[Sequence[str]], decide: Callable[[], Decision]) -> None:
        named = [name for group in groups for name in group]
        unknown = sorted(set(named) - set(classes))
        twice = sorted({name for name in named if named.count(name) > 1})
        if unknown:
            raise ValueError(f"groups name {', '.join(unknown)}, but the classes are {', '.join(classes)}")
        if twice:
            raise ValueError(f"groups name {', '.join(twice)} more than once; a class is in one group")
        alone: list[tuple[str, ...]] = [(name,) for name in classes if name not in named]
        self.classes = tuple(classes)
        self.groups = [tuple(group) for group in groups if group] + alone
        self.members = [np.array([self.classes.index(name) for name in group]) for group in self.groups]
        self.group_of = np.empty(len(self.classes), dtype=int)  # (C,)
        for group, members in enumerate(self.members):
            self.group_of[members] = group
        self.top = decide() if len(self.groups) > 1 else None
        self.within = {group: decide() for group, members in enumerate(self.members) if len(members) > 1}

    def fit(self, features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> None:
        """Learns every decision from the rows it is about; see :meth:`Estimator.fit`."""
        if self.top is not None:
            self.top.fit(features, self.group_of[labels], groups)
        for group, decision in self.within.items():
            rows = self.group_of[labels] == group
            # In the order of the class indices, as scikit-learn gives probabilities.
            decision.fit(features[rows], labels[rows], groups[rows])

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """(N, C); see :meth:`Estimator.predict_proba`."""
        number = len(features)
        of_group = np.ones((number, 1)) if self.top is None else self.top.predict_proba(features)  # (N, groups)
        probabilities = of_group[:, self.group_of]  # (N, C)
        for group, decision in self.within.items():
            probabilities[:, np.sort(self.members[group])] *= decision.predict_proba(features)
        return probabilities

    @property
    def selected(self) -> dict[str, np.ndarray]:
        """See :attr:`Estimator.selected`."""
        top = {} if self.top is None else {_TOP: self.top.selected}
        return top | {", ".join(self.groups[group]): decision.selected for group, decision in self.within.items()}


class HierarchicalKNN(Estimator):
    """Nearest neighbors, first among groups of classes, then among the classes of a group.

    Source: Ballerini et al., 2013, https://doi.org/10.1007/978-94-007-5389-1_4. There an image goes down one branch;
    here the probabilities of both levels are multiplied.

    Args:
        classes: See `Estimator`.
        seed: See `Estimator`.
        groups: Class codes, group by group; a class that none names is a group of its own.
        neighbors: Number of neighbors k of each decision.
        num_features: How many features forward selection keeps for each decision.

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.classic import HierarchicalKNN
        >>> labels = np.repeat([0, 1, 2], 10)
        >>> features = np.column_stack([labels + np.linspace(0, 0.1, 30), labels == 2])
        >>> classes, groups = ("mel", "nv", "bcc"), (("mel", "nv"),)
        >>> estimator = HierarchicalKNN(classes, seed=0, groups=groups, neighbors=3, num_features=1)
        >>> estimator.fit(features, labels, groups=np.arange(30))
        >>> estimator.predict_proba(features[[0, 15, 29]]).argmax(axis=1)
        array([0, 1, 2])
    """

    def __init__(
        self,
        classes: Sequence[str],
        seed: int,
        *,
        groups: tuple[tuple[str, ...], ...] = (),
        neighbors: int = 15,
        num_features: int = 10,
    ) -> None:
        super().__init__(classes, seed)
        self.tree = Tree(classes, groups, lambda: Decision(nearest_neighbors(neighbors), num_features, seed))

    def fit(self, features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> None:
        """See :meth:`Estimator.fit`."""
        self.tree.fit(features, labels, groups)

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """See :meth:`Estimator.predict_proba`."""
        return self.tree.predict_proba(features)

    @property
    def selected(self) -> dict[str, np.ndarray]:
        """See :attr:`Estimator.selected`."""
        return self.tree.selected


class _ShrunkToUnit(BaseEstimator):
    """A covariance of standardized features that has full rank even where a class never changes in one of them."""

    def __init__(self, shrinkage: float) -> None:
        self.shrinkage = shrinkage

    def fit(self, rows: np.ndarray) -> "_ShrunkToUnit":
        unit = np.eye(rows.shape[1])
        self.covariance_ = (1 - self.shrinkage) * empirical_covariance(rows) + self.shrinkage * unit
        return self


class HierarchicalBayes(Estimator):
    """Bayes' rule with a Gaussian for each class, first among groups of classes, then among the classes of a group.

    The covariance of every class is its own, shrunk, because a rare class has hardly more images than features. Priors
    are the classes' shares of the training rows.

    Source: the row "Hierarchical Bayes" that Hayat et al. (ICCV 2019, Table 2) quote from Ballerini et al., ISBI 2012;
    the Gaussians, their shrinkage and the product of both levels are ours.

    Args:
        classes: See `Estimator`.
        seed: See `Estimator`.
        groups: Class codes, group by group; a class that none names is a group of its own.
        shrinkage: Of a covariance towards the unit matrix, on features that are standardized over all classes; above 0,
            which would leave a class with fewer images than features without a Gaussian, to 1.
        num_features: How many features forward selection keeps for each decision.

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.classic import HierarchicalBayes
        >>> labels = np.repeat([0, 1], 10)
        >>> features = np.column_stack([labels + np.linspace(0, 0.1, 20), np.zeros(20)])
        >>> estimator = HierarchicalBayes(("mel", "nv"), seed=0, num_features=1)
        >>> estimator.fit(features, labels, groups=np.arange(20))
        >>> estimator.predict_proba(features[[0, 19]]).argmax(axis=1)
        array([0, 1])
    """

    def __init__(
        self,
        classes: Sequence[str],
        seed: int,
        *,
        groups: tuple[tuple[str, ...], ...] = (),
        shrinkage: float = 0.2,
        num_features: int = 10,
    ) -> None:
        from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis

        super().__init__(classes, seed)
        if not 0 < shrinkage <= 1:
            raise ValueError(f"shrinkage must be above 0 and at most 1, got {shrinkage}")
        gaussians = QuadraticDiscriminantAnalysis(solver="eigen", covariance_estimator=_ShrunkToUnit(shrinkage))
        self.tree = Tree(classes, groups, lambda: Decision(gaussians, num_features, seed))

    def fit(self, features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> None:
        """See :meth:`Estimator.fit`; raises ValueError for a class with too few images."""
        counts = np.bincount(labels, minlength=len(self.classes))
        rare = [f"{name} {count}" for name, count in zip(self.classes, counts, strict=True) if count < _FEWEST_IMAGES]
        if rare:
            raise ValueError(
                f"a Gaussian needs {_FEWEST_IMAGES} images of every class, but there are {', '.join(rare)}"
            )
        self.tree.fit(features, labels, groups)

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """See :meth:`Estimator.predict_proba`."""
        return self.tree.predict_proba(features)

    @property
    def selected(self) -> dict[str, np.ndarray]:
        """See :attr:`Estimator.selected`."""
        return self.tree.selected
