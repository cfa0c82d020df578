"""What every refit is."""

from abc import ABC, abstractmethod
from typing import ClassVar

from dermaffinity.heads.base import Head, Predictions, ScoreKind


class Refit(ABC):
    """Changes the head of a trained network, whose backbone and neck stay as they are.

    Decoupled training in the sense of Kang et al., "Decoupling representation and classifier for long-tailed
    recognition", ICLR 2020, https://arxiv.org/abs/1910.09217: what a network sees is learned from all images as they
    come, what it answers is set afterwards. Choices are made on the inner validation images, never on test images.
    """

    score_kind: ClassVar[ScoreKind]  # must equal the head's

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
