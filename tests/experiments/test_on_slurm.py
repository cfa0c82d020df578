"""Jobs as tasks of an array: chunks, results, tasks that are stopped or killed, and a real Slurm where there is one."""

import os
import shutil
import signal
import subprocess
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import submitit
from rich.console import Console

from dermaffinity.config import read_config
from dermaffinity.errors import ConfigError, TrainingError
from dermaffinity.experiments.launchers import launcher_of, on_slurm
from dermaffinity.experiments.launchers.on_slurm import SlurmLauncher
from dermaffinity.experiments.run import Plan, run_experiments
from dermaffinity.tracking.mlflow_tracker import MlflowTracker

# Saves every epoch, writes down who trains, and waits in the second epoch of fold 0 until it is stopped once.
PLUGIN = """\
import os, time
from pathlib import Path
from dermaffinity.losses import CrossEntropyLoss
from dermaffinity.training import trainer

trainer.CHECKPOINT_SECONDS = 0.0

class Slow(CrossEntropyLoss):
    def on_epoch_start(self, epoch, epochs):
        with open("epochs.txt", "a") as file:
            print(os.getpid(), epoch, file=file)
        if epoch == 1 and not Path("stopped").exists():
            Path("stopped").touch()
            time.sleep(100)
        return super().on_epoch_start(epoch, epochs)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(on_slurm, "_PAUSE", 0.2)
    monkeypatch.setattr(on_slurm, "_ASK", 0.2)
    return tmp_path


def run(config, launcher, *overrides, **options):
    console = Console(file=StringIO(), soft_wrap=True)
    plan = Plan(runs=Path("runs"), launcher=launcher, console=console, **options)
    try:
        run_experiments([read_config(config, ["training.epochs=3", *overrides])], plan)
    finally:
        said = console.file.getvalue()
    return said


def predictions(folder, fold):
    return (folder / f"runs/tiny/fold-{fold}_seed-0/predictions.csv").read_bytes()


def test_chunks_give_the_bytes_of_inline_and_the_driver_tracks_them(tiny_config, folder, uninterrupted, empty_store):
    tracker = MlflowTracker(f"sqlite:///{shutil.copy(empty_store, folder / 'mlflow.db')}")
    launcher = SlurmLauncher(executor=submitit.DebugExecutor)
    said = run(tiny_config, launcher, tracker=tracker)
    assert "3 tasks of 1 job" in said
    assert said.count("balanced accuracy") == 3
    for fold in range(3):
        assert predictions(folder, fold) == predictions(uninterrupted, fold)
    runs = tracker.call(lambda client: client.search_runs([client.get_experiment_by_name("phantom-5").experiment_id]))
    assert [one.info.status for one in runs] == ["FINISHED"] * 4


@pytest.mark.parametrize(
    ("jobs", "each", "limit", "sizes"),
    [(5, "auto", 1000, [1] * 5), (5, 2, 1000, [2, 2, 1]), (50, "auto", 10, [5] * 10), (50, 8, 10, [8] * 6 + [2])],
)
def test_an_array_stays_below_the_limit_of_the_site(monkeypatch, folder, jobs, each, limit, sizes):
    chunks = []

    class Executor:
        def map_array(self, chunk, given):
            chunks.extend(given)
            raise RuntimeError("enough")

    monkeypatch.setattr(on_slurm, "_array_limit", lambda: limit)
    asked = [SimpleNamespace(folder=folder / "tiny", number=number) for number in range(jobs)]
    with pytest.raises(RuntimeError, match="enough"):
        SlurmLauncher(each, executor=lambda path: Executor()).run(asked, None, None)
    assert [len(chunk) for chunk in chunks] == sizes
    assert [job for chunk in chunks for job in chunk] == asked


def stop_once(monkeypatch, folder, stop):
    """Stops the task of fold 0 while it waits in its second epoch, and returns what its config says."""
    (folder / "slow_part.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(folder))
    look = on_slurm.Logbook.look

    def look_and_stop(logbook, jobs=None):
        look(logbook, jobs)
        if (folder / "stopped").exists() and not (folder / "sent").exists():
            (folder / "sent").touch()
            stop()

    monkeypatch.setattr(on_slurm.Logbook, "look", look_and_stop)
    return "plugins=[slow_part]", "loss={class: slow_part.Slow}"


def went_on(folder):
    """The first epoch was saved, and is not trained again; the second is, in another process."""
    epochs = [tuple(map(int, line.split())) for line in (folder / "epochs.txt").read_text().splitlines()]
    return [epoch for _, epoch in epochs] == [0, 1, 1, 2] and len({process for process, _ in epochs}) == 2


@pytest.mark.slow
def test_a_task_that_is_stopped_at_its_limit_is_queued_again_and_goes_on(tiny_config, folder, monkeypatch):
    def executor(path):
        made = submitit.LocalExecutor(path, max_num_timeout=5)
        made.update_parameters(timeout_min=10, signal_delay_s=3)
        return made

    def stop():
        os.kill(int((folder / "epochs.txt").read_text().split()[0]), signal.SIGUSR2)

    words = stop_once(monkeypatch, folder, stop)
    said = run(tiny_config, SlurmLauncher(executor=executor), *words, folds=[0])
    assert said.count("balanced accuracy") == 1
    assert went_on(folder)


@pytest.mark.slow
def test_a_task_that_is_killed_is_listed_with_the_place_of_its_last_lines(tiny_config, folder, monkeypatch):
    (folder / "slow_part.py").write_text(PLUGIN.replace("time.sleep(100)", "os.kill(os.getpid(), 9)"))
    monkeypatch.syspath_prepend(str(folder))
    words = ("plugins=[slow_part]", "loss={class: slow_part.Slow}", "name=killed")
    with pytest.raises(TrainingError, match="1 of 1 jobs failed") as error:
        run(tiny_config, SlurmLauncher(executor=submitit.LocalExecutor), *words, folds=[0])
    (problem,) = error.value.problems
    assert problem.startswith("killed fold 0 seed 0: its task ")
    assert problem.endswith("_log.err")


def test_a_task_that_slurm_has_forgotten_twice_is_lost():
    task = Mock(job_id="7_1")
    listed = iter([{"7_1"}, set(), {"7_1"}, set(), set()])
    watch = on_slurm._Watch({task: []}, lambda: next(listed), None, None)
    assert [watch._lost() for _ in range(5)] == [set(), set(), set(), set(), {task}]


def test_a_machine_without_slurm_says_so(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ConfigError, match="there is no sbatch here"):
        launcher_of("slurm")


@pytest.mark.parametrize(
    ("text", "minutes"), [("90", 90), ("4:00:00", 240), ("1-12:00", 2160), ("10:30", 10), ("0:00:30", 1)]
)
def test_a_time_limit_is_read_as_sbatch_reads_it(text, minutes):
    assert on_slurm._minutes(text) == minutes


def test_a_time_limit_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="--slurm time=soon: write minutes, or H:MM:SS"):
        on_slurm._minutes("soon")


REAL = pytest.mark.skipif(
    not shutil.which("sinfo") or subprocess.run(["sinfo"], capture_output=True, check=False).returncode != 0,
    reason="needs a running Slurm",
)


@pytest.mark.slow
@REAL
def test_a_real_slurm_runs_the_array(tiny_config, folder, uninterrupted, monkeypatch):
    monkeypatch.setattr(on_slurm, "_ASK", 5.0)
    run(tiny_config, launcher_of("slurm", slurm={"time": "30", "cpus-per-task": "1"}))
    for fold in range(3):
        assert predictions(folder, fold) == predictions(uninterrupted, fold)


@pytest.mark.slow
@REAL
def test_a_task_that_a_real_slurm_queues_again_goes_on(tiny_config, folder, monkeypatch):
    monkeypatch.setattr(on_slurm, "_ASK", 5.0)

    def stop():
        words = ["squeue", "--me", "--array", "--noheader", "--format=%i"]
        (task,) = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
        subprocess.run(["scontrol", "requeue", task], check=True)

    words = stop_once(monkeypatch, folder, stop)
    run(tiny_config, launcher_of("slurm", slurm={"time": "30", "cpus-per-task": "1"}), *words, folds=[0])
    assert went_on(folder)
