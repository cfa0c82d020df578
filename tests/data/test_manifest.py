import csv
import dataclasses
import hashlib
import re
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dermaffinity.data.manifest import COLUMNS, Manifest, read_manifest, write_manifest
from dermaffinity.errors import DataError, ManifestError


def make_manifest(**changes) -> Manifest:
    """Two classes, three folds, each with an image of either class, and two external images; one label is NA."""
    rows = pd.DataFrame(
        {
            "image": [f"part.zip/{number}.png" for number in range(8)],
            "mask": [None, "masks/1.png", *[None] * 6],
            "label": ["NA", "MEL"] * 4,
            "group": [f"g{number}" for number in range(8)],
            "sha256": [hashlib.sha256(bytes([number])).hexdigest() for number in range(8)],
            "width": 200,
            "height": 150,
            "fold": pd.array([0, 0, 1, 1, 2, 2, None, None], dtype="Int64"),
            "age": [80.0, None, 35.5, 40.0, 40.0, 40.0, 40.0, 40.0],
            "visits": pd.array([1, None, 3, 4, 5, 6, 7, 8], dtype="Int64"),
            "site": ["back", "None", "nan", 'a "quoted", cell', "line\nbreak", None, "# x", "ärm"],
            "code": ["007", "008", "1", "2", "3", "4", "5", "6"],
        }
    )
    values = {
        "name": "toy",
        "adapter": "image_folder",
        "experiment": "2-class",
        "protocol": "group",
        "seed": 3,
        "folds": 3,
        "classes": ("NA", "MEL"),
        "malignant": ("MEL",),
        "source": "Doe, A.: Lesions, 2018, https://example.org/x: all",
        "license": "CC BY-NC 4.0",
        "rows": rows,
    }
    return Manifest(**{**values, **changes})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "manifests" / "toy.csv"


def edited(path: Path, old: str, new: str, count: int = 1) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))
    return path


def problems_of(path: Path) -> list[str]:
    with pytest.raises(ManifestError, match="make the manifest again with `dermaffinity prepare`") as refused:
        read_manifest(path)
    return list(refused.value.problems)


def test_a_manifest_comes_back_as_it_was_written(path):
    manifest = make_manifest()
    write_manifest(manifest, path)
    back = read_manifest(path)
    for field in dataclasses.fields(Manifest):
        if field.name not in ("rows", "path"):
            assert getattr(back, field.name) == getattr(manifest, field.name), field.name
    assert (back.path, back.split_hash) == (path, manifest.split_hash)
    pd.testing.assert_frame_equal(back.rows, manifest.rows, check_dtype=False)
    assert back.rows["fold"].dtype == "Int64"
    assert list(back.rows.columns[: len(COLUMNS)]) == list(COLUMNS)
    assert back.rows["label"].tolist()[:2] == ["NA", "MEL"]
    assert back.rows["code"].tolist()[:2] == ["007", "008"]


def test_writing_what_was_read_gives_the_same_bytes(path):
    write_manifest(make_manifest(), path)
    first = path.read_bytes()
    write_manifest(read_manifest(path), path)
    assert path.read_bytes() == first


def test_the_header_is_as_documented(path):
    write_manifest(make_manifest(), path)
    lines = path.read_text().splitlines()
    keys = [line.removeprefix("# ").partition(":")[0] for line in lines if line.startswith("# ") and ": " in line]
    assert keys[:11] == (
        [
            "name",
            "adapter",
            "experiment",
            "protocol",
            "seed",
            "folds",
            "classes",
            "malignant",
            "source",
            "license",
            "split_hash",
        ]
    )
    assert lines[6] == "# classes: NA,MEL"
    assert lines[11].startswith("image,mask,label,group,sha256,width,height,fold,age")


