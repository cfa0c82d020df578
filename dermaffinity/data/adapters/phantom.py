"""A synthetic lesion library in Dermofit's layout: for the demo, and for tests that need images of lesions.

The classes differ in color, border, symmetry, texture and relief, with two to four looks each, and overlap where
the real ones do: a part of the melanomas looks like atypical moles, actinic keratoses like flat carcinomas, pyogenic
granulomas like angiomas. Skin, light, hair, blur and noise vary from person to person and say nothing.
It teaches nothing about skin: no number measured on it says anything about a number on patients.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
from PIL import Image

from dermaffinity.data.adapters.dermofit import PUBLISHED_COUNTS, DermofitAdapter, lesion_group
from dermaffinity.errors import DataError

# A class needs a few persons in every fold and in the inner validation.
_LEAST_IMAGES = 6


class PhantomAdapter(DermofitAdapter):
    """Reads what :func:`write_phantom` wrote, as :class:`DermofitAdapter` reads the real library.

    Args:
        source: The written folder.
        experiment: ``10-class``, or ``5-class`` (AK, BCC, ML, SCC, SK).

    Examples:
        >>> from pathlib import Path
        >>> from dermaffinity.data.adapters import PhantomAdapter
        >>> manifest = PhantomAdapter(Path("FOLDER"), experiment="5-class").prepare(folds=3)
        >>> manifest.class_counts()
        {'AK': 6, 'BCC': 7, 'ML': 10, 'SCC': 6, 'SK': 8}
    """

    name = "phantom"
    citation = "Synthetic images drawn by dermaffinity; no patient, no skin"
    license = "Apache-2.0"
    published: Mapping[str, int] = MappingProxyType({})

    def __init__(self, source: Path, *, experiment: Literal["10-class", "5-class"] = "10-class") -> None:
        super().__init__(source, experiment=experiment, partial=True)

    def how_to_get(self) -> str:
        """See :meth:`DatasetAdapter.how_to_get`."""
        return (
            "dermaffinity.data.adapters.phantom.write_phantom(folder) writes one; 'dermaffinity demo' does it for you."
        )


def write_phantom(
    folder: Path,
    *,
    fraction: float = 1.0,
    image_size: int = 112,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes a library: ``<class>/<id>/<id>.png`` with ``<id>mask.png`` beside it, and ``lesionlist.txt``.

    The folder appears when it is complete, so an interrupted call leaves no half library.

    Args:
        folder: Must not exist, or be empty.
        fraction: Share of Dermofit's class counts to draw, in (0, 1]; at least 6 images of each class.
        image_size: Longer side in pixels, at least 32; the shorter is 70 to 100 % of it.
        seed: The same seed gives the same library.
        on_progress: Called with (images written, images in all).

    Raises:
        DataError: ``folder`` holds something already, or cannot be written.

    Examples:
        >>> from pathlib import Path
        >>> from dermaffinity.data.adapters import write_phantom
        >>> write_phantom(Path("drawn"), fraction=0.01, image_size=32)
        >>> sorted(path.name for path in Path("drawn").iterdir())
        ['ak', 'bcc', 'df', 'iec', 'lesionlist.txt', 'mel', 'ml', 'pyo', 'scc', 'sk', 'vasc']
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}")
    if image_size < 32:
        raise ValueError(f"image_size must be at least 32 pixels, got {image_size}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} holds something already. Name a new folder for the phantom library.")
    counts = {code: max(_LEAST_IMAGES, round(count * fraction)) for code, count in PUBLISHED_COUNTS.items()}
    lesions = draw_lesions(counts, seed=seed)
    draft = folder.with_name(f".{folder.name}.phantom-draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        for number, (identifier, label) in enumerate(lesions):
            image, mask = draw_lesion(label, identifier, image_size=image_size, seed=seed)
            place = draft / label.lower() / identifier
            place.mkdir(parents=True)
            Image.fromarray(image).save(place / f"{identifier}.png", compress_level=1)
            Image.fromarray(mask).save(place / f"{identifier}mask.png")
            if on_progress:
                on_progress(number + 1, len(lesions))
        lines = (
            f"{number:>6}   {identifier}   {label}\n" for number, (identifier, label) in enumerate(lesions, start=1)
        )
        (draft / "lesionlist.txt").write_text("".join(lines))
        if folder.exists():
            folder.rmdir()
        draft.rename(folder)
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror}. Free space or name another folder.") from error


# Of Dermofit's 1,300 ids: how many start with each letter, and how many persons have several lesions.
_PREFIXES = {"B": 429, "P": 373, "D": 346, "A": 70, "C": 48, "T": 26, "G": 8}
_PERSONS_WITH = {6: 3, 5: 6, 4: 10, 3: 21, 2: 116}
# How likely a person's next lesion has the class of the first: moles and seborrheic keratoses come in numbers.
_ALIKE = {"ML": 0.8, "SK": 0.7}
_SELDOM_ALIKE = 0.1


def draw_lesions(counts: Mapping[str, int], *, seed: int = 0) -> list[tuple[str, str]]:
    """Invents lesion ids with Dermofit's grammar: as many persons with 2 to 6 lesions, partly of several classes.

    Args:
        counts: Images of each class.
        seed: The same seed gives the same ids.

    Returns:
        Pairs of id and class, sorted by id.
    """
    rng = np.random.default_rng(seed)
    left = Counter(counts)
    total = sum(counts.values())
    sizes = [size for size, persons in _PERSONS_WITH.items() for _ in range(round(persons * total / 1300))]
    sizes += [1] * (total - sum(sizes))
    prefixes = rng.choice(list(_PREFIXES), size=len(sizes), p=np.array([*_PREFIXES.values()]) / 1300)
    numbers = rng.permutation(np.arange(1, len(sizes) + 1))  # one number, one person: stricter than Dermofit
    lesions = []
    for size, prefix, number in zip(sizes, prefixes, numbers, strict=True):
        label = _draw_label(left, rng)
        lettered = size > 1 or rng.random() < 0.2
        for letter in "abcdef"[:size]:
            if not left[label] or (letter != "a" and rng.random() > _ALIKE.get(label, _SELDOM_ALIKE)):
                label = _draw_label(left, rng)
            left[label] -= 1
            lesions.append((f"{prefix}{number}{letter if lettered else ''}", label))
    return sorted(lesions)


def _draw_label(left: Counter[str], rng: np.random.Generator) -> str:
    weights = np.array([*left.values()], dtype=float)
    return str(rng.choice(list(left), p=weights / weights.sum()))


@dataclass(frozen=True)
class _Look:
    """One way a class can look. Colors are what the skin's red, green and blue are multiplied by."""

    share: float
    core: tuple[float, float, float]
    rim: tuple[float, float, float]
    accent: tuple[float, float, float] | None = None  # color of patches
    irregular: float = 0.08  # of the border, in radii
    asymmetry: float = 0.1
    soft: float = 0.1  # width of the border, in radii
    # Strengths of what lies on the lesion, 0 to 1.
    network: float = 0.0
    dots: float = 0.0
    pearls: float = 0.0
    lacunae: float = 0.0
    vessels: float = 0.0
    scale: float = 0.0
    streaks: float = 0.0
    scar: float = 0.0
    collar: float = 0.0
    elevation: float = 0.1
    bumps: float = 0.0
    shine: float = 0.0


