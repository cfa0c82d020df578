"""One command from images to a report, on a tiny network."""

import re
import shlex

import pytest
from PIL import Image
from typer.testing import CliRunner

from dermaffinity.cli import app
from dermaffinity.data.manifest import read_manifest
from dermaffinity.errors import ConfigError, DataError
from dermaffinity.experiments.study import study

QUICK = (
    "backbone={class: dermaffinity.models.SmallConvNet}",
    "training.epochs=1",
    "training.batch_size=8",
    "data.image_size=32",
)


@pytest.mark.slow
def test_a_study_says_its_plan_first_ends_with_a_report_and_can_be_resumed(phantom_library, tmp_path):
    out, notes = tmp_path / "study", []

    def note(text):
        notes.append(text)
        if text.startswith("Plan for"):
            assert not (out / "runs").exists()
            assert not (out / "verification.txt").exists()

    words = {"adapter": "phantom", "experiment": "5-class", "out": out, "overrides": QUICK, "quiet": True}
    found = study(phantom_library, on_note=note, **words)
    plan = notes[notes.index(next(text for text in notes if text.startswith("Plan for"))) :]
    assert plan[0] == f"Plan for 37 images in 3 folds (AK 6, BCC 7, ML 10, SCC 6, SK 8), in {out}:"
    assert plan[1].startswith("  verify, about 1 s: dermaffinity verify ")
    trained = [line for line in plan if line.startswith("  train ")]
    assert [line.split()[1].rstrip(",") for line in trained][-2:] == ["cosen", "affinity_plus"]
    assert all(" ms an image): dermaffinity crossval library_" in line for line in trained)
    assert re.match(r"  train affinity_frozen, about \d+ s \(features alone, \d+ ms an image\): ", trained[0])
    assert [text for text in notes if text.startswith("Training ")][-1] == "Training affinity_plus …"
    assert found.report.path == out / "report.html"
    assert "library_affinity_plus" in found.report.path.read_text(encoding="utf-8")
    assert (out / "compare/comparison.md").is_file()
    assert found.compared.baseline == "library_cosen"
    assert found.verification is not None

    again = []
    written = {path: path.stat().st_mtime_ns for path in out.rglob("predictions.csv")}
    second = study(phantom_library, on_note=again.append, **words)
    assert second.verification is None
    assert any(text.startswith("Verified before: ") for text in again)
    assert written == {path: path.stat().st_mtime_ns for path in out.rglob("predictions.csv")}
    assert second.compared.sentence() == found.compared.sentence()
    for line in trained[-2:]:  # each step is a command of its own, on the same experiment
        command = shlex.split(line.partition(": dermaffinity ")[2])
        assert {"crossval", "--resume"} <= set(command)
    verb = shlex.split(plan[1].partition(": dermaffinity ")[2])
    assert CliRunner().invoke(app, verb).exit_code == 0
    other = words | {"overrides": (*QUICK, "training.epochs=2")}
    with pytest.raises(
        ConfigError, match=r"holds another study\. Give this one a folder of its own, --out NEW"
    ) as wrong:
        study(phantom_library, on_note=again.append, **other)
    assert wrong.value.problems == ("training.epochs: there 1, now 2",)


def draw(folder):
    for number in range(6):
        for label in ("nevus", "wart"):
            path = folder / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((32, 32), 10 + number).convert("RGB").save(path)


def test_a_study_stops_where_an_image_leaks_and_names_it(tmp_path):
    draw(tmp_path / "photos")
    twin = tmp_path / "photos/wart/0.png"
    twin.write_bytes((tmp_path / "photos/nevus/0.png").read_bytes())
    with pytest.raises(DataError, match=r"verify found damage or leaks .*run the same command again") as caught:
        study(tmp_path / "photos", out=tmp_path / "study", overrides=QUICK, quiet=True, on_note=lambda text: None)
    assert any(
        "wart/0.png" in problem and "is the same file as nevus/0.png" in problem for problem in caught.value.problems
    )
    assert not (tmp_path / "study/runs").exists()


def test_a_study_takes_options_of_the_adapter_or_a_manifest(tmp_path):
    draw(tmp_path / "photos")

    def plan_of(folder, *settings):
        told = []

        def note(text):  # before anything is looked at
            told.append(text)
            if text.startswith("Plan for"):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            study(folder, out=tmp_path / "study", overrides=(*QUICK, *settings), on_note=note)
        return told[-1]

    plan = f"Plan for 12 images in 3 folds (wart 6, nevus 6), in {tmp_path / 'study'}:"
    assert plan_of(tmp_path / "photos", "classes=[wart, nevus]", "malignant=[nevus]") == plan
    manifest = tmp_path / "study/photos.csv"
    assert read_manifest(manifest).malignant == ("nevus",)
    assert plan_of(manifest) == plan
    with pytest.raises(ConfigError, match="is prepared already; give the options of prepare to that command"):
        study(manifest, overrides=["classes=[nevus, wart]"], out=tmp_path / "study")
