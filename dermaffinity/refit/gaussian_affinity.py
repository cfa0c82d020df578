"""Gaussian affinity in closed form: centers and metric from the training images, nothing trained by steps."""

from typing import Any, Literal

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
        moved = (_means(training).float() - head.centers.mean(dim=1)).norm(dim=1).mean().item()
        if head.whitening is None:
            head.centers.copy_(self._fitted(head, training, None, seed)[0])
            return {"centers_moved": moved}
        found = []
        for shrinkage in _SHRINKAGES if self.shrinkage is None else (self.shrinkage,):
            centers, whitening = self._fitted(head, training, shrinkage, seed)
            head.centers.copy_(centers)
            for temperature in _TEMPERATURES:
                head.whitening.copy_(whitening * (head.sigma / (2 * temperature)) ** 0.5)
                loss = class_balanced_cross_entropy(head(validation.embedding).scores, validation.labels).item()
                found.append((loss, temperature, shrinkage, head.whitening.clone(), centers))
        loss, temperature, shrinkage, whitening, centers = min(found, key=lambda one: one[0])
        head.whitening.copy_(whitening)
        head.centers.copy_(centers)
        chosen = {"temperature": temperature, "validation_cross_entropy": loss, "centers_moved": moved}
        return chosen if shrinkage == "auto" else {**chosen, "shrinkage": shrinkage}

    def _fitted(
        self, head: Any, training: Predictions, shrinkage: float | Literal["auto"] | None, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Centers (C, M, D) and metric (D, D); with a shrinkage of None the head's own metric."""
        means, number = _means(training), head.centers.shape[1]
        identity = torch.eye(head.embedding_dim, dtype=torch.float64)
        whitening = identity if shrinkage is None else _whitening(training, means[training.labels], shrinkage)
        if number == 1:
            return means[:, None], whitening
        centers, nearest = _clusters(training, number, whitening, seed)
        return centers, whitening if shrinkage is None else _whitening(training, nearest, shrinkage)


def _means(training: Predictions) -> Tensor:
    """Mean embeddings (C, D) of the classes, in float64."""
    embedding, labels = training.embedding.double(), training.labels
    return torch.stack([embedding[labels == label].mean(dim=0) for label in range(training.scores.shape[1])])


def _whitening(training: Predictions, nearest: Tensor, shrinkage: float | Literal["auto"]) -> Tensor:
    """W (D, D) with W'W the inverse of the covariance around the center (N, D) that each image belongs to."""
    embedding, labels, classes = training.embedding.double(), training.labels, training.scores.shape[1]
    if shrinkage == "auto":
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        analysis = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=np.full(classes, 1 / classes))
        covariance = torch.from_numpy(analysis.fit(embedding.numpy(), labels.numpy()).covariance_)
    else:
        residual = (embedding - nearest) / (classes * torch.bincount(labels))[labels, None].sqrt()
        covariance = residual.T @ residual
        covariance = covariance.lerp(covariance.diag().diag(), shrinkage)
    # Of the correlations first, because scales of dimensions may differ by more than numbers have digits. A dimension
    # in which nothing varies is left out.
    deviation = covariance.diag().sqrt()
    varies = deviation > 1e-6 * embedding.abs().amax(dim=0)  # below, what varies is the rounding
    scale = torch.where(varies, 1 / deviation, 0)
    values, vectors = torch.linalg.eigh(scale[:, None] * covariance * scale)
    root = torch.where(values > 1e-9, values.clamp_min(0).rsqrt(), 0)
    return (vectors * root) @ vectors.T * scale


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