_BLUE_GRAY = (0.48, 0.50, 0.60)
_CRUST = (0.42, 0.22, 0.18)

_LOOKS: dict[str, tuple[_Look, ...]] = {
    "AK": (
        _Look(0.55, (0.93, 0.64, 0.55), (0.96, 0.75, 0.66), irregular=0.15, soft=0.3, scale=1.0),
        _Look(0.30, (0.84, 0.64, 0.50), (0.90, 0.74, 0.60), irregular=0.12, soft=0.3, scale=0.9),
        _Look(0.15, (0.93, 0.70, 0.60), (0.95, 0.72, 0.66), soft=0.12, scale=1.0, elevation=0.6),
    ),
    "BCC": (
        _Look(0.45, (0.98, 0.80, 0.77), (1.00, 0.86, 0.82), soft=0.08, vessels=0.8, elevation=0.7, shine=0.7),
        _Look(0.30, (0.95, 0.67, 0.62), (0.96, 0.74, 0.70), irregular=0.15, soft=0.15, vessels=0.3, scale=0.2),
        _Look(0.25, (0.95, 0.74, 0.70), (0.97, 0.80, 0.76), _BLUE_GRAY, vessels=0.5, elevation=0.5, shine=0.4),
    ),
    "ML": (
        _Look(0.40, (0.58, 0.45, 0.36), (0.74, 0.60, 0.48), soft=0.14, network=0.8),
        _Look(0.25, (0.50, 0.36, 0.29), (0.66, 0.50, 0.40), dots=0.5, elevation=0.5),
        _Look(0.20, (0.94, 0.77, 0.68), (0.96, 0.82, 0.74), elevation=0.8, shine=0.2),
        _Look(0.15, (0.42, 0.30, 0.25), (0.63, 0.47, 0.38), irregular=0.14, asymmetry=0.35, network=0.5),
    ),
    "SCC": (
        _Look(0.45, (0.86, 0.50, 0.45), (0.93, 0.64, 0.58), irregular=0.12, scale=0.7, elevation=0.9, shine=0.2),
        _Look(0.40, (0.74, 0.40, 0.36), (0.92, 0.60, 0.54), _CRUST, irregular=0.18, elevation=0.7, bumps=0.4),
        _Look(0.15, (0.94, 0.65, 0.58), (0.97, 0.75, 0.70), irregular=0.14, soft=0.2, vessels=0.3, scale=0.5),
    ),
    "SK": (
        _Look(0.45, (0.62, 0.48, 0.36), (0.67, 0.53, 0.41), soft=0.05, pearls=0.7, elevation=0.5, bumps=0.7),
        _Look(0.35, (0.82, 0.67, 0.52), (0.84, 0.70, 0.56), irregular=0.1, soft=0.07, scale=0.3, bumps=0.5),
        _Look(0.20, (0.42, 0.31, 0.26), (0.52, 0.39, 0.31), irregular=0.12, soft=0.06, pearls=0.4, bumps=0.5),
    ),
    "IEC": (
        _Look(0.6, (0.94, 0.64, 0.60), (0.95, 0.70, 0.66), irregular=0.22, soft=0.12, vessels=0.2, dots=0.7, scale=0.4),
        _Look(0.4, (0.86, 0.62, 0.54), (0.90, 0.69, 0.62), irregular=0.20, soft=0.15, dots=0.6, scale=0.3),
    ),
    "PYO": (
        _Look(0.6, (0.84, 0.29, 0.29), (0.90, 0.45, 0.43), soft=0.05, collar=1.0, elevation=0.9, shine=0.9),
        _Look(0.4, (0.66, 0.22, 0.22), (0.84, 0.40, 0.38), _CRUST, soft=0.06, collar=0.7, elevation=0.8, shine=0.4),
    ),
    "VASC": (
        _Look(0.45, (0.85, 0.34, 0.35), (0.90, 0.48, 0.48), soft=0.06, lacunae=0.8, elevation=0.6, shine=0.4),
        _Look(0.35, (0.62, 0.32, 0.42), (0.74, 0.45, 0.52), soft=0.10, lacunae=0.6, elevation=0.4),
        _Look(0.20, (0.92, 0.55, 0.55), (0.94, 0.63, 0.62), irregular=0.15, soft=0.12, lacunae=0.3),
    ),
    "DF": (
        _Look(0.6, (0.90, 0.72, 0.64), (0.72, 0.55, 0.45), soft=0.3, scar=0.9, network=0.2, elevation=0.3),
        _Look(0.4, (0.78, 0.58, 0.50), (0.76, 0.60, 0.51), soft=0.3, network=0.3, elevation=0.6, shine=0.2),
    ),
    "MEL": (
        _Look(
            0.4,
            (0.32, 0.24, 0.22),
            (0.57, 0.41, 0.33),
            _BLUE_GRAY,
            irregular=0.22,
            asymmetry=0.6,
            streaks=0.6,
            dots=0.3,
        ),
        _Look(0.4, (0.42, 0.30, 0.25), (0.62, 0.46, 0.37), irregular=0.18, asymmetry=0.45, network=0.4, streaks=0.2),
        _Look(0.2, (0.30, 0.25, 0.28), (0.44, 0.33, 0.32), irregular=0.1, elevation=0.7, shine=0.4),
    ),
}


