"""The predict verb: a row for every image, a line for every file that is none, and memory that stays flat."""

import csv
import io
import json
import os
import random
import re
import shutil
import threading
import time
import warnings
import weakref
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dermaffinity import LesionClassifier
from dermaffinity.errors import DataError
from dermaffinity.inference import MetadataEvidence, batch
from dermaffinity.inference.model_folder import changed

PICTURES = [np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8) for seed in range(4)]


def png(array) -> bytes:
    content = io.BytesIO()
    Image.fromarray(array).save(content, format="PNG")
    return content.getvalue()


def table_of(path) -> list[list[str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_predict_writes_one_row_per_image_of_files_folders_and_zips(commands, toy_model, tmp_path):
    inside = tmp_path / "photos/deep"
    inside.mkdir(parents=True)
    (tmp_path / "photos/a.png").write_bytes(png(PICTURES[0]))
    (inside / "b.PNG").write_bytes(png(PICTURES[1]))
    (inside / "notes.txt").write_text("no image")
    (tmp_path / "photos/._a.png").write_text("clutter")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("c.png", png(PICTURES[2]))
    (tmp_path / "single").write_bytes(png(PICTURES[3]))  # named itself, so its name does not matter
    words = ("predict", str(toy_model), "photos", "more.zip", "single", "--out", "out/table.csv")
    done = commands.run(*words, folder=tmp_path)
    assert done.code == 0, done.stderr
    classifier = LesionClassifier.load(toy_model)
    header, *rows = table_of(tmp_path / "out/table.csv")
    assert header == ["image", "predicted", "p.AK", "p.BCC", "p.ML", "novelty", "set"]
    assert [row[0] for row in rows] == ["photos/a.png", "photos/deep/b.PNG", "more.zip/c.png", "single"]
    assert [row[1] for row in rows] == classifier.predict(PICTURES[:4]).tolist()
    assert np.array([row[2:5] for row in rows], float) == pytest.approx(
        classifier.predict_proba(PICTURES[:4]), abs=1e-5
    )
    assert np.array([row[5] for row in rows], float) == pytest.approx(classifier.novelty(PICTURES[:4]), abs=1e-4)
    assert [tuple(json.loads(row[6])) for row in rows] == classifier.predict_sets(PICTURES[:4])
    assert "out/table.csv: 4 images, 0 skipped; Research use only" in done.stdout
    assert "Included in every prediction set: too few calibration images of BCC, ML." in done.stdout
    assert "Prediction sets were asked to hold 90 % of each class, and hold at least 80 %." in done.stdout


def test_predict_reports_and_skips_what_is_bad_and_ends_with_one(commands, toy_model, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "empty").mkdir()
    for number in range(3):
        (tmp_path / f"photos/{number}.png").write_bytes(png(PICTURES[number]) if number != 1 else b"broken")
    (tmp_path / "bad.zip").write_text("no archive")
    words = ("predict", str(toy_model), "bad.zip", "photos", "nowhere.jpg", "empty", "lost/x.png")
    done = commands.run(*words, folder=tmp_path)
    assert done.code == 1
    assert [row[0] for row in table_of(tmp_path / "predictions.csv")[1:]] == ["photos/0.png", "photos/2.png"]
    assert "predictions.csv: 2 images, 5 skipped" in done.stdout
    for problem in (
        "skipped: bad.zip: not a readable zip archive",
        "skipped: photos/1.png: not an image",
        "skipped: 2 files: there is no such file or folder: lost/x.png, nowhere.jpg",
        "skipped: empty: no image among 0 files",
    ):
        assert problem in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_predict_skips_broken_archives_and_links_within_folders_and_predicts_the_rest(commands, toy_model, tmp_path):
    (tmp_path / "photos/deep").mkdir(parents=True)
    (tmp_path / "photos/a.png").write_bytes(png(PICTURES[0]))
    (tmp_path / "photos/deep/bad.zip").write_text("no archive")
    with zipfile.ZipFile(tmp_path / "photos/good.zip", "w") as archive:
        archive.writestr("b.png", png(PICTURES[1]))
    with zipfile.ZipFile(tmp_path / "photos/evil.zip", "w") as archive:
        archive.writestr("../out.png", png(PICTURES[1]))
    (tmp_path / "outside.png").write_bytes(png(PICTURES[2]))
    (tmp_path / "photos/away.png").symlink_to(tmp_path / "outside.png")
    (tmp_path / "photos/gone.png").symlink_to("nowhere.png")
    done = commands.run("predict", str(toy_model), "photos", folder=tmp_path)
    assert done.code == 1
    rows = table_of(tmp_path / "predictions.csv")[1:]
    assert [row[0] for row in rows] == ["photos/a.png", "photos/good.zip/b.png"]
    assert "predictions.csv: 2 images, 4 skipped" in done.stdout
    for problem in (
        "skipped: photos/deep/bad.zip: not a readable zip archive (File is not a zip file); copy or download it again",
        "skipped: photos/evil.zip: member '../out.png' leads out of the archive with '..'",
        "skipped: photos/away.png: a link to a place outside the library. To allow them, put the files",
        "skipped: photos/gone.png: a link to nothing; remove or renew it",
    ):
        assert problem in done.stderr, done.stderr


def test_predict_finds_images_by_content_and_names_every_file_that_is_none(commands, toy_model, tmp_path):
    folder = tmp_path / "phone"
    folder.mkdir()
    for name, form in {"a.jfif": "JPEG", "b.gif": "GIF", "c.jp2": "JPEG2000", "d.avif": "AVIF", "scan": "PNG"}.items():
        Image.fromarray(PICTURES[0]).save(folder / name, form)
    for name in ("x.mov", "y.mov", "broken.heic", "labels.csv", "Thumbs.db"):
        (folder / name).write_bytes(b"no image")
    with zipfile.ZipFile(tmp_path / "texts.zip", "w") as archive:
        archive.writestr("a.txt", b"")
    done = commands.run("predict", str(toy_model), "phone", "texts.zip", folder=tmp_path)
    assert done.code == 1
    rows = table_of(tmp_path / "predictions.csv")[1:]
    assert [row[0] for row in rows] == ["phone/a.jfif", "phone/b.gif", "phone/c.jp2", "phone/d.avif", "phone/scan"]
    assert "predictions.csv: 5 images, 4 skipped" in done.stdout
    assert done.stderr.splitlines() == [
        "skipped: 2 files: no image in a format that is read here: phone/x.mov, phone/y.mov",
        "skipped: texts.zip: no image among 1 file",
        "skipped: phone/broken.heic: not an image in any of the formats JPEG, PNG, BMP, TIFF, WEBP, GIF, PPM, "
        "JPEG2000, AVIF, HEIC, DICOM",
    ]


def test_a_name_that_is_not_utf8_is_skipped_and_the_table_is_kept(commands, toy_model, tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    for name in (b"a.png", b"n\xe4vus.png", b"n\xe4vus.mov"):
        try:
            path = os.fsencode(folder) + b"/" + name
            with open(path, "wb") as file:
                file.write(png(PICTURES[0]))
        except OSError:
            pytest.skip("this file system holds UTF-8 names only")
    done = commands.run("predict", str(toy_model), "old", folder=tmp_path)
    assert done.code == 1
    assert "Traceback" not in done.stderr
    assert [row[0] for row in table_of(tmp_path / "predictions.csv")[1:]] == ["old/a.png"]
    assert (
        "skipped: 2 files: the name is not UTF-8, so that no table can hold it; rename the file: "
        r"old/n\xe4vus.mov, old/n\xe4vus.png" in done.stderr
    )


def test_class_names_with_separators_survive_the_column_of_sets(toy_model, tmp_path):
    classifier = LesionClassifier.load(toy_model)
    names = ["nevus; benign", 'wart, "common"', "Nävus"]
    classifier.classes_ = np.array(names)
    (tmp_path / "a.png").write_bytes(png(PICTURES[0]))
    files = batch.find_images([tmp_path / "a.png"], pytest.fail)
    options = {"coverage": 0.95, "on_problem": pytest.fail, "on_progress": lambda done, total: None}
    assert batch.predict_files(classifier, files, tmp_path / "out.csv", **options) == 1
    ((*_, members),) = table_of(tmp_path / "out.csv")[1:]
    assert sorted(json.loads(members)) == sorted(names)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("nowhere photo.png", 1, "nowhere: expected the folder of a trained classifier"),
        ("{model} nowhere/", 1, "there are no images to predict\n  - "),
        ("{model}", 2, "Missing argument 'IMAGES"),
        ("{model} x.png --coverage 2", 2, "--coverage"),
    ],
)
def test_predict_refuses_what_cannot_work(commands, toy_model, tmp_path, words, code, message):
    (tmp_path / "nowhere2").mkdir()
    words = [word.format(model=toy_model) for word in words.split()]
    words = [str(tmp_path / "nowhere2") if word == "nowhere/" else word for word in words]
    done = commands.run("predict", *words, folder=tmp_path)
    assert done.code == code
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "predictions.csv").exists()


