"""Color and texture of a lesion, absolute and against the skin around it."""

from itertools import combinations_with_replacement, product
from typing import NamedTuple

import numpy as np

from dermaffinity.classic.base import Features

# Measures of a co-occurrence matrix, in scikit-image's words.
_MEASURES = ("contrast", "homogeneity", "energy", "correlation", "entropy")
_CHANNELS = "RGB"
_CHANNEL_PAIRS = tuple(combinations_with_replacement(range(3), 2))  # within and across: RR, RG, RB, GG, GB, BB
_LAB = ("L", "a", "b")
_LAB_PAIRS = (("L", "a"), ("L", "b"), ("a", "b"))
# Fewer pixels than this have no color or texture worth a number.
_FEWEST_PIXELS = 16
# The skin nearest to the border still belongs to the lesion as often as not, and a mask is no finer than that.
_GAP = 2.0


class ColorTexture(Features):
    r"""Means and covariances of color, and measures of generalized co-occurrence matrices.

    **Color**: mean, standard deviations and correlations of the lesion in CIELAB. To even out light and skin, also the
    difference of its mean from the surround's in CIELAB, the logarithm of their ratio in linear RGB, which a light of
    another color leaves alone, and the logarithm of the ratio of their standard deviations.

    **Texture**: a generalized co-occurrence matrix counts how often level i of one channel and level j of another (or
    the same) channel lie a distance apart; here in eight directions, so that turning the image by 90° changes nothing,
    and only where both pixels lie in the region. Of each matrix contrast, homogeneity, energy, correlation and entropy,
    for the lesion, and as the lesion's minus the surround's.

    **The surround** is a band around the lesion, as wide as half the radius of a disk of the lesion's area and two
    pixels off it. Where less than 16 pixels of it are left, as with a mask that covers the image, what is measured
    against it is NaN, as are textures at distances that the lesion does not span.

    Source: Ballerini, Fisher, Aldridge, Rees, "A Color and Texture Based Hierarchical K-NN Approach to the
    Classification of Non-melanoma Skin Lesions", 2013, https://doi.org/10.1007/978-94-007-5389-1_4. The color space,
    the choice of measures and the band are ours.

    Args:
        levels: Levels that a channel's 256 are reduced to for the co-occurrence matrices; 2 to 256.
        distances: Of two pixels, in pixels of the image as it is resized for the features (``data.image_size``).

    Examples:
        >>> import numpy as np
        >>> from dermaffinity.classic import ColorTexture
        >>> image, mask = np.full((40, 40, 3), 200, np.uint8), np.zeros((40, 40), bool)
        >>> image[10:30, 10:30], mask[10:30, 10:30] = (120, 60, 40), True  # a brown lesion
        >>> features = ColorTexture(distances=(1,))
        >>> numbers = dict(zip(features.names, features(image, mask), strict=True))
        >>> round(float(numbers["lesion L mean"]), 1)
        32.7
    """

    def __init__(self, *, levels: int = 32, distances: tuple[int, ...] = (1, 4, 12)) -> None:
        if not 2 <= levels <= 256:
            raise ValueError(f"levels must be from 2 to 256, got {levels}")
        if not distances or min(distances) < 1:
            raise ValueError(f"distances must be one or more numbers of at least 1 pixel, got {distances}")
        self.levels = levels
        self.distances = distances

    @property
    def names(self) -> tuple[str, ...]:
        """See :attr:`Features.names`; such as ``lesion L mean`` and ``lesion-surround RG contrast 4``."""
        color = [f"lesion {name} mean" for name in _LAB]
        color += [f"lesion {name} sd" for name in _LAB]
        color += [f"lesion {first}{second} color correlation" for first, second in _LAB_PAIRS]
        color += [f"lesion-surround {name} mean" for name in _LAB]
        color += [f"lesion/surround {name} log mean" for name in _CHANNELS]
        color += [f"lesion/surround {name} log sd" for name in _LAB]
        texture = [
            f"{_CHANNELS[first]}{_CHANNELS[second]} {measure} {distance}"
            for measure, (first, second), distance in product(_MEASURES, _CHANNEL_PAIRS, self.distances)
        ]
        against = [f"lesion-surround {name}" for name in texture]
        return (*color, *(f"lesion {name}" for name in texture), *against)

    def __call__(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """See :meth:`Features.__call__`."""
        surround = surround_of(mask)
        lesion_color, surround_color = (_color_of(image[region]) for region in (mask, surround))
        codes = (image.astype(np.intp) * self.levels) >> 8  # (H, W, 3)
        lesion_texture, surround_texture = (self._texture(codes, region) for region in (mask, surround))
        return np.concatenate(
            [
                lesion_color.mean,
                lesion_color.sd,
                lesion_color.correlation,
                lesion_color.mean - surround_color.mean,
                lesion_color.log_linear - surround_color.log_linear,
                np.log(lesion_color.sd / surround_color.sd),
                lesion_texture,
                lesion_texture - surround_texture,
            ]
        )

    def _texture(self, codes: np.ndarray, region: np.ndarray) -> np.ndarray:
        """Every measure of every pair of channels and distance, NaN without a pair of pixels."""
        from skimage.feature import graycoprops

        matrices = co_occurrence(codes, region, self.levels, self.distances)  # (G, G, 6, distances)
        measures = np.array([graycoprops(matrices, measure) for measure in _MEASURES])  # (measures, 6, distances)
        return np.where(matrices.sum(axis=(0, 1)) > 0, measures, np.nan).ravel()


def surround_of(mask: np.ndarray) -> np.ndarray:
    """The band of skin around a lesion (H, W) bool, see `ColorTexture`; may be empty."""
    from scipy.ndimage import distance_transform_edt

    if mask.all():
        return np.zeros_like(mask)
    away = distance_transform_edt(~mask)
    return (away > _GAP) & (away <= _GAP + max(1.0, np.sqrt(mask.sum() / np.pi) / 2))


def co_occurrence(codes: np.ndarray, region: np.ndarray, levels: int, distances: tuple[int, ...]) -> np.ndarray:
    """Generalized co-occurrence matrices over eight directions, from pairs that lie wholly in a region.

    Diagonal neighbors at distance d are d columns and d rows apart.

    Args:
        codes: (H, W, 3) integers below ``levels``.
        region: (H, W) bool.
        levels: Number of levels G.
        distances: In pixels.

    Returns:
        (G, G, 6, distances) counts, for the pairs of channels RR, RG, RB, GG, GB, BB; the first index is the level of
        the pair's first channel.
    """
    counts = np.zeros((levels * levels, len(_CHANNEL_PAIRS), len(distances)))
    rows, columns = np.nonzero(region)
    if not len(rows):
        return counts.reshape(levels, levels, *counts.shape[1:])
    box = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
    codes, region = codes[box], region[box]
    for position, distance in enumerate(distances):
        for down, right in ((0, distance), (distance, 0), (distance, distance), (distance, -distance)):
            here, there = _shifted(region.shape, down, right)
            both = region[here] & region[there]
            first, second = codes[here][both], codes[there][both]  # (pairs, 3)
            for pair, (one, other) in enumerate(_CHANNEL_PAIRS):
                forward = first[:, one] * levels + second[:, other]
                backward = second[:, one] * levels + first[:, other]  # the opposite direction
                for direction in (forward, backward):
                    counts[:, pair, position] += np.bincount(direction, minlength=levels * levels)
    return counts.reshape(levels, levels, *counts.shape[1:])


def _shifted(shape: tuple[int, int], down: int, right: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where pixels are that have a neighbor so far away, and where these neighbors are; ``down`` is at least 0."""
    height, width = max(shape[0] - down, 0), max(shape[1] - abs(right), 0)
    left, left_there = max(-right, 0), max(right, 0)
    here = slice(0, height), slice(left, left + width)
    there = slice(down, down + height), slice(left_there, left_there + width)
    return here, there


class _Color(NamedTuple):
    mean: np.ndarray  # (3,), CIELAB
    sd: np.ndarray  # (3,)
    correlation: np.ndarray  # (3,), La, Lb, ab
    log_linear: np.ndarray  # (3,), logarithm of the mean linear RGB


def _color_of(pixels: np.ndarray) -> _Color:
    """Of pixels (n, 3) uint8; NaN for too few."""
    from skimage.color import rgb2lab

    if len(pixels) < _FEWEST_PIXELS:
        return _Color(*np.full((4, 3), np.nan))
    lab = rgb2lab(pixels)
    # One level of 256 is about 0.4 units; without it the logarithm of an even patch would be infinite.
    covariance = np.cov(lab, rowvar=False) + 0.01 * np.eye(3)
    sd = np.sqrt(np.diag(covariance))
    correlation = (covariance / np.outer(sd, sd))[np.triu_indices(3, k=1)]
    return _Color(lab.mean(axis=0), sd, correlation, np.log(_LINEAR[pixels].mean(axis=0) + 1e-3))


def _linear_light() -> np.ndarray:
    """(256,) intensity in [0, 1] behind each level of an sRGB channel (IEC 61966-2-1)."""
    level = np.arange(256) / 255
    return np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)


_LINEAR = _linear_light()
