"""Image files to arrays: every format and color mode that lesion libraries hold, and one clear error for the rest."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image, ImageOps

from dermaffinity.data.dicom import decode_dicom, dicom_size, is_dicom
from dermaffinity.errors import DataError

MAX_PIXELS = 89_478_485
"""Larger images are refused by their header: Pillow's own limit, 0.25 GiB of RGB, far above any lesion photograph."""

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp", ".avif", ".heic"}
    | {".heif", ".jp2", ".j2k", ".jpx", ".jpf", ".pbm", ".pgm", ".pnm", ".ppm", ".dcm", ".dicom"}
)
"""By these, in lower case, a file says that it is an image; others are told by their content."""

# Named, because Pillow would otherwise also hand files to interpreters such as Ghostscript.
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF")

_HEIF = re.compile(rb".{4}ftyp(hei[cfmsx]|hev[cmsx]|mif1|msf1)", re.DOTALL)
_SIGNATURE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|BM.{4}\0{4}|GIF8[79]a|II\*\0|MM\0\*|RIFF.{4}WEBP|P[1-6]\s"
    rb"|\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n|.{4}ftypavi[fs]|" + _HEIF.pattern,
    re.DOTALL,
)

_WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")

_SWAPPING_ORIENTATIONS = (5, 6, 7, 8)

# TIFF 6.0, NewSubfileType: bit 0 is set for a reduced copy of another image in the file.
_SUBFILE_TYPE, _REDUCED = 254, 1


def looks_like_image(head: bytes) -> bool:
    """Whether a file begins as one in any of the formats that `decode_image` knows.

    Args:
        head: The first kilobyte or more.
    """
    return bool(_SIGNATURE.match(head)) or is_dicom(head)


def decode_image(content: bytes, name: str) -> np.ndarray:
    """Decodes a whole image and turns it upright as its EXIF orientation says.

    Palette, gray, bilevel and CMYK images become RGB; 16 bits per channel are scaled to 8; alpha is dropped, which
    shows the color stored under it; of an animation the first frame is taken. Of a DICOM file, whatever its name, only
    the picture is read.

    Args:
        content: The file's bytes.
        name: What errors call the file.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataError: When the file is empty, truncated, damaged, too large, or no image.

    Examples:
        >>> from pathlib import Path
        >>> from dermaffinity.data import decode_image
        >>> decode_image(Path("lesion.jpg").read_bytes(), "lesion.jpg").shape
        (37, 40, 3)
    """
    if is_dicom(content):
        _check_size(*dicom_size(content, name), name)
        return decode_dicom(content, name)
    with _opened(content, name) as image:
        return _upright_rgb(image, name)


def convert_image(image: Image.Image, name: str) -> np.ndarray:
    """What `decode_image` makes of a file, of an image that Pillow has opened or made.

    Args:
        image: Of any mode and size; left open and unchanged.
        name: What errors call the image.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataError: When the image has no pixels or too many, or its file is damaged or closed.
    """
    with _explained(name):
        _check_size(image.width, image.height, name)
        return _upright_rgb(image, name)


