"""MNIST's file format: an array of bytes behind a header of big-endian numbers, plain or compressed with gzip.

Format: http://yann.lecun.com/exdb/mnist/, "the IDX file format". Two zero bytes, one for the type of the values (8:
unsigned bytes, the only one that MNIST and its relatives use), one for the number of dimensions, four for the size of
each, then the values, the last dimension fastest.
"""

import gzip
import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from dermaffinity.errors import DataError

_UNSIGNED_BYTES = 8
# MNIST's largest file is 47 MB; EMNIST's 550 MB.
_MAX_BYTES = 1 << 30


def read_idx(content: bytes, name: str) -> np.ndarray:
    """The array in an idx file.

    Args:
        content: The file's bytes, plain or compressed.
        name: What errors call the file.

    Returns:
        uint8 of the file's own shape; not writable.

    Raises:
        DataError: When this is no idx file of unsigned bytes, or is damaged or truncated.
    """
    if content[:2] == b"\x1f\x8b":
        content = _unpacked(content, name)
    if len(content) < 4 or content[:2] != b"\0\0" or content[3] == 0:
        raise DataError(f"{name}: not a file in MNIST's idx format: it starts with {content[:4].hex(' ') or 'nothing'}")
    if content[2] != _UNSIGNED_BYTES:
        raise DataError(f"{name}: holds values of type {content[2]:#04x}; only unsigned bytes, 0x08, are read")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise DataError(f"{name}: ends within its header; copy or download it again")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if len(content) - start != math.prod(shape):
        sizes = " x ".join(map(str, shape))
        raise DataError(
            f"{name}: its header promises {sizes} = {math.prod(shape):,} bytes, but {len(content) - start:,} follow; "
            "copy or download it again"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


class IdxImages:
    """An idx file of images as an archive of single ones: ``00000.pgm``, ``00001.pgm``, … in the order of the file.

    PGM is the same pixels behind a line of text, so that whatever reads images reads these.

    Args:
        path: The file, plain or compressed.

    Raises:
        DataError: When it cannot be read, or does not hold images.
    """

    def __init__(self, path: Path) -> None:
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise DataError(f"{path.name}: larger than {_MAX_BYTES >> 20} MiB, which no such file is")
            self._images = read_idx(path.read_bytes(), path.name)
        except OSError as error:
            raise DataError(f"{path.name}: cannot be read ({error}); copy or download it again") from error
        if self._images.ndim != 3 or 0 in self._images.shape[1:]:
            sizes = " x ".join(map(str, self._images.shape))
            raise DataError(f"{path.name}: holds an array of {sizes}, not images (number x height x width)")
        self._header = f"P5\n{self._images.shape[2]} {self._images.shape[1]}\n255\n".encode()

    def names(self) -> list[str]:
        """The names of all images."""
        return [f"{number:05}.pgm" for number in range(len(self._images))]

    def read(self, name: str) -> bytes:
        """One image as the content of a PGM file.

        Raises:
            KeyError: When there is none of that name.
        """
        digits = name.removesuffix(".pgm")
        if not (digits.isascii() and digits.isdigit() and int(digits) < len(self._images)):
            raise KeyError(name)
        if name != f"{int(digits):05}.pgm":
            raise KeyError(name)
        return self._header + self._images[int(digits)].tobytes()


def _unpacked(content: bytes, name: str) -> bytes:
    try:
        with gzip.open(io.BytesIO(content)) as file:
            unpacked = file.read(_MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name}: not a whole gzip file ({error}); copy or download it again") from error
    if len(unpacked) > _MAX_BYTES:
        raise DataError(f"{name}: unpacks to more than {_MAX_BYTES >> 20} MiB, which no such file does")
    return unpacked
