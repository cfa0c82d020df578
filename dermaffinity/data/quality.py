"""Pictures that are hard to read: blurred, dark, overexposed, or with a vignette.

Measured on the gray picture, reduced by a whole number to a shorter side of 256 to 511 pixels. Rulers are left to
people: what a few lines tell of their marks took hairs for them (47 alarms in 400 images of HAM10000, none of the first
8 was right).
"""

from typing import NamedTuple

import numpy as np

_SIDE = 256  # pixels of the shorter side, at least
_DARK, _BRIGHT = 60, 250  # gray values from 0 to 255
_OVEREXPOSED, _VIGNETTE = 0.1, 0.35
_BLURRED = 4.0  # robust standard deviations below the library's median of log sharpness
_LEAST_DEVIATION = 0.25  # so that pictures which are all alike are not told apart
_NORMAL = 0.6745  # median of the absolute value of a normal number


class Quality(NamedTuple):
    """What is measured of a picture.

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.data import image_quality
        >>> image_quality(np.zeros((300, 400, 3), np.uint8)).brightness
        0.0
    """

    sharpness: float  # variance of the Laplacian
    brightness: float  # mean gray value, 0 to 255
    overexposed: float  # share of pixels that are all but white
    corners: float  # mean gray value of the corners over that of the middle


def image_quality(image: np.ndarray) -> Quality:
    """Measures one picture.

    Args:
        image: (H, W, 3) uint8.

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.data import image_quality
        >>> quality = image_quality(np.full((300, 400, 3), 255, np.uint8))
        >>> quality.overexposed, quality.sharpness
        (1.0, 0.0)
    """
    from PIL import Image
    from scipy.ndimage import laplace

    picture = Image.fromarray(image).convert("L")
    gray = np.asarray(picture.reduce(max(1, min(picture.size) // _SIDE)), dtype=np.float32)
    height, width = gray.shape
    rows, columns = max(1, height // 10), max(1, width // 10)
    corners = np.mean(
        [gray[y, x].mean() for y in (slice(rows), slice(-rows, None)) for x in (slice(columns), slice(-columns, None))]
    )
    middle = gray[height // 4 : height - height // 4, width // 4 : width - width // 4].mean()
    return Quality(
        sharpness=float(laplace(gray).var()),
        brightness=float(gray.mean()),
        overexposed=float((gray >= _BRIGHT).mean()),
        corners=float(corners / max(middle, 1)),
    )


def quality_problems(measured: list[Quality]) -> list[list[str]]:
    """What is wrong with each picture of a library, in a word each; blur is judged against the others.

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.data import image_quality, quality_problems
        >>> quality_problems([image_quality(np.zeros((300, 400, 3), np.uint8))])
        [['dark']]
    """
    if not measured:
        return []
    logs = np.log([one.sharpness + 1 for one in measured])
    median = np.median(logs)
    deviation = np.median(np.abs(logs - median)) / _NORMAL
    limit = median - _BLURRED * max(deviation, _LEAST_DEVIATION)
    return [
        [
            word
            for word, wrong in {
                "blurred": log < limit,
                "dark": one.brightness < _DARK,
                "overexposed": one.overexposed > _OVEREXPOSED,
                "vignette": one.corners < _VIGNETTE and one.brightness >= _DARK,
            }.items()
            if wrong
        ]
        for one, log in zip(measured, logs, strict=True)
    ]
