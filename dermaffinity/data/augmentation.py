"""Random changes of training images: one warp and one color map per image, on the CPU or on a device."""

import math
import os
from abc import ABC
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import cv2
import numpy as np
import torch
from monai.transforms import RandomizableTransform, Transform
from torch import Tensor
from torch.nn import functional as F

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

# ITU-R BT.601: what the gray value of a color is.
_GRAY = np.array([0.299, 0.587, 0.114])
# Columns: gray, and two directions of color that keep the gray value (those of YIQ). Rows: red, green, blue.
_CHROMA = np.linalg.inv(np.array([_GRAY, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]]))

MIRROR = ((1, 0, 0, 1), (-1, 0, 0, 1))
"""An image and its mirror image, as matrices (xx, xy, yx, yy)."""
SQUARE = (*MIRROR, (1, 0, 0, -1), (-1, 0, 0, -1), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, -1, 0), (0, -1, -1, 0))
"""The eight symmetries of a square."""


class Versions(NamedTuple):
    """What is done to each of N images.

    Args:
        warp: (N, 2, 3); from a pixel (x, y, 1) of the result to a place (x, y) in the image, both counted from the
            middle of the first pixel.
        color: (N, 3, 6); from a pixel's red, green and blue and their means over the result to its new ones.
    """

    warp: np.ndarray
    color: np.ndarray


