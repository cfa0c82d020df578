"""Jobs write files, and the driver logs them: live, once, and later where the store was away."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from io import StringIO
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from dermaffinity.config import read_config
from dermaffinity.errors import BusyError, TrackingError
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.job import Job
from dermaffinity.experiments.logbook import Logbook
from dermaffinity.experiments.record import ExperimentRecord
from dermaffinity.experiments.results import prediction_table, write_table
from dermaffinity.files import write_json
from dermaffinity.tracking.mlflow_tracker import MlflowTracker

EPOCHS = 4
COUNTS = {"AK": 6, "BCC": 6}


class Study:
    """An experiment in a folder and a store, whose jobs' files are written by hand."""

    def __init__(self, config: Path, folder: Path, uri: str, seeds: int = 1) -> None:
        self.config, self.experiment, self.tracker = (
            read_config(config),
            Experiment(folder / "tiny"),
            MlflowTracker(uri),
        )
        record = ExperimentRecord(
            name="tiny",
            config={},
            scored="test",
            dataset="trial",
            split_hash="a" * 64,
            images_digest="b" * 64,
            protocol="group",
            folds=3,
            class_counts=COUNTS,
            malignant=(),
            versions={},
        )
        write_json(self.experiment.path / "experiment.json", record.model_dump(mode="json"))
        self.jobs = [
            Job.of(self.config, fold, seed, self.experiment.path) for seed in range(seeds) for fold in range(3)
        ]
        self.console = Console(file=StringIO(), soft_wrap=True)

    def logbook(self) -> Logbook:
        tags = {"role": "parent"}
        run = self.tracker.parent("trial", "tiny", key=self.experiment.identifier(), tags=tags, description="")
        return Logbook(self.jobs, {self.experiment.path: run}, self.tracker, self.console)

    @property
    def said(self) -> str:
        return self.console.file.getvalue()

    def train(self, job: Job, epochs: int) -> None:
        rows = [{"epoch": epoch, "loss": 1 / (epoch + 1)} for epoch in range(epochs)]
        write_table(pd.DataFrame(rows), job.files.history)

    def finish(self, job: Job) -> None:
        self.train(job, EPOCHS)
        rows = pd.DataFrame({"image": [f"{n}.png" for n in range(12)], "group": "g", "label": ["AK", "BCC"] * 6})
        probabilities = np.tile([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]], (4, 1))
        table = prediction_table(rows, probabilities, ("AK", "BCC"), fold=job.fold, seed=job.seed)
        write_table(table, job.files.predictions)
        write_json(job.files.path / "metrics.json", {"balanced_accuracy": 0.5 + job.seed / 100, "training.loss": 0.25})

    def stored(self):
        """The children by name: status, metrics, loss by epoch."""

        def read(client):
            experiment = client.get_experiment_by_name("trial")
            runs = client.search_runs([experiment.experiment_id], "tags.role = 'child'")
            assert len({run.info.run_name for run in runs}) == len(runs)
            return {
                run.info.run_name: (
                    run.info.status,
                    run.data.metrics.get("balanced_accuracy"),
                    [point.step for point in client.get_metric_history(run.info.run_id, "training/loss")],
                )
                for run in runs
            }

        return self.tracker.call(read)


@pytest.fixture
def study(tiny_config, tmp_path, empty_store):
    return Study(tiny_config, tmp_path, f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}")


def test_epochs_are_logged_as_they_come_and_results_when_a_job_ends(study):
    first, second, _ = study.jobs
    with study.logbook() as logbook:
        study.train(first, 2)
        logbook.look()
        assert study.stored() == {"tiny fold-0 seed-0": ("RUNNING", None, [0, 1])}
        study.train(first, 3)
        study.train(second, 1)
        logbook.look()
        logbook.look()
        study.finish(first)
        first.files.checkpoint.touch()
        logbook.look()  # all epochs are there, and the job is not finished while its checkpoint is
        assert study.stored()["tiny fold-0 seed-0"] == ("RUNNING", None, [0, 1, 2, 3])
        first.files.checkpoint.unlink()
        logbook.look()
    assert study.stored() == {
        "tiny fold-0 seed-0": ("FINISHED", 0.5, [0, 1, 2, 3]),
        "tiny fold-1 seed-0": ("RUNNING", None, [0]),
    }
    (kept,) = (study.tracker.artifact_root / "trial").glob("*/artifacts/confusion.json")
    # Of every three images, two are called BCC, whatever they are: 4 AK and 4 BCC of 12 are right.
    assert kept.read_text().replace("\n", "").replace(" ", "").endswith('"matrix":[[2,4],[2,4]]}')
    assert sorted(path.name for path in kept.parent.iterdir()) == [
        "confusion.json",
        "confusion.png",
        "history.png",
        "predictions.csv",
    ]


def test_what_a_killed_driver_did_not_log_is_logged_by_the_next_and_nothing_twice(study):
    _, second, third = study.jobs
    study.train(second, 2)
    logbook = study.logbook()
    logbook.look()  # and is killed
    for job in study.jobs:
        study.finish(job)
    with study.logbook() as logbook:
        assert len(logbook.pages) == 3
        logbook.look()
    expected = {f"tiny fold-{fold} seed-0": ("FINISHED", 0.5, [0, 1, 2, 3]) for fold in range(3)}
    assert study.stored() == expected
    with study.logbook() as logbook:
        assert not logbook.pages
        # A fold whose folder was deleted is trained and logged anew.
        shutil.rmtree(third.files.path)
    with study.logbook() as logbook:
        assert [page.job for page in logbook.pages.values()] == [third]
        study.finish(third)
        logbook.look()
    assert study.stored() == expected


