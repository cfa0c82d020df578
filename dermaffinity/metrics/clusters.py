"""How the classes of an embedding lie: how evenly they are spaced, and how wide each is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClusterSpread:
    """The classes of an embedding as clusters around their means.

    Args:
        means: (C, D).
        radii: (C,), root mean square distance of a class's images to their mean.

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.metrics import cluster_spread
        >>> embedding = np.array([[0.0, 0.0], [0.0, 2.0], [4.0, 0.0], [4.0, 2.0]])
        >>> spread = cluster_spread(embedding, np.array([0, 0, 1, 1]), num_classes=2)
        >>> spread.distances, spread.relative_radii
        (array([4.]), array([0.25, 0.25]))
    """

    means: np.ndarray
    radii: np.ndarray

    @property
    def distances(self) -> np.ndarray:
        """Between the means of each two classes: (C(C-1)/2,)."""
        first, second = np.triu_indices(len(self.means), k=1)
        return np.linalg.norm(self.means[first] - self.means[second], axis=1)

    @property
    def spacing_ratio(self) -> float:
        """Largest over smallest distance between two classes; 1 where all are equally far apart, at least that."""
        return float(self.distances.max() / self.distances.min())

    @property
    def relative_radii(self) -> np.ndarray:
        """(C,), radii over the mean distance between classes: small where clusters are far apart for their width."""
        return self.radii / self.distances.mean()

    def radius_ratio(self, rare: Sequence[int]) -> float:
        """Mean radius of the rare classes over that of the others; 1 where they are equally wide.

        Args:
            rare: Indices of the rare classes; some, not all.
        """
        chosen = np.isin(np.arange(len(self.radii)), rare)
        return float(self.radii[chosen].mean() / self.radii[~chosen].mean())


def cluster_spread(embedding: np.ndarray, labels: np.ndarray, num_classes: int) -> ClusterSpread:
    """Means and radii of the classes.

    Args:
        embedding: (N, D).
        labels: (N,), class indices.
        num_classes: C; every class has an image.

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.metrics import cluster_spread
        >>> cluster_spread(np.array([[0.0], [2.0], [9.0]]), np.array([0, 0, 1]), num_classes=2).radii
        array([1., 0.])
    """
    embedding = np.asarray(embedding, dtype=float)
    members = [embedding[labels == label] for label in range(num_classes)]
    if empty := [label for label, own in enumerate(members) if not len(own)]:
        raise ValueError(f"every class needs an image, there is none of {', '.join(map(str, empty))}")
    means = np.stack([own.mean(axis=0) for own in members])  # (C, D)
    radii = [np.sqrt(np.square(own - mean).sum(axis=1).mean()) for own, mean in zip(members, means, strict=True)]
    return ClusterSpread(means, np.array(radii))
