"""What every refit is, and what several of them do."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dermaffinity.heads.base import Head, Predictions


class Refit(ABC):
    """Changes the head of a trained network, whose backbone and neck stay as they are.

    Decoupled training in the sense of Kang et al., "Decoupling representation and classifier for long-tailed
    recognition", ICLR 2020, https://arxiv.org/abs/1910.09217: what a network sees is learned from all images as they
    come, what it answers is set afterwards. Choices are made on the inner validation images, never on test images.

    Examples:
        >>> from dermaffinity.heads import LinearHead
        >>> from dermaffinity.refit import Refit, TauNormalization
        >>> refit = TauNormalization()
        >>> isinstance(refit, Refit)
        True
        >>> refit.check(LinearHead(4, 3))  # raises ValueError for a head that it cannot change
    """

    def check(self, head: Head) -> None:
        """Refuses a head that cannot be refitted, before anything is trained.

        A linear layer is what refits change, unless one says otherwise.

        Raises:
            ValueError: When the head has none.
        """
        linear_layer(head)

    @abstractmethod
    def __call__(self, head: Head, training: Predictions, validation: Predictions, *, seed: int) -> dict[str, float]:
        """Changes ``head`` in place.

        Args:
            head: Of the trained network, in evaluation mode, on the CPU.
            training: Its view of the training images, without augmentation.
            validation: Its view of the inner validation images.
            seed: Of whatever is drawn at random.

        Returns:
            Numbers worth tracking, such as what was chosen.
        """


def linear_layer(head: Head) -> nn.Linear:
    """The layer behind the logits.

    Raises:
        ValueError: When the head has none.
    """
    linear = getattr(head, "linear", None)
    if not isinstance(linear, nn.Linear):
        raise ValueError(
            f"this refit changes the weights of a linear layer, and {type(head).__name__} has no nn.Linear called "
            "'linear'; use dermaffinity.heads.LinearHead"
        )
    return linear


def class_balanced_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over classes of the mean cross-entropy of their images, as in sampling every class equally often.

    Args:
        logits: (N, C).
        labels: (N,); a class without images takes no part.
    """
    image_loss = F.cross_entropy(logits, labels, reduction="none")  # (N,)
    number = torch.bincount(labels)
    return (image_loss / number[labels]).sum() / (number > 0).sum()


def balanced_accuracy(logits: Tensor, labels: Tensor) -> float:
    """The mean recall of the classes that have images; logits (N, C), labels (N,)."""
    right = (logits.argmax(dim=1) == labels).double()
    number = torch.bincount(labels)
    return float((right / number[labels]).sum() / (number > 0).sum())


def check_tau(tau: float | None) -> None:
    """Refuses a negative strength of a refit; None stands for a chosen one, see `chosen_tau`."""
    if tau is not None and not tau >= 0:
        raise ValueError(f"tau must be at least 0, or None to choose it on validation images, got {tau}")


def chosen_tau(score: Callable[[float], float]) -> float:
    """The strength among 0, 0.1, …, 2 with the best score, the smallest of several."""
    return max((step / 10 for step in range(21)), key=score)


def minimize(objective: Callable[[], Tensor], parameters: list[Tensor]) -> float:
    """Moves the parameters to the minimum of a convex, smooth objective; the value there."""
    # The minimum is found rather than approached: no learning rate, no order of images, nothing drawn at random.
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=1000, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimizer.zero_grad()
        value = objective()
        value.backward()
        return value.item()

    optimizer.step(closure)
    with torch.no_grad():
        return objective().item()
