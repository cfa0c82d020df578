"""What every loss is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dermaffinity.heads.base import HeadOutput, Predictions, ScoreKind


class Loss(nn.Module, ABC):
    """Named terms whose sum is minimized.

    Whatever a loss learns or adapts is a parameter or buffer, so that a checkpoint resumes it exactly.

    Args:
        class_counts: (C,), images of each class in the training rows, all positive.
        embedding_dim: Size D of the embedding.

    Examples:
        >>> import torch
        >>> from dermaffinity.heads import LinearHead
        >>> from dermaffinity.losses import CrossEntropyLoss, Loss
        >>> loss = CrossEntropyLoss(torch.tensor([50, 5]), 4)
        >>> isinstance(loss, Loss)
        True
        >>> terms = loss(LinearHead(4, 2)(torch.zeros(3, 4)), torch.tensor([0, 1, 0]))
        >>> list(terms)
        ['cross_entropy']
    """

    score_kind: ClassVar[ScoreKind]  # must equal the head's
    # Numbers of `on_epoch_end` that tables show beside the results, each with the least at which the method acts.
    acts_from: ClassVar[Mapping[str, float]] = {}
    learns_from_validation: ClassVar[bool] = False  # whether `on_epoch_end` changes what the loss does
    class_counts: Tensor

    def __init__(self, class_counts: Tensor, embedding_dim: int) -> None:
        super().__init__()
        if class_counts.ndim != 1 or len(class_counts) < 2 or bool((class_counts <= 0).any()):
            raise ValueError(
                f"a loss needs a positive number of training images for each of at least 2 classes, "
                f"got class_counts={class_counts.tolist()}"
            )
        self.register_buffer("class_counts", class_counts.to(torch.float32))
        self.embedding_dim = embedding_dim

    @property
    def prior_left_out(self) -> Tensor:
        """(C,), the logarithms of class frequencies that training adds to the scores and prediction leaves out.

        None, unless a loss says otherwise: its scores learn how frequent the classes are.
        """
        return torch.zeros_like(self.class_counts)

    @abstractmethod
    def forward(self, output: HeadOutput, labels: Tensor) -> dict[str, Tensor]:
        """Named scalar terms of a batch with labels (N,); the objective is their sum."""

    def on_epoch_start(self, epoch: int, epochs: int) -> None:
        """Called before each of ``epochs`` epochs, counted from 0: the place for deferred re-weighting."""

    def on_epoch_end(self, epoch: int, validation: Predictions) -> dict[str, float]:
        """Called with the network's view of the inner validation rows, never of test rows.

        After each epoch for a loss that learns from it, otherwise when ``training.validate_every`` says so.

        Returns:
            Numbers worth watching, which are tracked with the epoch.

        Raises:
            ValueError: When the loss sees that training cannot succeed; the message says what to change.
        """
        return {}


def effective_number_weights(class_counts: Tensor, beta: float) -> Tensor:
    r"""Weights (C,) that fall with the effective number of a class's images, of mean 1.

    .. math:: w_c \propto \frac{1 - \beta}{1 - \beta^{n_c}}

    Source: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019,
    https://arxiv.org/abs/1901.05555, Eq. 3; β of 0 weights all classes alike, β near 1 inversely to their frequency.

    Args:
        class_counts: (C,), all positive.
        beta: β, in [0, 1).

    Raises:
        ValueError: For another β.
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta must be in [0, 1), got {beta}; for inverse frequency use CrossEntropyLoss")
    # In float64: 1 - beta ** n is a small difference.
    return of_mean_one((1 - beta) / (1 - beta ** class_counts.double())).to(torch.float32)


def of_mean_one(weights: Tensor) -> Tensor:
    """Class weights (C,), scaled to mean 1, which leaves the learning rate its meaning."""
    return len(weights) * weights / weights.sum()


def weighted_cross_entropy(logits: Tensor, labels: Tensor, class_weights: Tensor) -> Tensor:
    """The mean over images of their class's weight times their cross-entropy.

    Divided by N, not by the batch's weights: a batch of common classes must not count as much as a rare one.

    Args:
        logits: (N, C).
        labels: (N,).
        class_weights: (C,).
    """
    return (class_weights[labels] * F.cross_entropy(logits, labels, reduction="none")).mean()
