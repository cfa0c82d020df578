"""Images that grow while training goes on."""

from torch import Tensor
from torch.nn import functional as F

from dermaffinity.training.tricks.base import Trick

_STEP = 32  # pixels; what common backbones divide an image by


class GrowingImages(Trick):
    """Starts with small images and lets them grow, 32 pixels at a time, so that early epochs cost less.

    Sizes are held equally long, the last one, the config's ``data.image_size``, from ``until`` on. Validation and
    prediction always see that size.

    Source: progressive resizing, as in Howard's fast.ai entry to DAWNBench, 2018, and Tan and Le, ICML 2021,
    https://arxiv.org/abs/2104.00298.

    Args:
        start: Side of the first images, as a share of the whole side; within (0, 1).
        until: Share of the training after which images have their whole size, within (0, 1].

    Examples:
        >>> import torch
        >>> from dermaffinity.training.tricks import GrowingImages
        >>> trick, images = GrowingImages(start=0.5, until=0.5), torch.zeros(2, 3, 128, 128)
        >>> [trick.on_images(images, progress).shape[3] for progress in (0, 0.2, 0.3, 0.5, 0.9)]
        [64, 64, 96, 128, 128]
    """

    capturable = False  # sizes differ between steps

    def __init__(self, *, start: float = 0.5, until: float = 0.67) -> None:
        super().__init__()
        if not 0 < start < 1:
            raise ValueError(f"start must be within (0, 1), got {start}")
        if not 0 < until <= 1:
            raise ValueError(f"until must be within (0, 1], got {until}")
        self.start = start
        self.until = until

    def on_images(self, images: Tensor, progress: float) -> Tensor:
        """The images at the size of this moment."""
        whole = images.shape[3]
        first = round(self.start * whole)
        smaller = -(-(whole - first) // _STEP)  # how many sizes there are below the whole one
        size = first + int(smaller * progress / self.until) * _STEP
        if size >= whole:
            return images
        return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