def test_class_names_may_hold_commas_and_a_value_may_not_end_the_header(path):
    manifest = make_manifest(source="one line\nanother: line")
    rows = manifest.rows.replace({"label": {"NA": "nevus, common"}})
    write_manifest(dataclasses.replace(manifest, rows=rows, classes=("nevus, common", "MEL")), path)
    back = read_manifest(path)
    assert back.classes == ("nevus, common", "MEL")
    assert back.source == "one line another: line"


@pytest.mark.parametrize("last", ["z;", "z|", "z,"])
def test_a_class_may_end_in_a_mark_that_spreadsheets_fill_up_with(path, last):
    manifest = make_manifest()
    rows = manifest.rows.replace({"label": {"MEL": last}})
    write_manifest(dataclasses.replace(manifest, rows=rows, classes=("NA", last), malignant=()), path)
    assert read_manifest(path).classes == ("NA", last)


def test_development_external_and_counts():
    manifest = make_manifest()
    assert manifest.development().index.tolist() == [0, 1, 2, 3, 4, 5]
    assert manifest.external().index.tolist() == [6, 7]
    assert manifest.class_counts() == {"NA": 3, "MEL": 3}


def test_the_root_lies_beside_the_manifest_and_not_in_it(path, tmp_path):
    write_manifest(make_manifest(root=tmp_path), path)
    assert str(tmp_path) not in path.read_text()
    assert (path.parent / "toy.root").read_text() == f"{tmp_path}\n"
    assert read_manifest(path).root == tmp_path
    assert read_manifest(path, root=tmp_path / "other").root == tmp_path / "other"
    write_manifest(make_manifest(), path)
    assert read_manifest(path).root is None


def test_the_split_hash_sees_splits_and_classes_but_neither_row_order_nor_other_columns():
    manifest = make_manifest()
    rows = manifest.rows
    same = [rows.iloc[::-1].reset_index(drop=True), rows.assign(age=1.0, mask="m.png", width=9, sha256="a" * 64)]
    same.append(rows.assign(image="elsewhere/" + rows["image"].str.replace(".png", ".JPG")))
    assert {dataclasses.replace(manifest, rows=changed).split_hash for changed in same} == {manifest.split_hash}
    other = [rows.assign(**{key: rows[key].iloc[::-1].to_numpy()}) for key in ("image", "label", "group", "fold")]
    hashes = {dataclasses.replace(manifest, rows=changed).split_hash for changed in other}
    hashes.add(dataclasses.replace(manifest, classes=("MEL", "NA")).split_hash)
    assert len(hashes) == 5
    assert manifest.split_hash not in hashes


def test_a_manifest_edited_after_its_split_is_refused(path):
    write_manifest(make_manifest(), path)
    assert any("the split hash differs" in problem for problem in problems_of(edited(path, "NA,g0", "MEL,g0")))


