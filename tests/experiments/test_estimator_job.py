"""Configs with an estimator beside a network's: the same rows, tables, runs and comparison."""

import dataclasses
import json
import shutil
import signal

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dermaffinity.config import read_config
from dermaffinity.data.manifest import read_manifest, write_manifest
from dermaffinity.experiments import estimator_job
from dermaffinity.experiments.job import Images
from dermaffinity.experiments.results import read_table
from dermaffinity.tracking.mlflow_tracker import MlflowTracker

KILL = int(signal.SIGKILL)
CLASSES = ["AK", "BCC", "ML", "SCC", "SK"]
CONFIG = """\
name: {name}
data: {{manifest: {manifest}, image_size: 32}}
features: {{class: dermaffinity.classic.ColorTexture, levels: 8, distances: [1]}}
estimator: {{class: dermaffinity.classic.{estimator}, num_features: 1{options}}}
"""
GROUPS = ", groups: [[AK, BCC, SCC], [ML, SK]]"
METHODS = {
    "tiny_knn": ("FlatKNN", ""),
    "tiny_hierarchical_knn": ("HierarchicalKNN", GROUPS),
    "tiny_bayes": ("HierarchicalBayes", ""),
}


@pytest.fixture(scope="module")
def manifest(phantom_manifest, tmp_path_factory):
    """The library's manifest with two persons' moles external, on the split of no other experiment."""
    read = read_manifest(phantom_manifest)
    rows = read.rows.copy()
    groups = rows.loc[rows["label"] == "ML", "group"].unique()[:2]
    rows.loc[rows["group"].isin(groups), "fold"] = pd.NA
    path = tmp_path_factory.mktemp("classic") / "phantom-5.csv"
    write_manifest(dataclasses.replace(read, rows=rows), path)
    return path


def write_configs(folder, manifest) -> list[str]:
    for name, (estimator, options) in METHODS.items():
        text = CONFIG.format(name=name, manifest=manifest, estimator=estimator, options=options)
        (folder / f"{name}.yaml").write_text(text)
    return [f"{name}.yaml" for name in METHODS]


@pytest.fixture(scope="module")
def finished(commands, fresh_folder, manifest):
    """Killed while its second job learns and again before its third is tracked, then resumed."""
    folder = fresh_folder("classic")
    words = ("crossval", *write_configs(folder, manifest), "--external", "--baseline", "tiny_knn")
    moments = [
        (f"{estimator_job.__name__}._fit", 2, "after", KILL),
        (f"{estimator_job.__name__}.keep", 2, "after", KILL),
    ]
    for number, moment in enumerate(moments):
        stopped = commands.run(*words, *(["--resume"] if number else []), folder=folder, signals=[moment])
        assert stopped.code == -KILL, stopped.stderr
    done = commands.run(*words, "--resume", folder=folder)
    assert done.code == 0, done.stderr
    return folder, done


def test_an_experiment_that_was_killed_ends_with_the_numbers_of_one_that_was_not(
    commands, fresh_folder, manifest, finished
):
    folder, done = finished
    assert done.stderr.count("finished before") == 2
    again = fresh_folder("at_once")
    write_configs(again, manifest)
    assert commands.run("crossval", "tiny_knn.yaml", "--external", folder=again).code == 0
    for fold in range(3):
        for name in ("metrics.json", "predictions.csv", "validation.csv", "external.csv", "selected_features.json"):
            path = f"runs/tiny_knn/fold-{fold}_seed-0/{name}"
            assert (folder / path).read_bytes() == (again / path).read_bytes(), path


def test_every_config_is_pooled_compared_and_tracked_like_a_networks(finished):
    folder, done = finished
    assert "Gain over tiny_knn" in done.stdout
    assert "external images, mean of the fold models" in done.stdout
    assert "runs/tiny_knn: figures and tables\n" in done.stdout
    for name in METHODS:
        pooled = read_table(folder / f"runs/{name}/out_of_fold.csv")
        assert pooled["image"].is_unique
        np.testing.assert_allclose(pooled[[f"p.{code}" for code in CLASSES]].sum(axis=1), 1, atol=1e-6)
        assert (folder / f"runs/{name}/external_summary.csv").exists()
        assert not (folder / f"runs/{name}/classifier").exists()
        chosen = json.loads((folder / f"runs/{name}/fold-1_seed-0/selected_features.json").read_text())
        assert all(len(features) == 1 for features in chosen.values())
    tracker = MlflowTracker(f"sqlite:///{folder / 'mlflow.db'}")
    runs = tracker.call(lambda client: client.search_runs([client.get_experiment_by_name("phantom-5").experiment_id]))
    assert sorted(run.info.run_name for run in runs) == sorted(
        name for config in METHODS for name in (config, *(f"{config} fold-{fold} seed-0" for fold in range(3)))
    )
    assert {run.info.status for run in runs} == {"FINISHED"}
    parent = next(run for run in runs if run.info.run_name == "tiny_hierarchical_knn")
    assert {"recall/AK", "balanced_accuracy", "gain/balanced_accuracy"} <= parent.data.metrics.keys()
    assert parent.data.params["estimator.class"] == "dermaffinity.classic.HierarchicalKNN"
    assert parent.data.params["Estimator"] == "HierarchicalKNN"


