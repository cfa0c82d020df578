"""The picture of a DICOM file is what its pixels say, and nothing of the patient gets out of it."""

import io
import logging
import sys

import numpy as np
import pytest
from PIL import Image

from dermaffinity.data.images import decode_image, image_size, looks_like_image
from dermaffinity.errors import DataError

pydicom = pytest.importorskip("pydicom")
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.uid import (  # noqa: E402
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    generate_uid,
)

SECRETS = {
    "PatientName": "Mustermann^Erika",
    "PatientID": "SECRET-4711",
    "PatientBirthDate": "19640812",
    "PatientAddress": "Heidestrasse 17",
    "InstitutionName": "Hospital of Nowhere",
    "ReferringPhysicianName": "Quincy^Dr",
    "StudyDescription": "mole of Erika",
    "AccessionNumber": "ACC998877",
}
RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
SMOOTH = np.asarray(Image.fromarray(RGB[:4, :5]).resize((30, 20)))


def dicom(pixels: np.ndarray, syntax=ExplicitVRLittleEndian, content: bytes | None = None, **elements) -> bytes:
    """A file with these pixels, or their compressed ``content``, full of what identifies a patient."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.4"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = pydicom.dataset.FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    for keyword, value in SECRETS.items():
        setattr(dataset, keyword, value)
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    bits = 8 * pixels.itemsize
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes() if content is None else encapsulate([content])
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    written = io.BytesIO()
    pydicom.dcmwrite(written, dataset, enforce_file_format=True)
    return written.getvalue()


def encoded(pixels: np.ndarray, file_format: str, **options) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format=file_format, **options)
    return content.getvalue()


def test_rgb_pixels_come_back_as_they_are():
    assert np.array_equal(decode_image(dicom(RGB), "x"), RGB)
    assert image_size(dicom(RGB), "x") == (30, 20)


def test_color_planes_are_put_together():
    planes = np.ascontiguousarray(RGB.transpose(2, 0, 1))
    assert np.array_equal(decode_image(dicom(RGB, PlanarConfiguration=1, PixelData=planes.tobytes()), "x"), RGB)


def test_ybr_becomes_rgb():
    ybr = np.asarray(Image.fromarray(SMOOTH).convert("YCbCr"))
    found = decode_image(dicom(ybr, PhotometricInterpretation="YBR_FULL"), "x")
    assert np.abs(found.astype(int) - SMOOTH).max() <= 3


def test_sixteen_bit_colors_are_scaled_by_their_stored_bits():
    pixels = (RGB.astype(np.uint16) << 4) | (RGB >> 4)  # 12 bits
    found = decode_image(dicom(pixels, BitsStored=12, HighBit=11), "x")
    assert np.array_equal(found, RGB)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_gives_its_colors(bits):
    indices = np.arange(256, dtype=np.uint8).reshape(16, 16)
    table = np.random.default_rng(1).integers(0, 256, (3, 256), dtype=np.uint8)
    entries = table if bits == 8 else table.astype(np.uint16) * 257
    elements = {"PhotometricInterpretation": "PALETTE COLOR"}
    for color, values in zip(("Red", "Green", "Blue"), entries, strict=True):
        elements[f"{color}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        elements[f"{color}PaletteColorLookupTableData"] = values.tobytes()
    assert np.array_equal(decode_image(dicom(indices, **elements), "x"), table.T[indices])


@pytest.mark.parametrize(
    ("values", "elements", "expected"),
    [
        (np.array([[0, 7, 255]], np.uint8), {}, [0, 7, 255]),
        (np.array([[0, 7, 255]], np.uint8), {"PhotometricInterpretation": "MONOCHROME1"}, [255, 248, 0]),
        (np.array([[0, 128 * 257, 65535]], np.uint16), {}, [0, 128, 255]),
        (np.array([[0, 2048, 4095]], np.uint16), {"BitsStored": 12, "HighBit": 11}, [0, 128, 255]),
        (np.array([[-32768, 0, 32767]], np.int16), {}, [0, 128, 255]),
        # Black up to 1000, white from 1256, in between a step of gray each: PS3.3 C.11.2.1.2.1 with c 1128.5, w 257.
        (
            np.array([[0, 1000, 1128, 1256, 9000]], np.uint16),
            {"WindowCenter": 1128.5, "WindowWidth": 257},
            [0, 0, 128, 255, 255],
        ),
        # The first of several windows, which counts after the rescaling: stored 564 is 1128.
        (
            np.array([[500, 564, 628]], np.uint16),
            {"WindowCenter": [1128.5, 40], "WindowWidth": [257, 80], "RescaleSlope": 2, "RescaleIntercept": 0},
            [0, 128, 255],
        ),
        (
            np.array([[1000, 1128, 1256]], np.uint16),
            {"WindowCenter": 1128.5, "WindowWidth": 257, "PhotometricInterpretation": "MONOCHROME1"},
            [255, 127, 0],
        ),
    ],
)
def test_gray_values_are_shown_as_the_file_asks(values, elements, expected):
    found = decode_image(dicom(values, **elements), "x")
    assert found.shape == (1, values.shape[1], 3)
    assert found[0, :, 0].tolist() == expected
    assert (found == found[:, :, :1]).all()


def test_a_voi_table_is_applied():
    table = pydicom.Dataset()
    table.LUTDescriptor = [4, 0, 8]
    table.add_new("LUTData", "US", [0, 50, 100, 255])
    found = decode_image(dicom(np.array([[0, 1, 2, 3, 9]], np.uint8), VOILUTSequence=[table]), "x")
    assert found[0, :, 0].tolist() == [0, 50, 100, 255, 255]


@pytest.mark.parametrize(
    ("syntax", "file_format", "options", "elements"),
    [
        (JPEGBaseline8Bit, "JPEG", {"quality": 95, "subsampling": 2}, {"PhotometricInterpretation": "YBR_FULL_422"}),
        (JPEG2000Lossless, "JPEG2000", {"no_jp2": True, "mct": 1}, {"PhotometricInterpretation": "YBR_RCT"}),
        (JPEG2000, "JPEG2000", {"no_jp2": True, "mct": 0}, {}),
    ],
)
def test_compressed_pixels_are_those_of_the_same_image_file(syntax, file_format, options, elements):
    content = encoded(SMOOTH, file_format, **options)
    expected = decode_image(content, "x").astype(int)
    found = decode_image(dicom(SMOOTH, syntax, content, **elements), "x")
    assert np.abs(found - expected).max() <= 2
    assert np.abs(found - SMOOTH.astype(int)).mean() < 5


def without_preamble(content: bytes, header: bool) -> bytes:
    """The file from its group 0002 on, or, as old devices write it, from its group 0008 on."""
    assert content[128:132] == b"DICM"
    if header:
        return content[132:]
    return content[144 + int.from_bytes(content[140:144], "little") :]  # (0002,0000) UL: how long the group is


@pytest.mark.parametrize("header", [True, False], ids=["with header", "bare"])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_file_without_preamble_or_header_gives_the_same_picture(syntax, header):
    content = without_preamble(dicom(RGB, syntax), header)
    assert looks_like_image(content[:1024])
    assert np.array_equal(decode_image(content, "x"), RGB)
    assert image_size(content, "x") == (30, 20)


def test_a_compressed_file_without_header_is_refused():
    bare = without_preamble(dicom(RGB, JPEGBaseline8Bit, encoded(RGB, "JPEG")), header=False)
    with pytest.raises(DataError, match=r"x: the compression of this DICOM file cannot be read \(an unknown one\)"):
        decode_image(bare, "x")


BAD = {
    "several frames": (dicom(RGB, NumberOfFrames=2, PixelData=2 * RGB.tobytes()), "several frames; export the frame"),
    "no picture": (dicom(RGB)[:132] + b"", "damaged or truncated DICOM|without a picture"),
    "truncated": (dicom(RGB)[:-700], "damaged or truncated DICOM"),
    "jpeg-ls": (dicom(RGB, JPEGLSLossless, b"\xff\xd8\xff\xf7rest"), "compression.*JPEG-LS.*export it uncompressed"),
    "private compression": (dicom(RGB, "1.2.3.4711", b"rest"), r"compression.*\(an unknown one\)"),
    "deflated": (dicom(RGB, DeflatedExplicitVRLittleEndian), "deflated"),
    "other colors": (dicom(RGB, PhotometricInterpretation="HSV"), "colors are stored in none of the ways RGB"),
    "damaged jpeg": (dicom(RGB, JPEGBaseline8Bit, b"\xff\xd8\xff\xe0nothing"), "damaged or truncated DICOM"),
    "huge": (dicom(RGB, Rows=30_000, Columns=30_000), "more than 89,478,485 pixels"),
    "empty": (dicom(RGB, Rows=0), "has no pixels"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_gives_one_sentence_without_a_word_of_the_patient(case, caplog):
    content, message = BAD[case]
    with caplog.at_level(logging.DEBUG), pytest.raises(DataError, match=message) as caught:
        decode_image(content, "x.dcm")
    assert str(caught.value).startswith("x.dcm: ")
    assert caught.value.__cause__ is None
    for secret in (*SECRETS.values(), "4711"):
        assert secret not in str(caught.value)
        assert secret not in caplog.text


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(DataError, match=r"pip install 'dermaffinity\[dicom\]'"):
        decode_image(dicom(RGB), "x")


def test_predict_finds_dicom_files_and_writes_nothing_of_the_patient(commands, toy_model, tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "a.dcm").write_bytes(dicom(RGB))
    (folder / "b.png").write_bytes(encoded(RGB, "PNG"))
    broken = dicom(RGB, NumberOfFrames=3, PixelData=3 * RGB.tobytes(), PatientSex="not a sex", PatientAge="far too old")
    (folder / "broken.dcm").write_bytes(broken)
    (folder / "invalid.dcm").write_bytes(dicom(RGB).replace(b"19640812", b"196x0812"))
    (folder / "DICOMDIR").write_bytes(dicom(RGB)[:132])
    (folder / "IM000001").write_bytes(dicom(RGB))
    (folder / "IM000002.4711").write_bytes(without_preamble(dicom(RGB), header=False))
    (tmp_path / "IM0001").write_bytes(dicom(RGB))
    done = commands.run("predict", str(toy_model), "study", "IM0001", folder=tmp_path)
    assert done.code == 1
    table = (tmp_path / "predictions.csv").read_text()
    rows = [line.split(",") for line in table.splitlines()[1:]]
    assert [row[0] for row in rows] == [
        *("study/IM000001", "study/IM000002.4711", "study/a.dcm", "study/b.png", "study/invalid.dcm", "IM0001")
    ]
    assert all(row[1:] == rows[0][1:] for row in rows)
    assert "skipped: study/broken.dcm: a DICOM file of several frames" in done.stderr
    for secret in (*SECRETS.values(), "196x0812", "far too old", "Mustermann"):
        assert secret not in table + done.stdout + done.stderr