def test_a_job_that_failed_and_one_that_was_stopped_say_so(study):
    first, second, third = study.jobs
    logbook = study.logbook()
    logbook.end(first, "FAILED")
    study.train(second, 1)
    logbook.look()
    study.finish(third)
    logbook.look()
    logbook.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert {name: status for name, (status, *_) in study.stored().items()} == {
        "tiny fold-0 seed-0": "FAILED",
        "tiny fold-1 seed-0": "KILLED",
        "tiny fold-2 seed-0": "FINISHED",
    }


def test_a_run_that_another_process_works_on_is_left_to_it(study):
    logbook = study.logbook()
    study.train(study.jobs[0], 1)
    logbook.look()
    logbook.__exit__(BusyError, BusyError("elsewhere"), None)
    assert study.stored()["tiny fold-0 seed-0"][0] == "RUNNING"


def test_a_store_that_goes_away_is_told_once_and_gets_everything_when_it_is_back(study, monkeypatch):
    away = Mock(side_effect=TrackingError("The tracking store x cannot be used."))
    with study.logbook() as logbook:
        with monkeypatch.context() as patch:
            patch.setattr(MlflowTracker, "child", away)
            for job in study.jobs:
                study.finish(job)
                logbook.look()
            assert away.call_count == 1  # it is not asked for every job
            logbook.pause_until = 0.0  # two minutes later
            logbook.look()
            assert away.call_count == 2
        assert study.said.count("Warning: ") == 1
        assert "x cannot be used. The jobs go on, and their results are kept in files." in study.said
        logbook.pause_until = 0.0
        logbook.look()
    assert len(study.stored()) == 3
    assert "Not all is tracked" not in study.said


def test_a_store_that_stays_away_is_told_at_the_end_with_what_to_do(study, monkeypatch):
    with study.logbook() as logbook, monkeypatch.context() as patch:
        patch.setattr(MlflowTracker, "child", lambda *arguments, **options: logbook.tracker.missing())
        patch.setattr(
            MlflowTracker, "missing", lambda tracker: (_ for _ in ()).throw(TrackingError("x")), raising=False
        )
        study.finish(study.jobs[0])
        logbook.look()
    assert study.said.splitlines()[-1] == (
        "Warning: Not all is tracked: run the same command (crossval: with --resume) when the store is back."
    )


def test_thirty_jobs_that_end_at_once_are_all_logged(tiny_config, tmp_path, empty_store):
    check_thirty(Study(tiny_config, tmp_path, f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}", 10))


def check_thirty(study: Study) -> float:
    with study.logbook() as logbook:
        for job in study.jobs:
            study.finish(job)
        started = time.perf_counter()
        logbook.look()
        seconds = time.perf_counter() - started
        assert not logbook.pages
    assert study.stored() == {
        f"tiny fold-{fold} seed-{seed}": ("FINISHED", 0.5 + seed / 100, [0, 1, 2, 3])
        for fold in range(3)
        for seed in range(10)
    }
    return seconds


@pytest.fixture
def server(tmp_path):
    """An MLflow server on PostgreSQL; its address, and a way to end it."""
    binaries = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
    if binaries is None:
        pytest.skip("needs PostgreSQL (apt-get install postgresql)")
    pytest.importorskip("psycopg2")
    own = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # a socket's path is short, pytest's folders are not
    folder.chmod(0o777)
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    data = folder / "data"
    subprocess.run([*own, binaries / "initdb", "-D", data, "-U", "u", "-A", "trust"], check=True, capture_output=True)
    database = subprocess.Popen(
        [*own, binaries / "postgres", "-D", data, "-p", f"{ports[0]}", "-k", folder, "-h", "127.0.0.1"],
        stderr=subprocess.DEVNULL,
    )
    store = f"postgresql+psycopg2://u@127.0.0.1:{ports[0]}/postgres"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--artifacts-destination"]
    command += [str(tmp_path / "artifacts"), "--host", "127.0.0.1", "--port", f"{ports[1]}", "--workers", "1"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    time.sleep(2)
    served = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(ports[1])
        yield f"http://127.0.0.1:{ports[1]}", database
    finally:
        served.terminate()
        database.send_signal(signal.SIGQUIT)
        served.wait()
        database.wait()
        shutil.rmtree(folder)


def wait_for(port: int) -> None:
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise AssertionError("the MLflow server does not start")


@pytest.mark.slow
def test_thirty_jobs_reach_a_server_on_postgresql_and_a_dead_database_loses_nothing(tiny_config, tmp_path, server):
    address, database = server
    study = Study(tiny_config, tmp_path, address, 10)
    print(f"30 jobs logged in {check_thirty(study):.1f} s")
    later = Study(tiny_config, tmp_path / "later", address)
    with later.logbook() as logbook:
        database.send_signal(signal.SIGQUIT)  # at once; else it waits for the server to leave
        database.wait()
        for job in later.jobs:
            later.finish(job)
        logbook.look()
        assert len(logbook.pages) == 3
    assert "Not all is tracked" in later.said
    assert all(job.files.finished for job in later.jobs)
