"""The recipe from folders of people to a table of measures, on people of one color each."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

PIPELINE = Path(__file__).resolve().parents[2] / "pipelines" / "face_verification.py"
SMALL = ["backbone={class: dermaffinity.models.SmallConvNet}", "data.image_size=16", "training.epochs=1"]


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("faces") / "people"
    random = np.random.default_rng(0)
    for person in range(7):
        (folder / f"p{person}").mkdir(parents=True)
        color = random.integers(0, 256, 3)
        for number in range(10):
            noise = random.integers(-20, 21, (20, 16, 3))
            Image.fromarray(np.clip(color + noise, 0, 255).astype(np.uint8)).save(
                folder / f"p{person}" / f"p{person}_{number:04d}.ppm"
            )
    return folder


def run(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [str(PIPELINE), *arguments])
    runpy.run_path(str(PIPELINE), run_name="__main__")


@pytest.mark.slow
def test_unseen_people_are_verified_and_a_protocol_uses_the_same_words(people, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run(monkeypatch, str(people), "--unseen", "3", "--seeds", "0", "--set", *SMALL)
    folder = tmp_path / "runs" / "verification-people-unseen"
    printed = capsys.readouterr().out
    pairs = pd.read_csv(folder / "pairs.csv")
    assert len(pairs) == 30 * 29 / 2
    assert pairs["first_identity"].nunique() == 3
    trained = pd.read_csv(tmp_path / "data_manifests" / "people.csv", comment="#")
    assert not set(trained["label"]) & set(pairs["first_identity"])
    measures = pd.read_csv(folder / "measures.csv").set_index(["method", "metric"])["value"]
    assert measures.loc[("people_faces_affinity", "auc")] > 0.8  # a color is easily told from another
    assert "TAR at FAR 0.001 is not measured: it takes at least 1,000 impostor pairs, there are 300" in printed
    assert (folder / "roc.png").stat().st_size > 10_000

    (tmp_path / "pairs.txt").write_text("2\t1\np0\t1\t2\np2\t3\tp3\t4\np1\t1\t2\np3\t0\tp4\t9\n")
    protocol = ["--protocol", "lfw", "--pairs", "pairs.txt", "--images", str(people)]
    run(monkeypatch, str(people), *protocol, "--runs", "other", "--seeds", "0", "--set", *SMALL)
    assert len(pd.read_csv(tmp_path / "other" / "verification-people-lfw" / "pairs.csv")) == 4
    assert "Accuracy ± standard error" in capsys.readouterr().out
