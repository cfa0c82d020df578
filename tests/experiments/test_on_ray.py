"""Jobs in Ray's workers: the bytes of `inline`, whatever happens to a worker, a machine or the driver."""

import logging
import os
import re
import signal
import sys
from contextlib import suppress
from io import StringIO
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from rich.console import Console

from dermaffinity.cluster import ENVIRONMENT
from dermaffinity.config import read_config
from dermaffinity.errors import ConfigError, TrainingError
from dermaffinity.experiments.job import Images
from dermaffinity.experiments.launchers import launcher_of, on_ray
from dermaffinity.experiments.launchers.on_ray import RayLauncher
from dermaffinity.experiments.logbook import Logbook
from dermaffinity.experiments.progress import RunProgress
from dermaffinity.experiments.run import Plan, run_experiments
from dermaffinity.tracking.mlflow_tracker import MlflowTracker

# A loss in a module of the folder that the command runs in: it saves every epoch, writes down who trains, and waits.
PLUGIN = """\
import os, signal, time
from pathlib import Path
from dermaffinity.losses import CrossEntropyLoss
from dermaffinity.training import trainer

trainer.CHECKPOINT_SECONDS = 0.0

class Watched(CrossEntropyLoss):
    def on_epoch_start(self, epoch, epochs):
        with open("epochs.txt", "a") as file:
            print(os.getpid(), epoch, file=file)
        if Path("kill").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        while epoch == 1 and not Path("go").exists():
            time.sleep(0.1)
        return super().on_epoch_start(epoch, epochs)
"""
KNN = """\
name: tiny_knn
data: {{manifest: {manifest}, image_size: 32}}
features: {{class: dermaffinity.classic.ColorTexture, levels: 8, distances: [1]}}
estimator: {{class: dermaffinity.classic.FlatKNN, num_features: 1}}
"""


@pytest.fixture(scope="module")
def cluster():
    """Two machines of one core. Their addresses are not 127.0.0.1, on which Ray waits for minutes."""
    os.environ.update(ENVIRONMENT)
    options = {
        "num_cpus": 1,
        "object_store_memory": 100 * 2**20,
        "include_dashboard": False,
        "include_log_monitor": False,
    }
    # A dead machine refuses at once; one that is slow, on a busy computer, has time to answer.
    quickly = {"health_check_initial_delay_ms": 3000, "health_check_period_ms": 1000}
    quickly |= {"health_check_timeout_ms": 5000, "health_check_failure_threshold": 5}
    head = {"node_ip_address": "127.0.0.2", "_system_config": quickly, "no_monitor": True, **options}
    started = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
    started.second = patiently(lambda: started.add_node(node_ip_address="127.0.0.3", **options))
    ray.init(address=started.address, log_to_driver=False, logging_level=logging.ERROR)
    yield started
    ray.shutdown()
    started.shutdown()


def patiently(start):
    """Starts a machine of Ray, which gives its helpers 15 seconds: on a busy computer not always enough."""
    for _ in range(5):
        try:
            return start()
        except Exception as error:
            late = error
    raise late


