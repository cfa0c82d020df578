import dataclasses
import hashlib
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dermaffinity.data.manifest import COLUMNS, Manifest
from dermaffinity.data.verify import Verification, verify
from dermaffinity.errors import ConfigError, DataError

NUMBER = 12  # images, of which the last two are external


def picture(number: int) -> Image.Image:
    """60 x 40 pixels of smooth colors that no other number has."""
    coarse = np.random.default_rng(number).integers(0, 255, (8, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((60, 40), Image.Resampling.BICUBIC)


def save(root: Path, name: str, image: Image.Image, **options) -> None:
    image.save(root / name, **options)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    mask = Image.new("L", (60, 40), 0)
    mask.paste(255, (20, 10, 40, 30))
    for number in range(NUMBER):
        save(tmp_path, f"{number}.png", picture(number))
        save(tmp_path, f"{number}mask.png", mask)
    return tmp_path


def manifest_of(root: Path) -> Manifest:
    """The manifest of the library as it is now: classes in turn, two images of a class in each of three folds."""
    rows = [
        (
            f"{number}.png",
            f"{number}mask.png",
            "AB"[number % 2],
            f"g{number}",
            hashlib.sha256((root / f"{number}.png").read_bytes()).hexdigest(),
            60,
            40,
            number // 2 % 3 if number < 10 else None,
        )
        for number in range(NUMBER)
    ]
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"fold": "Int64"})
    return Manifest("toy", "image_folder", "", "group", 0, 3, ("A", "B"), ("B",), "here", "none", table, root)


def found(verification: Verification) -> list[tuple[str, str]]:
    return list(verification.findings[["severity", "image"]].itertuples(index=False, name=None))


def problem(verification: Verification, image: str) -> str:
    problems = verification.findings.loc[verification.findings["image"] == image, "problem"]
    assert len(problems) == 1
    return problems.item()


def test_a_sound_library_gives_no_findings_and_calls_back_for_each_image(root):
    calls = []
    verification = verify(manifest_of(root), on_progress=lambda done, total: calls.append((done, total)))
    assert found(verification) == []
    assert list(verification.findings.columns) == ["severity", "image", "problem"]
    assert verification.ok()
    assert calls == [(number, NUMBER) for number in range(1, NUMBER + 1)]


def test_every_bad_file_is_in_one_table(root):
    manifest = manifest_of(root)
    (root / "0.png").unlink()
    (root / "1.png").write_bytes(b"")
    (root / "2.png").write_bytes((root / "2.png").read_bytes()[:-200])
    save(root, "3.png", picture(99))
    (root / "4mask.png").unlink()
    save(root, "5mask.png", Image.new("L", (40, 60), 255))
    save(root, "6mask.png", Image.new("L", (60, 40), 0))
    save(root, "7mask.png", Image.new("1", (60, 40), 1))
    manifest.rows.loc[8, "width"] = 61
    verification = verify(manifest)
    table = verification.findings.groupby("image")["problem"].agg(" | ".join)
    for image, expected in {
        "0.png": "no such file",
        "1.png": "sha256 differs | the file is empty",
        "2.png": "sha256 differs | damaged or truncated",
        "3.png": "is not the file the manifest was made from",
        "4.png": "its mask cannot be used: 4mask.png: no such file",
        "5.png": "has another aspect ratio: 40 x 60 pixels, the image 60 x 40 | its mask 5mask.png covers the whole",
        "6.png": "its mask 6mask.png covers nothing",
        "7.png": "its mask 7mask.png covers the whole image",
        "8.png": "is 60 x 40 pixels, but 61 x 40 in the manifest",
    }.items():
        assert expected in table[image], image
    assert len(table) == 9
    warned = verification.findings.loc[verification.findings["severity"] == "warning", "image"]
    assert warned.tolist() == ["5.png", "6.png", "7.png"]
    assert not verification.ok()


def test_unusual_modes_and_larger_masks_of_the_same_shape_are_sound(root):
    save(root, "0.png", picture(0).convert("RGBA"))
    save(root, "1.png", picture(1).convert("P"))
    save(root, "2.png", Image.fromarray(np.asarray(picture(2).convert("L")).astype(np.uint16) * 257))
    for number, size in enumerate([(180, 120), (91, 61), (30, 20)]):
        with Image.open(root / "3mask.png") as mask:
            save(root, f"{number}mask.png", mask.resize(size, Image.Resampling.NEAREST))
    assert found(verify(manifest_of(root))) == []


def test_masks_are_optional(root):
    manifest = manifest_of(root)
    manifest.rows["mask"] = manifest.rows["mask"].where(manifest.rows.index != 0)
    (root / "0mask.png").unlink()
    assert verify(manifest).ok()


@pytest.mark.parametrize(
    ("copy", "changes", "severity"),
    [
        (1, {"group": "g0", "fold": 0}, "error"),  # another label
        (2, {"group": "g0"}, "error"),  # another fold
        (6, {}, "error"),  # another group
        (10, {"group": "g0"}, "error"),  # external
        (6, {"group": "g0"}, "warning"),
    ],
)
def test_a_copy_is_an_error_where_it_spoils_a_run(root, copy, changes, severity):
    (root / f"{copy}.png").write_bytes((root / "0.png").read_bytes())
    manifest = manifest_of(root)
    for key, value in changes.items():
        manifest.rows.loc[copy, key] = value
    verification = verify(manifest)
    assert found(verification) == [(severity, f"{copy}.png")]
    assert "is the same file as 0.png (A, group g0, fold 0); this one is" in problem(verification, f"{copy}.png")
    assert verification.ok() == (severity == "warning")


