"""Tiny libraries in each dataset's real layout."""

import gzip
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from dermaffinity.data.adapters.dermofit import PUBLISHED_COUNTS
from dermaffinity.data.adapters.phantom import draw_lesions

HAM_CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")


def picture(number: int, suffix: str = "png") -> bytes:
    """An 8×6 image that no other number gives."""
    pixels = np.zeros((6, 8, 3), dtype=np.uint8)
    pixels[0, 0] = number >> 16, number >> 8 & 255, number & 255
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "jpeg" if suffix == "jpg" else suffix)
    return content.getvalue()


def mask() -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.full((6, 8), 255, dtype=np.uint8)).save(content, "png")
    return content.getvalue()


def write_tree(root: Path, files: Mapping[str, bytes]) -> Path:
    """Writes each file; one below ``NAME.zip/`` goes into that archive."""
    root.mkdir(parents=True, exist_ok=True)
    archives: dict[Path, dict[str, bytes]] = {}
    for path, content in files.items():
        top, _, member = path.partition(".zip/")
        if member:
            archives.setdefault(root / f"{top}.zip", {})[member] = content
        else:
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    for archive, members in archives.items():
        write_zip(archive, members)
    return root


def write_zip(archive: Path, members: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(archive, "w") as opened:
        for member, content in members.items():
            opened.writestr(member, content)
    return archive


def ham_tables(lesions_per_class: int = 4) -> tuple[dict[str, bytes], list[str]]:
    """Official archive names, two images of every second lesion, and the metadata's lines."""
    files: dict[str, bytes] = {}
    lines = ["lesion_id,image_id,dx,dx_type,age,sex,localization"]
    number = 24306
    for index, code in enumerate(HAM_CLASSES):
        for lesion in range(lesions_per_class):
            for _ in range(1 + lesion % 2):
                image = f"ISIC_{number:07}"
                part = 1 + number % 2
                files[f"HAM10000_images_part_{part}.zip/{image}.jpg"] = picture(16 * number, "png")
                folder = "HAM10000_segmentations_lesion_tschandl"
                files[f"{folder}.zip/{folder}/{image}_segmentation.png"] = mask()
                age = "" if number % 5 == 0 else "45.0"
                lines.append(f"HAM_{index}{lesion:04},{image},{code},histo,{age},female,trunk")
                number += 1
    return files, lines


ISIC2019_CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")


def isic2019_tables() -> tuple[dict[str, bytes], list[str], list[str]]:
    """Six images of each class, two of each of two lesions, the last downsampled; lines of truth and metadata."""
    files: dict[str, bytes] = {}
    truth = [f"image,{','.join(ISIC2019_CLASSES)},UNK"]
    metadata = ["image,age_approx,anatom_site_general,lesion_id,sex"]
    for number in range(6 * len(ISIC2019_CLASSES)):
        last = number % 6 > 3
        name = f"ISIC_{number:07}{'_downsampled' * last}"
        files[f"ISIC_2019_Training_Input/{name}.jpg"] = picture(16 * number)
        bits = ("1.0" if number // 6 == place else "0.0" for place in range(9))
        truth.append(f"{name},{','.join(bits)}")
        lesion = "" if last else f"HAM_{number // 2:07}"
        metadata.append(f"{name},{'' if last else 45},anterior torso,{lesion},{'' if last else 'female'}")
    return files, truth, metadata


def run(app: typer.Typer, words: list[str]) -> Result:
    """A command that succeeds."""
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture(scope="session")
def fake() -> SimpleNamespace:
    """The functions above: a test directory is no package, so its tests cannot import them."""
    return SimpleNamespace(
        picture=picture,
        mask=mask,
        write_tree=write_tree,
        write_zip=write_zip,
        ham_tables=ham_tables,
        isic2019_tables=isic2019_tables,
        run=run,
        mnist_files=mnist_files,
    )


@pytest.fixture(scope="session")
def lesions() -> list[tuple[str, str]]:
    """1,300 lesion ids and classes, as many as Dermofit has; one id has a lower-case letter, as there."""
    drawn = draw_lesions(PUBLISHED_COUNTS, seed=0)
    at = next(i for i, (identifier, _) in enumerate(drawn) if identifier[0] == "P" and identifier[-1].isdigit())
    drawn[at] = (drawn[at][0].lower(), drawn[at][1])
    return drawn


@pytest.fixture(scope="session")
def pictures(lesions: list[tuple[str, str]]) -> dict[str, bytes]:
    return {identifier: picture(number) for number, (identifier, _) in enumerate(lesions)}


@pytest.fixture
def small_dermofit(tmp_path: Path) -> SimpleNamespace:
    """A sound library of 6 images a class; ``files`` and ``lines`` may be spoiled before ``write`` puts it on disk."""
    files: dict[str, bytes] = {}
    lines = []
    for number, code in enumerate(code for code in PUBLISHED_COUNTS for _ in range(6)):
        identifier = f"B{number + 1}"
        files[f"{code.lower()}/{identifier}/{identifier}.png"] = picture(number)
        files[f"{code.lower()}/{identifier}/{identifier}mask.png"] = mask()
        lines.append(f"{number + 1:>6}   {identifier}   {code}")

    def write() -> Path:
        lesion_list = "".join(f"{line}\n" for line in [*lines, ""]).encode()
        return write_tree(tmp_path / "dermofit", files | {"lesionlist.txt": lesion_list})

    return SimpleNamespace(files=files, lines=lines, write=write)


@pytest.fixture
def ham_source(tmp_path: Path) -> Path:
    files, lines = ham_tables()
    return write_tree(tmp_path / "ham", files | {"HAM10000_metadata.csv": "\n".join(lines).encode()})


def idx(array: np.ndarray, compress: bool = True) -> bytes:
    """The array of bytes in MNIST's file format."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    content = header + array.astype(np.uint8).tobytes()
    return gzip.compress(content, mtime=0) if compress else content


def mnist_files(training: list[int], test: list[int], compress: bool = True) -> dict[str, bytes]:
    """MNIST's four files with these labels; image k of a part is gray value k, brighter by 100 in the test set."""
    ending = ".gz" if compress else ""
    files = {}
    for prefix, labels, gray in (("train", training, 0), ("t10k", test, 100)):
        images = np.arange(len(labels))[:, None, None] % 100 + gray + np.zeros((1, 28, 28))
        files[f"{prefix}-images-idx3-ubyte{ending}"] = idx(images, compress)
        files[f"{prefix}-labels-idx1-ubyte{ending}"] = idx(np.array(labels), compress)
    return files


@pytest.fixture
def mnist_source(tmp_path: Path) -> Path:
    """Twenty training and three test images of each digit, as torchvision lays them."""
    files = mnist_files([k % 10 for k in range(200)], [k % 10 for k in range(30)])
    return write_tree(tmp_path / "digits", {f"MNIST/raw/{name}": content for name, content in files.items()})


@pytest.fixture
def folder_source(tmp_path: Path) -> Path:
    names = [f"{label}/{patient}_{view}.jpg" for label in ("nevus", "wart") for patient in range(4) for view in "ab"]
    return write_tree(tmp_path / "My Clinic", {name: picture(999 * i, "jpg") for i, name in enumerate(names)})
