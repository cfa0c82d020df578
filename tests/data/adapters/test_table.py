import re

import pandas as pd
import pytest

from dermaffinity.cli import app
from dermaffinity.data.adapters.table import TableAdapter
from dermaffinity.data.manifest import read_manifest
from dermaffinity.errors import ConfigError, DataError, ManifestError
from dermaffinity.experiments.prepare import prepare

ISIC8 = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")


@pytest.fixture
def photos(fake, tmp_path):
    """Twelve images in folders and an archive, and a table of the patients they are of."""
    names = [f"{folder}/{number:02}.jpg" for number, folder in enumerate(["a", "b.zip/in", "c"] * 4)]
    fake.write_tree(tmp_path / "photos", {name: fake.picture(99 * i, "jpg") for i, name in enumerate(names)})
    lines = ["id;diagnosis;patient;Age"]
    lines += [f"{i:02};{('nevus', 'melanoma')[i % 2]};P{i // 2};{40 + i},5" for i in range(12)]
    return tmp_path / "photos", lines


def write(tmp_path, lines, name="labels.csv"):
    path = tmp_path / name
    path.write_text("\n".join(lines))
    return path


def problems_of(source, *tables, **options):
    with pytest.raises(DataError) as caught:
        TableAdapter(source, labels=tables, **options).prepare(folds=2)
    return caught.value.message, caught.value.problems


