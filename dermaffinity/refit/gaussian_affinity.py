"""Gaussian affinity in closed form: centers and metric from the training images, nothing trained by steps."""

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dermaffinity.heads.base import Head, Predictions
from dermaffinity.refit.base import Refit, class_balanced_cross_entropy

_SHRINKAGES = tuple(step / 10 for step in range(1, 10))
_TEMPERATURES = tuple(2.0**step for step in range(-2, 11))


class GaussianAffinity(Refit):
    r"""Puts the centers of an affinity head on the means of its classes, or of their clusters.

    Where the head is ``whitened`` it also gets the metric of the classes' common covariance, so that its scores are
    those of linear discriminant analysis for equally frequent classes, softened by a temperature T:

    .. math:: z_j(f) = \log \frac{1}{M} \sum_t \exp \frac{-(f - w_{j,t})^\top \Sigma^{-1} (f - w_{j,t})}{2T}, \qquad
              \Sigma = (1 - \lambda) S + \lambda \operatorname{diag} S

    S is the covariance around the centers, each class counting alike. With several centers a class is divided by
    k-means in the space that is whitened by the covariance around the class means. λ and T are those with the least
    cross-entropy on the inner validation images, each class counting alike. T changes how sure the head is; with one
    center for each class, never what it predicts.

    A head that is not whitened keeps its distances and sigma, and has its trained centers moved to the means.

    Args:
        shrinkage: λ in (0, 1]; ``"auto"`` for the mean of scikit-learn's Ledoit-Wolf estimates for each class; None
            for the value among 0.1, 0.2, …, 0.9 that the inner validation images prefer.

    Examples:
        >>> import torch
        >>> from dermaffinity.heads import AffinityMixtureHead, Predictions
        >>> from dermaffinity.refit import GaussianAffinity
        >>> head = AffinityMixtureHead(2, 2, centers_per_class=1, whitened=True)
        >>> labels = torch.tensor([0] * 9 + [1] * 3)
        >>> embedding = torch.where(labels[:, None] == 1, 1.0, -1.0) + 0.1 * torch.randn(12, 2)
        >>> with torch.no_grad():
        ...     output = head(embedding)
        >>> seen = Predictions(output.scores, head.probabilities(output), embedding, output.centers, labels)
        >>> numbers = GaussianAffinity()(head, seen, seen, seed=0)
        >>> head.centers.flatten().detach().round()
        tensor([-1., -1.,  1.,  1.])
    """

    def __init__(self, *, shrinkage: float | Literal["auto"] | None = None) -> None:
        if isinstance(shrinkage, float | int) and not 0 < shrinkage <= 1:
            raise ValueError(f"shrinkage must be in (0, 1], 'auto', or None, got {shrinkage}")
        self.shrinkage = shrinkage

    def check(self, head: Head) -> None:
        """See `Refit.check`."""
        if not hasattr(head, "whitening"):
            raise ValueError(
                f"this refit sets centers and the map before their distances, and {type(head).__name__} has no "
                "'whitening'; use dermaffinity.heads.AffinityMixtureHead"
            )

    @torch.no_grad()
    def __call__(self, head: Any, training: Predictions, validation: Predictions, *, seed: int) -> dict[str, float]:
        """See `Refit`."""
        means, number = _means(training), head.centers.shape[1]
        moved = (means.float() - head.centers.mean(dim=1)).norm(dim=1).mean().item()
        if head.whitening is None:
            identity = torch.eye(head.embedding_dim, dtype=torch.float64)
            head.centers.copy_(means[:, None] if number == 1 else _clusters(training, number, identity, seed)[0])
            return {"centers_moved": moved}
        shrinkages: tuple[float, ...] = (0.0,)  # beyond what is estimated
        if self.shrinkage == "auto":
            spread = _Spread.estimated(training)
        else:
            spread = _Spread.around(means[training.labels], training)
            shrinkages = _SHRINKAGES if self.shrinkage is None else (self.shrinkage,)
        found = []
        for shrinkage in shrinkages:
            centers, whitening = means[:, None], spread.whitening(shrinkage)
            if number > 1:
                centers, nearest = _clusters(training, number, whitening, seed)
                if self.shrinkage != "auto":
                    whitening = _Spread.around(nearest, training).whitening(shrinkage)
            head.centers.copy_(centers)
            for temperature in _TEMPERATURES:
                head.whitening.copy_(whitening * (head.sigma / (2 * temperature)) ** 0.5)
                loss = class_balanced_cross_entropy(head(validation.embedding).scores, validation.labels).item()
                found.append((loss, temperature, shrinkage, head.whitening.clone(), centers))
        loss, temperature, shrinkage, whitening, centers = min(found, key=lambda one: one[0])
        head.whitening.copy_(whitening)
        head.centers.copy_(centers)
        chosen = {"temperature": temperature, "validation_cross_entropy": loss, "centers_moved": moved}
        return chosen if self.shrinkage == "auto" else {**chosen, "shrinkage": shrinkage}