@pytest.mark.parametrize(
    ("twin", "changes", "warned"),
    [
        (1, {"group": "g0", "fold": 0}, True),  # another label
        (2, {}, True),  # another group and another fold
        (10, {}, True),  # external
        (6, {}, False),  # the same label and fold
        (2, {"group": "g0"}, False),  # a group mate: the leak tells of it
    ],
)
def test_a_near_copy_is_a_warning_where_it_could_spoil_a_run(root, twin, changes, warned):
    buffer = io.BytesIO()
    picture(0).resize((120, 80), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=50)
    save(root, f"{twin}.png", Image.open(buffer).resize((60, 40), Image.Resampling.BICUBIC))
    manifest = manifest_of(root)
    for key, value in changes.items():
        manifest.rows.loc[twin, key] = value
    verification = verify(manifest)
    assert found(verification) == ([("warning", "0.png")] if warned else [])
    if warned:
        assert f"looks nearly the same as {twin}.png (" in problem(verification, "0.png")
        assert "this one is A, group g0, fold 0" in problem(verification, "0.png")


def test_of_several_near_copies_the_nearest_is_named(root):
    save(root, "3.png", picture(0).point(lambda value: min(255, int(value * 1.08))))
    save(root, "5.png", picture(0).point(lambda value: min(255, value + 1)))
    verification = verify(manifest_of(root))
    assert found(verification) == [("warning", "0.png"), ("warning", "3.png")]
    assert "looks nearly the same as 5.png" in problem(verification, "0.png")


def test_an_image_listed_twice_is_an_error(root):
    manifest = manifest_of(root)
    rows = pd.concat([manifest.rows, manifest.rows.iloc[[0]]], ignore_index=True)
    verification = verify(dataclasses.replace(manifest, rows=rows))
    assert ("error", "0.png") in found(verification)
    assert "is listed more than once" in verification.findings["problem"].tolist()


def test_the_statement_counts_groups_and_leaks_under_both_protocols(root):
    manifest = manifest_of(root)
    manifest.rows["group"] = ["p", "p", "q", "q", "r", "r", "p", "s", "t", "u", "v", "w"]
    verification = verify(manifest)
    assert list(verification.leak) == ["group", "image"]
    assert verification.leak["group"].share == 0
    statement = verification.statement()
    # p holds images 0, 1 and 6, so 7 of the 10 development images share a group; p, q and r hold both classes.
    assert "10 images of 6 groups (patients or lesions) in 2 classes, from 5 images (A) to 5 (B)." in statement
    assert "7 images (70.0 %) share their group with another image; 3 groups hold more than one class." in statement
    assert "2 further images are set aside as an external test." in statement
    assert "Protocol 'group' (used here): no test image has another image of its group in training." in statement
    leak = verification.leak["image"]
    mates = sum(leak.group_mates.values())
    assert mates > 0
    expected = f"Protocol 'image' (not used here): {mates} of 10 test images ({10 * mates:.1f} %) have another image"
    assert expected in statement
    assert "better than those to expect on new patients" not in statement


def test_nothing_is_said_of_patients_where_none_is_known(root):
    manifest = manifest_of(root)
    manifest.rows["group"] = manifest.rows["image"]
    statement = verify(manifest).statement()
    assert statement.startswith(
        "10 images in 2 classes, from 5 images (A) to 5 (B).\nWhich images show the same patient"
    )
    assert "of 10 groups" not in statement
    assert "no test image has another image of its group" not in statement


def test_a_leaking_protocol_is_said_to_flatter(root):
    manifest = dataclasses.replace(manifest_of(root), protocol="image")
    manifest.rows["group"] = ["p", "x", "p", "y", *manifest.rows["group"][4:]]
    verification = verify(manifest)
    assert list(verification.leak) == ["image", "group"]
    statement = verification.statement()
    assert (
        "2 of 10 test images (20.0 %) have another image of their group in training, 2 (20.0 %) one of the same class"
        in statement
    )
    assert "(most: A 40.0 %)" in statement
    assert "better than those to expect on new patients" in statement


def test_a_protocol_that_is_impossible_is_left_out(root):
    manifest = dataclasses.replace(manifest_of(root), protocol="image")
    manifest.rows["group"] = manifest.rows["label"]
    assert list(verify(manifest).leak) == ["image"]


def test_a_manifest_without_root_or_with_an_absent_one_says_so(root):
    manifest = manifest_of(root)
    with pytest.raises(ConfigError, match="the folder of its images is not known here"):
        verify(dataclasses.replace(manifest, root=None))
    with pytest.raises(DataError, match="found nothing"):
        verify(dataclasses.replace(manifest, root=root / "absent"))


def test_a_datasets_own_split_is_judged_by_its_test_images_alone(root):
    manifest = manifest_of(root)
    fold = pd.array([0 if number < 4 else -1 for number in range(NUMBER)], dtype="Int64")
    rows = manifest.rows.assign(fold=fold, group=["g4", "g1", *manifest.rows["group"][2:]])
    presplit = dataclasses.replace(manifest, protocol="presplit", folds=1, rows=rows)
    verification = verify(presplit)
    assert list(verification.leak) == ["presplit"]
    assert verification.leak["presplit"].images == {"A": 2, "B": 2}
    assert verification.leak["presplit"].group_mates == {"A": 1, "B": 0}
    statement = verification.statement()
    assert f"{NUMBER - 4} of them are trained on; 4 are the dataset's test set." in statement
    assert "Protocol 'presplit' (used here): 1 of 4 test images (25.0 %) have another image of their group" in statement