def convert_array(array: np.ndarray, name: str) -> np.ndarray:
    """What `decode_image` would make of a picture with these pixels.

    Args:
        array: (H, W) or (H, W, 1) gray, (H, W, 3) RGB, or (H, W, 4) RGB with alpha, which is dropped. uint8; uint16,
            whose 65,535 is white; or floats in [0, 1], whose 1 is white.
        name: What errors call the array.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataError: When the array has another shape, type or range.
    """
    shape = array.shape
    if len(shape) == 3 and shape[2] not in (1, 3, 4) and shape[0] in (1, 3, 4):
        raise DataError(
            f"{name}: has the shape {shape}, channels first; move them last, as in image.transpose(1, 2, 0)"
        )
    if not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4))):
        raise DataError(f"{name}: has the shape {shape}; an image is (height, width) or (height, width, 3)")
    _check_size(shape[1], shape[0], name)
    colors = array[:, :, None] if len(shape) == 2 else array[:, :, :3]
    return np.array(np.broadcast_to(_as_uint8(colors, name), (*shape[:2], 3)))


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
    if is_dicom(content):
        width, height = dicom_size(content, name)
        _check_size(width, height, name)
        return width, height
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
    with _explained(name), Image.open(io.BytesIO(content), formats=_formats(content, name)) as image:
        _check_size(image.width, image.height, name)
        if image.format == "TIFF" and image.tag_v2.get(_SUBFILE_TYPE, 0) & _REDUCED:  # type: ignore[attr-defined]
            raise DataError(
                f"{name}: begins with a thumbnail, as the raw files of cameras do; export it as JPEG, PNG or TIFF"
            )
        yield image


def _formats(content: bytes, name: str) -> tuple[str, ...]:
    """What Pillow may take the file for."""
    brands = content[8 : int.from_bytes(content[:4], "big")]
    if not _HEIF.match(content) or b"avif" in brands:
        return _FORMATS
    try:
        from pi_heif import register_heif_opener
    except ImportError:
        raise DataError(
            f"{name}: reading HEIC needs a package that is not installed: pip install 'dermaffinity[heic]'"
        ) from None
    register_heif_opener()
    return ("HEIF",)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Image.DecompressionBombError:
        raise DataError(_too_large(name)) from None
    except Image.UnidentifiedImageError:
        raise DataError(f"{name}: not an image in any of the formats {', '.join(_FORMATS)}, HEIC, DICOM") from None
    except Exception as error:  # Pillow's readers let through whatever a damaged file makes them raise.
        raise DataError(f"{name}: damaged or truncated ({error}); copy or download it again") from error


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(_too_large(name))
    if width * height == 0:
        raise DataError(f"{name}: has no pixels, it is {width} × {height}")


def _too_large(name: str) -> str:
    return f"{name}: more than {MAX_PIXELS:,} pixels; reduce the image or leave it out"


def _upright_rgb(image: Image.Image, name: str) -> np.ndarray:
    # Only where there is something to turn: Pillow copies what is upright.
    image.load()
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    upright = ImageOps.exif_transpose(image) if turned else image
    if upright.mode in _WIDE_MODES:
        upright = Image.fromarray(_eight_bits(np.asarray(upright), name))
    elif upright.mode == "F":
        raise DataError(f"{name}: holds floating-point gray values of unknown range; save it as 8-bit RGB")
    # Pillow converts RGB to RGB by copying it.
    return np.array(upright if upright.mode == "RGB" else upright.convert("RGB"))


def _as_uint8(colors: np.ndarray, name: str) -> np.ndarray:
    if colors.dtype == np.uint8:
        return colors
    if colors.dtype == np.uint16:
        return _eight_bits(colors, name)
    if colors.dtype.kind != "f":
        raise DataError(f"{name}: holds {colors.dtype} values; use uint8, uint16, or floats in [0, 1]")
    low, high = float(colors.min()), float(colors.max())  # NaN where there is one
    if not (low >= 0 and high <= 1):
        found = "NaN" if np.isnan(low) else f"values from {low:g} to {high:g}"
        raise DataError(f"{name}: floats must be in [0, 1], found {found}; divide by 255, or use uint8")
    return np.rint(255 * colors).astype(np.uint8)


def _eight_bits(gray: np.ndarray, name: str) -> np.ndarray:
    """(H, W) gray values from 0 to 65,535 to uint8; Pillow's own conversion clips them at 255."""
    low, high = int(gray.min()), int(gray.max())
    if low < 0 or high > 65_535:
        raise DataError(f"{name}: holds gray values from {low} to {high}; save it with 8 or 16 bits")
    return ((gray.astype(np.uint32) + 128) // 257).astype(np.uint8)
