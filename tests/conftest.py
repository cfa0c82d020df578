"""A tiny phantom library, its manifest, and configs small enough to train in seconds."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

# One thread for each process of the tests, before torch counts the cores: threads that wait for one another are slow
# where other processes are busy.
os.environ["OMP_NUM_THREADS"] = "1"

_CONFIG = """\
name: tiny
data: {{manifest: {manifest}, image_size: 32}}
augmentation: {{class: dermaffinity.data.augmentation.LesionAugmentation, color: 0.1}}
backbone: {{class: dermaffinity.models.SmallConvNet}}
neck: {{class: dermaffinity.models.IdentityNeck}}
head: {{class: dermaffinity.heads.LinearHead}}
loss: {{class: dermaffinity.losses.CoSenLoss, cost_rate: 0.1}}
training: {{epochs: 3, batch_size: 8, learning_rate: 0.02}}
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first in each worker's share, or one of them would be left for the end.

    Workers start with equal shares of the list, one after the other, and take from the ends of others' later. A file
    stays whole, because its tests share what they train.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    slow = list(dict.fromkeys(item.path for item in items if item.get_closest_marker("slow")))
    quick = [item for item in items if item.path not in slow]
    share, ordered = len(items) // workers, []
    for worker in range(workers):
        ordered += [item for path in slow[worker::workers] for item in items if item.path == path]
        room = max(0, (worker + 1) * share - len(ordered)) if worker + 1 < workers else len(quick)
        ordered, quick = ordered + quick[:room], quick[room:]
    items[:] = ordered


@pytest.fixture(scope="module", autouse=True)
def layout_where_it_is_tested(request):
    """Lays figures out in the tests of reports alone, because it takes more than a third of the time of drawing."""
    with pytest.MonkeyPatch.context() as patch:
        if "report" not in request.path.parts:
            patch.setattr("dermaffinity.report.figures._layout", lambda: None)
        yield


@pytest.fixture(scope="session")
def phantom_library(tmp_path_factory) -> Path:
    """A folder of 66 synthetic lesions in ten classes, at most 40 pixels wide."""
    from dermaffinity.data.adapters.phantom import write_phantom

    folder = tmp_path_factory.mktemp("phantom") / "library"
    write_phantom(folder, fraction=0.03, image_size=40)
    return folder


@pytest.fixture(scope="session")
def phantom_manifest(phantom_library) -> Path:
    """The five-class manifest of the library, in three folds by patient; do not write to it."""
    from dermaffinity.data.adapters.phantom import PhantomAdapter
    from dermaffinity.data.manifest import write_manifest

    path = phantom_library.parent / "phantom-5.csv"
    write_manifest(PhantomAdapter(phantom_library, experiment="5-class").prepare(folds=3), path)
    return path


@pytest.fixture(scope="session")
def tiny_config(phantom_manifest) -> Path:
    """A config of three epochs with CoSen, whose cost matrix a checkpoint must carry; do not write to it."""
    path = phantom_manifest.parent / "tiny.yaml"
    path.write_text(_CONFIG.format(manifest=phantom_manifest))
    return path


@dataclass(frozen=True)
class Finished:
    """What a command left: its exit code, negative for a signal, and what it wrote."""

    code: int
    stdout: str
    stderr: str


class Commands:
    """Runs ``dermaffinity`` commands in processes of their own that can be killed."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("forked_commands.py")
        self.server = subprocess.Popen(
            [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, *argv: str, folder: Path, signals=()) -> Finished:
        """Args: ``signals`` are (function's import path, number of the call, "before" or "after", signal)."""
        return self.wait(self.start(*argv, folder=folder, signals=signals), folder)

    def start(self, *argv: str, folder: Path, signals=(), environment=None) -> int:
        start = {"argv": argv, "folder": str(folder), "environment": environment or {}, "signals": signals}
        return self._ask({"start": start})

    def wait(self, pid: int, folder: Path) -> Finished:
        code = self._ask({"wait": pid})
        return Finished(code, *((folder / f"{name}-{pid}.txt").read_text() for name in ("stdout", "stderr")))

    def _ask(self, request: dict) -> int:
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())


@pytest.fixture(scope="session")
def commands():
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    started = Commands()
    yield started
    started.server.stdin.close()
    started.server.wait(timeout=60)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """A fresh MLflow store to copy, because making one takes seconds."""
    from dermaffinity.tracking.mlflow_tracker import MlflowTracker

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowTracker(f"sqlite:///{path}").call(lambda client: client.search_experiments())
    return path


@pytest.fixture(scope="session")
def fresh_folder(tmp_path_factory, empty_store) -> Callable[[str], Path]:
    """Makes a folder with a store."""

    def make(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        shutil.copy(empty_store, folder / "mlflow.db")
        return folder

    return make


@pytest.fixture(scope="session")
def uninterrupted(commands, fresh_folder, tiny_config) -> Path:
    """The folder of the tiny experiment, run without any interruption; do not write to it."""
    folder = fresh_folder("uninterrupted")
    finished = commands.run("crossval", str(tiny_config), folder=folder)
    assert finished.code == 0, finished.stderr
    return folder


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory) -> Path:
    """Model folders ``fold-0``, ``fold-1`` and both in ``classifier``; untrained, so that only what is done shows.

    Each fold's examples are eight images, 0 to 7 and 4 to 11, placed at random.
    """
    import numpy as np
    import torch

    from dermaffinity.inference.model_folder import (
        Calibration,
        Facts,
        TrainingExamples,
        build_network,
        join_models,
        save_model,
    )

    root = tmp_path_factory.mktemp("toy")
    sections = {
        "backbone": {"class": "dermaffinity.models.SmallConvNet"},
        "neck": {"class": "dermaffinity.models.UnitNeck", "dim": 8},
        "head": {"class": "dermaffinity.heads.AffinityHead", "centers_per_class": 2, "sigma": 0.7},
    }
    data = {"name": "toy", "split_hash": "", "images_digest": "", "class_counts": {}, "source": "", "license": "none"}
    facts = Facts.model_validate(
        {
            "name": "toy",
            "classes": ("AK", "BCC", "ML"),
            "malignant": ["BCC"],
            "preprocessing": {"image_size": 32, "lesion_crop": None},
            "data": data,
            **sections,
        }
    )
    for fold, temperature in ((0, 0.5), (1, 2.0)):
        torch.manual_seed(fold)
        network = build_network(sections, 3, pretrained=False)
        network.train()(torch.randn(16, 3, 32, 32))  # moves the statistics of batch normalization
        scores = {"AK": tuple(np.linspace(0.2, 0.9, 19)), "BCC": (0.5, 0.6), "ML": ()}
        calibration = Calibration(
            temperature=temperature,
            scores=scores,
            distance_mean=0.5 + fold,
            distance_sd=0.25,
            novelty_threshold=1.0 + fold,
            log_shares=tuple(np.log([0.2, 0.1 + 0.1 * fold, 0.7 - 0.1 * fold])),
            assumed=(0.0, 0.0, 0.5 * fold),
        )
        numbers = range(4 * fold, 4 * fold + 8)
        examples = TrainingExamples(
            [f"{number}.png" for number in numbers],
            [facts.classes[number % 3] for number in numbers],
            torch.nn.functional.normalize(torch.randn(8, 8), dim=1),
        )
        folder = root / f"fold-{fold}"
        save_model(folder, network, facts, fold=fold, seed=0, calibration=calibration, examples=examples)
    join_models([root / "fold-0", root / "fold-1"], root / "classifier", temperature=1.5)
    return root