def test_windows_line_ends_and_a_byte_order_mark_do_no_harm(path):
    manifest = make_manifest()
    manifest = dataclasses.replace(manifest, rows=manifest.rows.drop(columns="site"))
    write_manifest(manifest, path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    back = read_manifest(path)
    assert back.split_hash == manifest.split_hash
    assert back.rows.columns[-1] == "code"


def test_all_problems_are_reported_at_once(path):
    write_manifest(make_manifest(), path)
    for old, new in (
        ("# license: CC BY-NC 4.0\n", ""),
        ("# malignant: MEL", "# malignant: SCC"),
        ("# protocol: group", "# protocol: patient"),
        ("# seed: 3", "# seed: three"),
        ("NA,g2", "nevus,g2"),
        (",200,150,2,", ",200,150,7,"),
        (",200,150,2,", ",wide,150,two,"),
        ("part.zip/1.png", "part.zip/0.png"),
        ("masks/1.png", "../1.png"),
        ("part.zip/6.png", "/elsewhere/6.png"),
        ("\npart.zip/3.png,", "\npart.zip/3.png,spare,"),
    ):
        edited(path, old, new)
    text = "\n".join(problems_of(path))
    for expected in (
        "the header has no line '# license: …'",
        "malignant 'SCC' is no class",
        "the protocol must be group or image or presplit, found 'patient'",
        "the header's seed is no whole number: 'three'",
        "label 'nevus' is none of NA, MEL: part.zip/2.png",
        "fold outside 0 to 2: part.zip/4.png",
        "width that is no number of pixels: 'wide' of part.zip/5.png",
        "fold that is neither a fold number nor empty: 'two' of part.zip/5.png",
        "listed more than once: part.zip/0.png",
        "mask path that is not relative, with '/' and without '..': part.zip/0.png",
        "image path that is not relative, with '/' and without '..': /elsewhere/6.png",
        "rows that do not have 12 cells: part.zip/3.png",
        "fold 1 has no NA",
        "fold 2 has no MEL",
        "the split hash differs",
    ):
        assert expected in text


def test_missing_columns_and_keys_are_named_together(path):
    write_manifest(make_manifest(), path)
    edited(edited(edited(path, "label,group", "diagnosis,patient"), "# folds: 3\n", ""), "# classes: NA,MEL\n", "")
    assert problems_of(path) == [
        "the header has no line '# folds: …'",
        "the header has no line '# classes: …'",
        "there is no column 'label'",
        "there is no column 'group'",
    ]


def test_a_group_in_two_folds_is_refused_under_the_group_protocol_only(path):
    rows = make_manifest().rows
    rows["group"] = ["x", "b", "x", "c", "d", "y", "y", "e"]
    with pytest.raises(ManifestError, match="groups in more than one fold, or in a fold and external: x, y"):
        write_manifest(make_manifest(rows=rows), path)
    assert not path.exists()
    write_manifest(make_manifest(rows=rows, protocol="image"), path)
    assert read_manifest(path).protocol == "image"


def presplit(fold_of: list[int | None], **changes) -> Manifest:
    rows = make_manifest().rows.assign(fold=pd.array(fold_of, dtype="Int64"))
    return make_manifest(**{"rows": rows, "protocol": "presplit", "folds": 1, **changes})


def test_a_dataset_with_a_test_set_of_its_own_comes_back_as_it_was_written(path):
    manifest = presplit([-1, -1, -1, 0, 0, -1, None, None])
    write_manifest(manifest, path)
    back = read_manifest(path)
    assert back.split_hash == manifest.split_hash
    assert back.rows["fold"].tolist()[:6] == [-1, -1, -1, 0, 0, -1]
    assert back.trained_on()["group"].tolist() == ["g0", "g1", "g2", "g5"]
    assert back.class_counts() == {"NA": 2, "MEL": 2}
    assert back.external()["group"].tolist() == ["g6", "g7"]


def test_class_counts_and_digest_are_of_the_images_that_are_trained_on():
    manifest = make_manifest()
    assert manifest.trained_on().equals(manifest.development())
    one, other = presplit([-1, -1, 0, 0, 0, 0, None, None]), presplit([-1, -1, 0, 0, 0, None, None, None])
    assert one.class_counts() == other.class_counts() == {"NA": 1, "MEL": 1}
    assert one.images_digest == other.images_digest
    assert one.split_hash != other.split_hash


@pytest.mark.parametrize(
    ("manifest", "problem"),
    [
        (presplit([-1, -1, 0, 0, 0, 0, None, None], folds=2), "there is 1 fold, the test set, found 2"),
        (presplit([-1, -1, 0, None, 0, None, None, None]), "the test set has no MEL"),
        (presplit([None, -1, 0, 0, 0, 0, None, None]), "the training part has no NA"),
        (presplit([-1, -1, 0, 0, 1, -2, None, None]), "fold outside -1 to 0: part.zip/4.png, part.zip/5.png"),
        (presplit([-1, 0, 0, 1, 1, 0, None, None], protocol="image", folds=2), "fold outside 0 to 1: part.zip/0.png"),
    ],
)
def test_a_split_of_a_datasets_own_that_cannot_be_is_refused(path, manifest, problem):
    with pytest.raises(ManifestError) as refused:
        write_manifest(manifest, path)
    assert any(problem in found for found in refused.value.problems)


def test_fewer_than_two_classes_are_refused(path):
    rows = make_manifest().rows.assign(label="MEL")
    with pytest.raises(ManifestError, match="there must be at least 2 classes, found 1"):
        write_manifest(make_manifest(rows=rows, classes=("MEL",)), path)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\x00", b"# name: x\n", b'# name: x\nimage,mask\n"open'])
def test_a_file_that_is_no_manifest_is_refused(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=r"toy\.csv"):
        read_manifest(path)


def test_a_missing_manifest_says_what_to_do(path):
    with pytest.raises(ManifestError, match="no such manifest; make one with `dermaffinity prepare`"):
        read_manifest(path)


def test_a_failed_write_leaves_the_old_manifest_and_no_rubbish(path, monkeypatch):
    write_manifest(make_manifest(), path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match="the disk is full"):
        write_manifest(make_manifest(seed=4), path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["toy.csv"]


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    extra=st.lists(
        cells | st.integers(-9, 10**6).map(str) | st.floats(allow_nan=False).map(str), min_size=8, max_size=8
    )
)
def test_any_text_of_an_adapter_survives(path, extra):
    write_manifest(make_manifest(rows=make_manifest().rows.assign(extra=extra)), path)
    first = path.read_bytes()
    back = read_manifest(path)
    assert ["" if pd.isna(value) else str(value) for value in back.rows["extra"]] == [
        re.sub("\r\n?", "\n", text) for text in extra
    ]
    write_manifest(back, path)
    assert path.read_bytes() == first


def with_groups(*groups: str) -> Manifest:
    """The toy manifest under the image protocol, its first images of these groups."""
    manifest = make_manifest(protocol="image")
    names = [*groups, *manifest.rows["group"][len(groups) :]]
    return dataclasses.replace(manifest, rows=manifest.rows.assign(group=names))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_a_manifest_that_a_spreadsheet_wrote_anew_is_the_same(path, delimiter, encoding):
    manifest = make_manifest(classes=("NA", "MEL, thin"), malignant=("MEL, thin",))
    manifest = dataclasses.replace(manifest, rows=manifest.rows.replace({"label": {"MEL": "MEL, thin"}}))
    write_manifest(manifest, path)
    lines = list(csv.reader(path.read_text().splitlines(keepends=True), delimiter="," if delimiter == "," else "\0"))
    if delimiter != ",":  # it took every line of the header for one cell, and the table apart
        comments = [line for line in lines if line[0].startswith("#")]
        lines = comments + list(csv.reader(path.read_text().splitlines(keepends=True)[len(comments) :]))
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([*line, *[""] * (12 - len(line))] for line in lines)
    assert read_manifest(path).split_hash == manifest.split_hash
    assert read_manifest(path).classes == ("NA", "MEL, thin")


def test_groups_that_look_alike_are_refused_unless_the_manifest_says_they_differ(path):
    alike = with_groups("P1", "p1")
    with pytest.raises(ManifestError, match=r"group names that differ only in .*: 'P1' and 'p1'"):
        write_manifest(alike, path)
    write_manifest(dataclasses.replace(alike, exact_ids=True), path)
    assert "\n# exact_ids: yes\n" in path.read_text()
    assert read_manifest(path).exact_ids
    (problem,) = problems_of(edited(path, "# exact_ids: yes\n", ""))
    assert problem.startswith("group names that differ only in case, blanks")


def test_a_manifest_of_patients_told_apart_by_blanks_is_refused(path):
    """As they were written before identifiers were cleaned."""
    write_manifest(make_manifest(), path)
    edited(path, ",g2,", ",g0 ,")
    problems = problems_of(path)
    assert "groups in more than one fold, or in a fold and external: g0" in problems
    with pytest.raises(
        ManifestError, match=r"group with blanks around it or not in Unicode's form NFC: part.zip/1.png"
    ):
        write_manifest(with_groups("g9", "x "), path)
