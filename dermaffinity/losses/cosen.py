"""The cost-sensitive loss of CoSen CNN, the paper's strongest baseline."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from dermaffinity.heads.base import HeadOutput, Predictions, ScoreKind
from dermaffinity.losses.base import Loss

# Costs are ratios; below this a class pair would be free, and its logarithm infinite.
_SMALLEST_COST = 1e-4
# Of a distance within the class to one across; an image twice as near to another class as to its own is lost to it.
_LARGEST_RATIO = 2.0


class CoSenLoss(Loss):
    r"""Cross-entropy on logits shifted by a learned, class-dependent cost matrix ξ.

    .. math:: y_n = \frac{\xi_{p,n} \exp(o_n)}{\sum_k \xi_{p,k} \exp(o_k)}, \qquad
              \xi \leftarrow \xi + \gamma (T - \xi), \qquad
              T = H \circ e^{-(S - \mu)^2 / 2\sigma^2} \circ e^{-(R - \mu)^2 / 2\sigma^2}

    for true class p. After every epoch, T is formed from the class histogram H of the training rows, and from the class
    separability S and the confusion R on the inner validation rows; γ falls to a hundredth whenever the validation
    error has risen. Prediction uses the plain logits.

    Source: Khan et al., "Cost-Sensitive Learning of Deep Feature Representations from Imbalanced Data", TNNLS 2018,
    https://arxiv.org/abs/1508.03422, Algorithm 1. A row of T whose class has too few validation images for S or R keeps
    that factor constant, which leaves its costs to the histogram, because only ratios within a row matter.

    Args:
        class_counts: (C,), images of each class in the training rows.
        embedding_dim: Size D of the embedding.
        cost_rate: γ at the start, in [0, 1]; 0 keeps all costs at 1, which is plain cross-entropy. The first rise of
            the validation error, which in a small library is chance, all but freezes the costs: at 0.1 near 1, where
            they hardly act; from 0.8 on they have reached their target by then.
        mu: Center of both Gaussians; the paper cross-validates it.
        sigma: Width of both Gaussians, positive; the paper cross-validates it.
        separability_every: Epochs between two measurements of S, at least 1.

    Examples:
        >>> import torch
        >>> from dermaffinity.heads import Predictions
        >>> from dermaffinity.losses import CoSenLoss
        >>> loss = CoSenLoss(torch.tensor([300, 30]), 2, separability_every=1)
        >>> embedding = torch.tensor([[0.0, 0.0], [0.0, 1.0], [9.0, 0.0], [9.0, 1.0]])
        >>> scores = torch.tensor([[5.0, 0.0], [5.0, 0.0], [5.0, 0.0], [0.0, 5.0]])  # one of the rare class is missed
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> validation = Predictions(scores, scores.softmax(dim=1), embedding, torch.zeros(2, 1, 2), labels)
        >>> {name: round(value, 2) for name, value in loss.on_epoch_end(0, validation).items()}
        {'cost_rate': 1.0, 'largest_cost_ratio': 12.18}
    """

    score_kind = ScoreKind.LOGIT
    acts_from: ClassVar[Mapping[str, float]] = {"largest_cost_ratio": 2.0}
    learns_from_validation = True
    cost: Tensor
    rate: Tensor
    separability: Tensor
    validation_error: Tensor

    def __init__(
        self,
        class_counts: Tensor,
        embedding_dim: int,
        *,
        cost_rate: float = 1.0,
        mu: float = 0.5,
        sigma: float = 0.5,
        separability_every: int = 10,
    ) -> None:
        super().__init__(class_counts, embedding_dim)
        if not 0 <= cost_rate <= 1:
            raise ValueError(f"cost_rate must be in [0, 1], got {cost_rate}")
        if not sigma > 0:
            raise ValueError(f"sigma must be positive because it is a width, got {sigma}")
        if separability_every < 1:
            raise ValueError(f"separability_every must be at least 1, got {separability_every}")
        self.mu = mu
        self.sigma = sigma
        self.separability_every = separability_every
        num_classes = len(class_counts)
        self.register_buffer("cost", torch.ones(num_classes, num_classes))  # (C, C), row = true class
        self.register_buffer("rate", torch.tensor(float(cost_rate)))
        self.register_buffer("separability", torch.ones(num_classes, num_classes))
        self.register_buffer("validation_error", torch.tensor(1.0))

    def forward(self, output: HeadOutput, labels: Tensor) -> dict[str, Tensor]:
        """The one term ``cost_sensitive_cross_entropy``."""
        shifted = output.scores.float() + self.cost[labels].log()  # (N, C)
        return {"cost_sensitive_cross_entropy": F.cross_entropy(shifted, labels)}

    def on_epoch_end(self, epoch: int, validation: Predictions) -> dict[str, float]:
        """One step of the cost matrix towards its target."""
        predicted = validation.scores.argmax(dim=1)
        error = (predicted != validation.labels).float().mean()
        if error > self.validation_error:
            self.rate.mul_(0.01)
        self.validation_error.copy_(error)
        if epoch % self.separability_every == 0:
            self.separability.copy_(class_separability(validation.embedding, validation.labels, len(self.cost)))
        confusion = _confusion(predicted, validation.labels, len(self.cost)).to(self.cost)
        target = cost_target(self.class_counts, self.separability, confusion, mu=self.mu, sigma=self.sigma)
        self.cost.lerp_(target, self.rate.item()).clamp_(_SMALLEST_COST, 1)
        return {
            "cost_rate": self.rate.item(),
            "largest_cost_ratio": (self.cost / self.cost.diag()[:, None]).max().item(),
        }


def cost_target(class_counts: Tensor, separability: Tensor, confusion: Tensor, *, mu: float, sigma: float) -> Tensor:
    """The matrix T (C, C) that the costs move towards.

    Args:
        class_counts: (C,), images of each class in the training rows.
        separability: S (C, C).
        confusion: R (C, C), rows sum to 1.
        mu: Center of both Gaussians.
        sigma: Width of both Gaussians.
    """
    share = class_counts / class_counts.sum()
    histogram = torch.maximum(share[:, None], share[None, :])  # (C, C); its diagonal is the class's own share
    gaussians = ((separability - mu).square() + (confusion - mu).square()).div(-2 * sigma**2).exp()
    return histogram * gaussians


def class_separability(embedding: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    r"""Distance to the nearest neighbor in the own class over that in another class, averaged: S (C, C).

    Small values mean well separated; the diagonal is 1. A nearest neighbor is closer the more images there are to
    choose from, so every class is represented by equally many: m, one less than the smallest class has. Each distance
    is the expected one over all draws of m of the class's n images, which from sorted distances :math:`d_{(k)}` is

    .. math:: \sum_k d_{(k)} \binom{n-k}{m-1} \Big/ \binom{n}{m}.

    An image's ratio counts as at most 2, so that one duplicate in another class does not decide a row. A class of fewer
    than two images cannot be measured: its row is 1, and its column has the mean of each row's measured entries, which
    leaves the costs of both to the histogram.

    Args:
        embedding: (N, D).
        labels: (N,).
        num_classes: C.
    """
    measurable = embedding.isfinite().all(dim=1)  # a network that diverges is told by its loss, which names itself
    embedding, labels = embedding[measurable], labels[measurable]
    counts = torch.bincount(labels, minlength=num_classes)
    present = [q for q in range(num_classes) if counts[q] >= 2]
    separability = torch.ones(num_classes, num_classes, device=embedding.device)
    if len(present) < 2:
        return separability
    drawn = int(counts[present].min()) - 1
    # Without the matrix product, whose rounding would part duplicates.
    distance = torch.cdist(embedding, embedding, compute_mode="donot_use_mm_for_euclid_dist")  # (N, N)
    distance.fill_diagonal_(torch.inf)  # an image is not its own neighbor
    members = {q: (labels == q).nonzero().squeeze(1) for q in present}
    for p in present:
        own = _expected_nearest(distance[members[p]][:, members[p]].sort(dim=1).values[:, :-1], drawn)  # (n,)
        for q in present:
            if q != p:
                other = _expected_nearest(distance[members[p]][:, members[q]].sort(dim=1).values, drawn)  # (n,)
                # Duplicates across classes would divide by zero; those within a class as well are as close in both.
                ratio = torch.where(own == other, 1.0, own / other)
                separability[p, q] = ratio.clamp_max(_LARGEST_RATIO).mean()
        others = [q for q in present if q != p]
        absent = [q for q in range(num_classes) if q not in members]
        separability[p, absent] = separability[p, others].mean()
    return separability


def _expected_nearest(distances: Tensor, drawn: int) -> Tensor:
    """Expected smallest (R,) of ``drawn`` distances out of each sorted row (R, n), drawn without replacement."""
    n = distances.shape[1]
    chances = [math.comb(n - k, drawn - 1) / math.comb(n, drawn) for k in range(1, n + 1)]
    return distances @ distances.new_tensor(chances)


def _confusion(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    counts = torch.zeros(num_classes, num_classes)
    counts.index_put_((labels, predicted), torch.ones(len(labels)), accumulate=True)
    return counts / counts.sum(dim=1, keepdim=True).clamp_min(1)  # (C, C); the row of an absent class is 0