@pytest.fixture
def folder(tmp_path, monkeypatch, phantom_manifest):
    """The folder that commands run in, with a plugin and a config without a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"watched_{tmp_path.parent.name.replace('-', '_')}_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(PLUGIN)
    (tmp_path / "tiny_knn.yaml").write_text(KNN.format(manifest=phantom_manifest))
    yield tmp_path
    sys.modules.pop(name, None)


def run(tiny_config, folder, runs, launcher, *others, **options):
    (plugin,) = folder.glob("watched_*.py")
    loss = f"loss={{class: {plugin.stem}.Watched}}"
    configs = [read_config(tiny_config, [f"plugins=[{plugin.stem}]", loss]), *map(read_config, others)]
    console = Console(file=StringIO(), soft_wrap=True)
    plan = Plan(runs=runs, launcher=launcher, console=console, **options)
    try:
        run_experiments(configs, plan)
    finally:
        said = console.file.getvalue()
    return said


def parent(process):
    """The id of a process's parent; None when it has ended."""
    with suppress(FileNotFoundError):
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.slow
def test_a_machine_lost_in_mid_job_costs_nothing_and_changes_nothing(cluster, tiny_config, folder, monkeypatch):
    (folder / "go").touch()
    run(tiny_config, folder, Path("expected"), launcher_of("inline"), "tiny_knn.yaml")
    (folder / "go").unlink()
    (folder / "epochs.txt").unlink()

    def trained():
        lines = (folder / "epochs.txt").read_text().splitlines() if (folder / "epochs.txt").exists() else []
        return [tuple(map(int, line.split())) for line in lines]

    look = Logbook.look

    def look_and_lose(logbook, jobs=None):
        look(logbook, jobs)
        # Each machine has a job whose first epoch is saved and whose second is begun.
        if not (folder / "go").exists() and [epoch for _, epoch in trained()].count(1) == 2:
            parents = {process: parent(process) for process, _ in trained()}
            cluster.remove_node(cluster.second, allow_graceful=False)
            # A machine that is lost takes its workers with it, which here may outlive their parent for a while.
            for process, before in parents.items():
                if parent(process) != before:
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
            (folder / "go").touch()

    monkeypatch.setattr(Logbook, "look", look_and_lose)
    said = run(tiny_config, folder, Path("runs"), RayLauncher(), "tiny_knn.yaml")
    assert said.count("balanced accuracy") == 6
    names = {path.relative_to("expected") for path in Path("expected").rglob("*.csv")}
    assert names == {path.relative_to("runs") for path in Path("runs").rglob("*.csv")}
    for name in names:
        if name.name != "history.csv":  # which has the speed
            assert (Path("expected") / name).read_bytes() == (Path("runs") / name).read_bytes(), name
    epochs = [epoch for _, epoch in trained()]
    # The second epoch of the lost job is trained twice, its first one is not.
    assert (epochs.count(0), epochs.count(1), epochs.count(2)) == (3, 4, 3)
    assert len({process for process, _ in trained()}) >= 2


@pytest.mark.slow
def test_a_job_that_kills_its_process_is_listed_and_the_driver_lives(cluster, tiny_config, folder, monkeypatch):
    monkeypatch.setattr(on_ray, "_TRIES", 1)
    (folder / "kill").touch()
    with pytest.raises(TrainingError, match="1 of 1 jobs failed") as error:
        run(tiny_config, folder, Path("runs"), RayLauncher(), folds=[0])
    assert error.value.problems == (
        "tiny fold 0 seed 0: its process ended 1 times; with too little memory, use fewer --jobs-per-device",
    )


def test_a_cluster_without_the_folder_is_named(cluster, tiny_config, folder, monkeypatch):
    monkeypatch.setattr(on_ray.os, "getcwd", lambda: "/nowhere")
    with pytest.raises(ConfigError, match="no machine of the cluster can run these jobs") as error:
        run(tiny_config, folder, folder / "runs", RayLauncher(), folds=[0])
    assert re.search(r"No such file or directory: '/nowhere'\. Install dermaffinity .* and share the folder /nowhere",
                     error.value.problems[0])  # fmt: skip


def test_images_come_from_ray_without_a_copy_and_without_the_library(cluster, tiny_config):
    images = Images(read_config(tiny_config).data)
    expected = images.decoded()

    def look(given):
        given.manifest = None
        first = given.decoded()[0]
        return "library" in vars(given), first.flags.writeable, first.tobytes()

    opened, writeable, first = ray.get(ray.remote(look).remote(ray.put(images)))
    assert (opened, writeable) == (False, False)
    assert first == expected[0].tobytes()


