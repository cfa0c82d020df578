import contextlib
import gzip
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from dermaffinity.data.idx import IdxImages, read_idx
from dermaffinity.data.images import decode_image
from dermaffinity.data.library import ImageLibrary
from dermaffinity.errors import DataError

BYTES = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=1, max_dims=4, max_side=6))
IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def test_the_example_of_the_format():
    # 2 x 3 bytes, by hand
    content = bytes.fromhex("00 00 08 02  00 00 00 02  00 00 00 03  01 02 03  04 05 06")
    assert read_idx(content, "x").tolist() == [[1, 2, 3], [4, 5, 6]]


@given(BYTES, st.booleans())
@settings(max_examples=50)
def test_an_array_comes_back_plain_and_compressed(array, compress):
    content = gzip.compress(idx(array)) if compress else idx(array)
    assert np.array_equal(read_idx(content, "x"), array)


@given(BYTES, st.data(), st.booleans())
@settings(max_examples=80)
def test_a_file_that_is_cut_or_too_long_is_refused(array, data, compress):
    content = gzip.compress(idx(array), mtime=0) if compress else idx(array)
    cut = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(DataError, match=r"^x\.gz: "):
        read_idx(content[:cut], "x.gz")
    if not compress:
        with pytest.raises(DataError, match="its header promises"):
            read_idx(content + b"\0", "x")


@given(st.binary(max_size=40))
def test_any_other_bytes_are_refused_in_one_sentence_or_are_an_array(content):
    for start in (b"", b"\0\0\x08", b"\x1f\x8b"):
        with contextlib.suppress(DataError):
            assert read_idx(start + content, "x").dtype == np.uint8


def test_other_types_of_values_are_named():
    with pytest.raises(DataError, match="holds values of type 0x0d; only unsigned bytes"):
        read_idx(bytes([0, 0, 13, 1, 0, 0, 0, 0]), "x")


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_library_reads_each_image_of_an_idx_file_as_a_file(tmp_path, ending):
    content = idx(IMAGES) if not ending else gzip.compress(idx(IMAGES))
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / f"train-images-idx3-ubyte{ending}").write_bytes(content)
    (tmp_path / "raw" / f"train-labels-idx1-ubyte{ending}").write_bytes(b"labels")
    library = ImageLibrary(tmp_path)
    images = [f"raw/train-images-idx3-ubyte{ending}/0000{number}.pgm" for number in range(2)]
    assert library.files() == [*images, f"raw/train-labels-idx1-ubyte{ending}"]
    for number, name in enumerate(images):
        decoded = decode_image(library.read(name), name)
        assert decoded.shape == (3, 4, 3)
        assert (decoded == IMAGES[number][:, :, None]).all()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(library.read(images[1])))), IMAGES[1])


@pytest.mark.parametrize(
    "name", ["00002.pgm", "0.pgm", "000000.pgm", "00000.png", "00000", "٠٠٠٠٠.pgm", "-0001.pgm", "a/00000.pgm"]
)
def test_an_image_that_is_not_in_the_file_is_missed(tmp_path, name):
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(IMAGES))
    library = ImageLibrary(tmp_path)
    library.read("t10k-images-idx3-ubyte/00000.pgm")
    with pytest.raises(DataError, match="no such file in the archive"):
        library.read(f"t10k-images-idx3-ubyte/{name}")


@pytest.mark.parametrize("array", [IMAGES[0], IMAGES[:, :0], np.zeros(3, dtype=np.uint8)])
def test_an_array_that_is_no_set_of_images_is_refused(tmp_path, array):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(idx(array))
    with pytest.raises(DataError, match="not images"):
        IdxImages(path)


def test_a_damaged_file_is_named_among_the_librarys_problems(tmp_path):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(IMAGES))[:-9])
    with pytest.raises(DataError) as refused:
        ImageLibrary(tmp_path).files()
    assert "train-images-idx3-ubyte.gz: not a whole gzip file" in refused.value.problems[0]