def test_a_network_and_an_estimator_see_the_same_rows_and_are_compared(
    commands, uninterrupted, phantom_manifest, fresh_folder
):
    folder = fresh_folder("both")
    shutil.copytree(uninterrupted / "runs", folder / "runs")
    write_configs(folder, phantom_manifest)
    done = commands.run("crossval", "tiny_knn.yaml", folder=folder)
    assert done.code == 0, done.stderr
    for part in ("validation", "predictions"):
        network, estimator = (
            read_table(folder / f"runs/{name}/fold-2_seed-0/{part}.csv") for name in ("tiny", "tiny_knn")
        )
        assert network[["image", "label", "fold", "seed"]].equals(estimator[["image", "label", "fold", "seed"]])
    compared = commands.run("compare", "tiny", "tiny_knn", "--baseline", "tiny_knn", folder=folder)
    assert compared.code == 0, compared.stderr
    assert "Balanced accuracy" in compared.stdout
    reported = commands.run("report", "tiny_knn", "--baseline", "tiny", "--no-images", folder=folder)
    assert reported.code == 0, reported.stderr
    report = (folder / "runs/tiny_knn/report.html").read_text()
    assert "FlatKNN: " in report
    assert "Prediction sets need a trained model, and this method leaves none" in report
    assert "Gain over the baseline tiny" in report


def test_external_images_can_be_asked_for_later(commands, fresh_folder, manifest, finished):
    folder = fresh_folder("later")
    write_configs(folder, manifest)
    assert commands.run("crossval", "tiny_knn.yaml", folder=folder).code == 0
    done = commands.run("crossval", "tiny_knn.yaml", "--external", "--resume", folder=folder)
    assert done.code == 0, done.stderr
    external = "runs/tiny_knn/external.csv"
    assert (folder / external).read_bytes() == (finished[0] / external).read_bytes()


def test_the_classifier_of_an_estimator_is_refused_in_words(commands, finished):
    folder, _ = finished
    for model in ("runs/tiny_knn", "runs/tiny_knn/fold-0_seed-0"):
        done = commands.run("predict", model, str(folder), folder=folder)
        assert done.code == 1
        assert "A method without a network leaves none" in done.stderr


def test_images_without_a_mask_are_named_before_anything_is_computed(commands, fresh_folder, phantom_manifest):
    folder = fresh_folder("bare")
    read = read_manifest(phantom_manifest)
    bare = read.rows.assign(mask=[pd.NA if row < 12 else mask for row, mask in enumerate(read.rows["mask"])])
    write_manifest(dataclasses.replace(read, rows=bare), folder / "bare.csv")
    write_configs(folder, "bare.csv")
    done = commands.run("crossval", "tiny_knn.yaml", folder=folder)
    assert done.code == 1
    assert f"bare.csv: 12 of {len(bare)} images have no lesion mask, which tiny_knn takes its features from" in (
        done.stderr
    )
    assert f"  - {bare['image'].iloc[9]}\n  - …\n" in done.stderr
    assert not (folder / "runs").exists()


def test_groups_that_are_not_the_manifests_classes_are_refused(commands, fresh_folder, phantom_manifest):
    folder = fresh_folder("groups")
    write_configs(folder, phantom_manifest)
    done = commands.run("crossval", "tiny_bayes.yaml", "--set", "estimator.groups=[[akiec, ML]]", folder=folder)
    assert done.code == 2
    assert "tiny_bayes: estimator: groups name akiec, but the classes are AK, BCC" in done.stderr


def test_a_mask_of_another_size_stays_in_register_and_an_empty_one_is_named(tmp_path, manifest):
    read = read_manifest(manifest)
    images = Images(read_config(_config(tmp_path, manifest)).data)
    path, mask_path = read.rows.loc[0, ["image", "mask"]]
    image, mask = estimator_job._laid(images, path, mask_path)
    assert image.shape[:2] == mask.shape
    assert min(mask.shape) == 32
    # What lies inside is darker than what lies outside.
    assert image[mask].mean() < image[~mask].mean()

    root = shutil.copytree(read.root, tmp_path / "library")
    Image.fromarray(np.zeros((50, 60), dtype=np.uint8)).save(root / mask_path)
    images = Images(read_config(_config(tmp_path, manifest), [f"data.root={root}"]).data)
    with pytest.raises(estimator_job.DataError) as caught:
        estimator_job._compute(_features(tmp_path, manifest), images, images.rows.head(3), _Silent())
    assert caught.value.problems == (f"{path}: {mask_path} shows no lesion",)


def _config(folder, manifest):
    write_configs(folder, manifest)
    return folder / "tiny_knn.yaml"


def _features(folder, manifest):
    return read_config(_config(folder, manifest)).features.build()


class _Silent:
    def images(self, count: int) -> None:
        assert count == 1