def test_an_isic_ground_truth_with_metadata_needs_no_word_more(fake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files, truth, metadata = fake.isic2019_tables()
    fake.write_tree(tmp_path / "isic", files)
    write(tmp_path, truth, "truth.csv")
    write(tmp_path, metadata, "metadata.csv")
    command = ["prepare", "table", "isic", "--labels", "truth.csv", "--labels", "metadata.csv"]
    done = fake.run(app, command)
    assert done.output.splitlines()[:8] == [
        "truth.csv: read as 48 lines, comma-separated, UTF-8",
        "metadata.csv: read as 48 lines, comma-separated, UTF-8",
        "image: column 'image'",
        "metadata.csv: joined on the image",
        f"label: columns {', '.join(map(repr, ISIC8))}",
        "group: column 'lesion_id'",
        "malignant: BCC, MEL, SCC, by their names",
        "kept in the manifest: age, site, sex",
    ]
    manifest = read_manifest(tmp_path / "data_manifests/isic.csv")
    assert manifest.class_counts() == dict.fromkeys(sorted(ISIC8[:-1]), 6)
    downsampled = manifest.rows[manifest.rows["image"].str.contains("_downsampled")]
    assert (downsampled["group"] == downsampled["image"]).all()
    assert manifest.rows["group"].nunique() == 8 * 4
    done = fake.run(app, [*command, "--classes", "ham7"])
    assert "left out 6 images whose label has no class of ham7: SCC 6" in done.output
    in_ham7 = read_manifest(tmp_path / "data_manifests/isic-ham7.csv")
    assert in_ham7.class_counts() == dict.fromkeys(("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"), 6)
    assert (in_ham7.experiment, in_ham7.malignant) == ("ham7", ("akiec", "bcc", "mel"))


def test_columns_are_guessed_and_what_was_taken_is_told(photos, tmp_path):
    source, lines = photos
    adapter = TableAdapter(source, labels=[write(tmp_path, lines)])
    manifest = adapter.prepare(folds=2)
    assert manifest.rows["image"].tolist()[:5] == ["a/00.jpg", "a/03.jpg", "a/06.jpg", "a/09.jpg", "b.zip/in/01.jpg"]
    assert manifest.class_counts() == {"melanoma": 6, "nevus": 6}
    assert manifest.malignant == ("melanoma",)
    assert set(manifest.rows["group"]) == {f"P{k}" for k in range(6)}
    assert manifest.rows.set_index("image")["age"]["a/03.jpg"] == 43.5
    assert "group: column 'patient'" in adapter.notes


def test_named_columns_go_before_guesses_and_choose_the_classes(photos, tmp_path):
    source, lines = photos
    lines = [f"{line};{extra}" for line, extra in zip(lines, ["kind", *"aabbccaabbcc"], strict=True)]
    adapter = TableAdapter(
        source, labels=[write(tmp_path, lines)], label=["kind"], group=["patient", "diagnosis"], classes=["c", "a"],
        malignant=["a"],
    )  # fmt: skip
    assert (adapter.classes, adapter.malignant, adapter.groups) == (("c", "a"), ("a",), ("patient", "diagnosis"))
    records = list(adapter.records())
    assert sorted({record.label for record in records}) == ["a", "c"]
    assert {record.group for record in records} == {"P0"}, "all are joined by way of their diagnosis"
    assert records[0].extra["patient"].startswith("P")


@pytest.mark.parametrize("form", ["parquet", "tsv"])
def test_tables_in_the_library_itself_are_found_and_joined_on_what_they_share(photos, form):
    source, lines = photos
    frame = pd.DataFrame([line.split(";") for line in lines[1:]], columns=lines[0].split(";"))
    frame["id"] = "some/where/" + frame["id"] + ".jpg"
    frame["id"] = frame["id"].str.rpartition("/")[2]
    people = pd.DataFrame({"patient": [f"P{k}" for k in range(6)], "sex": list("MFMFMF")})
    for name, table in (("main", frame), ("people", people)):
        if form == "parquet":
            table.to_parquet(source / f"{name}.parquet")
        else:
            table.to_csv(source / f"{name}.tsv", sep="\t", index=False)
    adapter = TableAdapter(source)
    assert f"people.{form}: joined on the column 'patient'" in adapter.notes
    rows = adapter.prepare(folds=2).rows.set_index("group")["sex"]
    assert (rows["P0"] == "male").all()
    assert (rows["P1"] == "female").all()


def test_a_column_of_train_and_test_is_the_librarys_own_split(photos, tmp_path):
    source, lines = photos
    parts = ["split", *["train"] * 8, *["Test"] * 4]
    table = write(tmp_path, [f"{line};{part}" for line, part in zip(lines, parts, strict=True)])
    manifest = TableAdapter(source, labels=[table]).prepare()
    assert (manifest.protocol, manifest.rows["fold"].tolist().count(0)) == ("presplit", 4)
    parts[1] = "test"
    table = write(tmp_path, [f"{line};{part}" for line, part in zip(lines, parts, strict=True)])
    with pytest.raises(ManifestError, match=r"1 group in both the training and the test part: P0.*--protocol group"):
        TableAdapter(source, labels=[table]).prepare()
    assert TableAdapter(source, labels=[table]).prepare(protocol="group").folds == 3
    parts[1] = "maybe"
    table = write(tmp_path, [f"{line};{part}" for line, part in zip(lines, parts, strict=True)])
    assert not TableAdapter(source, labels=[table]).presplit
    assert problems_of(source, table, split="split")[1] == (
        "the split has 'maybe'; allowed are train, training, val, valid, validation, test, testing",
    )


def test_every_problem_of_the_tables_is_told_at_once(fake, photos, tmp_path):
    source, lines = photos
    fake.write_tree(source, {"copy/04.png": fake.picture(7)})
    lines[2] = lines[2].replace("01;", "1001;")
    lines[3], lines[6] = lines[3].replace("42,5", "42 years"), lines[6].replace("nevus", "melanoma;")
    lines[6] = lines[6].replace(";;", ";")
    other = write(tmp_path, ["id;sex;patient", "00;f;P9", "00;m;P0"], "other.csv")
    message, problems = problems_of(source, write(tmp_path, lines), other, malignant=["melanom"])
    assert message == f"table: the images and tables in {source} do not fit together."
    assert problems == (
        "other.csv: 1 line repeated: a/00.jpg",
        "other.csv: 1 line with another 'patient' than elsewhere: 00",
        "the malignant 'melanom' is not a class (did you mean 'melanoma'?)",
        "1 image that may mean several files, such as '04': b.zip/in/04.jpg, copy/04.png. Give the paths, or keep one "
        "copy of each: 04",
        "1 image of 12 not among the files: '1001' (line 3). The library has such files as '11.jpg'; --partial leaves "
        "out what is missing",
        "column 'age': 1 cell with a unit: '42 years' (line 4). Write the numbers alone, all in one unit",
    )


def test_missing_images_are_left_out_when_a_part_is_enough_and_unlabeled_lines_always(photos, tmp_path):
    source, lines = photos
    (source / "a/00.jpg").unlink()
    lines[4] = lines[4].replace("melanoma", "")
    adapter = TableAdapter(source, labels=[write(tmp_path, lines)], partial=True)
    assert adapter.prepare(folds=2).class_counts() == {"melanoma": 5, "nevus": 5}
    assert "left out 1 line without a label" in adapter.notes
    assert "1 image of 11 not among the files: '00' (line 2)" in adapter.notes


def test_ids_that_match_no_file_and_unknown_columns_are_shown_what_there_is(photos, tmp_path):
    source, lines = photos
    message, problems = problems_of(source, write(tmp_path, [line.replace(";", ";X", 1) for line in lines[:1]]))
    assert "no column names images" in message
    strange = [lines[0], *(f"IMG-{line}" for line in lines[1:])]
    message, problems = problems_of(source, write(tmp_path, strange))
    assert "labels.csv has 'id', 'diagnosis', 'patient', 'Age'. Name it with --set image=COLUMN" in message
    (problem,) = problems
    assert re.match(
        r"labels.csv: none of the 12 cells of the column 'id', such as 'IMG-00', is a file; .*'..\.jpg'", problem
    )
    assert (
        problems_of(source, write(tmp_path, lines), image="ID")[1][0] == "no column 'ID' for image (did you mean 'id'?)"
    )
    assert problems_of(source, write(tmp_path, lines), group=["patients"])[1] == (
        "no column 'patients' for group (did you mean 'patient'?)",
    )
    bare = [line.replace("diagnosis", "finding") for line in lines]
    message = problems_of(source, write(tmp_path, bare))[0]
    assert "no column of labels was found among 'id', 'finding', 'patient', 'Age'. Name it with --set label" in message
    with pytest.raises(DataError, match=r"no table nothing\.csv"):
        TableAdapter(source, labels=[tmp_path.relative_to(tmp_path) / "nothing.csv"])
    with pytest.raises(DataError, match=r"no table in .*--labels labels\.csv"):
        TableAdapter(source)


def test_what_a_person_would_not_expect_is_told(photos, tmp_path):
    source, lines = photos
    lines = [line.replace("patient", "Fall-Nr.").replace("melanoma", "Melanom") for line in lines]
    lines[7] = lines[7].replace("nevus", "unklar")
    adapter = TableAdapter(source, labels=[write(tmp_path, lines)], classes=["Melanom", "nevus"])
    assert adapter.notes[3:7] == [
        "group: no column was found, so each image is its own and a patient may be in all folds",
        "if 'Fall-Nr.' names the patient or lesion, add --set group=Fall-Nr.",
        "malignant: none is known by its name",
        "left out other labels: unklar 1",
    ]
    lines[1] = lines[1].replace("40,5", "40 J.")
    assert "'40 J.' (line 2)" in problems_of(source, write(tmp_path, lines), partial=True)[1][0]


def test_lines_of_one_hot_labels_need_exactly_one(fake, photos, tmp_path):
    source, _ = photos
    lines = ["image,a,b", *(f"{i:02},{i % 2},{1 - i % 2}" for i in range(12))]
    assert TableAdapter(source, labels=[write(tmp_path, lines)]).prepare(folds=2).class_counts() == {"a": 6, "b": 6}
    lines[1] = "00,1,1"
    assert problems_of(source, write(tmp_path, lines))[1] == ("1 line without exactly one 1 in the columns a, b: 00",)


def test_nothing_is_written_where_the_tables_do_not_fit_and_the_guess_is_told_all_the_same(photos, tmp_path):
    source, lines = photos
    lines[2] = lines[2].replace("01;", "1001;")
    told = []
    with pytest.raises(DataError):
        prepare("table", source, labels=[write(tmp_path, lines)], out=tmp_path / "m.csv", on_note=told.append)
    assert "label: column 'diagnosis'" in told
    assert not (tmp_path / "m.csv").exists()
    with pytest.raises(ConfigError, match="no classes 'ham8'"):
        prepare("table", source, labels=[tmp_path / "labels.csv"], vocabulary="ham8", partial=True)