def draw_lesion(label: str, identifier: str, *, image_size: int = 112, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draws one lesion on the skin of its person.

    Args:
        label: A class code of Dermofit.
        identifier: The lesion id; skin, hair and camera follow from the person in it.
        image_size: Longer side in pixels.
        seed: With the id, decides everything.

    Returns:
        The image (H, W, 3) uint8 and its mask (H, W) uint8, 0 or 255.

    Examples:
        >>> from dermaffinity.data.adapters import draw_lesion
        >>> image, mask = draw_lesion("MEL", "P1", image_size=64)
        >>> image.shape == (*mask.shape, 3), max(mask.shape)
        (True, 64)
    """
    rng = _stream(seed, identifier)
    person = _stream(seed, lesion_group(identifier))
    looks = _LOOKS[label]
    look = looks[rng.choice(len(looks), p=[look.share for look in looks])]
    sides = image_size, round(image_size * rng.uniform(0.7, 1.0))
    shape = sides if rng.random() < 0.3 else sides[::-1]
    skin_color = _skin_color(person)
    color = skin_color * (1 + 0.03 * _clouds(rng, shape, 4)[..., None] + 0.02 * _clouds(rng, shape, 30)[..., None])
    level, angle = _outline(look, rng, shape)
    cover = 1 / (1 + np.exp(-level / (0.3 * look.soft)))
    lesion = _pigment(look, rng, level, angle) * skin_color
    lesion = _surface(look, rng, lesion, level, angle)
    color += cover[..., None] * (lesion - color)
    color = _light(look, rng, color, level)
    color = _photograph(person, rng, color)
    return (color.clip(0, 1) * 255).round().astype(np.uint8), np.where(level > 0, 255, 0).astype(np.uint8)


def _stream(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, *name.encode()])


def _skin_color(person: np.random.Generator) -> np.ndarray:
    lightness = person.normal(0, 0.05)
    flush = person.normal(0, 0.03)
    return np.array([0.87 + lightness, 0.69 + 1.2 * lightness - flush, 0.60 + 1.3 * lightness - flush])


def _clouds(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> np.ndarray:
    """Smooth noise (H, W) of about unit deviation, ``cells`` waves across the image."""
    from scipy.ndimage import zoom

    coarse = rng.normal(size=(cells, cells))
    return zoom(coarse, (shape[0] / cells, shape[1] / cells), order=3, mode="nearest") * 1.3


def _outline(look: _Look, rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Level (H, W), 1 in the middle of the lesion, 0 on its border, negative outside; and the angle around it."""
    height, width = shape
    half = min(shape) / 2
    rows, columns = np.mgrid[:height, :width]
    y = (rows - height / 2) / half - rng.normal(0, 0.06)
    x = (columns - width / 2) / half - rng.normal(0, 0.06)
    tilt = rng.uniform(0, np.pi)
    longer = np.exp(rng.normal(0, 0.12))
    along = (x * np.cos(tilt) + y * np.sin(tilt)) * longer
    across = (y * np.cos(tilt) - x * np.sin(tilt)) / longer
    angle = np.arctan2(across, along)
    radius = np.ones(shape)
    irregular = look.irregular * rng.uniform(0.6, 1.5)
    for waves in range(2, 8):
        radius += irregular * rng.normal() * waves**-1.0 * np.cos(waves * angle + rng.uniform(0, 2 * np.pi))
    radius += 0.5 * look.asymmetry * rng.uniform(0.2, 1.0) * np.cos(angle + rng.uniform(0, 2 * np.pi))
    radius += 0.06 * look.streaks * np.cos(rng.integers(14, 22) * angle) * (np.cos(angle + rng.uniform(0, 6)) > -0.3)
    return 1 - np.hypot(along, across) / (rng.uniform(0.42, 0.72) * radius.clip(0.4)), angle


def _pigment(look: _Look, rng: np.random.Generator, level: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """The lesion's own color (H, W, 3), as a factor on the skin's."""
    shape = level.shape
    depth = 1.3 * level + 0.25 * _clouds(rng, shape, 5)
    depth += look.asymmetry * np.cos(angle + rng.uniform(0, 2 * np.pi)) * (1 - level)
    depth = depth.clip(0, 1)[..., None]
    shade = rng.normal(0, 0.04) + rng.normal(0, 0.02, size=3)
    color = depth * np.array(look.core) + (1 - depth) * np.array(look.rim) + shade
    if look.accent:
        patches = 1 / (1 + np.exp(-6 * (_clouds(rng, shape, 6) - rng.uniform(0.2, 0.9))))
        color += (patches * rng.uniform(0.5, 1.0))[..., None] * (np.array(look.accent) - color)
    return color


def _surface(
    look: _Look, rng: np.random.Generator, color: np.ndarray, level: np.ndarray, angle: np.ndarray
) -> np.ndarray:
    """Puts network, dots, vessels, scale and the like on the lesion."""
    shape = level.shape

    def strength(value: float) -> float:
        return value * rng.uniform(0.3, 1.3)

    def paint(amount: np.ndarray, paint_color: tuple[float, float, float]) -> None:
        color[...] += amount.clip(0, 1)[..., None] * (np.array(paint_color) - color)

    rim = np.exp(-(((level - 0.25) / 0.3) ** 2))
    if look.network:
        warp = 0.8 * _clouds(rng, shape, 6)
        y, x = np.mgrid[: shape[0], : shape[1]] * (75 / max(shape))
        mesh = np.cos(x + y + warp) * np.cos(x - y - warp)
        color *= (
            1 - 0.3 * strength(look.network) * np.exp(-((mesh / 0.3) ** 2))[..., None] * (0.4 + 0.6 * rim)[..., None]
        )
    if look.streaks:
        rays = np.cos(rng.integers(14, 22) * angle + _clouds(rng, shape, 5)).clip(0)
        color *= 1 - 0.5 * strength(look.streaks) * (rays * rim)[..., None]
    if look.dots:
        paint(strength(look.dots) * _specks(rng, level, count=30, width=0.010), (0.35, 0.18, 0.15))
    if look.pearls:
        paint(strength(look.pearls) * _specks(rng, level, count=18, width=0.014), (0.95, 0.88, 0.76))
    if look.lacunae:
        paint(strength(look.lacunae) * _specks(rng, level, count=14, width=0.035), (0.50, 0.08, 0.16))
    if look.vessels:
        lines = np.exp(-((_clouds(rng, shape, 7) / 0.10) ** 2)) * (_clouds(rng, shape, 4) > -0.3)
        paint(0.7 * strength(look.vessels) * lines, (0.75, 0.22, 0.22))
    if look.scale:
        flakes = (_clouds(rng, shape, 22) + 0.8 * _clouds(rng, shape, 6) - 0.6).clip(0)
        paint(0.7 * strength(look.scale) * flakes, (0.96, 0.92, 0.84))
    if look.scar:
        paint(strength(look.scar) * np.exp(-(((level - 1) / 0.4) ** 2)), (0.94, 0.86, 0.80))
    if look.collar:
        paint(strength(look.collar) * np.exp(-((level / 0.07) ** 2)), (0.95, 0.86, 0.78))
    return color


def _specks(rng: np.random.Generator, level: np.ndarray, *, count: int, width: float) -> np.ndarray:
    """Round specks (H, W) in 0 to 1 at random places of the lesion; ``width`` as a share of the image."""
    from scipy.ndimage import gaussian_filter

    inside = np.flatnonzero(level > 0.1)
    specks = np.zeros(level.size)
    specks[rng.choice(inside, size=min(count, len(inside)), replace=False)] = rng.uniform(
        0.6, 1.2, min(count, len(inside))
    )
    sigma = max(0.8, width * max(level.shape))
    return gaussian_filter(specks.reshape(level.shape), sigma) * 2 * np.pi * sigma**2


def _light(look: _Look, rng: np.random.Generator, color: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Shades the relief, adds the highlight of a shiny surface and uneven lighting."""
    shape = level.shape
    size = max(shape)
    direction = rng.uniform(0, 2 * np.pi)
    height = look.elevation * rng.uniform(0.6, 1.2) * np.sqrt(level.clip(0.002))
    height += 0.12 * look.bumps * rng.uniform(0.5, 1.3) * _clouds(rng, shape, 16) * (level > 0)
    down, right = np.gradient(height * 0.08 * size)
    color = color * (1 + 0.35 * (right * np.cos(direction) + down * np.sin(direction)).clip(-1, 1))[..., None]
    if look.shine:
        rows, columns = np.unravel_index(level.argmax(), shape)
        y = np.arange(shape[0])[:, None] - rows + 0.12 * size * np.sin(direction)
        x = np.arange(shape[1]) - columns + 0.12 * size * np.cos(direction)
        spot = np.exp(-(x**2 + y**2) / (2 * (rng.uniform(0.02, 0.05) * size) ** 2))
        color = color + (0.6 * look.shine * rng.uniform(0.3, 1.2) * spot)[..., None]
    slope = np.linspace(-1, 1, shape[0])[:, None] * rng.normal(0, 0.06) + np.linspace(-1, 1, shape[1]) * rng.normal(
        0, 0.06
    )
    return color * (1 + slope)[..., None]


def _photograph(person: np.random.Generator, rng: np.random.Generator, color: np.ndarray) -> np.ndarray:
    """Hair of the person, then focus, exposure, white balance and noise of the camera."""
    from scipy.ndimage import gaussian_filter

    hairiness = person.choice([0, 0, 0, 1, 2, 5])
    for _ in range(rng.poisson(hairiness)):
        _draw_hair(rng, color)
    color = gaussian_filter(color, (*(2 * [rng.uniform(0.2, 0.9) * len(color) / 100]), 0))
    color = color * (1 + rng.normal(0, 0.05)) * (1 + person.normal(0, 0.02, size=3))
    return color + rng.normal(0, rng.uniform(0.005, 0.02), size=color.shape)


def _draw_hair(rng: np.random.Generator, color: np.ndarray) -> None:
    height, width, _ = color.shape
    t = np.linspace(0, 1, 3 * max(height, width))
    start, end, bend = rng.uniform(0, 1, 2), rng.uniform(0, 1, 2), rng.uniform(-0.3, 0.3, 2)
    row, column = start[:, None] + (end - start)[:, None] * t + bend[:, None] * (t * (1 - t))
    rows = (row * height).astype(int).clip(0, height - 1)
    columns = (column * width).astype(int).clip(0, width - 1)
    color[rows, columns] *= rng.uniform(0.35, 0.6)
