"""The picture in a DICOM file, and nothing else of it.

Only the elements that the picture needs are parsed: whatever identifies a patient stays unread, and no error says the
value of an element.

Source: DICOM PS3.3, C.7.6.3 (image pixel), C.11.1 (modality LUT), C.11.2 (VOI LUT).
"""

import io
import struct
from typing import TYPE_CHECKING

import numpy as np

from dermaffinity.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.uid import UID

_PALETTE = [
    f"{color}PaletteColorLookupTable{part}" for color in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")
]
_PICTURE = [
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *("ModalityLUTSequence", "RescaleIntercept", "RescaleSlope"),
    *_PALETTE,
    *(f"Segmented{color}PaletteColorLookupTableData" for color in ("Red", "Green", "Blue")),
    *("PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
]
_COLORS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_GRAYS = ("MONOCHROME1", "MONOCHROME2")
# Deflate can unpack to a thousand times its size, before anything tells how much a picture needs.
_FIRST_GROUPS = (0x0002, 0x0008)
_LONG_KINDS = (b"OB", b"OW", b"SQ", b"UN", b"UT")
_DEFLATED = b"1.2.840.10008.1.2.1.99"


def is_dicom(content: bytes) -> bool:
    """Whether a file starts as DICOM files do: with their preamble, or with two elements of a header where it is cut.

    Args:
        content: The first kilobyte or more.
    """
    return content[128:132] == b"DICM" or _starts_with_elements(content)


def dicom_size(content: bytes, name: str) -> tuple[int, int]:
    """Width and height of the picture, from the file's header.

    Args:
        content: The file's bytes.
        name: What errors call the file.

    Raises:
        DataError: When there is no picture in the file, or pydicom is not installed.
    """
    dataset = _read(content, name, pixels=False)
    try:
        return int(dataset.Columns), int(dataset.Rows)
    except (AttributeError, TypeError, ValueError):
        raise DataError(f"{name}: a DICOM file without a picture") from None


def decode_dicom(content: bytes, name: str) -> np.ndarray:
    """Decodes the one picture of a DICOM file.

    Gray values go through the file's modality LUT and its first window or VOI LUT; without one, the whole range of the
    stored bits is shown.

    Args:
        content: The file's bytes.
        name: What errors call the file.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataError: When the file holds no picture or several, is damaged, or is compressed in a way that Pillow cannot
            read, or when pydicom is not installed.
    """
    dataset = _read(content, name, pixels=True)
    if "PixelData" not in dataset:
        raise DataError(f"{name}: a DICOM file without a picture")
    _check_readable(dataset, name)
    try:
        from pydicom.pixels import apply_color_lut, pixel_array

        stored = pixel_array(dataset)
        kind = dataset.PhotometricInterpretation
        if kind in _GRAYS:
            return np.repeat(_gray(stored, dataset)[:, :, None], 3, axis=2)
        if kind == "PALETTE COLOR":
            colors = apply_color_lut(stored, dataset)
            return _eight_bits(colors, 0, np.iinfo(colors.dtype).max)
        return _eight_bits(stored, 0, (1 << dataset.BitsStored) - 1)
    except Exception:  # Its text, and that of its cause, may hold what the file says.
        raise DataError(f"{name}: damaged or truncated DICOM; copy or export it again") from None


def _read(content: bytes, name: str, pixels: bool) -> "Dataset":
    try:
        from pydicom import dcmread
    except ImportError:
        raise DataError(
            f"{name}: reading DICOM needs a package that is not installed: pip install 'dermaffinity[dicom]'"
        ) from None
    if _DEFLATED in content[:1024]:
        raise DataError(f"{name}: a deflated DICOM file; export it uncompressed")
    try:
        # By force, because `is_dicom` has looked, and takes files without a preamble as well.
        dataset = dcmread(io.BytesIO(content), specific_tags=list(_PICTURE), stop_before_pixels=not pixels, force=True)
        if "TransferSyntaxUID" not in dataset.file_meta:
            dataset.file_meta.TransferSyntaxUID = _unsaid_syntax(dataset)
        return dataset
    except Exception:
        raise DataError(f"{name}: damaged or truncated DICOM; copy or export it again") from None


def _starts_with_elements(content: bytes) -> bool:
    """Whether two data elements of the groups that come first follow each other, little-endian. PS3.5, 7.1."""
    if len(content) < 16:
        return False
    first = struct.unpack_from("<HH", content)
    kind = content[4:6]
    if kind.isalpha() and kind.isupper():
        start = 8 + struct.unpack_from("<H", content, 6)[0]
        if kind in _LONG_KINDS:
            start = 12 + struct.unpack_from("<I", content, 8)[0]
    else:
        start = 8 + struct.unpack_from("<I", content, 4)[0]
    if start % 2 or start + 4 > len(content):
        return False
    second = struct.unpack_from("<HH", content, start)
    return first[0] in _FIRST_GROUPS and second[0] in _FIRST_GROUPS and first < second


def _unsaid_syntax(dataset: "Dataset") -> "UID":
    """How a file that does not say it stores its pixels; nobody knows how compressed ones, which lie in fragments."""
    from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if "PixelData" in dataset and dataset["PixelData"].is_undefined_length:
        return UID("")
    implicit, _ = dataset.original_encoding
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian


def _check_readable(dataset: "Dataset", name: str) -> None:
    from pydicom.pixels import get_decoder

    try:
        several = int(dataset.get("NumberOfFrames") or 1) > 1
        kind = str(dataset.get("PhotometricInterpretation"))
        syntax = dataset.file_meta.TransferSyntaxUID
    except Exception:
        raise DataError(f"{name}: damaged or truncated DICOM; copy or export it again") from None
    if several:
        raise DataError(
            f"{name}: a DICOM file of several frames; export the frame of the lesion as an image of its own"
        )
    if kind not in (*_COLORS, *_GRAYS, "PALETTE COLOR"):
        allowed = ", ".join((*_COLORS, *_GRAYS, "PALETTE COLOR"))
        raise DataError(f"{name}: a DICOM file whose colors are stored in none of the ways {allowed}; export it as RGB")
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        # The standard's name for it; whatever else the element holds is not repeated.
        found = syntax.name if syntax.is_transfer_syntax and not syntax.is_private else "an unknown one"
        raise DataError(
            f"{name}: the compression of this DICOM file cannot be read ({found}); export it uncompressed, or as JPEG "
            "Baseline or JPEG 2000"
        )


def _gray(stored: np.ndarray, dataset: "Dataset") -> np.ndarray:
    """(H, W) uint8, black at 0."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    values = apply_voi_lut(apply_modality_lut(stored, dataset), dataset, prefer_lut=False)
    gray = _eight_bits(values, *_shown_range(dataset))
    return 255 - gray if dataset.PhotometricInterpretation == "MONOCHROME1" else gray


def _shown_range(dataset: "Dataset") -> tuple[float, float]:
    """What black and white are after the look-up tables."""
    windowed = dataset.get("WindowWidth") is not None and dataset.get("WindowCenter") is not None
    if dataset.get("VOILUTSequence") and not windowed:
        return 0, (1 << dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1
    if dataset.get("ModalityLUTSequence"):
        return 0, (1 << dataset.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    bits = dataset.BitsStored
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if dataset.PixelRepresentation else (0, (1 << bits) - 1)
    if dataset.get("RescaleSlope") is None or dataset.get("RescaleIntercept") is None:
        return low, high
    ends = [float(end * dataset.RescaleSlope + dataset.RescaleIntercept) for end in (low, high)]
    return min(ends), max(ends)


def _eight_bits(values: np.ndarray, low: float, high: float) -> np.ndarray:
    shown = (values.astype(float) - low) / (high - low)
    return np.rint(255 * np.clip(shown, 0, 1)).astype(np.uint8)
