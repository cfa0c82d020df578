"""Tiny libraries in each dataset's real layout."""

import gzip
import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import h5py
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
        archive.parent.mkdir(parents=True, exist_ok=True)
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


def csv(columns: str, rows: Iterable[Sequence[object]]) -> bytes:
    return "\n".join([columns, *(",".join(map(str, row)) for row in rows)]).encode()


def dealt(classes: Sequence[str]) -> list[tuple[int, str, int]]:
    """Number, class and patient of eight images for each class, two of each patient."""
    return [(k, classes[k // 8], k // 2) for k in range(8 * len(classes))]


def fake_bcn20000() -> dict[str, bytes]:
    images = dealt(ISIC2019_CLASSES)
    columns = "bcn_filename,age_approx,anatom_site_general,diagnosis,lesion_id,capture_date,sex,split"
    rows = [
        (f"BCN_{k:010}.jpg", 50, "head/neck", c, f"BCN_{p:07}", "2015-01-01", "male", "train") for k, c, p in images
    ]
    test = [
        (f"BCN_{k:010}.jpg", 50, "head/neck", c, f"BCN_{k:07}", "2015-01-01", "male", "test")
        for k, c in ((997, "NV"), (998, "MEL"), (999, "OOD"))
    ]
    files = {f"BCN_20k_train/bcn_20k_train/{row[0]}": picture(k) for k, row in enumerate(rows)}
    files |= {f"BCN_20k_test/{row[0]}": picture(997 + k) for k, row in enumerate(test)}
    files["bcn_20k_test.csv"] = csv(columns, test)
    return files | {"bcn_20k_train.csv": csv(columns, rows)}


def fake_ddi() -> dict[str, bytes]:
    diseases = {"benign": "melanocytic-nevi", "malignant": "melanoma-in-situ"}
    rows = [(k, k, f"{k:06}.png", (12, 34, 56)[k % 3], c == "malignant", diseases[c]) for k, c, _ in dealt([*diseases])]
    columns = ",DDI_ID,DDI_file,skin_tone,malignant,disease"
    return {"ddi_metadata.csv": csv(columns, rows)} | {f"images/{row[2]}": picture(row[0]) for row in rows}


def fake_derm7pt() -> dict[str, bytes]:
    diagnoses = ("basal cell carcinoma", "clark nevus", "melanoma (in situ)", "lentigo", "seborrheic keratosis")
    columns = (
        "case_num,diagnosis,seven_point_score,level_of_diagnostic_difficulty,elevation,location,sex,management,clinic,"
        "derm,case_id,notes"
    )
    files, rows = {}, []
    for k, diagnosis, patient in dealt(diagnoses):
        folder = f"F{patient:02}"
        # The third and fourth pair of a diagnosis share a clinical photograph, and have no case_id.
        clinic = f"{folder}/F{k:03}.jpg" if k % 8 < 4 else f"F{patient // 2 * 2:02}/clinic.jpg"
        case = f"C{patient}" if k % 8 < 4 else ""
        rows.append(
            (k + 1, diagnosis, 1, "low", "flat", "back", "female", "none", clinic, f"{folder}/Fal{k:03}.jpg", case, "")
        )
        files[f"release_v0/images/{folder}/Fal{k:03}.{'JPG' if k % 2 else 'jpg'}"] = picture(k)
    parts = {"train": range(0, 20), "valid": range(20, 25), "test": range(25, 40)}
    tables = {f"release_v0/meta/{part}_indexes.csv": csv("indexes", [[k] for k in ks]) for part, ks in parts.items()}
    return files | tables | {"release_v0/meta/meta.csv": csv(columns, rows)}


def fake_fitzpatrick17k() -> dict[str, bytes]:
    labels = {"dermatofibroma": "benign dermal", "melanoma": "malignant melanoma", "psoriasis": "inflammatory"}
    three = {"dermatofibroma": "benign", "melanoma": "malignant", "psoriasis": "non-neoplastic"}
    columns = (
        "md5hash,fitzpatrick_scale,fitzpatrick_centaur,label,nine_partition_label,three_partition_label,qc,url,"
        "url_alphanum"
    )
    rows = [
        (f"{k:032x}", k % 7 or -1, -1, c, labels[c], three[c], "3 Wrongly labelled" if k == 5 else "", "", "")
        for k, c, _ in dealt([*labels])
    ]
    return {"fitzpatrick17k.csv": csv(columns, rows)} | {f"{row[0]}.jpg": picture(k) for k, row in enumerate(rows)}


def fake_isic() -> dict[str, bytes]:
    """Three diagnoses that stop at different levels, an image without any; patients of some images are not known."""
    levels = {
        "Nevus": ("Benign", "Benign melanocytic proliferations", "Nevus", '"Nevus, Spitz"'),
        "Melanoma in situ": ("Malignant", "Malignant melanocytic proliferations (Melanoma)", "Melanoma in situ", ""),
        "Hemorrhagic lesions": ("Benign", "Hemorrhagic lesions", "", ""),
    }
    columns = (
        "isic_id,attribution,copyright_license,age_approx,anatom_site_general,diagnosis_1,diagnosis_2,diagnosis_3,"
        "diagnosis_4,fitzpatrick_skin_type,image_type,lesion_id,mel_thick_mm,patient_id,sex"
    )
    rows: list[Sequence[object]] = []
    for k, c, patient in dealt([*levels]):
        known = ("HIBA", "CC-BY", 45, "upper extremity", *levels[c], "II", "dermoscopic")
        owner = patient // 2 if patient % 4 < 2 else 100 + patient
        named = f"IL_{patient:07}", 0.5, "" if k % 2 else f"IP_{owner:07}", "female"
        rows.append((f"ISIC_{k:07}", *known, *named))
    rows.append(("ISIC_0000999", "HIBA", "CC-BY", "", "", "", "", "", "", "", "clinical: close-up", "", "", "", ""))
    files = {f"{row[0]}.{'JPG' if k % 5 == 0 else 'jpg'}": picture(k) for k, row in enumerate(rows)}
    return files | {"metadata.csv": csv(columns, rows), "attribution.txt": b"HIBA", "licenses/CC-BY.txt": b""}


def fake_isic2019() -> dict[str, bytes]:
    files, truth, metadata = isic2019_tables()
    tables = {"GroundTruth": truth, "Metadata": metadata}
    return files | {f"ISIC_2019_Training_{name}.csv": "\n".join(lines).encode() for name, lines in tables.items()}


def fake_isic2020() -> dict[str, bytes]:
    columns = "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,benign_malignant,target"
    rows = [
        (f"ISIC_{k:07}", f"IP_{p:07}", "male", 45, "torso", ("unknown", "nevus")[k % 2], c, 0)
        if c == "benign"
        else (f"ISIC_{k:07}", f"IP_{p:07}", "male", 45, "torso", "melanoma", c, 1)
        for k, c, p in dealt(("benign", "malignant"))
    ]
    files = {f"train.zip/train/{row[0]}.jpg": picture(k) for k, row in enumerate(rows)}
    return files | {"ISIC_2020_Training_GroundTruth.csv": csv(columns, rows)}


MILK10K_CLASSES = ("AKIEC", "BCC", "BEN_OTH", "BKL", "DF", "INF", "MAL_OTH", "MEL", "NV", "SCCKA", "VASC")


def fake_milk10k() -> dict[str, bytes]:
    files, images, truth, full = {}, [], [], []
    for k, c, lesion in dealt(MILK10K_CLASSES):
        name, kind = f"ISIC_{k:07}", ("clinical: close-up", "dermoscopic")[k % 2]
        files[f"MILK10k_Training_Input.zip/MILK10k_Training_Input/IL_{lesion:07}/{name}.jpg"] = picture(k)
        images.append((f"IL_{lesion:07}", kind, name, "MILK", "CC-BY-NC", "", 60, "male", k % 6, "trunk", 0.5))
        if k % 2:
            truth.append((f"IL_{lesion:07}", *(f"{float(c == other)}" for other in MILK10K_CLASSES)))
        if c == "AKIEC" and lesion < 2:
            full.append((name, "Squamous cell carcinoma in situ", "histopathology", ""))
    columns = (
        "lesion_id,image_type,isic_id,attribution,copyright_license,image_manipulation,age_approx,sex,skin_tone_class"
    )
    return files | {
        "MILK10k_Training_Metadata.csv": csv(f"{columns},site,MONET_hair", images),
        "MILK10k_Training_GroundTruth.csv": csv(f"lesion_id,{','.join(MILK10K_CLASSES)}", truth),
        "MILK10k_Training_Supplement.csv": csv(
            "isic_id,diagnosis_full,diagnosis_confirm_type,invasion_thickness_interval", full
        ),
    }


def fake_pad_ufes_20() -> dict[str, bytes]:
    columns = "patient_id,lesion_id,smoke,drink,age,gender,fitspatrick,region,diameter_1,diagnostic,itch,img_id,biopsed"
    rows = []
    for k, c, p in dealt(("BCC", "ACK", "NEV", "SEK", "SCC", "MEL")):
        known = ("FEMALE", 2.0) if k % 3 else ("", "")
        rows.append((f"PAT_{p}", k, "", "", 55, *known, "FACE", "", c, "UNK", f"PAT_{p}_{k}_9.png", k % 2 == 0))
    files = {f"images/imgs_part_{k % 3 + 1}.zip/imgs_part_{k % 3 + 1}/{r[11]}": picture(k) for k, r in enumerate(rows)}
    return files | {"metadata.csv": csv(columns, rows)}


def fake_slice3d() -> dict[str, bytes]:
    columns = "isic_id,target,patient_id,age_approx,sex,anatom_site_general,lesion_id,iddx_full"
    rows = [
        (f"ISIC_{k:07}", int(c == "malignant"), f"IP_{p:07}", 60, "male", "head/neck", "IL_1" if k > 7 else "", c)
        for k, c, p in dealt(("benign", "malignant"))
    ]
    stored = io.BytesIO()
    with h5py.File(stored, "w") as file:
        for k, row in enumerate(rows):
            file[row[0]] = np.void(picture(k, "jpg"))
    return {"train-metadata.csv": csv(columns, rows), "train-image.hdf5": stored.getvalue()}


def published_files(name: str) -> dict[str, bytes]:
    """The tiny library of a published dataset, in the layout that it comes in."""
    files: dict[str, bytes] = globals()[f"fake_{'isic' if name == 'hiba' else name}"]()
    return files


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
        published_files=published_files,
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
