import base64
import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dermaffinity.data.images import MAX_PIXELS, decode_image, decode_mask, image_size, looks_like_image
from dermaffinity.data.library import ImageLibrary
from dermaffinity.errors import DataError

HAM10000 = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "ham10000"


def encoded(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def photograph(height: int = 20, width: int = 30) -> np.ndarray:
    """(H, W, 3) smooth colors, so that a JPEG keeps them."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 8, y * 12, 255 - x * 8], axis=2).astype(np.uint8)


def huge_png(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return header + struct.pack(">I", 1000) + b"IDAT"


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "PPM"])
def test_an_rgb_image_comes_back_as_it_is(file_format):
    decoded = decode_image(encoded(Image.fromarray(photograph()), file_format), "a")
    np.testing.assert_array_equal(decoded, photograph())
    assert decoded.dtype == np.uint8
    assert decoded.flags.writeable


def test_alpha_is_dropped_and_not_blended():
    rgba = np.dstack([photograph(), np.full((20, 30), 7, dtype=np.uint8)])
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(rgba)), "a"), photograph())
    gray_alpha = Image.merge("LA", [Image.new("L", (3, 2), 90), Image.new("L", (3, 2), 0)])
    np.testing.assert_array_equal(decode_image(encoded(gray_alpha), "a"), np.full((2, 3, 3), 90))


def test_a_palette_gives_its_colors_and_not_its_indices():
    image = Image.new("P", (2, 1))
    image.putpalette([200, 10, 20, 0, 90, 255])
    image.putdata([0, 1])
    for options in ({}, {"transparency": 0}):
        decoded = decode_image(encoded(image, **options), "a")
        np.testing.assert_array_equal(decoded, [[[200, 10, 20], [0, 90, 255]]])


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (255, 1), (257, 1), (32_896, 128), (65_535, 255)])
def test_sixteen_bits_are_scaled_and_not_clipped(value, expected):
    content = encoded(Image.fromarray(np.full((2, 3), value, dtype=np.uint16)))
    assert Image.open(io.BytesIO(content)).mode == "I;16"
    np.testing.assert_array_equal(decode_image(content, "a"), np.full((2, 3, 3), expected))


def test_gray_values_of_unknown_range_are_refused():
    with pytest.raises(DataError, match=r"a\.tif: holds gray values from 0 to 70000"):
        decode_image(encoded(Image.fromarray(np.array([[0, 70_000]], dtype=np.int32)), "TIFF"), "a.tif")
    with pytest.raises(DataError, match=r"a\.tif: holds floating-point gray values"):
        decode_image(encoded(Image.fromarray(np.array([[0.5]], dtype=np.float32)), "TIFF"), "a.tif")


def test_bilevel_and_gray_images_become_rgb():
    bilevel = Image.fromarray(np.array([[True, False]]))
    np.testing.assert_array_equal(decode_image(encoded(bilevel), "a"), [[[255] * 3, [0] * 3]])
    np.testing.assert_array_equal(decode_image(encoded(Image.new("L", (1, 1), 77)), "a"), [[[77] * 3]])


def test_cmyk_becomes_rgb():
    # No ink is white; full yellow and half of it black is a dark yellow.
    image = Image.new("CMYK", (16, 8), (0, 0, 0, 0))
    image.paste((0, 0, 255, 128), (8, 0, 16, 8))
    decoded = decode_image(encoded(image, "JPEG", quality=100), "a").astype(int)
    np.testing.assert_allclose(decoded[4, 2], [255, 255, 255], atol=3)
    np.testing.assert_allclose(decoded[4, 13], [127, 127, 0], atol=6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_exif_orientation_is_applied_to_pixels_and_size_alike(orientation, file_format):
    # The stored pixels are those of the upright picture turned the way the tag says to undo.
    upright = photograph()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {
        "JPEG": {"quality": 100, "subsampling": 0},
        "WEBP": {"lossless": True},
        "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    }.get(file_format, {})
    content = encoded(Image.fromarray(np.ascontiguousarray(stored)), file_format, exif=exif, **options)
    np.testing.assert_allclose(decode_image(content, "a").astype(int), upright, atol=6)
    assert image_size(content, "a") == (30, 20)


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode_image(content, "a")[0, 0], [255, 0, 0])


# 32 × 48 pixels, with an EXIF orientation of 1.
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAb5tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9jAAAA"
    "AERAAAIAAQAAAAAB4gABAAAAAAAAAIgAAgAAAAACagABAAAAAAAAACQAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAAABVpbmZl"
    "AgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAAA/WlwcnAAAADdaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH/"
    "/wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29s"
    "cm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAADAAAAABAAAAIAAAAAH////wAAAAAv///+AAAAACAAAAEHBpeGkAAAAA"
    "AwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAABppcmVmAAAAAAAAAA5jZHNjAAIAAQABAAAAtG1kYXQAAACEKAGvCeA9/s3PJwg6WGMkh9gv"
    "0QguJzNejLt0dFN43vUUpgjjzz6t6azOON/+bdX/cKkUvFYles+LqF33VOsDxsPh/+dzVxSOM9svq0pHIAJ9juHmiQLEE/CYennVE3aY306OZ5Qj"
    "DwFUrC0ZTh80mX0xPMp7glUYJR3+183akf7l5Uy4AAAABkV4aWYAAE1NACoAAAAIAAEBEgADAAAAAQABAAAAAAAA"
)


def test_the_photographs_of_phones_are_read_and_turned_once():
    pytest.importorskip("pi_heif")
    y, x = np.mgrid[:32, :48]
    expected = np.stack([x * 5, y * 7, 255 - x * 5], axis=2)
    decoded = decode_image(HEIC, "a")
    assert np.abs(decoded - expected).mean() < 4
    # HEIC turns pictures by a property of its own, and says that EXIF must then be overlooked.
    turned = HEIC.replace(b"\x01\x12\0\x03\0\0\0\1\0\1", b"\x01\x12\0\x03\0\0\0\1\0\6")
    assert turned != HEIC
    np.testing.assert_array_equal(decode_image(turned, "a"), decoded)
    assert image_size(turned, "a") == (48, 32)
    with pytest.raises(DataError, match=r"x\.heic: (damaged or truncated|not an image)"):
        decode_image(HEIC[:500], "x.heic")


def test_a_photograph_of_a_phone_names_the_package_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    for read in (decode_image, image_size):
        with pytest.raises(DataError, match=r"x\.jpg: reading HEIC needs .* pip install 'dermaffinity\[heic\]'"):
            read(HEIC, "x.jpg")


@pytest.mark.parametrize("brand", [b"avif", b"mif1"])
def test_avif_is_read_by_whichever_brand_comes_first(brand):
    content = encoded(Image.fromarray(photograph()), "AVIF", quality=100, subsampling="4:4:4")
    assert content[4:12] == b"ftypavif"
    assert b"avif" in content[16:32]
    content = content[:8] + brand + content[12:]
    np.testing.assert_allclose(decode_image(content, "a").astype(int), photograph(), atol=6)


def test_the_thumbnail_of_a_camera_raw_file_is_not_taken_for_the_picture():
    thumbnail = encoded(Image.fromarray(photograph()), "TIFF", tiffinfo={254: 1})
    with pytest.raises(DataError, match=r"x\.nef: begins with a thumbnail, as the raw files of cameras do; export it"):
        decode_image(thumbnail, "x.nef")


@pytest.mark.parametrize(
    "file_format", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF", "HEIC", "J2K"]
)
def test_an_image_is_told_by_its_first_kilobyte(file_format):
    options = {"no_jp2": True} if file_format == "J2K" else {}
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8))
    name = {"J2K": "JPEG2000"}.get(file_format, file_format)
    content = HEIC if file_format == "HEIC" else encoded(noise, name, **options)
    assert looks_like_image(content[:1024])
    assert decode_image(content, "a").ndim == 3


@pytest.mark.parametrize("head", [
    b"", b"P", b"Python", b"BMI,age", b"II. Methods", b"\0\0\0\x14ftypqt  ", b"\0\0\0\x18ftypisom", b"RIFF....AVI ",
    b"PK", b"%PDF-1.7", b"\x08\0" * 600, b"\x02\0" * 600, bytes(1024), b"\x7fELF" + bytes(1000),
])  # fmt: skip
def test_what_is_no_image_does_not_look_like_one(head):
    assert not looks_like_image(head)


@pytest.mark.parametrize("decode", [decode_image, image_size, lambda content, name: decode_mask(content, name, (2, 2))])
class TestBadFiles:
    def test_a_zero_byte_file_is_named(self, decode):
        with pytest.raises(DataError, match=r"x\.jpg: the file is empty"):
            decode(b"", "x.jpg")

    def test_a_text_is_no_image(self, decode):
        with pytest.raises(DataError, match=r"x\.jpg: not an image"):
            decode(b"<html>404</html>", "x.jpg")

    def test_a_huge_image_is_refused_by_its_header(self, decode):
        with pytest.raises(DataError, match=r"x\.png: more than 89,478,485 pixels"):
            decode(huge_png(30_000, 30_000), "x.png")

    def test_an_image_just_over_the_limit_is_refused_too(self, decode, recwarn):
        with pytest.raises(DataError, match="more than"):
            decode(huge_png(MAX_PIXELS // 1000 + 1, 1000), "x.png")

    def test_postscript_never_reaches_an_interpreter(self, decode):
        with pytest.raises(DataError, match="not an image"):
            decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "x.png")


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP", "BMP"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_truncated_file_is_refused(file_format, kept):
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), file_format)
    with pytest.raises(DataError, match=r"x\.img: (damaged or truncated|not an image)"):
        decode_image(content[: int(len(content) * kept)], "x.img")


@pytest.mark.parametrize(
    "stored",
    [
        Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8)),
        Image.fromarray(np.array([[0, 1], [1, 0]], dtype=np.uint8)),
        Image.fromarray(np.array([[40, 200], [220, 0]], dtype=np.uint8)),
        Image.fromarray(np.array([[0, 65_535], [65_535, 0]], dtype=np.uint16)),
        Image.fromarray(np.array([[False, True], [True, False]])),
        Image.fromarray(np.array([[[0] * 3, [255, 0, 0]], [[255, 0, 0], [0] * 3]], dtype=np.uint8)),
    ],
    ids=["0/255", "0/1", "soft", "16 bit", "bilevel", "red"],
)
def test_every_way_to_store_a_mask_gives_the_same_foreground(stored):
    mask = decode_mask(encoded(stored), "m", (2, 2))
    np.testing.assert_array_equal(mask, [[False, True], [True, False]])
    assert mask.dtype == np.bool_


def test_a_palette_mask_is_read_by_its_colors():
    # As in HAM10000: index 0 is white, the lesion, and index 255 is black.
    image = Image.new("P", (2, 1))
    image.putpalette([255 - value for value in range(256) for _ in range(3)])
    image.putdata([0, 255])
    np.testing.assert_array_equal(decode_mask(encoded(image), "m", (1, 2)), [[True, False]])


def test_empty_and_full_masks_stay_so():
    assert not decode_mask(encoded(Image.new("L", (3, 3), 0)), "m", (3, 3)).any()
    assert decode_mask(encoded(Image.new("L", (3, 3), 255)), "m", (3, 3)).all()


def test_a_larger_mask_is_reduced_to_the_image():
    large = np.zeros((45, 60), dtype=np.uint8)
    large[15:30, 30:] = 255
    expected = np.zeros((15, 20), dtype=bool)
    expected[5:10, 10:] = True
    np.testing.assert_array_equal(decode_mask(encoded(Image.fromarray(large)), "m", (15, 20)), expected)


def test_a_mask_turns_only_by_its_own_exif():
    stored = np.array([[255, 0, 0]], dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode_mask(encoded(Image.fromarray(stored), exif=exif), "m", (3, 1))
    np.testing.assert_array_equal(turned, [[True], [False], [False]])


@pytest.mark.skipif(not HAM10000.is_dir(), reason="HAM10000 is not here")
def test_palette_masks_of_ham10000_cover_lesions_like_the_gray_ones():
    library = ImageLibrary(HAM10000)
    shares: dict[str, list[float]] = {"P": [], "L": []}
    for path in [path for path in library.files() if path.endswith("_segmentation.png")][:60]:
        content = library.read(path)
        mask = decode_mask(content, path, (150, 200))
        shares[Image.open(io.BytesIO(content)).mode].append(mask[70:80, 95:105].mean())
    assert len(shares["P"]) >= 10
    assert np.mean(shares["P"]) > 0.8
    assert np.mean(shares["L"]) > 0.8
