"""The recipe of the digit experiments, on a few drawn digits."""

import gzip
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from dermaffinity.tracking.base import NullTracker

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "data" / "mnist"


@pytest.fixture(scope="module")
def recipe():
    specification = importlib.util.spec_from_file_location("imbalanced_mnist", ROOT / "pipelines/imbalanced_mnist.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules["imbalanced_mnist"] = module  # its dataclasses look for it there
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """MNIST's files with 300 training and 60 test images: a bright block in a place that tells the digit."""
    folder = tmp_path_factory.mktemp("digits") / "MNIST" / "raw"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for prefix, number in (("train", 300), ("t10k", 60)):
        labels = np.arange(number, dtype=np.uint8) % 10
        images = random.integers(0, 60, (number, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            top, left = 2 + 12 * (label // 5), 1 + 5 * (label % 5)
            image[top : top + 10, left : left + 5] += 180
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
            (folder / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
    return folder.parents[1]


def run(recipe, monkeypatch, capsys, folder: Path, *words: str, epochs: int = 8) -> str:
    monkeypatch.chdir(folder)
    # On few digits; the drawn ones are easy.
    fast = (f"training.epochs={epochs}", "training.batch_size=16", "training.learning_rate=0.02")
    monkeypatch.setattr(sys, "argv", ["imbalanced_mnist.py", *words, "--quick", "--set", *fast])
    recipe.main()
    return capsys.readouterr().out


def configs_of(recipe, digits: Path, item: str, *overrides: str) -> dict:
    """What the item would train, by trial."""
    quiet = Console(quiet=True)
    study = recipe.Study(item, digits, (0,), overrides, Path("runs"), False, NullTracker(), quiet, quiet)
    return study.configs(recipe.ITEMS[item].trials(False))


@pytest.mark.slow
def test_table_1_has_every_row_method_and_seed_and_a_second_call_trains_nothing(
    recipe, digits, fresh_folder, monkeypatch, capsys
):
    folder = fresh_folder("table1")
    shown = run(recipe, monkeypatch, capsys, folder, "table1", str(digits), "--seeds", "0", "1", epochs=4)
    table = pd.read_csv(folder / "runs/reproduction/table1-quick.csv")
    assert len(table) == 2 * 3 * 2
    assert table["row"].unique().tolist() == ["all training images", "25 % of even digits, augmented"]
    assert table["accuracy"].notna().all()
    assert table.loc[table["experiment"] == "standard", "accuracy"].min() > 0.8  # drawn digits are easy
    augmented = folder / "runs/mnist-even-25-quick_affinity_DigitAugmentation"
    assert "class: dermaffinity.data.augmentation.DigitAugmentation" in (augmented / "config.yaml").read_text()
    metrics = pd.read_json(augmented / "fold-0_seed-1/metrics.json", typ="series")
    row = table.query("experiment == 'even-25' and method == 'affinity' and seed == 1").iloc[0]
    assert row["accuracy"] == pytest.approx(metrics["accuracy"])
    assert row["rare_recall"] == pytest.approx(np.mean([metrics[f"recall.{digit}"] for digit in "02468"]))
    mean = 100 * table.query("experiment == 'even-25' and method == 'softmax'")["accuracy"]
    written = (folder / "runs/reproduction/table1-quick.md").read_text()  # which no console's width breaks
    assert f"{mean.mean():.2f} ± {mean.std():.2f}" in written
    assert "| all training images | CoSen 99.3, affinity 99.6 |" in written  # the paper's
    assert "| 25 % of even digits, augmented | – |" in written  # it augments nothing
    assert (folder / "runs/reproduction/table1-quick.png").stat().st_size > 10_000
    assert (folder / "runs/reproduction/compare-standard/gains.csv").exists()
    assert (folder / "runs/reproduction/compare-even-25-augmented/gains.csv").exists()

    trained = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/fold-*/fold-?_seed-?.safetensors")}
    assert len(trained) == 12
    assert run(recipe, monkeypatch, capsys, folder, "table1", str(digits), "--seeds", "0", "1", epochs=4) == shown
    assert {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/fold-*/fold-?_seed-?.safetensors")} == trained


def test_the_papers_numbers_are_those_of_the_documents(recipe):
    published = pd.read_csv(ROOT / "docs/results/reproduction.csv", dtype=str).set_index(
        ["experiment", "method", "measure"]
    )
    for row, said in recipe.PAPER_TABLE1.items():
        cosen, affinity = (
            published.query("part == 'accuracy'").loc[("table 1", f"{method}, paper", row), "value"]
            for method in ("CoSen", "affinity")
        )
        assert said == f"CoSen {cosen}, affinity {affinity}"
    for row, said in recipe.PAPER_TABLE4.items():
        assert said.replace("fails", "–") == published.loc[("table 4", "paper", row), "value"]


@pytest.mark.slow
def test_figure_2_measures_the_spread_of_every_method(recipe, digits, fresh_folder, monkeypatch, capsys):
    folder = fresh_folder("figure2")
    shown = run(recipe, monkeypatch, capsys, folder, "figure2", str(digits), epochs=4)
    spread = pd.read_csv(folder / "runs/reproduction/figure2-quick-spread.csv")
    assert spread["method"].tolist() == ["softmax", "center", "affinity", "affinity_relative"]
    assert (spread["spacing_ratio"] >= 1).all()
    assert np.isfinite(spread.drop(columns="method")).all(axis=None)
    assert "rare_radius_ratio" in shown
    assert (folder / "runs/reproduction/figure2-quick.png").stat().st_size > 10_000


def test_a_sweep_tells_what_failed_and_keeps_what_did_not(recipe, digits, fresh_folder, monkeypatch, capsys):
    folder = fresh_folder("figure7")
    monkeypatch.setattr(recipe, "SIGMAS", (1e-6, 10.0))  # so narrow that every similarity underflows
    shown = run(recipe, monkeypatch, capsys, folder, "figure7", str(digits))
    table = pd.read_csv(folder / "runs/reproduction/figure7-quick.csv").set_index("row")
    assert np.isnan(table.loc[1e-6, "accuracy"])
    assert table.loc[10, "accuracy"] > 0.5
    assert "the affinity loss sits on its plateau" in shown
    assert "fails" in shown
    # The config's own sigma is no change, so that other items share the training.
    assert table.loc[10, "name"] == "mnist-first-10-quick_affinity"
    assert (folder / "runs/mnist-first-10-quick_affinity/classifier/classifier.json").exists()


def test_every_trial_of_every_item_is_a_sound_config(recipe, digits, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    configs = {item: configs_of(recipe, digits, item) for item in recipe.ITEMS}
    assert {item: len(own) for item, own in configs.items()} == {
        "table1": 40,
        "figure2": 4,
        "figure5": 12,
        "figure6": 15,
        "figure7": 7,
        "figure8": 7,
        "table4": 4,
    }
    shared = pd.Series([config.name for own in configs.values() for config in own.values()]).value_counts()
    assert shared["mnist-first-10_affinity"] == 3  # figures 7 and 8, and Table 4


def test_table_1_augments_every_method_alike_and_changes_nothing_else(recipe, digits, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    configs = configs_of(recipe, digits, "table1")
    assert len({config.name for config in configs.values()}) == 40  # no training stands for two
    for trial, config in configs.items():
        augmented = trial.row.endswith(", augmented")
        plain = configs[trial._replace(row=trial.row.removesuffix(", augmented"), changes=())]
        kind = "DigitAugmentation" if augmented else "NoAugmentation"
        assert config.augmentation.class_path == f"dermaffinity.data.augmentation.{kind}"
        assert config.model_copy(update={"name": plain.name, "augmentation": plain.augmentation}) == plain


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="MNIST is not beside the checkout")
def test_a_quick_run_on_real_digits_learns_something(recipe, fresh_folder, monkeypatch, capsys):
    folder = fresh_folder("real")
    run(recipe, monkeypatch, capsys, folder, "figure8", str(REAL))
    assert pd.read_csv(folder / "runs/reproduction/figure8-quick.csv")["accuracy"].min() > 0.5


def test_what_the_command_line_sets_is_not_set_back_by_a_sweep(recipe, digits, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    firsts = [
        next(iter(configs_of(recipe, digits, "figure6", *overrides).values()))
        for overrides in ((), ("training.epochs=6",))
    ]
    # Where nothing else is changed, the training has the name of the config's own and is shared with other items.
    assert [(config.training.epochs, config.name) for config in firsts] == [
        (4, "mnist-first-2.5_softmax_epochs-4"),
        (6, "mnist-first-2.5_softmax"),
    ]
