"""Random changes of training images, by albumentations, each a MONAI transform that MONAI can seed."""

import os
from abc import ABC
from typing import ClassVar

import numpy as np
from monai.transforms import Compose, RandomizableTransform, Transform

from dermaffinity.data.transforms import (
    CentralSquare,
    CropToLesion,
    EvaluationStage,
    FixedStage,
    Normalize,
    ResizeShortSide,
)

# Before the import below, which otherwise asks the network for a newer version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A

# MONAI's caching datasets take what is no transform of theirs for random.
for step in (CropToLesion, ResizeShortSide, FixedStage, CentralSquare, Normalize, EvaluationStage):
    Transform.register(step)


class Augmentation(RandomizableTransform, ABC):
    """Random changes of a training image: (H, W, 3) uint8, short side ``image_size``, to a square of that size.

    A subclass hands its albumentations pipeline to ``__init__``; one that changes nothing says so with ``random``, so
    that whole batches can be planned at once. Every call is seeded from MONAI's random state, so
    that ``Compose.set_random_state`` decides the result, in whatever process it runs.
    """

    random: ClassVar[bool] = True

    def __init__(self, image_size: int, steps: list[A.BasicTransform]) -> None:
        RandomizableTransform.__init__(self, prob=1.0)
        self.image_size = image_size
        self._pipeline = _Hidden(A.Compose(steps))

    def __call__(self, data: np.ndarray) -> np.ndarray:
        """One random version (image_size, image_size, 3) uint8."""
        self._pipeline.compose.set_random_seed(int(self.R.randint(2**31 - 1)))
        return self._pipeline.compose(image=data)["image"]


class LesionAugmentation(Augmentation):
    """What a photograph of a skin lesion may vary in: place, scale, the eight symmetries, rotation, light and color.

    Args:
        image_size: Side of the square that is returned.
        smallest_scale: Smallest area of a crop, as a share of the square that evaluation sees; in (0, 1]. A crop may
            lie anywhere in the image.
        color: Strength of brightness, contrast, saturation and hue changes, in [0, 1].
        holes: Probability of blanking a patch of up to a quarter of each side, in [0, 1].
    """

    def __init__(self, image_size: int, *, smallest_scale: float = 0.6, color: float = 0.2, holes: float = 0.0) -> None:
        for name, value in (("smallest_scale", smallest_scale), ("color", color), ("holes", holes)):
            if not 0 <= value <= 1 or (name == "smallest_scale" and value == 0):
                raise ValueError(f"{name} must be in {'(0' if name == 'smallest_scale' else '[0'}, 1], got {value}")
        steps: list[A.BasicTransform] = [
            *_random_crop(image_size, smallest_scale, ratio=(0.85, 1.18)),
            A.D4(p=1.0),
            A.Affine(rotate=(-45, 45), border_mode=4, p=0.5),  # 4: reflect, so that no black corner marks a rotation
            A.ColorJitter(brightness=color, contrast=color, saturation=color, hue=color / 10, p=0.8),
        ]
        if holes:
            steps.append(
                A.CoarseDropout(
                    num_holes_range=(1, 1), hole_height_range=(0.1, 0.25), hole_width_range=(0.1, 0.25), p=holes
                )
            )
        super().__init__(image_size, steps)


class FaceAugmentation(Augmentation):
    """What a photograph of a face may vary in: place, scale, left and right, a slight tilt, light and color.

    Args:
        image_size: Side of the square that is returned.
        smallest_scale: Smallest area of a crop, as a share of the square that evaluation sees; in (0, 1]. A crop may
            lie anywhere in the image.
        color: Strength of brightness, contrast and saturation changes, in [0, 1].
    """

    def __init__(self, image_size: int, *, smallest_scale: float = 0.7, color: float = 0.2) -> None:
        for name, value in (("smallest_scale", smallest_scale), ("color", color)):
            if not 0 <= value <= 1 or (name == "smallest_scale" and value == 0):
                raise ValueError(f"{name} must be in {'(0' if name == 'smallest_scale' else '[0'}, 1], got {value}")
        super().__init__(
            image_size,
            [
                *_random_crop(image_size, smallest_scale, ratio=(0.9, 1.11)),
                A.HorizontalFlip(p=0.5),
                A.Affine(rotate=(-10, 10), border_mode=4, p=0.5),
                A.ColorJitter(brightness=color, contrast=color, saturation=color, hue=0, p=0.8),
            ],
        )


class NoAugmentation(Augmentation):
    """The central square, the same every time: what the evaluation stage does."""

    random = False

    def __init__(self, image_size: int) -> None:
        super().__init__(image_size, [A.CenterCrop(image_size, image_size)])


def training_transform(augmentation: Augmentation) -> Compose:
    """What a training image goes through after the fixed stage."""
    return Compose([augmentation, Normalize()])


def _random_crop(image_size: int, smallest_scale: float, *, ratio: tuple[float, float]) -> list[A.BasicTransform]:
    """A crop of a random square of the image, as large as the square that evaluation sees; ratio: width to height."""
    # Not of the whole image: a share of a wide one that is higher than the image would be squeezed to fit.
    return [
        A.RandomCrop(image_size, image_size),
        A.RandomResizedCrop((image_size, image_size), scale=(smallest_scale, 1.0), ratio=ratio),
    ]


class _Hidden:
    # MONAI seeds whatever it finds in __dict__ that has set_random_state, and albumentations' takes other arguments;
    # slots keep the pipeline out of its sight.
    __slots__ = ("compose",)

    def __init__(self, compose: A.Compose) -> None:
        self.compose = compose
