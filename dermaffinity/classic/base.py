"""What every classic method is: features of one masked image, and an estimator of classes from them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np


class Features(ABC):
    """Turns an image and its lesion mask into F numbers.

    Subclasses take hyper-parameters as keyword-only arguments with defaults. The same image and mask always give the
    same numbers: nothing is learned here.

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.classic import ColorTexture, Features
        >>> features = ColorTexture()
        >>> isinstance(features, Features)
        True
        >>> features.names[:3]
        ('lesion L mean', 'lesion a mean', 'lesion b mean')
    """

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """(F,) names of the numbers, in order."""

    @abstractmethod
    def __call__(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The numbers (F,), NaN for one that this image does not have.

        Args:
            image: (H, W, 3) uint8 RGB.
            mask: (H, W) bool, the lesion; True somewhere.
        """


class Estimator(ABC):
    """Learns classes from features, in scikit-learn's words.

    Args:
        classes: The C class codes, in the order of the class indices.
        seed: Of whatever is random in learning.

    Subclasses add hyper-parameters as keyword-only arguments with defaults. The same rows, classes and seed always give
    the same estimator.

    Examples:
        >>> from dermaffinity.classic import Estimator, FlatKNN
        >>> estimator = FlatKNN(("mel", "nv"), seed=0)
        >>> isinstance(estimator, Estimator), estimator.classes
        (True, ('mel', 'nv'))
    """

    def __init__(self, classes: Sequence[str], seed: int) -> None:
        self.classes = tuple(classes)
        self.seed = seed

    @abstractmethod
    def fit(self, features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> None:
        """Learns, and makes every choice, from these rows alone.

        Args:
            features: (N, F), NaN where an image has no such number.
            labels: (N,) class indices; every class occurs.
            groups: (N,) group of each image; images of one group must not be on both sides of a split.
        """

    @abstractmethod
    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Probabilities (N, C), rows sum to 1.

        Args:
            features: (N, F), as for `fit`.
        """

    @property
    @abstractmethod
    def selected(self) -> dict[str, np.ndarray]:
        """Positions of the features that each decision of the fitted estimator looks at, by the decision's name."""
