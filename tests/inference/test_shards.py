"""Prediction into shards: the rows of one table, whatever was interrupted, shared or damaged."""

import errno
import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from PIL import Image

import dermaffinity as da
from dermaffinity import LesionClassifier
from dermaffinity.errors import BusyError, ConfigError, DataError
from dermaffinity.inference import batch, shards
from dermaffinity.inference.batch import find_images

QUIET = {"on_problem": lambda name, fault: None, "on_progress": lambda done, total: None}


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """Eleven images, the sixth damaged; three fit into a shard, two into a batch."""
    monkeypatch.setattr(shards, "SHARD_SIZE", 3)
    monkeypatch.setattr(batch, "BATCH_SIZE", 2)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(11):
        content = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(content, format="PNG")
        (folder / f"{number:02}.png").write_bytes(content.getvalue() if number != 5 else b"broken")
    return folder


@pytest.fixture
def files(photos):
    return find_images([photos], pytest.fail)


@pytest.fixture
def classifier(toy_model):
    return LesionClassifier.load(toy_model)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != ".lock"}


def test_shards_hold_the_rows_of_one_table_and_one_for_the_damaged_image(toy_model, photos, tmp_path):
    with pytest.warns(UserWarning, match=r"05\.png: not an image"):
        table = da.predict(toy_model, [photos], out=tmp_path / "shards")
    with pytest.warns(UserWarning, match=r"05\.png: not an image"):
        whole = da.predict(toy_model, [photos], out=tmp_path / "all.parquet")
    with pytest.warns(UserWarning, match=r"05\.png: not an image"):
        plain = da.predict(toy_model, [photos], out=tmp_path / "plain.csv")
    names = sorted(path.name for path in (tmp_path / "shards").glob("*.parquet"))
    assert names == [f"predictions-0000{number}.parquet" for number in range(4)]
    pd.testing.assert_frame_equal(table, whole)
    assert table["image"].tolist() == [f"{photos}/{number:02}.png" for number in range(11)]
    bad = table.iloc[5]
    assert bad["problem"].startswith("not an image in any of the formats")
    assert bad.drop(["image", "problem"]).isna().all()
    good = table.drop(index=5).reset_index(drop=True)
    assert good["problem"].isna().all()
    pd.testing.assert_frame_equal(good.drop(columns="problem"), plain, check_dtype=False, atol=1e-5)


def test_a_killed_command_keeps_finished_shards_and_predicts_only_the_others(classifier, files, tmp_path, monkeypatch):
    shards.predict_shards(classifier, files, tmp_path / "whole", **QUIET)
    assess, seen = classifier.assess_pixels, []

    def killed(pixels):
        if len(seen) == 2:  # of the first shard
            raise KeyboardInterrupt
        seen.append(len(pixels))
        return assess(pixels)

    monkeypatch.setattr(classifier, "assess_pixels", killed)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        shards.predict_shards(classifier, files, out, **QUIET)
    kept = contents(out)
    assert [name for name in kept if name.endswith(".parquet")] == ["predictions-00000.parquet"]
    (out / ".predictions-00001.parquet.abc.part").write_bytes(b"half")  # as a kill without warning leaves it
    monkeypatch.setattr(classifier, "assess_pixels", lambda pixels: (seen.append(len(pixels)), assess(pixels))[1])
    del seen[:]
    problems, steps = [], []
    rows = shards.predict_shards(
        classifier,
        files,
        out,
        on_problem=lambda name, fault: problems.append(name),
        on_progress=lambda *counts: steps.append(counts),
    )
    assert (rows, sum(seen), [Path(name).name for name in problems]) == (10, 7, ["05.png"])
    assert steps[0] == (3, 11)
    assert steps[-1] == (11, 11)
    assert contents(out) == contents(tmp_path / "whole")


def test_parts_together_are_the_whole_and_a_second_call_tells_the_same(classifier, files, tmp_path):
    shards.predict_shards(classifier, files, tmp_path / "whole", **QUIET)
    out = tmp_path / "out"
    rows = [shards.predict_shards(classifier, files, out, part=f"{part}/3", **QUIET) for part in (3, 1, 2)]
    assert rows == [3, 5, 2]
    assert contents(out) == contents(tmp_path / "whole")
    assert [shards.predict_shards(classifier, files, out, part=f"{part}/3", **QUIET) for part in (3, 1, 2)] == rows
    assert shards.predict_shards(classifier, files, out, part="9/9", **QUIET) == 0


@pytest.mark.parametrize("part", ["0/3", "4/3", "1", "a/b", "1/0"])
def test_a_part_that_is_none_is_refused(classifier, files, tmp_path, part):
    with pytest.raises(ConfigError, match=f"--part {part}: write I/N with I from 1 to N"):
        shards.predict_shards(classifier, files, tmp_path / "out", part=part, **QUIET)
    assert not (tmp_path / "out").exists()