@pytest.mark.parametrize(
    ("found", "asked", "workers", "cpus", "gpus", "threads"),
    [
        ({"CPU": 8.0}, "auto", 4, 2, 0.0, 2),
        ({"CPU": 8.0}, 3, 3, 2, 0.0, 2),
        ({"CPU": 2.0}, 3, 3, 0.6666, 0.0, 1),
        ({"CPU": 8.0, "GPU": 2.0}, 3, 6, 1, 0.3333, 1),
        ({"CPU": 64.0, "GPU": 1.0}, "auto", 20, 3, 0.05, 3),  # the card's memory holds 20
        ({"CPU": 64.0, "GPU": 1.0}, 40, 20, 3, 0.05, 3),
    ],
)
def test_a_machine_takes_as_many_jobs_as_asked_if_its_memory_holds_them(
    monkeypatch, found, asked, workers, cpus, gpus, threads
):
    monkeypatch.setattr(on_ray, "_card_memory", lambda node: 80e9)
    console = Console(file=StringIO(), soft_wrap=True)
    pool = on_ray._Pool([], asked, RunProgress(0, console), None)
    pool.memory = 4e9
    node = pool._measured("id", {"Resources": found, "NodeManagerHostname": "lab"})
    assert node == on_ray._Node("lab", workers, cpus, gpus, threads)
    said = "Warning: --jobs-per-device 40: the memory of a GPU of lab, 74.5 GiB, holds 20, which are used\n"
    assert console.file.getvalue() == (said if asked == 40 else "")


@pytest.mark.slow
def test_a_pool_of_this_machine_is_silent_and_leaves_nothing(commands, fresh_folder, uninterrupted, tiny_config):
    folder = fresh_folder("pool")
    before = set(Path("/tmp").glob("da-ray-*"))
    damaged = folder / "runs/tiny/fold-1_seed-0/checkpoint.pt"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"PK\x03\x04 was cut off here")
    words = ("crossval", str(tiny_config), "--launcher", "ray", "--resume")
    pid = commands.start(*words, folder=folder, environment={"HOME": str(folder / "home")})
    failed = commands.wait(pid, folder)
    assert failed.code == 1, failed.stderr
    assert failed.stdout == ""
    *lines, summary, problem = failed.stderr.splitlines()
    assert summary == "dermaffinity: 1 of 3 jobs failed; the others are finished and kept"
    assert problem.startswith("  - tiny fold 1 seed 0: ")
    assert problem.endswith("Delete it to train this fold anew")
    assert all(re.match("tiny fold . seed 0: ", line) for line in lines), lines
    for fold in (0, 2):
        name = f"runs/tiny/fold-{fold}_seed-0/predictions.csv"
        assert (folder / name).read_bytes() == (uninterrupted / name).read_bytes()
    assert statuses(folder) == {
        "tiny": "FAILED",
        "tiny fold-0 seed-0": "FINISHED",
        "tiny fold-1 seed-0": "FAILED",
        "tiny fold-2 seed-0": "FINISHED",
    }
    assert {path.name for path in (folder / "home").glob("*")} <= {".cache", ".config"}  # matplotlib's, none of Ray's
    assert set(Path("/tmp").glob("da-ray-*")) <= before


@pytest.mark.slow
def test_ctrl_c_ends_the_workers_and_the_tracking_runs(commands, fresh_folder, tiny_config):
    folder = fresh_folder("stopped_pool")
    moment = ("dermaffinity.experiments.logbook.identity", 1, "after", int(signal.SIGINT))
    stopped = commands.run("crossval", str(tiny_config), "--launcher", "ray", folder=folder, signals=[moment])
    assert stopped.code == 130, stopped.stderr
    assert stopped.stderr.splitlines()[-1].startswith("dermaffinity: Interrupted. Finished jobs are kept")
    assert "Traceback" not in stopped.stderr
    assert set(statuses(folder).values()) == {"KILLED"}


def statuses(folder):
    tracker = MlflowTracker(f"sqlite:///{folder / 'mlflow.db'}")
    runs = tracker.call(lambda client: client.search_runs([client.get_experiment_by_name("phantom-5").experiment_id]))
    return {one.info.run_name: one.info.status for one in runs}
