"""How far a classifier's word goes: the measures on made-up answers, and the recipe from end to end."""

import dataclasses
import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dermaffinity.data.manifest import read_manifest, write_manifest
from dermaffinity.inference.classifier import Assessment

PIPELINE = Path(__file__).resolve().parents[2] / "pipelines" / "trust.py"


@pytest.fixture(scope="module")
def recipe() -> dict:
    return runpy.run_path(str(PIPELINE))


def assessed(probabilities, novelty, p_values=None) -> Assessment:
    probabilities = np.asarray(probabilities, dtype=float)
    usual = probabilities if p_values is None else np.asarray(p_values, dtype=float)
    return Assessment(probabilities, np.asarray(novelty, dtype=float), usual, np.zeros(len(novelty)), np.zeros((1, 1)))


class TwoClasses:
    classes_ = np.array(["a", "b"])

    def set_guarantees(self, coverage):
        return pd.DataFrame({"coverage": [0.8, 1.0]}, index=["a", "b"])


def test_sets_are_held_against_their_promise_class_by_class(recipe):
    known = assessed([[0.9, 0.1]] * 4, [0] * 4, [[0.5, 0.05], [0.05, 0.5], [0.05, 0.05], [0.5, 0.5]])
    cells = recipe["sets"](np.array([0, 0, 0, 1]), np.array(["p", "q", "q", "r"]), known, TwoClasses())
    assert cells["classes", "a (n=3)"].startswith("33.3 [")
    assert cells["classes", "a (n=3)"].endswith("promised 80")
    assert cells["classes", "b (n=1)"].endswith("promised 100")
    assert cells["overall", "Classes in a set, mean"] == "1.00"
    assert cells["overall", "Sets of one class"] == "50.0"
    assert cells["overall", "Empty sets"] == "25.0"


def test_the_surest_are_answered_first(recipe):
    sure = np.linspace(0.99, 0.6, 10)
    known = assessed(np.stack([sure, 1 - sure], axis=1), np.arange(10)[::-1])
    labels = np.repeat([0, 1], 5)  # the five surest by confidence are right, by novelty wrong
    cells = recipe["answered"](recipe["surest_first"](labels, known))
    assert cells["by confidence", "100 % answered, by confidence"] == "50.0"
    assert cells["by confidence", "50 % answered, by confidence"] == "100.0"
    assert cells["by novelty", "50 % answered, by novelty"] == "0.0"


def test_unknown_images_are_told_by_their_novelty(recipe):
    known, strange = assessed([[0.9, 0.1]] * 4, [0, 1, 2, 3]), assessed([[0.95, 0.05]] * 2, [2.5, 9])
    cells = recipe["unknowns"](known, {"cats": strange}, 1.5)
    assert cells["known", "external (n=4): above the limit, %"] == "50.0"
    assert cells["cats", "cats (n=2): above the limit, %"] == "100.0"
    assert cells["cats", "cats (n=2): AUROC of novelty"] == "0.875"
    assert cells["cats", "cats (n=2): AUROC of 1 − confidence"] == "0.000"


def test_the_recipe_writes_every_table(recipe, commands, fresh_folder, tiny_config, tmp_path, monkeypatch, capsys):
    folder = fresh_folder("trust")
    manifest = read_manifest(tiny_config.parent / "phantom-5.csv")
    rows = manifest.rows.copy()
    groups = rows.loc[rows["label"] == "ML", "group"].unique()[:2]
    rows.loc[rows["group"].isin(groups), "fold"] = pd.NA
    write_manifest(dataclasses.replace(manifest, rows=rows), tmp_path / "external.csv")
    (tmp_path / "strange").mkdir()
    Image.new("RGB", (40, 40), "purple").save(tmp_path / "strange" / "purple.png")
    options = ("--set", f"data.manifest={tmp_path / 'external.csv'}", "--set", "training.epochs=1", "--external")
    finished = commands.run("crossval", str(tiny_config), *options, folder=folder)
    assert finished.code == 0, finished.stderr
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["trust.py", "runs/tiny", "--unknown", f"purple={tmp_path / 'strange'}"])
    recipe["main"]()
    written = (folder / "runs/trust/trust.md").read_text()
    assert written.count("## ") == 4
    assert "purple (n=1): AUROC of novelty" in written
    assert "calibration error, external" in written
    assert (folder / "runs/trust/tiny_coverage.png").stat().st_size > 5000
    assert "Right among the surest external images" in " ".join(capsys.readouterr().out.split())