def test_only_a_batch_of_images_is_read_before_its_rows_are_written(toy_model, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "BATCH_SIZE", 2)
    for number, array in enumerate(PICTURES[:3]):
        (tmp_path / f"{number}.png").write_bytes(png(array))
    classifier = LesionClassifier.load(toy_model)
    batches, steps = [], []
    assess = classifier.assess_pixels
    monkeypatch.setattr(classifier, "assess_pixels", lambda pixels: (batches.append(len(pixels)), assess(pixels))[1])
    files = batch.find_images([tmp_path], pytest.fail)
    rows = batch.predict_files(
        classifier,
        files,
        tmp_path / "out.csv",
        on_problem=pytest.fail,
        on_progress=lambda done, total: steps.append((done, total)),
    )
    assert (rows, batches, steps) == (3, [2, 1], [(2, 3), (3, 3)])


def test_rows_keep_the_order_of_the_files_however_long_each_takes_to_read(toy_model, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "BATCH_SIZE", 4)
    pictures = [np.roll(PICTURES[n % 4], n, axis=1) for n in range(11)]
    for number, array in enumerate(pictures):
        (tmp_path / f"{number:02}.png").write_bytes(png(array) if number != 5 else b"broken")
    classifier = LesionClassifier.load(toy_model)
    decode, patience = classifier.pixels, random.Random(0)

    def slowly(image, name):
        time.sleep(patience.uniform(0, 0.02))
        return decode(image, name)

    monkeypatch.setattr(classifier, "pixels", slowly)
    problems = []
    files = batch.find_images([tmp_path], pytest.fail)
    out = tmp_path / "out.csv"
    told = {"on_problem": lambda name, fault: problems.append(name), "on_progress": lambda *counts: None}
    batch.predict_files(classifier, files, out, **told)
    kept = [n for n in range(11) if n != 5]
    rows = table_of(out)[1:]
    assert [row[0].rpartition("/")[2] for row in rows] == [f"{n:02}.png" for n in kept]
    expected = classifier.predict_proba([pictures[n] for n in kept])
    assert np.array([row[2:5] for row in rows], float) == pytest.approx(expected, abs=1e-5)
    assert [name.rpartition("/")[2] for name in problems] == ["05.png"]