def test_a_part_of_a_single_file_is_refused(classifier, files, tmp_path):
    with pytest.raises(ConfigError, match=r"--part 1/2: parts share a folder; give one as --out instead of .*\.csv"):
        batch.predict_to(tmp_path / "out.csv", classifier, files, part="1/2", **QUIET)


def test_a_folder_of_another_model_or_other_images_is_refused_and_kept(classifier, files, toy_model, tmp_path):
    out = tmp_path / "out"
    shards.predict_shards(classifier, files, out, **QUIET)
    before = contents(out)
    other = LesionClassifier.load(toy_model / "fold-0", views=2)
    with pytest.raises(DataError, match=r"out: holds other predictions\. .* rm -r .*out") as refused:
        shards.predict_shards(other, files[1:], out, **QUIET)
    assert [problem.partition(":")[0] for problem in refused.value.problems] == ["model", "views", "images"]
    assert contents(out) == before


@pytest.mark.parametrize("name", ["a.parquet", "notes.txt", "photos"])
def test_a_folder_of_other_files_is_refused_and_nothing_is_left_in_it(classifier, files, tmp_path, name):
    out = tmp_path / "tables"
    out.mkdir()
    (out / ".hidden").touch()
    (out / name).touch() if "." in name else (out / name).mkdir()
    before = sorted(out.iterdir())
    with pytest.raises(DataError, match=rf"tables: holds other files, {name}; give a new or an empty folder as --out"):
        shards.predict_shards(classifier, files, out, **QUIET)
    assert sorted(out.iterdir()) == before
    (out / name).unlink() if "." in name else (out / name).rmdir()
    assert shards.predict_shards(classifier, files, out, **QUIET) == 10


def test_a_file_of_another_kind_is_refused_and_a_folder_with_a_dot_is_used_where_it_exists(classifier, files, tmp_path):
    with pytest.raises(ConfigError, match=r"--out .*out\.xlsx: predictions are written as \.csv, \.parquet, or as"):
        batch.predict_to(tmp_path / "out.xlsx", classifier, files, **QUIET)
    assert not (tmp_path / "out.xlsx").exists()
    (tmp_path / "out.json").touch()
    with pytest.raises(ConfigError, match=r"--out .*out\.json: predictions are written as"):
        batch.predict_to(tmp_path / "out.json", classifier, files, **QUIET)
    (tmp_path / "v1.2").mkdir()
    assert batch.predict_to(tmp_path / "v1.2", classifier, files, **QUIET) == 10


def test_a_shard_that_another_process_is_at_is_left_to_it(classifier, files, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with (
        FileLock(out / ".predictions-00001.lock"),
        pytest.raises(BusyError, match="out: another process is working here"),
    ):
        shards.predict_shards(classifier, files, out, **QUIET)
    assert [path.name for path in out.glob("*.parquet")] == ["predictions-00000.parquet"]
    assert shards.predict_shards(classifier, files, out, **QUIET) == 10


def test_a_full_disk_is_one_sentence_and_finished_shards_are_kept(classifier, files, tmp_path, monkeypatch):
    out, sync, synced = tmp_path / "out", os.fsync, []

    def full(descriptor):
        synced.append(descriptor)
        if len(synced) > 4:  # the plan and a shard, each with its folder
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"predictions-00001\.parquet: the disk is full\. Free some space"):
        shards.predict_shards(classifier, files, out, **QUIET)
    monkeypatch.undo()
    assert sorted(path.name for path in out.glob("*")) == sorted(
        {".lock", ".predictions-00001.lock", "_predictions.json", "predictions-00000.parquet"}
        & {path.name for path in out.glob("*")}
    )
    assert (out / "predictions-00000.parquet").exists()


def test_the_verb_writes_shards_and_ends_with_one_for_a_damaged_image(commands, toy_model, photos, tmp_path):
    done = commands.run("predict", str(toy_model), "photos", "--out", "shards", "--part", "1/1", folder=tmp_path)
    assert done.code == 1
    assert "shards: 10 images, 1 skipped" in done.stdout
    assert "skipped: photos/05.png: not an image" in done.stderr
    assert len(pd.read_parquet(tmp_path / "shards")) == 11


def test_shards_keep_the_columns_of_a_table_and_refuse_the_same_images_with_other_ones(
    classifier, toy_model, photos, tmp_path
):
    ids = [f"{number:02}" for number in range(11)]
    lines = pd.DataFrame({"image": ids, "patient": [f"P{number}" for number in ids]})
    lines.to_csv(photos / "table.csv", index=False)
    files = find_images([photos / "table.csv"], pytest.fail)
    assert shards.predict_shards(classifier, files, tmp_path / "out", **QUIET) == 10
    table = pd.read_parquet(tmp_path / "out")
    assert table[["image", "patient"]].to_numpy().tolist() == lines.to_numpy().tolist()
    assert table.columns[2] == "predicted"
    lines.assign(patient="P").to_csv(photos / "table.csv", index=False)
    with pytest.raises(DataError, match="holds other predictions"):
        shards.predict_shards(classifier, find_images([photos / "table.csv"], pytest.fail), tmp_path / "out", **QUIET)
