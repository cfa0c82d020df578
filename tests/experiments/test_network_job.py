"""Whatever stops a cross-validation, it goes on to the same numbers, and every file and run is there once."""

import dataclasses
import signal
import socket
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

from dermaffinity import LesionClassifier
from dermaffinity.config import read_config
from dermaffinity.data.dataset import ManifestDataset
from dermaffinity.data.library import ImageLibrary
from dermaffinity.data.manifest import read_manifest, write_manifest
from dermaffinity.data.transforms import EvaluationStage
from dermaffinity.experiments import network_job
from dermaffinity.experiments.job import Images
from dermaffinity.experiments.results import read_table
from dermaffinity.inference.model_folder import load_networks, read_description
from dermaffinity.inference.predict import predict
from dermaffinity.metrics.classification import Classes
from dermaffinity.metrics.reliability import brier_score
from dermaffinity.tracking.mlflow_tracker import MlflowTracker
from dermaffinity.training.precision import with_precision

KILL, CTRL_C = int(signal.SIGKILL), int(signal.SIGINT)
EPOCHS, FOLDS = 3, 3


@pytest.fixture(scope="module")
def killed_often(commands, fresh_folder, tiny_config):
    """Stopped at every kind of moment, each time later, and resumed."""
    folder = fresh_folder("killed")
    trainer, jobs, experiments = (
        "dermaffinity.training.trainer",
        "dermaffinity.experiments.network_job",
        "dermaffinity.experiments.run",
    )
    moments = [
        # fold 0
        ((f"{trainer}._check_finite", 4, "before", KILL), []),  # in the middle of the second epoch
        ((f"{trainer}.save_checkpoint", 1, "after", KILL), []),  # the second epoch is saved and not yet logged
        ((f"{trainer}.save_checkpoint", 1, "before", KILL), ["--set", "training.workers=2"]),  # learned, not saved
        (("dermaffinity.files._keep_mode", 5, "before", KILL), []),  # in the middle of classifier.json
        ((f"{jobs}.write_json", 1, "after", KILL), []),  # results written, the tracking run still open
        # fold 1
        ((f"{trainer}.save_checkpoint", 2, "after", KILL), []),
        # all folds
        ((f"{experiments}.write_table", 1, "after", KILL), []),  # pooling
        (("dermaffinity.inference.model_folder._content", 3, "after", KILL), []),  # joining the folds' models
    ]
    for number, (moment, options) in enumerate(moments):
        resume = ["--resume"] if number else []
        finished = commands.run("crossval", str(tiny_config), *resume, *options, folder=folder, signals=[moment])
        assert finished.code == -KILL, (moment, finished.stderr)
    finished = commands.run("crossval", str(tiny_config), "--resume", folder=folder)
    assert finished.code == 0, finished.stderr
    return folder


def tracked(folder):
    """Status, parameters, metrics by step, and artifacts of every run by name."""
    tracker = MlflowTracker(f"sqlite:///{folder / 'mlflow.db'}")

    def read(client):
        (experiment,) = client.search_experiments(filter_string="name = 'phantom-5'")
        runs = {}
        for run in client.search_runs([experiment.experiment_id]):
            assert run.info.run_name not in runs
            history = {
                name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
                for name in run.data.metrics
            }
            runs[run.info.run_name] = (run.info.status, run.data.params, history)
        return runs

    return tracker.call(read)


def test_a_run_killed_at_eight_moments_ends_with_the_numbers_of_one_never_killed(uninterrupted, killed_often):
    names = {path.relative_to(uninterrupted / "runs") for path in (uninterrupted / "runs").rglob("*") if path.is_file()}
    assert names == {
        path.relative_to(killed_often / "runs") for path in (killed_often / "runs").rglob("*") if path.is_file()
    }
    compared = Counter()
    for name in names:
        if name.name in (
            "metrics.json",
            "predictions.csv",
            "validation.csv",
            "classifier.json",
        ) or name.name.startswith(("out_of_fold", "fold-")):
            assert (uninterrupted / "runs" / name).read_bytes() == (killed_often / "runs" / name).read_bytes(), name
            compared[name.name] += 1
    assert compared["metrics.json"] == compared["predictions.csv"] == FOLDS
    assert compared["out_of_fold_summary.csv"] == 1
    assert compared["classifier.json"] == FOLDS + 1
    assert compared["fold-1_seed-0.safetensors"] == 2