class Augmentation(RandomizableTransform, ABC):
    """Random changes of a training image: (H, W, 3) uint8, short side ``image_size``, to a square of that size.

    Each version is one affine map of places and one of colors, made from ``draws`` uniform random numbers: a random
    square of the image, as large as the one that evaluation sees; a random part of it, stretched a little; one of the
    symmetries; a rotation, half of the time; brightness, contrast, saturation and hue, four times out of five. The four
    color changes commute, and places outside the image are its reflection. A subclass chooses the ranges.

    As a MONAI transform it draws its numbers from MONAI's random state, so that ``Compose.set_random_state`` decides
    the result. Training hands them in (`of`), one row for each image of an epoch.

    Args:
        image_size: Side S of the square that is returned.
        smallest_scale: Smallest area of the part, as a share of the square; in (0, 1].
        aspect: Smallest and largest width to height of the part.
        symmetries: Those one is drawn from, equally often.
        rotation: Largest angle, in degrees.
        color: Strength of brightness, contrast and saturation changes, in [0, 1].
        hue: Largest turn of the hue, as a share of the circle.
        steps: What else is done to the image before, by albumentations; on the CPU.

    Examples:
        >>> from dermaffinity.data import Augmentation, NoAugmentation
        >>> augmentation = NoAugmentation(24)
        >>> isinstance(augmentation, Augmentation), augmentation.random
        (True, False)
    """

    random: ClassVar[bool] = True
    draws: ClassVar[int] = 14

    def __init__(
        self,
        image_size: int,
        *,
        smallest_scale: float,
        aspect: tuple[float, float],
        symmetries: Sequence[tuple[int, int, int, int]],
        rotation: float,
        color: float,
        hue: float,
        steps: Sequence[A.BasicTransform] = (),
    ) -> None:
        RandomizableTransform.__init__(self, prob=1.0)
        if not 0 < smallest_scale <= 1:
            raise ValueError(f"smallest_scale must be in (0, 1], got {smallest_scale}")
        if not 0 <= color <= 1:
            raise ValueError(f"color must be in [0, 1], got {color}")
        self.image_size = image_size
        self.smallest_scale = smallest_scale
        self.aspect = aspect
        self.symmetries = np.array(symmetries, dtype=float).reshape(-1, 2, 2)
        self.rotation = math.radians(rotation)
        self.color = color
        self.hue = 2 * math.pi * hue
        self.steps = _Hidden(A.Compose(list(steps))) if steps else None

    @property
    def on_device(self) -> bool:
        """Whether `batch` makes the same versions; other steps run on the CPU."""
        return self.steps is None

    def __call__(self, data: np.ndarray) -> np.ndarray:
        """One random version (image_size, image_size, 3) uint8."""
        return self.of([data], self.R.random_sample((1, self.draws)))[0]

    def of(self, images: Sequence[np.ndarray], numbers: np.ndarray) -> np.ndarray:
        """The versions (N, S, S, 3) uint8 of images (H, W, 3) uint8 that uniform numbers (N, ``draws``) stand for."""
        if self.steps is not None:
            images = [self._with_steps(image, row) for image, row in zip(images, numbers, strict=True)]
        size = (self.image_size, self.image_size)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        made = []
        versions = self.versions(numbers, np.array([image.shape[:2] for image in images]))
        for image, warp, color in zip(images, *versions, strict=True):
            # OpenCV warps four channels twice as fast as three, to the same pixels.
            padded = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
            warped = cv2.warpAffine(padded, warp, size, flags=flags, borderMode=cv2.BORDER_REFLECT)
            warped = cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)
            offset = color[:, 3:] @ cv2.mean(warped)[:3]
            made.append(cv2.transform(warped, np.column_stack([color[:, :3], offset])))
        return np.stack(made)

    def _with_steps(self, image: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        assert self.steps is not None
        self.steps.compose.set_random_seed(int(numbers[-1] * 2**31))
        return self.steps.compose(image=image)["image"]

    def batch(self, images: Tensor, sizes: Tensor, numbers: np.ndarray) -> Tensor:
        """The same versions of many images at once, on their device.

        Args:
            images: (N, 3, H, W) uint8; an image lies in the upper left corner of its own.
            sizes: (N, 2), heights and widths of the images; on the CPU.
            numbers: (N, draws), uniform in [0, 1).

        Returns:
            (N, 3, S, S) float32, whole numbers in [0, 255].
        """
        size = self.image_size
        warp, color = (
            torch.from_numpy(part).to(images.device, torch.float32) for part in self.versions(numbers, sizes.numpy())
        )
        places = torch.arange(size, device=images.device, dtype=torch.float32)
        y, x = torch.meshgrid(places, places, indexing="ij")
        target = torch.stack([x, y, torch.ones_like(x)]).view(1, 3, -1)  # (1, 3, S·S)
        limits = sizes.flip(1).to(images.device, torch.float32)[:, :, None]  # (N, 2, 1): widths and heights
        # The reflection of a place outside, measured from the image's edge.
        source = (warp @ target + 0.5).remainder(2 * limits)
        source = torch.minimum(torch.minimum(source, 2 * limits - source).clamp_min(0.5), limits - 0.5)
        whole = torch.tensor([images.shape[3], images.shape[2]], device=images.device, dtype=torch.float32)
        grid = (2 * source / whole[:, None] - 1).transpose(1, 2).view(-1, size, size, 2)
        warped = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False).round_().flatten(2)
        offset = color[:, :, 3:] @ warped.mean(dim=2, keepdim=True)
        colored = torch.baddbmm(offset, color[:, :, :3], warped)
        return colored.round_().clamp_(0, 255).view(-1, 3, size, size)

    def versions(self, numbers: np.ndarray, sizes: np.ndarray) -> Versions:
        """What uniform numbers (N, ``draws``) stand for, for images of heights and widths (N, 2)."""
        u = numbers.T
        side = float(self.image_size)
        room = sizes[:, ::-1] - side  # of the square within the image, as x and y
        area = self.smallest_scale + (1 - self.smallest_scale) * u[2]
        aspect = np.exp(_between(math.log(self.aspect[0]), math.log(self.aspect[1]), u[3]))
        part = side * np.minimum(np.sqrt(np.stack([area * aspect, area / aspect], axis=1)), 1)  # (N, 2)
        center = u[[0, 1]].T * room + part / 2 + u[[4, 5]].T * (side - part)
        angle = np.where(u[7] < 0.5, _between(-self.rotation, self.rotation, u[8]), 0)
        symmetry = self.symmetries[(u[6] * len(self.symmetries)).astype(int)]
        return Versions(
            self._warp(center, (part / side)[:, :, None] * symmetry @ _rotations(angle)), self._colors(u[9:14])
        )

    def _warp(self, center: np.ndarray, linear: np.ndarray) -> np.ndarray:
        """Maps (N, 2, 3) that put the middle of the result on centers (N, 2), measured from the image's edge."""
        offset = center - 0.5 - (linear * (self.image_size / 2 - 0.5)).sum(axis=2)
        return np.concatenate([linear, offset[:, :, None]], axis=2)

    def _colors(self, u: np.ndarray) -> np.ndarray:
        changed = u[0] < 0.8
        brightness, contrast, saturation = np.where(changed, _between(1 - self.color, 1 + self.color, u[1:4]), 1)
        angle = np.where(changed, _between(-self.hue, self.hue, u[4]), 0)
        chroma = np.zeros((len(angle), 3, 3))  # in gray and the two directions across it
        chroma[:, 0, 0] = 1
        chroma[:, 1:, 1:] = saturation[:, None, None] * _rotations(angle)
        own = (brightness * contrast)[:, None, None] * (_CHROMA @ chroma @ np.linalg.inv(_CHROMA))
        mean = (brightness * (1 - contrast))[:, None, None] * np.tile(_GRAY, (3, 1))
        return np.concatenate([own, mean], axis=2)