def test_no_more_than_three_batches_are_alive_however_many_images_there_are(toy_model, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "BATCH_SIZE", 4)
    (tmp_path / "a.png").write_bytes(png(PICTURES[0]))
    classifier = LesionClassifier.load(toy_model)
    decode, lock = classifier.pixels, threading.Lock()
    alive, most = set(), 0

    def counted(image, name):
        nonlocal most
        pixels = decode(image, name)
        with lock:
            key = object()
            alive.add(key)
            weakref.finalize(pixels, alive.discard, key)
            most = max(most, len(alive))
        return pixels

    monkeypatch.setattr(classifier, "pixels", counted)
    files = 25 * 4 * batch.find_images([tmp_path], pytest.fail)
    rows = batch.predict_files(
        classifier, files, tmp_path / "out.csv", on_problem=pytest.fail, on_progress=lambda *counts: None
    )
    assert rows == 100
    # The batch in the network, the one read ahead, and the one whose names are still held by the loop.
    assert most <= 3 * 4


def test_lists_name_images_by_lines_or_by_a_column_relative_to_their_own_folder(tmp_path, monkeypatch):
    folder = tmp_path / "lists"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/a.png").write_bytes(png(PICTURES[0]))
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        archive.writestr("b.png", png(PICTURES[1]))
    names = ["sub/a.png", "more.zip/b.png", str(folder / "sub/a.png"), "lost.png"]
    (folder / "lines.txt").write_text("\r\n".join([*names, "", ""]))
    (folder / "commas.csv").write_text("\ufefflabel,image\n" + "".join(f'x,"{name}"\n' for name in names))
    (folder / "semicolons.csv").write_text("image;label\n" + "".join(f"{name};1,5\n" for name in names))
    (folder / "tabs.tsv").write_text("label\timage\n" + "".join(f"x\t{name}\n" for name in names))
    pd.DataFrame({"image": names}).to_parquet(folder / "table.parquet")
    monkeypatch.chdir(tmp_path)
    for name in ("lines.txt", "commas.csv", "semicolons.csv", "tabs.tsv", "table.parquet"):
        files = batch.find_images([Path("lists", name)], pytest.fail)
        assert [file.name for file in files] == names
        assert [file.library.read(file.path) for file in files[:3]] == [png(PICTURES[number]) for number in (0, 1, 0)]


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "b.csv", "b.txt", "b.parquet"])
def test_a_list_that_names_no_images_is_a_problem_and_no_error(tmp_path, name):
    if name == "a.parquet":
        pd.DataFrame({"picture": ["x.png"]}).to_parquet(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(b"picture,label\nx.png,1\n" if name == "a.csv" else b"\xff\xfe\x00")
    problems = []
    assert batch.find_images([tmp_path / name], lambda *problem: problems.append(problem)) == []
    ((found, fault),) = problems
    assert found.endswith(name)
    assert re.match("a table of images has a column 'image', or one .*: found .*'picture'|.*no text in UTF-8", fault)


@pytest.fixture
def patients(tmp_path) -> pd.DataFrame:
    """A table of ids, without suffix, of images in sub-folders and a zip; one is lost and one is there twice."""
    for path, number in {"photos/a/IMG_1.png": 0, "photos/b/IMG_3.PNG": 2, "photos/a/IMG_5.png": 3}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(png(PICTURES[number]))
    (tmp_path / "photos/b/IMG_5.png").write_bytes(png(PICTURES[3]))
    with zipfile.ZipFile(tmp_path / "photos/more.zip", "w") as archive:
        archive.writestr("IMG_2.png", png(PICTURES[1]))
    return pd.DataFrame(
        {
            "patient": ["007", "Ä, b", "007", "9", "10"],
            "image": ["IMG_1", "IMG_2", "img_3", "IMG_4", "IMG_5"],
            "age": ["50", "", "61", "", "7"],
        }
    )


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_a_table_of_ids_keeps_its_columns_and_says_what_is_lost(commands, toy_model, tmp_path, patients, kind):
    table = tmp_path / f"patients.{kind}"
    if kind == "parquet":
        patients.to_parquet(table)
    else:
        patients.to_csv(table, index=False, sep="," if kind == "csv" else "\t")
    out = tmp_path / ("out.parquet" if kind == "parquet" else "out.csv")
    done = commands.run("predict", str(toy_model), table.name, "--root", "photos", "--out", out.name, folder=tmp_path)
    assert done.code == 1
    assert f"skipped: IMG_4: no image of this name in {tmp_path}/photos, the nearest is 'IMG_" in done.stderr
    assert "skipped: IMG_5: may mean a/IMG_5.png, b/IMG_5.png; give the path" in done.stderr
    found = pd.read_parquet(out) if kind == "parquet" else pd.read_csv(out, dtype=str)
    assert found.columns.tolist()[:5] == ["image", "patient", "age", "predicted", "p.AK"]
    assert found["patient"].tolist()[:3] == ["007", "Ä, b", "007"]
    assert found["image"].tolist() == (patients["image"].tolist() if kind == "parquet" else ["IMG_1", "IMG_2", "img_3"])
    expected = LesionClassifier.load(toy_model).predict_proba(PICTURES[:3])
    assert found.loc[:2, ["p.AK", "p.BCC", "p.ML"]].to_numpy(float) == pytest.approx(expected, abs=1e-5)
    if kind == "parquet":
        assert found["age"].tolist() == patients["age"].tolist()
        assert found["problem"].notna().tolist() == [False, False, False, True, True]


def test_the_column_of_images_is_the_one_that_names_them_and_tables_may_be_mixed(tmp_path, patients):
    patients.rename(columns={"image": "isic_id"})[:2].to_csv(tmp_path / "photos/known.csv", index=False)
    (tmp_path / "photos/list.txt").write_text("a/IMG_1.png\nmore.zip/IMG_2.png\n")
    sources = [tmp_path / name for name in ("photos/known.csv", "photos/list.txt", "photos/a/IMG_5.png")]
    files = batch.find_images(sources, pytest.fail)
    assert [file.name for file in files[:4]] == ["IMG_1", "IMG_2", "a/IMG_1.png", "more.zip/IMG_2.png"]
    assert [file.path for file in files] == ["a/IMG_1.png", "more.zip/IMG_2.png"] * 2 + ["IMG_5.png"]
    empty = {"patient": "", "isic_id": "", "age": ""}
    first = {"patient": "007", "isic_id": "IMG_1", "age": "50"}
    assert [dict(file.cells) for file in files] == [
        first,
        {**first, "patient": "Ä, b", "isic_id": "IMG_2", "age": ""},
    ] + [empty] * 3


def test_a_table_that_fits_no_file_is_refused_with_the_nearest_name(commands, toy_model, tmp_path, patients):
    patients.assign(image=["IMG-1.jpg", "IMG-2.jpg", "IMG-3.jpg", "", ""]).to_csv(tmp_path / "table.csv", index=False)
    done = commands.run("predict", str(toy_model), "table.csv", folder=tmp_path)
    assert done.code == 1
    assert done.stderr.splitlines()[1:] == [
        "  - table.csv: none of the 3 cells of the column 'image', such as 'IMG-1.jpg', is a file; the library has "
        f"such files as 'IMG_1.png'. Images are looked for in {tmp_path}; name another folder with --root FOLDER"
    ]


def test_a_broken_archive_beside_the_images_of_a_table_is_named_where_an_image_is_missed(tmp_path, patients):
    (tmp_path / "photos/bad.zip").write_text("no archive")
    for count, expected in ((3, []), (4, [f"{tmp_path}/photos/bad.zip"])):
        patients[:count].to_csv(tmp_path / "table.csv", index=False)
        problems = {}
        files = batch.find_images([tmp_path / "table.csv"], problems.__setitem__, root=tmp_path / "photos")
        assert [file.fault != "" for file in files] == [False, False, False, True][:count]
        assert list(problems) == expected


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_rows_that_name_no_image_are_skipped_by_their_numbers(commands, toy_model, tmp_path, patients, kind):
    table = patients[:3].assign(image=["IMG_1", "", ""])
    table.to_csv(tmp_path / "photos/table.csv", index=False)
    table.to_parquet(tmp_path / "photos/table.parquet")
    done = commands.run("predict", str(toy_model), f"photos/table.{kind}", folder=tmp_path)
    assert done.code == 1
    assert [row[0] for row in table_of(tmp_path / "predictions.csv")[1:]] == ["IMG_1"]
    assert "predictions.csv: 1 images, 2 skipped" in done.stdout
    assert (
        "names no image: its cell of the column 'image' is empty: "
        f"photos/table.{kind} line 3, photos/table.{kind} line 4" in done.stderr
    )


@pytest.mark.parametrize(("name", "text"), [("a.csv", "image,age\n"), ("a.txt", "\n\r\n")])
def test_a_table_without_rows_says_so(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    problems = []
    assert batch.find_images([tmp_path / name], lambda *problem: problems.append(problem)) == []
    assert problems == [(f"{tmp_path}/{name}", "has no rows, so that it names no image")]


def test_columns_that_predictions_have_themselves_are_refused(toy_model, tmp_path, patients):
    patients.rename(columns={"age": "p.AK", "patient": "set"}).to_parquet(tmp_path / "table.parquet")
    with pytest.raises(DataError, match=r"the columns 'set', 'p\.AK', which the predictions have as well; rename"):
        batch.predict(toy_model, [tmp_path / "table.parquet"], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def with_metadata(toy_model) -> LesionClassifier:
    """One that was trained with age and sex."""
    known = pd.DataFrame({"label": ["AK"] * 30 + ["BCC"] * 30 + ["ML"] * 30, "age": [70] * 30 + [50] * 30 + [20] * 30})
    known["sex"] = ["male", "female", "female"] * 10 + ["male", "male", "female"] * 20
    evidence = MetadataEvidence.of(known, ["age", "sex"], ("AK", "BCC", "ML"), smoothing=5)
    classifier = LesionClassifier.load(toy_model)
    told = tuple(one.model_copy(update={"metadata": evidence}) for one in classifier.description.fold_models)
    classifier.description = changed(classifier.description, fold_models=told)
    return classifier


def test_what_a_table_says_is_evidence_in_python_as_on_the_command_line(with_metadata, tmp_path, patients):
    said = patients[:3].assign(sex=["F", "", "m"]).rename(columns={"age": "Age", "sex": "gender"})
    said.to_csv(tmp_path / "photos/table.csv", index=False)
    files = batch.find_images([tmp_path / "photos/table.csv"], pytest.fail)
    batch.predict_files(
        with_metadata, files, tmp_path / "out.csv", on_problem=pytest.fail, on_progress=lambda done, total: None
    )
    found = pd.read_csv(tmp_path / "out.csv")[["p.AK", "p.BCC", "p.ML"]].to_numpy()
    usual = pd.DataFrame({"age": [50, None, 61], "sex": ["female", None, "male"]})
    expected = with_metadata.predict_proba(PICTURES[:3], metadata=usual)
    assert found == pytest.approx(expected, abs=1e-5)
    assert with_metadata.predict_proba(PICTURES[:3], metadata=said) == pytest.approx(expected)
    unsaid = with_metadata.predict_proba(PICTURES[:3])
    assert (abs(found - unsaid).max(axis=1) > 0.01).tolist() == [True, False, True]  # of the second nothing is known
    age_alone = with_metadata.predict_proba(PICTURES[:3], metadata=usual[["age"]])
    assert (abs(found - age_alone).max(axis=1) > 0.01).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("cells", "lines"),
    [
        (
            {"Age": ["50", "n/a", "50 J."], "gender": ["F", "m", "Frau"]},
            [
                "Evidence beside the images: age of 1, sex of 2 of 3 images.",
                "Age of 1 image says nothing, since the classifier does not know it (50 J.).",
                "gender of 1 image says nothing, since the classifier does not know it (Frau).",
            ],
        ),
        (
            {"AGE": ["50", "50", "50"]},
            [
                "Evidence beside the images: age of 3 of 3 images.",
                "There is no column sex, which would count as evidence; those there: AGE.",
            ],
        ),
        (
            {"age": ["", "", ""], "site": ["back"] * 3},
            [
                "Nothing is known of age, which would count as evidence.",
                "There is no column sex, which would count as evidence; those there: age, site.",
            ],
        ),
        ({}, ["There is no column age, sex, which would count as evidence."]),
    ],
)
def test_predict_says_what_of_the_table_counts(commands, with_metadata, toy_model, tmp_path, cells, lines):
    model = shutil.copytree(toy_model / "classifier", tmp_path / "model")
    (model / "classifier.json").write_text(with_metadata.description.model_dump_json(by_alias=True))
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(png(PICTURES[0]))
    pd.DataFrame({"image": ["a.png", "b.png", "c.png"], **cells}).to_csv(tmp_path / "t.csv", index=False)
    done = commands.run("predict", "model", "t.csv", folder=tmp_path)
    assert done.code == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if "evidence" in line.lower() or "says nothing" in line] == lines
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        table = batch.predict(model, str(tmp_path / "t.csv"), out=tmp_path / "again.csv")
    assert [str(one.message) for one in told] == [line for line in lines if not line.startswith("Evidence")]
    assert len(table) == 3
    found = pd.read_csv(tmp_path / "predictions.csv")[["p.AK", "p.BCC", "p.ML"]].to_numpy()
    unsaid = with_metadata.predict_proba(PICTURES[:1])
    assert bool(abs(found[0] - unsaid).max() > 1e-3) == lines[0].startswith("Evidence")


@pytest.mark.parametrize(
    ("metadata", "error", "message"),
    [
        (
            {"age": 44},
            TypeError,
            r"a pandas DataFrame with a row for each image and the columns age, sex, got dict; for",
        ),
        ([44], TypeError, "got list"),
        (pd.Series([44], name="age"), TypeError, "got Series"),
        (
            pd.DataFrame({"years": [44], 7: [1]}),
            ValueError,
            r"none of the columns age, sex .*; found years, 7\. Rename",
        ),
        (pd.DataFrame([[44, 45]], columns=["Age", "Age"]), ValueError, "several columns 'Age'; keep one"),
        (pd.DataFrame({"age": [44, 45]}), ValueError, "1 images need as many rows, got 2"),
    ],
)
def test_metadata_that_cannot_count_are_refused(with_metadata, metadata, error, message):
    with pytest.raises(error, match=message):
        with_metadata.predict_proba(PICTURES[0], metadata=metadata)


def test_metadata_do_not_count_without_calibration_and_are_refused(with_metadata):
    with pytest.raises(ValueError, match="metadata are evidence beside calibrated probabilities; leave"):
        with_metadata.predict_proba(PICTURES[0], metadata=pd.DataFrame({"age": [44]}), calibrated=False)