class _Spread(NamedTuple):
    """A covariance, as the eigenvalues (D,) and vectors (D, D) of its correlations and the deviations' inverses (D,).

    Of correlations, because scales of dimensions may differ by more than numbers have digits, and because all
    shrinkages then share one decomposition. A dimension in which nothing varies is left out.
    """

    values: Tensor
    vectors: Tensor
    scale: Tensor

    @classmethod
    def around(cls, nearest: Tensor, training: Predictions) -> "_Spread":
        """Of the images around the center (N, D) that each belongs to, each class counting alike."""
        labels, classes = training.labels, training.scores.shape[1]
        residual = training.embedding.double() - nearest
        residual = residual / (classes * torch.bincount(labels))[labels, None].sqrt()
        return cls._of(residual.T @ residual, training)

    @classmethod
    def estimated(cls, training: Predictions) -> "_Spread":
        """Of the images around the class means, shrunk as scikit-learn's Ledoit-Wolf estimates ask."""
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        priors = np.full(training.scores.shape[1], 1 / training.scores.shape[1])
        analysis = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=priors)
        fitted = analysis.fit(training.embedding.double().numpy(), training.labels.numpy())
        return cls._of(torch.from_numpy(fitted.covariance_), training)

    @classmethod
    def _of(cls, covariance: Tensor, training: Predictions) -> "_Spread":
        deviation = covariance.diag().sqrt()
        # Below, what varies is the rounding.
        varies = deviation > 1e-6 * training.embedding.double().abs().amax(dim=0)
        scale = torch.where(varies, 1 / deviation, 0)
        values, vectors = torch.linalg.eigh(scale[:, None] * covariance * scale)
        return cls(values, vectors, scale)

    def whitening(self, shrinkage: float) -> Tensor:
        """W (D, D) with W'W the inverse of the covariance whose correlations are that much smaller."""
        values = self.values.lerp(torch.ones_like(self.values), shrinkage)
        root = torch.where(values > 1e-9, values.clamp_min(0).rsqrt(), 0)
        return (self.vectors * root) @ self.vectors.T * self.scale


def _means(training: Predictions) -> Tensor:
    """Mean embeddings (C, D) of the classes, in float64."""
    embedding, labels = training.embedding.double(), training.labels
    return torch.stack([embedding[labels == label].mean(dim=0) for label in range(training.scores.shape[1])])


def _clusters(training: Predictions, number: int, whitening: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Means (C, M, D) of the clusters of each class in the whitened space, and (N, D) that of each image's cluster."""
    from sklearn.cluster import KMeans

    embedding, centers = training.embedding.double(), []
    nearest = torch.empty_like(embedding)
    for label in range(training.scores.shape[1]):
        members = training.labels == label
        own = embedding[members]
        clusters = min(number, len(own))
        found = KMeans(clusters, n_init=10, random_state=seed % 2**32).fit_predict((own @ whitening.T).numpy())
        groups = torch.from_numpy(found).long()
        means = torch.stack([own[groups == group].mean(dim=0) for group in range(clusters)])
        nearest[members] = means[groups]
        centers.append(means[torch.arange(number) % clusters])
    return torch.stack(centers), nearest
