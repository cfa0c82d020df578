from collections import Counter
from pathlib import Path

import pytest

from dermaffinity.data.adapters.base import Record
from dermaffinity.data.adapters.ham10000 import DRAWS, Ham10000Adapter, draw_groups
from dermaffinity.errors import DataError, ManifestError

HAM10000 = Path(__file__).resolve().parents[3] / ".." / "shared" / "data" / "ham10000"
needs_ham10000 = pytest.mark.skipif(not HAM10000.is_dir(), reason="HAM10000 is not beside this checkout")


def write(fake, folder, files, lines, metadata="HAM10000_metadata.csv"):
    return fake.write_tree(folder, files | {metadata: "\n".join(lines).encode()})


def test_official_archives_give_images_masks_lesions_and_the_patients_data(ham_source):
    manifest = Ham10000Adapter(ham_source).prepare(folds=2)
    rows = manifest.rows
    assert manifest.class_counts() == dict.fromkeys(Ham10000Adapter.classes, 6)
    assert rows["group"].nunique() == 7 * 4
    assert rows.groupby("group")["fold"].nunique().max() == 1
    first = rows[rows["image"].str.endswith("ISIC_0024306.jpg")].iloc[0]
    assert first["image"] == "HAM10000_images_part_1.zip/ISIC_0024306.jpg"
    folder = "HAM10000_segmentations_lesion_tschandl"
    assert first["mask"] == f"{folder}.zip/{folder}/ISIC_0024306_segmentation.png"
    assert (first["label"], first["group"], first["age"], first["sex"], first["site"]) == (
        ("akiec", "HAM_00000", 45.0, "female", "trunk")
    )
    assert rows["age"].isna().sum() == sum(number % 5 == 0 for number in range(24306, 24306 + 42))


@pytest.mark.parametrize(
    ("metadata", "separator"),
    [("HAM10000_metadata", ","), ("HAM10000_metadata.tab", "\t"), ("deep/er/ham10000_METADATA.csv", ",")],
)
def test_unpacked_folders_and_every_name_of_the_metadata_are_found(fake, tmp_path, metadata, separator):
    files, lines = fake.ham_tables()
    files = {"nested/" + name.replace(".zip/", "/"): content for name, content in files.items()}
    # Lies in the same deposit and has no lesion ids.
    files["ISIC2018_Task3_Test_Images.zip/ISIC2018_Task3_Test_Images/ISIC_0034524.jpg"] = fake.picture(1)
    lines = [line.replace(",", separator) for line in lines]
    records = list(Ham10000Adapter(write(fake, tmp_path / "ham", files, lines, metadata)).records())
    assert len(records) == 42
    assert all(record.mask for record in records)


def test_every_contradiction_is_reported_at_once(fake, tmp_path):
    files, lines = fake.ham_tables()
    del files["HAM10000_images_part_1.zip/ISIC_0024306.jpg"]
    files["HAM10000_images_part_1.zip/ISIC_0099999.jpg"] = fake.picture(1)
    lines[2] = lines[2].replace("akiec", "wart")
    lines[8], lines[9] = (line.replace("bcc", "BCC") for line in lines[8:10])
    lines[4] = lines[4].replace("HAM_00002", "")
    lines[6] = lines[6].replace("akiec", "bcc")
    lines.append(lines[10])
    with pytest.raises(DataError) as caught:
        list(Ham10000Adapter(write(fake, tmp_path / "ham", files, lines)).records())
    assert caught.value.problems == (
        "2 metadata lines with the unknown dx 'BCC' (did you mean 'bcc'?): ISIC_0024313, ISIC_0024314",
        "1 metadata line with the unknown dx 'wart' (known are akiec, bcc, bkl, df, mel, nv, vasc): ISIC_0024307",
        "1 metadata line without lesion_id: ISIC_0024309",
        "1 image listed twice in the metadata: ISIC_0024315",
        "2 lesions with several diagnoses: HAM_00001, HAM_00003",
        "1 metadata line without image: ISIC_0024306",
        "1 image without metadata line: ISIC_0099999",
        "1 mask without image: ISIC_0024306",
        "1 image without mask: ISIC_0099999",
    )


def test_images_found_twice_are_told_by_place_and_ages_by_line(fake, tmp_path):
    files, lines = fake.ham_tables()
    # As a well-known re-upload has them.
    files |= {f"copy/{name.split('/')[1]}": content for name, content in files.items() if "part_1" in name}
    lines[3] = lines[3].replace("45.0", "old")
    with pytest.raises(DataError) as caught:
        list(Ham10000Adapter(write(fake, tmp_path / "ham", files, lines)).records())
    doubles, age = caught.value.problems
    assert doubles.startswith("21 images found both in HAM10000_images_part_1.zip and in copy, keep one copy: ISIC_00")
    assert doubles.endswith(" and 13 more")
    assert age == "1 age in HAM10000_metadata.csv that is no number: 'old' (line 4)"