def test_a_run_killed_at_eight_moments_is_tracked_as_if_never_killed(uninterrupted, killed_often):
    expected, found = tracked(uninterrupted), tracked(killed_often)
    assert len(expected) == FOLDS + 1
    assert found.keys() == expected.keys()
    for name, (status, params, history) in found.items():
        assert status == "FINISHED", name
        assert params == expected[name][1]
        for metric, points in history.items():
            assert Counter(step for step, _ in points).most_common(1)[0][1] == 1, (name, metric, points)
            if metric != "training/images_per_second":
                assert points == expected[name][2][metric], (name, metric)
        assert history.keys() == expected[name][2].keys()
        if name != "tiny":
            assert [step for step, _ in history["training/loss"]] == list(range(EPOCHS))


def test_ctrl_c_in_mid_epoch_gives_one_line_and_is_gone_on_with(commands, fresh_folder, uninterrupted, tiny_config):
    folder = fresh_folder("stopped")
    moment = ("dermaffinity.training.trainer.set_learning_rate", 4, "before", CTRL_C)
    stopped = commands.run("crossval", str(tiny_config), folder=folder, signals=[moment])
    assert stopped.code == 130
    assert stopped.stderr.splitlines()[-1] == (
        "dermaffinity: Interrupted. Finished jobs are kept. Run the same command (crossval: with --resume) to continue."
    )
    assert "Traceback" not in stopped.stderr
    assert {name: run[0] for name, run in tracked(folder).items()} == {"tiny": "KILLED", "tiny fold-0 seed-0": "KILLED"}

    refused = commands.run("crossval", str(tiny_config), folder=folder)
    assert refused.code == 2
    assert "0 finished and 1 interrupted of these 3 jobs. Add --resume" in refused.stderr

    finished = commands.run("crossval", str(tiny_config), "--resume", "--folds", "0", folder=folder)
    assert finished.code == 0, finished.stderr
    assert "some folds are still to be run" in finished.stdout
    metrics = "runs/tiny/fold-0_seed-0/metrics.json"
    assert (folder / metrics).read_bytes() == (uninterrupted / metrics).read_bytes()
    assert not (folder / "runs/tiny/out_of_fold.csv").exists()

    finished = commands.run("crossval", str(tiny_config), "--folds", "1,2", folder=folder)  # not one of these was begun
    assert finished.code == 0, finished.stderr
    summary = "runs/tiny/out_of_fold_summary.csv"
    assert (folder / summary).read_bytes() == (uninterrupted / summary).read_bytes()
    assert {run[0] for run in tracked(folder).values()} == {"FINISHED"}


def test_processes_that_start_at_once_on_different_folds_share_one_experiment(
    commands, fresh_folder, uninterrupted, tiny_config
):
    folder = fresh_folder("shared")
    started = [commands.start("crossval", str(tiny_config), "--folds", folds, folder=folder) for folds in ("0", "1,2")]
    for pid in started:
        finished = commands.wait(pid, folder)
        assert finished.code == 0, finished.stderr
    summary = "runs/tiny/out_of_fold_summary.csv"
    assert (folder / summary).read_bytes() == (uninterrupted / summary).read_bytes()
    assert {name: run[0] for name, run in tracked(folder).items()} == dict.fromkeys(tracked(uninterrupted), "FINISHED")


