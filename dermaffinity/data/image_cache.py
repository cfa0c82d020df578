"""Decoded images in files that are mapped into memory, for libraries that memory cannot hold."""

import hashlib
import mmap
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from dermaffinity.errors import DataError
from dermaffinity.files import atomic_write, hold, sweep_partial, write_json

# Images of a file: few enough files for a process to hold open, and what an interruption may cost.
_IMAGES = 10_000
# Decoded images that wait to be written.
_BLOCK = 256


class MappedImages(Sequence[np.ndarray]):
    """Images (H, W, 3) uint8 of a cache folder, read-only; pickled, it is only the folder's path.

    Args:
        folder: As `cached` fills it.
        count: Number of images.

    Raises:
        DataError: When the folder is not complete.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.images = []
        for start in range(0, count, _IMAGES):
            path = _file(folder, start)
            found = _mapped(path, min(_IMAGES, count - start))
            if found is None:
                raise DataError(f"{path}: missing or incomplete; run the command again to decode its images anew")
            self.images += found

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> np.ndarray:  # type: ignore[override]
        return self.images[row]

    def __reduce__(self) -> tuple[type["MappedImages"], tuple[Path, int]]:
        return MappedImages, (self.folder, len(self))


def cache_folder() -> Path:
    """Where caches are kept: the environment variable ``DERMAFFINITY_CACHE``, else a folder of the user's cache."""
    named = os.environ.get("DERMAFFINITY_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "dermaffinity")


def cached(
    images: Sequence[np.ndarray],
    facts: dict[str, str],
    size: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> MappedImages:
    """Images that are decoded into files once, and mapped from then on; an interrupted call is continued.

    Args:
        images: (H, W, 3) uint8 each, decoded when asked for, by several threads.
        facts: All that decides about their pixels, for a person as well; another value makes another cache.
        size: Roughly the bytes they take.
        on_progress: Told (images done, images in all).

    Raises:
        DataError: When an image cannot be decoded, or the folder cannot be written or is too small.
    """
    folder = cache_folder() / hashlib.sha256(repr(sorted(facts.items())).encode()).hexdigest()[:16]
    # Whoever needs the same images waits, and finds them.
    with hold(folder, -1), ThreadPoolExecutor(os.cpu_count()) as threads:
        sweep_partial(folder)
        starts = range(0, len(images), _IMAGES)
        missing = [
            start for start in starts if _mapped(_file(folder, start), min(_IMAGES, len(images) - start)) is None
        ]
        _check_room(folder, size * len(missing) // max(1, len(starts)))
        write_json(folder / "about.json", facts)
        for start in missing:
            stop, shapes = min(start + _IMAGES, len(images)), []
            with atomic_write(_file(folder, start), "wb") as file:
                for block in range(start, stop, _BLOCK):
                    for image in threads.map(images.__getitem__, range(block, min(block + _BLOCK, stop))):
                        file.write(image.tobytes())
                        shapes.append(image.shape[:2])
                    if on_progress:
                        on_progress(start + len(shapes), len(images))
                file.write(np.array(shapes, np.int32).tobytes())
    return MappedImages(folder, len(images))


def _file(folder: Path, start: int) -> Path:
    return folder / f"images-{start // _IMAGES:05}.bin"


def _mapped(path: Path, count: int) -> list[np.ndarray] | None:
    """Views of the images of a file, or None where it holds another number: pixels, then heights and widths."""
    try:
        with path.open("rb") as file:
            content = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except (OSError, ValueError):  # ValueError: an empty file
        return None
    if len(content) < 8 * count:
        return None
    shapes = np.frombuffer(content[-8 * count :].tobytes(), np.int32).reshape(count, 2)
    ends = np.cumsum(3 * shapes.prod(axis=1, dtype=np.int64))
    if (shapes < 1).any() or ends[-1] != len(content) - 8 * count:
        return None
    pixels = np.split(content, ends)[:-1]
    return [part.reshape(height, width, 3) for part, (height, width) in zip(pixels, shapes.tolist(), strict=True)]


def _check_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DataError(
            f"{folder}: decoded images need about {size / 1e9:.1f} GB here, and {free / 1e9:.1f} GB are free. Free "
            "some space, or name another folder: export DERMAFFINITY_CACHE=/FOLDER"
        )
