"""The demo, on fewer images and one epoch a fold."""

import io
import re

import pytest
from rich.console import Console

from dermaffinity.config import read_config
from dermaffinity.data.adapters.phantom import write_phantom
from dermaffinity.experiments import demo
from dermaffinity.tracking.mlflow_tracker import MlflowTracker


@pytest.mark.slow
def test_the_demo_says_first_what_was_found_and_ends_with_its_files_and_can_be_repeated(tmp_path, monkeypatch):
    def smaller(folder, **_):
        write_phantom(folder, fraction=0.03, image_size=40)

    def shorter(name, overrides):
        return read_config(name, [*overrides, "training.epochs=1", "training.batch_size=8", "data.image_size=32"])

    monkeypatch.setattr(demo, "write_phantom", smaller)
    monkeypatch.setattr(demo, "read_config", shorter)
    said = []
    for _ in range(2):
        progress, results = io.StringIO(), io.StringIO()
        demo.run_demo(tmp_path / "demo", Console(file=progress, width=200), Console(file=results, width=100))
        said.append((progress.getvalue(), results.getvalue()))

    (first_progress, first), (second_progress, second) = said
    assert first_progress.count(" test images") == 9  # three methods, three folds
    assert second_progress.count(": finished before") == 9
    assert "Drawing" not in second_progress
    assert first == second
    assert "Protocol 'group' (used here): no test image has another image of its group in training." in first
    for method in ("demo_softmax", "demo_cosen", "demo_affinity_plus"):
        assert method in first
        assert (tmp_path / "demo" / "runs" / method / "classifier" / "classifier.json").exists()
    assert re.match(
        r"Of \d+ images of rare lesions \([A-Z, ]+\), demo_\w+ found \d+, demo_\w+ \d+, demo_\w+ \d+\.\n", first
    )
    assert "Gain over demo_cosen" in first
    report = tmp_path / "demo" / "runs" / "demo_affinity_plus" / "report.html"
    assert f"one HTML file: {report}\n" in first
    assert "demo_softmax" in report.read_text(encoding="utf-8")
    tracker = MlflowTracker(f"sqlite:///{tmp_path / 'demo' / 'mlflow.db'}")
    note = tracker.call(lambda client: client.get_experiment_by_name("phantom-5")).tags["mlflow.note.content"]
    assert note.startswith(first.splitlines()[0])
    assert note.count("[Report of demo_affinity_plus](#/experiments/") == 1
    assert (tmp_path / "demo" / "compare" / "recall.png").stat().st_size > 10_000
    assert "study FOLDER --labels labels.csv" in first
    assert "synthetic: the numbers show that the tool works" in first
