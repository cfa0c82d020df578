import dataclasses

import numpy as np
import pytest
from safetensors import safe_open

import dermaffinity as da
from dermaffinity.config import read_config
from dermaffinity.errors import ConfigError
from dermaffinity.experiments.job import Images, parts
from dermaffinity.experiments.network_job import NetworkJob
from dermaffinity.inference.model_folder import read_description


@pytest.fixture(scope="module")
def fitted(fresh_folder, tiny_config):
    folder = fresh_folder("fit")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield da.fit(tiny_config, overrides=["training.epochs=1"], seeds=[0, 1], quiet=True)


def test_no_image_is_kept_from_it_but_an_inner_validation_part(tiny_config):
    config = read_config(tiny_config)
    images = Images(config.data)
    job = NetworkJob(config, 0, 0, tiny_config.parent, scored="none")
    fit_rows, inner_rows, test_rows = parts(job, images.rows)
    assert len(test_rows) == 0
    assert sorted([*fit_rows, *inner_rows]) == list(range(len(images.rows)))
    groups = images.rows["group"].to_numpy()
    assert not set(groups[fit_rows]) & set(groups[inner_rows])
    _, _, held_out = parts(dataclasses.replace(job, scored="test"), images.rows)
    assert len(held_out) > 0


def test_the_classifier_says_what_it_is_made_of_and_that_it_was_not_scored(fitted, phantom_manifest):
    manifest = da.read_manifest(phantom_manifest)
    description = read_description(fitted.path / "classifier")
    assert not description.cross_validated
    assert [(one.fold, one.seed) for one in description.fold_models] == [(0, 0), (0, 1)]
    assert sum(description.data.class_counts.values()) == len(manifest.development())
    hashes = description.data.image_hashes.split()
    assert hashes == sorted(manifest.development()["sha256"].str[:12])
    temperatures = [one.calibration.temperature for one in description.fold_models]
    assert description.temperature == pytest.approx(np.mean(temperatures))
    assert "not scored" in fitted.record.title
    assert not (fitted.path / "out_of_fold.csv").exists()
    image = next(iter(manifest.rows["image"]))
    assert fitted.classifier().predict_proba(manifest.root / image).sum() == pytest.approx(1)


def test_a_second_call_trains_nothing_again(fitted, tiny_config, monkeypatch):
    monkeypatch.chdir(fitted.path.parents[1])
    before = {file: file.stat().st_mtime_ns for file in fitted.path.glob("fold-*/*.safetensors")}
    again = da.fit(tiny_config, overrides=["training.epochs=1"], seeds=[0, 1], quiet=True)
    assert {file: file.stat().st_mtime_ns for file in again.path.glob("fold-*/*.safetensors")} == before
    with safe_open(fitted.path / "classifier" / "fold-0_seed-1.safetensors", "numpy") as weights:
        assert len(list(weights.keys())) > 3


def test_on_its_own_images_it_is_not_evaluated_and_estimators_are_refused(fitted, phantom_manifest, tiny_config):
    from dermaffinity.errors import DataError

    with pytest.raises(DataError, match="was trained on this very manifest"):
        da.evaluate(fitted.path, phantom_manifest, out=fitted.path / "own")
    with pytest.raises(ConfigError, match="leaves no classifier"):
        da.fit("knn", data=phantom_manifest)
    with pytest.raises(ConfigError, match="leave folds out"):
        da.fit(tiny_config, folds=[1])
