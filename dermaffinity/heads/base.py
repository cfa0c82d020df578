"""What every head is, and what it returns."""

from abc import ABC, abstractmethod
from enum import Enum
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn


class ScoreKind(Enum):
    """What a head's scores mean; a loss works with one kind only.

    Examples:
        >>> from dermaffinity.heads import LinearHead, ScoreKind
        >>> LinearHead.score_kind
        <ScoreKind.LOGIT: 'logit'>
    """

    LOGIT = "logit"  # unbounded; softmax gives probabilities
    COSINE = "cosine"  # in [-1, 1]; of the angle to a class vector, before any scale
    SIMILARITY = "similarity"  # in [0, 1]; 1 at a class center


class HeadOutput(NamedTuple):
    """What a head says about a batch of N images, for C classes with M vectors each in D dimensions.

    Examples:
        >>> import torch
        >>> from dermaffinity.heads import AffinityHead
        >>> output = AffinityHead(embedding_dim=4, num_classes=3, centers_per_class=5)(torch.zeros(2, 4))
        >>> {name: tuple(value.shape) for name, value in output._asdict().items()}
        {'scores': (2, 3), 'embedding': (2, 4), 'centers': (3, 5, 4)}
    """

    scores: Tensor  # (N, C), higher means more likely
    embedding: Tensor  # (N, D)
    centers: Tensor  # (C, M, D), the class vectors behind the scores; a linear head's weights, with M = 1


class Predictions(NamedTuple):
    """What a network says about a whole set of N labeled images, in evaluation mode; float32 on the CPU.

    Examples:
        >>> import torch
        >>> from dermaffinity.heads import LinearHead, Predictions
        >>> head = LinearHead(4, 3)
        >>> scores, embedding, centers = head(torch.zeros(2, 4))
        >>> predictions = Predictions(scores, scores.softmax(dim=1), embedding, centers, labels=torch.tensor([0, 2]))
        >>> predictions.probabilities.shape
        torch.Size([2, 3])
    """

    scores: Tensor  # (N, C)
    probabilities: Tensor  # (N, C), rows sum to 1
    embedding: Tensor  # (N, D)
    centers: Tensor  # (C, M, D)
    labels: Tensor  # (N,), class indices


def log_shares(class_counts: Tensor) -> Tensor:
    """Logarithm of each class's share of the images: (C,), at most 0; what a prior adds to logits.

    Args:
        class_counts: (C,), images of each class, all positive.
    """
    return (class_counts / class_counts.sum()).log()


class Head(nn.Module, ABC):
    """Maps an embedding (N, D) to scores (N, C).

    Args:
        embedding_dim: Size D of the embedding.
        num_classes: Number of classes C, at least 2.

    Examples:
        >>> import torch
        >>> from dermaffinity.heads import Head, LinearHead
        >>> head = LinearHead(embedding_dim=4, num_classes=3)
        >>> isinstance(head, Head)
        True
        >>> head.probabilities(head(torch.randn(2, 4))).sum(dim=1).allclose(torch.ones(2))
        True
    """

    score_kind: ClassVar[ScoreKind]
    centers_are_places: ClassVar[bool] = False  # among the embeddings; else class vectors are directions
    starts_from_samples: bool = False  # whether `start_from` wants to be called before training

    def __init__(self, embedding_dim: int, num_classes: int) -> None:
        super().__init__()
        if embedding_dim < 1 or num_classes < 2:
            raise ValueError(
                "a head needs at least 1 embedding dimension and 2 classes, "
                f"got embedding_dim={embedding_dim}, num_classes={num_classes}"
            )
        self.embedding_dim = embedding_dim
        self.num_classes = num_classes

    @abstractmethod
    def forward(self, embedding: Tensor) -> HeadOutput:
        """Scores of a batch of embeddings (N, D)."""

    def start_from(self, embedding: Tensor, labels: Tensor) -> None:
        """Chooses starting values from the untrained network's embeddings (N, D) of training images, labels (N,)."""

    @abstractmethod
    def probabilities(self, output: HeadOutput) -> Tensor:
        """Class probabilities (N, C) of this head's own output; rows sum to 1."""

    def distance_to(self, embedding: Tensor, points: Tensor) -> Tensor:
        """Distance (N, P) of each embedding (N, D) to each of P points (P, D), at least 0, in this head's geometry.

        Euclidean unless a head says otherwise.
        """
        # Not torch.cdist, which ONNX does not have.
        return torch.linalg.vector_norm(embedding[:, None, :] - points, dim=2)

    def center_distances(self, output: HeadOutput) -> Tensor:
        """Distance (N, C, M) of each embedding to every center, in this head's geometry."""
        return self.distance_to(output.embedding, output.centers.flatten(0, 1)).unflatten(1, output.centers.shape[:2])

    def center_distance(self, output: HeadOutput) -> Tensor:
        """Distance (N, C) of each embedding to the nearest center of each class.

        Far from every class, an image is unlike what the network has learned.
        """
        return self.center_distances(output).amin(dim=2)