def start_together(commands, folder, *arguments, second=()):
    """What torchrun does, without its ten seconds: one environment variable tells each process who it is."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "none"}
    shared |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
    started = [
        commands.start(*words, folder=folder, environment={**shared, "RANK": rank, "LOCAL_RANK": rank})
        for rank, words in (("0", arguments), ("1", (*arguments, *second)))
    ]
    return [commands.wait(pid, folder) for pid in started]


def test_two_processes_that_would_train_in_different_precisions_are_refused(commands, fresh_folder, tiny_config):
    # As `auto` would decide on two unlike machines.
    arguments = ("crossval", str(tiny_config), "--folds", "0", "--set", "training.precision=bf16-mixed")
    folder = fresh_folder("unlike")
    for ended in start_together(commands, folder, *arguments, second=("--set", "training.precision=32-true")):
        assert ended.code == 2
        assert "auto is 32-true on 1 and bf16-mixed on 1 of the 2 processes that train together" in ended.stderr
        assert "that of the first: --set training.precision=bf16-mixed, or in a new experiment float32" in ended.stderr
    assert tracked(folder)["tiny"][0] == "FAILED"


def test_two_processes_that_train_together_give_one_set_of_results(commands, fresh_folder, tiny_config):
    folder = fresh_folder("together")
    arguments = ("crossval", str(tiny_config), "--seeds", "0", "--set", "training.batch_size=4")
    first, second = start_together(commands, folder, *arguments)
    assert first.code == 0, first.stderr
    assert second.code == 0, second.stderr
    assert "figures, tables and models" in first.stdout
    assert second.stdout == ""
    assert "tiny" not in second.stderr

    runs = tracked(folder)
    assert sorted(runs) == ["tiny", *(f"tiny fold-{fold} seed-0" for fold in range(FOLDS))]
    assert {run[0] for run in runs.values()} == {"FINISHED"}
    manifest = read_manifest(tiny_config.parent / "phantom-5.csv")
    for fold in range(FOLDS):
        table = read_table(folder / f"runs/tiny/fold-{fold}_seed-0/predictions.csv")
        assert table["image"].tolist() == manifest.rows.query("fold == @fold")["image"].tolist()
        # What was scored by two is what the saved network says alone.
        assert table["p.ML"].to_numpy() == pytest.approx(alone(folder, tiny_config, fold)[:, 2], abs=1e-5)
    assert not list((folder / "runs").rglob("*.part"))


def test_tasks_of_a_slurm_job_each_train_alone(tiny_config, monkeypatch):
    # What `srun -n 2` sets. Fabric would take it for one training on two devices, and refuse it without
    # SLURM_NTASKS_PER_NODE.
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "x", "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    fabric = network_job._fabric(with_precision(read_config(tiny_config)))
    assert (fabric.world_size, fabric.global_rank) == (1, 0)


def alone(folder, config, fold):
    """Probabilities (N, C) of the saved network for its test fold."""
    images = Images(read_config(config).data)
    job = folder / f"runs/tiny/fold-{fold}_seed-0"
    (network,) = load_networks(job, read_description(job))
    chosen = np.flatnonzero(images.rows["fold"] == fold)
    content = [images.decoded()[row] for row in chosen]
    dataset = ManifestDataset(content, images.labels[chosen], EvaluationStage(32))
    return predict(network, dataset, device=torch.device("cpu")).probabilities.numpy()


def test_the_external_images_are_scored_once(commands, fresh_folder, tiny_config, tmp_path):
    folder = fresh_folder("external")
    manifest = read_manifest(tiny_config.parent / "phantom-5.csv")
    rows = manifest.rows.copy()
    groups = rows.loc[rows["label"] == "ML", "group"].unique()[:2]
    rows.loc[rows["group"].isin(groups), "fold"] = pd.NA
    path = tmp_path / "with_external.csv"
    write_manifest(dataclasses.replace(manifest, rows=rows), path)
    options = (
        "crossval",
        str(tiny_config),
        "--set",
        f"data.manifest={path}",
        "--set",
        "training.epochs=1",
        "--external",
    )
    refused = commands.run("crossval", str(tiny_config), "--external", folder=folder)
    assert refused.code == 2
    assert "has no external images" in refused.stderr

    moment = ("dermaffinity.experiments.network_job._score_external", 2, "before", KILL)
    killed = commands.run(*options, folder=folder, signals=[moment])
    assert killed.code == -KILL, killed.stderr
    finished = commands.run(*options, "--resume", folder=folder)
    assert finished.code == 0, finished.stderr
    assert {run[0] for run in tracked(folder).values()} == {"FINISHED"}
    table = read_table(folder / "runs/tiny/external.csv")
    assert sorted(table["image"]) == sorted(rows.loc[rows["fold"].isna(), "image"])
    assert not set(table["image"]) & set(read_table(folder / "runs/tiny/out_of_fold.csv")["image"])
    summary = pd.read_csv(folder / "runs/tiny/external_summary.csv", index_col="metric")["value"]
    classifier = LesionClassifier.load(folder / "runs/tiny")
    library, labels = ImageLibrary(manifest.root), Classes(tuple(classifier.classes_)).indices(table["label"])
    calibrated = classifier.predict_proba([library.read(path) for path in table["image"]])
    assert summary["brier.calibrated"] == pytest.approx(brier_score(labels, calibrated), abs=1e-5)

    again = commands.run(*options, "--resume", folder=folder, signals=[(moment[0], 1, "before", KILL)])
    assert again.code == 0, again.stderr
    assert "external images" in again.stdout
