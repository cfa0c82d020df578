"""From a decoded image to what the network sees: the same steps in training and in a prototype.

Two stages. The fixed one crops and resizes, and its uint8 result is what a run keeps in memory. The second one augments
(training) or takes the central square (everything else), and normalizes. Every step is a MONAI transform where MONAI is
used (`augmentation.py`); nothing here imports it, because it brings MLflow and seconds of start-up into a prototype.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from dermaffinity.data.augmentation import Augmentation

# Mean and standard deviation of ImageNet's RGB channels, in [0, 1]; what torchvision's weights were trained with.
_CHANNEL_MEAN = (0.485, 0.456, 0.406)
_CHANNEL_STD = (0.229, 0.224, 0.225)
# The long side is kept up to this multiple of the short one: a training crop can use it, a strip cannot fill memory.
_LONGEST_ASPECT = 2.0


class CropToLesion:
    """Cuts the square around the lesion out of an image.

    The square is centered on the mask's bounding box, its side is the box's longer side times 1 + 2 · margin, and it is
    moved, then cut, to stay inside the image. Aspect is kept. Without a foreground the image is returned whole.

    Args:
        margin: Space on each side, in units of the box's longer side; at least 0.
    """

    def __init__(self, margin: float) -> None:
        self.margin = margin

    def __call__(self, data: tuple[np.ndarray, np.ndarray | None]) -> np.ndarray:
        """The crop of an image (H, W, 3) around its mask (H, W) bool, or the image where there is none."""
        image, mask = data
        if mask is None or not mask.any():
            return image
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        side = round(max(np.ptp(rows) + 1, np.ptp(columns) + 1) * (1 + 2 * self.margin))
        top, bottom = _window(rows[0], rows[-1] + 1, side, image.shape[0])
        left, right = _window(columns[0], columns[-1] + 1, side, image.shape[1])
        return image[top:bottom, left:right]


class ResizeShortSide:
    """Resizes (H, W, 3) uint8 so that the shorter side has ``size`` pixels; aspect is kept, up to 2:1.

    Args:
        size: Pixels of the shorter side.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, data: np.ndarray) -> np.ndarray:
        """The resized image, with antialiasing."""
        height, width = data.shape[:2]
        longest = max(1, round(min(height, width) * _LONGEST_ASPECT))
        image = _central(data, min(height, longest), min(width, longest))
        height, width = image.shape[:2]
        scale = self.size / min(height, width)
        target = (max(self.size, round(width * scale)), max(self.size, round(height * scale)))
        return np.asarray(Image.fromarray(image).resize(target, Image.Resampling.BILINEAR))


class FixedStage:
    """The stage whose result is kept: an optional crop to the lesion, then resizing.

    Args:
        image_size: Pixels of the shorter side of the result.
        lesion_crop: Margin of ``CropToLesion``, or None to keep the whole image.

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.data import FixedStage
        >>> image, mask = np.zeros((300, 400, 3), np.uint8), np.zeros((300, 400), bool)
        >>> mask[100:200, 100:200] = True
        >>> [FixedStage(128, lesion_crop=margin)((image, mask)).shape for margin in (None, 0.2)]
        [(128, 171, 3), (128, 128, 3)]
    """

    def __init__(self, image_size: int, lesion_crop: float | None) -> None:
        self.crop = None if lesion_crop is None else CropToLesion(lesion_crop)
        self.resize = ResizeShortSide(image_size)

    @property
    def needs_mask(self) -> bool:
        """Whether a mask would change the result."""
        return self.crop is not None

    def __call__(self, data: tuple[np.ndarray, np.ndarray | None]) -> np.ndarray:
        """(H, W, 3) uint8 with a shorter side of ``image_size``, from an image and its mask."""
        return self.resize(data[0] if self.crop is None else self.crop(data))


class CentralSquare:
    """The central ``size`` × ``size`` pixels of an image (H, W, 3), or of each of N alike (N, H, W, 3)."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, data: np.ndarray) -> np.ndarray:
        """The square (size, size, 3), or (N, size, size, 3)."""
        return _central(data, self.size, self.size)


class Normalize:
    """(H, W, 3) or (N, H, W, 3) uint8 to a float32 tensor (3, H, W) or (N, 3, H, W), standardized as ImageNet is."""

    def __init__(self) -> None:
        self.mean = torch.tensor(_CHANNEL_MEAN).view(3, 1, 1) * 255
        self.std = torch.tensor(_CHANNEL_STD).view(3, 1, 1) * 255

    def __call__(self, data: np.ndarray) -> Tensor:
        """The tensor."""
        return self.of(torch.tensor(data).movedim(-1, -3))

    def of(self, images: Tensor) -> Tensor:
        """The same of a tensor (..., 3, H, W) of pixels in [0, 255], on its device."""
        return (images - self.mean.to(images.device)) / self.std.to(images.device)


class EvaluationStage:
    """What every image that is not trained on goes through after the fixed stage: the central square, normalized.

    Args:
        image_size: Side of the square.

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.data import EvaluationStage
        >>> EvaluationStage(128)(np.zeros((128, 171, 3), np.uint8)).shape
        torch.Size([3, 128, 128])
    """

    def __init__(self, image_size: int) -> None:
        self.square = CentralSquare(image_size)
        self.normalize = Normalize()

    def __call__(self, data: np.ndarray) -> Tensor:
        """The tensor (3, image_size, image_size) of an image (H, W, 3) uint8; with a leading N for N images alike."""
        return self.normalize(self.square(data))


class TrainingStage:
    """What a training image goes through after the fixed stage: a random version of it, normalized.

    Args:
        augmentation: Makes the versions.
    """

    def __init__(self, augmentation: "Augmentation") -> None:
        self.augmentation = augmentation
        self.normalize = Normalize()

    def __call__(self, images: Sequence[np.ndarray], numbers: np.ndarray) -> Tensor:
        """Versions (N, 3, S, S) of N images (H, W, 3) uint8 that uniform numbers (N, ``draws``) stand for."""
        return self.normalize(self.augmentation.of(images, numbers))


def _central(image: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left = (image.shape[-3] - height) // 2, (image.shape[-2] - width) // 2
    return image[..., top : top + height, left : left + width, :]


def _window(start: int, stop: int, side: int, limit: int) -> tuple[int, int]:
    """``side`` pixels around the middle of start..stop, moved into 0..limit and cut there."""
    side = min(side, limit)
    first = min(max(round((start + stop - side) / 2), 0), limit - side)
    return first, first + side
