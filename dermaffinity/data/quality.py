"""Pictures that are hard to read: blurred, dark, overexposed, with a vignette or a ruler.

Measured on the gray picture, reduced by a whole number to 256 to 511 pixels: any other resizing makes patterns.
"""

from typing import NamedTuple

import numpy as np

_SIDE = 256  # pixels of the shorter side, at least
_DARK, _BRIGHT = 60, 250  # gray values from 0 to 255
_OVEREXPOSED, _VIGNETTE, _RULER = 0.1, 0.35, 6.0
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
    ticks: float  # highest peak of the spectrum of a side's edges over their median


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
    rows, columns = height // 10, width // 10
    corners = np.mean(
        [gray[y, x].mean() for y in (slice(rows), slice(-rows, None)) for x in (slice(columns), slice(-columns, None))]
    )
    middle = gray[height // 4 : -(height // 4), width // 4 : -(width // 4)].mean()
    return Quality(
        sharpness=float(laplace(gray).var()),
        brightness=float(gray.mean()),
        overexposed=float((gray >= _BRIGHT).mean()),
        corners=float(corners / max(middle, 1)),
        ticks=max(_ticks(strip) for strip in (gray[:30], gray[-30:], gray.T[:30], gray.T[-30:])),
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
                "ruler": one.ticks > _RULER,
            }.items()
            if wrong
        ]
        for one, log in zip(measured, logs, strict=True)
    ]


def _ticks(strip: np.ndarray) -> float:
    """How regular the edges along a strip (H, W) at the picture's border are: a ruler's marks repeat."""
    edges = np.abs(np.diff(strip, axis=1)).mean(axis=0)
    spectrum = np.abs(np.fft.rfft((edges - edges.mean()) * np.hanning(len(edges))))
    band = spectrum[len(edges) // 32 : len(edges) // 4]  # marks 4 to 32 pixels apart
    return float(band.max() / max(np.median(band), 1e-6)) if edges.max() > 8 else 0.0