def test_a_library_without_metadata_or_with_two_is_refused(fake, tmp_path):
    files, lines = fake.ham_tables()
    with pytest.raises(DataError, match=r"no HAM10000_metadata in .*DBW86T"):
        list(Ham10000Adapter(fake.write_tree(tmp_path / "none", files)).records())
    two = write(fake, tmp_path / "two", files | {"old/HAM10000_metadata": b""}, lines)
    with pytest.raises(DataError, match=r"2 metadata files \(HAM10000_metadata.csv, old/HAM10000_metadata\)"):
        list(Ham10000Adapter(two).records())
    with pytest.raises(
        DataError, match=r"columns found are 'lesion_id', 'image_id', 'diagnosis', .*\n  - no column 'dx'"
    ):
        list(
            Ham10000Adapter(write(fake, tmp_path / "no_dx", files, [lines[0].replace(",dx,", ",diagnosis,")])).records()
        )


def lesion_records(sizes):
    return [
        Record(f"{label}{lesion}-{image}", None, label, f"{label}{lesion}")
        for label, lesions in sizes.items()
        for lesion, size in enumerate(lesions)
        for image in range(size)
    ]


def test_a_draw_hits_every_count_with_whole_lesions_and_depends_on_the_seed():
    records = lesion_records({"a": [1, 2, 3] * 20, "b": [2, 1] * 9})
    drawn = draw_groups(records, {"a": 37, "b": 11}, seed=4)
    assert Counter(record.label for record in records if record.group in drawn) == {"a": 37, "b": 11}
    assert drawn == draw_groups(records[::-1], {"a": 37, "b": 11}, seed=4)
    assert drawn != draw_groups(records, {"a": 37, "b": 11}, seed=5)


def test_one_class_does_not_move_the_draw_of_another():
    of_a = [
        {
            group
            for group in draw_groups(lesion_records({"a": [1, 2, 3] * 9, "b": b}), {"a": 9, "b": 2}, 0)
            if group[0] == "a"
        }
        for b in ([1] * 5, [1] * 50)
    ]
    assert of_a[0] == of_a[1]


def test_counts_that_whole_lesions_cannot_hit_are_refused():
    with pytest.raises(ManifestError, match="a: 1 of 3 images could not be drawn as whole groups"):
        draw_groups(lesion_records({"a": [2, 2]}), {"a": 3}, seed=0)


def test_an_unknown_experiment_is_an_error_in_the_call(ham_source):
    with pytest.raises(ValueError, match="all, hamfit-7, hamfit-5, got 'hamfit'"):
        Ham10000Adapter(ham_source, experiment="hamfit")


@needs_ham10000
def test_the_real_library_has_10015_images_of_7470_lesions_all_with_masks():
    records = list(Ham10000Adapter(HAM10000).records())
    assert len(records) == 10015
    assert len({record.group for record in records}) == 7470
    assert all(record.mask for record in records)


@needs_ham10000
@pytest.mark.parametrize(("experiment", "total", "external"), [("hamfit-7", 1212, 8803), ("hamfit-5", 960, 8798)])
def test_the_real_draws_leave_the_rest_external(experiment, total, external):
    adapter = Ham10000Adapter(HAM10000, experiment=experiment)
    records = adapter.select(list(adapter.records()), seed=0)
    development = [record for record in records if not record.external]
    assert Counter(record.label for record in development) == DRAWS[experiment]
    assert (len(development), len(records) - len(development)) == (total, external)
    assert not {r.group for r in development} & {r.group for r in records if r.external}
    assert {record.label for record in records} == set(DRAWS[experiment])


@pytest.mark.parametrize(("delimiter", "encoding"), [(";", "utf-16"), (",", "utf-8-sig"), ("\t", "cp1252")])
def test_a_lesion_is_one_whatever_blanks_stand_around_its_id(fake, tmp_path, delimiter, encoding):
    files, lines = fake.ham_tables()
    lines = [line.replace("HAM_00001", f"HAM_00001{' ' * (i % 2)}").replace(".0", ",0") for i, line in enumerate(lines)]
    text = "\n".join(delimiter.join(cell for cell in line.replace(",0,", "·0,").split(",")) for line in lines)
    source = fake.write_tree(
        tmp_path / "ham", files | {"HAM10000_metadata.csv": text.replace("·", ".").encode(encoding)}
    )
    adapter = Ham10000Adapter(source)
    records = list(adapter.records())
    assert len({record.group for record in records}) == 7 * 4
    assert {record.extra["age"] for record in records} == {45.0, None}
    assert adapter.notes[0].startswith("HAM10000_metadata.csv: read as 42 lines, ")


def test_lesions_that_look_alike_are_refused(fake, tmp_path):
    files, lines = fake.ham_tables()
    lines[3] = lines[3].replace("HAM_00001", "ham_00001")
    with pytest.raises(ManifestError, match=r"group names that differ only in case.*: 'HAM_00001' and 'ham_00001'"):
        Ham10000Adapter(write(fake, tmp_path / "ham", files, lines)).prepare(folds=2)