class LesionAugmentation(Augmentation):
    """What a photograph of a skin lesion may vary in: place, scale, the eight symmetries, rotation, light and color.

    Args:
        image_size: Side of the square that is returned.
        smallest_scale: Smallest area of a crop, as a share of the square that evaluation sees; in (0, 1]. A crop may
            lie anywhere in the image.
        color: Strength of brightness, contrast, saturation and hue changes, in [0, 1].
        holes: Probability of blanking a patch of up to a quarter of each side, in [0, 1].

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.data import LesionAugmentation
        >>> augmentation = LesionAugmentation(24, color=0.2)
        >>> image = np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8)
        >>> first, again, other = (augmentation.set_random_state(seed=seed)(image) for seed in (1, 1, 2))
        >>> first.shape, np.array_equal(first, again), np.array_equal(first, other)
        ((24, 24, 3), True, False)
    """

    def __init__(self, image_size: int, *, smallest_scale: float = 0.6, color: float = 0.2, holes: float = 0.0) -> None:
        if not 0 <= holes <= 1:
            raise ValueError(f"holes must be in [0, 1], got {holes}")
        sides = {"hole_height_range": (0.1, 0.25), "hole_width_range": (0.1, 0.25)}
        super().__init__(
            image_size,
            smallest_scale=smallest_scale,
            aspect=(0.85, 1.18),
            symmetries=SQUARE,
            rotation=45,
            color=color,
            hue=color / 10,
            steps=[A.CoarseDropout(num_holes_range=(1, 1), **sides, p=holes)] if holes else [],
        )


class FaceAugmentation(Augmentation):
    """What a photograph of a face may vary in: place, scale, left and right, a slight tilt, light and color.

    Args:
        image_size: Side of the square that is returned.
        smallest_scale: Smallest area of a crop, as a share of the square that evaluation sees; in (0, 1]. A crop may
            lie anywhere in the image.
        color: Strength of brightness, contrast and saturation changes, in [0, 1].

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.data import FaceAugmentation
        >>> FaceAugmentation(24)(np.zeros((24, 30, 3), np.uint8)).shape
        (24, 24, 3)
    """

    def __init__(self, image_size: int, *, smallest_scale: float = 0.7, color: float = 0.2) -> None:
        super().__init__(
            image_size,
            smallest_scale=smallest_scale,
            aspect=(0.9, 1.11),
            symmetries=MIRROR,
            rotation=10,
            color=color,
            hue=0,
        )


class DigitAugmentation(Augmentation):
    """What a written digit on a black ground may vary in: place, size, a slight tilt.

    Args:
        image_size: Side of the square that is returned.
        shift: Largest shift in either direction, in pixels; at least 0.
        rotation: Largest rotation in either direction, in degrees; at least 0.
        scale: Largest change of size, as a share of it; in [0, 1).

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.data import DigitAugmentation
        >>> DigitAugmentation(28, shift=2, rotation=10)(np.zeros((28, 28, 3), np.uint8)).shape
        (28, 28, 3)
    """

    def __init__(self, image_size: int, *, shift: float = 2.0, rotation: float = 10.0, scale: float = 0.1) -> None:
        for name, value in (("shift", shift), ("rotation", rotation)):
            if not value >= 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        if not 0 <= scale < 1:
            raise ValueError(f"scale must be in [0, 1), got {scale}")
        super().__init__(
            image_size, smallest_scale=1, aspect=(1, 1), symmetries=MIRROR[:1], rotation=rotation, color=0, hue=0
        )
        self.shift = shift
        self.scale = scale

    def versions(self, numbers: np.ndarray, sizes: np.ndarray) -> Versions:
        """What uniform numbers (N, ``draws``) stand for, for images of heights and widths (N, 2)."""
        u = numbers.T
        center = sizes[:, ::-1] / 2 + _between(-self.shift, self.shift, u[[0, 1]]).T
        size = _between(1 - self.scale, 1 + self.scale, u[2])
        linear = _rotations(_between(-self.rotation, self.rotation, u[8])) / size[:, None, None]
        return Versions(self._warp(center, linear), self._colors(u[9:14]))


class NoAugmentation(Augmentation):
    """The central square, the same every time: what the evaluation stage does.

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.data import NoAugmentation
        >>> NoAugmentation(24)(np.zeros((24, 30, 3), np.uint8)).shape
        (24, 24, 3)
    """

    random = False

    def __init__(self, image_size: int) -> None:
        identity = MIRROR[:1]
        super().__init__(image_size, smallest_scale=1, aspect=(1, 1), symmetries=identity, rotation=0, color=0, hue=0)

    def versions(self, numbers: np.ndarray, sizes: np.ndarray) -> Versions:
        """The central squares; the numbers change nothing."""
        center = (sizes[:, ::-1] - self.image_size) // 2 + self.image_size / 2
        identity = np.tile(np.eye(2), (len(sizes), 1, 1))
        return Versions(self._warp(center, identity), np.tile(np.eye(3, 6), (len(sizes), 1, 1)))


def _between(low: float, high: float, share: np.ndarray) -> np.ndarray:
    return low + (high - low) * share


def _rotations(angle: np.ndarray) -> np.ndarray:
    """Matrices (N, 2, 2) of rotations by N angles."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, -sin], axis=1), np.stack([sin, cos], axis=1)], axis=1)


class _Hidden:
    # MONAI seeds whatever it finds in __dict__ that has set_random_state, and albumentations' takes other arguments;
    # slots keep the pipeline out of its sight.
    __slots__ = ("compose",)

    def __init__(self, compose: A.Compose) -> None:
        self.compose = compose
