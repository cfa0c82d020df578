"""Image files to arrays: every format and color mode that lesion libraries hold, and one clear error for the rest."""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image, ImageOps

from dermaffinity.errors import DataError

MAX_PIXELS = 89_478_485
"""Larger images are refused by their header: Pillow's own limit, 0.25 GiB of RGB, far above any lesion photograph."""

# Named, because Pillow would otherwise also hand files to interpreters such as Ghostscript.
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000")

_WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")

_SWAPPING_ORIENTATIONS = (5, 6, 7, 8)


def decode_image(content: bytes, name: str) -> np.ndarray:
    """Decodes a whole image and turns it upright as its EXIF orientation says.

    Palette, gray, bilevel and CMYK images become RGB; 16 bits per channel are scaled to 8; alpha is dropped, which
    shows the color stored under it; of an animation the first frame is taken.

    Args:
        content: The file's bytes.
        name: What errors call the file.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataError: When the file is empty, truncated, damaged, too large, or no image.
    """
    with _opened(content, name) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode in _WIDE_MODES:
            upright = Image.fromarray(_eight_bits(np.asarray(upright), name))
        elif upright.mode == "F":
            raise DataError(f"{name}: holds floating-point gray values of unknown range; save it as 8-bit RGB")
        return np.array(upright.convert("RGB"))


def decode_mask(content: bytes, name: str, shape: tuple[int, int]) -> np.ndarray:
    """Decodes a lesion mask; foreground is what is brighter than half of the mask's brightest pixel.

    That reads 0/255, 0/1, palette, bilevel and 16-bit masks alike. A mask is turned only by an EXIF orientation of its
    own, never by that of its image.

    Args:
        content: The file's bytes.
        name: What errors call the file.
        shape: Height and width of the image. A mask of another size is resized to it by nearest neighbor.

    Returns:
        (H, W) bool, all False for a mask without foreground.

    Raises:
        DataError: As for `decode_image`.
    """
    with _opened(content, name) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode not in (*_WIDE_MODES, "F", "L"):
            upright = upright.convert("RGB").convert("L")
        gray = np.asarray(upright)
        mask = Image.fromarray(gray > gray.max() / 2)
        if mask.size != (shape[1], shape[0]):
            mask = mask.resize((shape[1], shape[0]), Image.Resampling.NEAREST)
        return np.array(mask)


def image_size(content: bytes, name: str) -> tuple[int, int]:
    """Width and height of the upright image, from the file's header alone.

    Raises:
        DataError: When the header is not that of an image, or tells of too large a one. Later damage goes unseen.
    """
    with _opened(content, name) as image:
        # Pillow decodes a whole PNG to look for an orientation behind its pixels, where hardly any PNG has one.
        plain_png = image.format == "PNG" and not any(key in content for key in (b"eXIf", b"exif", b"xmp"))
        # Of a TIFF, Pillow tells the upright size at once.
        if plain_png or image.format == "TIFF":
            return image.size
        turned = image.getexif().get(ExifTags.Base.Orientation) in _SWAPPING_ORIENTATIONS
        return (image.height, image.width) if turned else image.size


@contextmanager
def _opened(content: bytes, name: str) -> Iterator[Image.Image]:
    if not content:
        raise DataError(f"{name}: the file is empty (0 bytes); copy or download it again")
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            yield image
    except DataError:
        raise
    except Image.DecompressionBombError:
        raise DataError(f"{name}: more than {MAX_PIXELS:,} pixels; reduce the image or leave it out") from None
    except Image.UnidentifiedImageError:
        raise DataError(f"{name}: not an image in any of the formats {', '.join(_FORMATS)}") from None
    except Exception as error:  # Pillow's readers let through whatever a damaged file makes them raise.
        raise DataError(f"{name}: damaged or truncated ({error}); copy or download it again") from error


def _eight_bits(gray: np.ndarray, name: str) -> np.ndarray:
    """(H, W) gray values from 0 to 65,535 to uint8; Pillow's own conversion clips them at 255."""
    low, high = int(gray.min()), int(gray.max())
    if low < 0 or high > 65_535:
        raise DataError(f"{name}: holds gray values from {low} to {high}; save it with 8 or 16 bits")
    return ((gray.astype(np.uint32) + 128) // 257).astype(np.uint8)
