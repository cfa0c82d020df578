"""A backbone that does not learn: its features are computed once, and the models are like any other."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from dermaffinity.config import read_config
from dermaffinity.data.dataset import ManifestDataset
from dermaffinity.data.manifest import read_manifest, write_manifest
from dermaffinity.data.transforms import EvaluationStage
from dermaffinity.errors import ConfigError, DataError
from dermaffinity.experiments import frozen
from dermaffinity.experiments.frozen import FrozenFeatures
from dermaffinity.experiments.job import Images
from dermaffinity.experiments.progress import SilentProgress
from dermaffinity.experiments.results import read_table
from dermaffinity.inference.model_folder import build_network, load_networks, read_description
from dermaffinity.inference.predict import predict

CONFIG = """\
name: {name}
data: {{manifest: {manifest}, image_size: 32}}
augmentation: {{class: dermaffinity.data.augmentation.LesionAugmentation}}
backbone: {{class: dermaffinity.models.SmallConvNet}}
neck: {{class: dermaffinity.models.{neck}}}
head: {{class: dermaffinity.heads.AffinityMixtureHead, centers_per_class: 1, whitened: {whitened}}}
loss: {{class: dermaffinity.losses.AffinityPosteriorLoss}}
{refit}
training: {{epochs: {epochs}, freeze_backbone: true, precision: 32-true, batch_size: 8, learning_rate: 0.02}}
"""
REFIT = "refit: {class: dermaffinity.refit.GaussianAffinity}"


@pytest.fixture(scope="module")
def configs(phantom_manifest, tmp_path_factory):
    """A closed form and a head that is trained, on a library with external images."""
    folder = tmp_path_factory.mktemp("frozen")
    manifest = read_manifest(phantom_manifest)
    rows = manifest.rows.copy()
    rows.loc[rows["group"].isin(rows.loc[rows["label"] == "ML", "group"].unique()[:2]), "fold"] = pd.NA
    write_manifest(dataclasses.replace(manifest, rows=rows), folder / "phantom-5.csv")
    options = {
        "closed": {"neck": "IdentityNeck", "whitened": "true", "refit": REFIT, "epochs": 0},
        "trained": {"neck": "UnitNeck", "whitened": "false", "refit": "", "epochs": 2},
    }
    for name, own in options.items():
        text = CONFIG.format(name=name, manifest=folder / "phantom-5.csv", **own)
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def finished(commands, fresh_folder, configs):
    folder = fresh_folder("frozen_run")
    names = [str(configs / f"{name}.yaml") for name in ("closed", "trained")]
    done = commands.run("crossval", *names, "--external", folder=folder)
    assert done.code == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", ["closed", "trained"])
def test_what_is_scored_from_features_is_what_the_saved_network_says_of_the_images(finished, configs, name):
    images, job = Images(read_config(configs / f"{name}.yaml").data), finished / f"runs/{name}/fold-1_seed-0"
    (network,) = load_networks(job, read_description(job))
    assert job.joinpath("history.csv").exists() == (name == "trained")
    for part, (rows, content) in {"predictions": images.development(), "external": images.external()}.items():
        table = read_table(job / f"{part}.csv").set_index("image")
        dataset = ManifestDataset(content, images.indices(rows), EvaluationStage(32))
        said = predict(network, dataset, device=torch.device("cpu")).probabilities.numpy()
        chosen = rows["image"].isin(table.index).to_numpy()
        assert chosen.sum() == len(table) > 1
        found = table.loc[rows["image"][chosen]].filter(like="p.").to_numpy(float)
        assert found == pytest.approx(said[chosen], abs=1e-4)


def test_only_the_head_and_the_neck_have_learned(finished):
    jobs = [finished / f"runs/{name}/fold-0_seed-0" for name in ("closed", "trained")]
    first, second = (load_networks(job, read_description(job))[0].backbone.state_dict() for job in jobs)
    # Seeded alike, so that both began with one backbone, whose statistics are those of a new one.
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert first["layers.1.num_batches_tracked"] == 0


def test_both_methods_share_the_features(finished):
    folders = list((finished / "runs/features").iterdir())
    assert len(folders) == 3  # a random backbone for each fold
    assert [len(list(folder.glob("*.npz"))) for folder in folders] == [2, 2, 2]  # development and external


class Watched(FrozenFeatures):
    """Counts the images that are computed."""

    computed = 0

    def _compute(self, images, rows, progress):
        self.computed += len(rows)
        return super()._compute(images, rows, progress)


def watched(tmp_path, configs, *overrides, seed=0) -> tuple[Watched, Images]:
    config = read_config(configs / "closed.yaml", overrides)
    torch.manual_seed(seed)
    network = build_network(config.resolved(), 5, pretrained=False).eval()
    return Watched(tmp_path, config, network.backbone), Images(config.data)


def test_features_are_those_of_the_backbone_and_are_computed_once(tmp_path, configs):
    features, images = watched(tmp_path, configs)
    rows, content = images.development()
    found = features.of(rows, content, SilentProgress())
    stage = EvaluationStage(32)
    with torch.inference_mode():
        expected = features.backbone(torch.stack([stage(image) for image in content]))
    assert found[:, :, 0, 0] == pytest.approx(expected.numpy(), abs=1e-5)
    # Another process, with the images in another order.
    again, _ = watched(tmp_path, configs)
    order = np.arange(len(rows))[::-1]
    content.paths, content.masks = content.paths[::-1], content.masks[::-1]
    assert np.array_equal(again.of(rows.iloc[order], content, SilentProgress()), found[order])
    assert (features.computed, again.computed) == (len(rows), 0)


@pytest.mark.parametrize(
    ("overrides", "seed"),
    [(["data.image_size=40"], 0), (["data.lesion_crop=0.2"], 0), (["training.precision=bf16-mixed"], 0), ([], 1)],
    ids=["another size", "cropped", "less precise", "other weights"],
)
def test_another_backbone_or_preprocessing_has_features_of_its_own(tmp_path, configs, overrides, seed):
    assert watched(tmp_path, configs)[0].folder != watched(tmp_path, configs, *overrides, seed=seed)[0].folder


def test_a_crop_to_another_mask_is_another_image(tmp_path, configs):
    features, images = watched(tmp_path, configs, "data.lesion_crop=0.2")
    rows, content = images.development()
    first = features.of(rows, content, SilentProgress())
    content.masks[0] = None  # the first image is taken whole now
    second = features.of(rows, content, SilentProgress())
    assert features.computed == len(rows) + 1
    assert not np.array_equal(first[0], second[0])
    assert np.array_equal(first[1:], second[1:])


def test_an_interruption_costs_the_file_in_progress_alone(tmp_path, configs, monkeypatch):
    monkeypatch.setattr(frozen, "_AT_A_TIME", 10)
    features, images = watched(tmp_path, configs)

    class Stopped(SilentProgress):
        def images(self, count):
            if features.computed > 20:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features.of(*images.development(), Stopped())
    again, _ = watched(tmp_path, configs)
    again.of(*images.development(), SilentProgress())
    assert again.computed == len(images.rows) - 20


def test_a_damaged_file_is_named_with_what_to_do(tmp_path, configs):
    features, images = watched(tmp_path, configs)
    features.of(*images.development(), SilentProgress())
    (file,) = features.folder.glob("*.npz")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match=r"npz: damaged .* Remove it, and its features are computed again: rm "):
        features.of(*images.development(), SilentProgress())


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("refit=null", "training.epochs: 0 trains nothing; give more, or a refit that sets the head"),
        (
            "growth={class: dermaffinity.training.tricks.GrowingImages}",
            "growth: training.freeze_backbone leaves no images that could grow; leave one of them out",
        ),
    ],
)
def test_what_cannot_act_on_frozen_features_is_refused(configs, override, problem):
    with pytest.raises(ConfigError) as refused:
        read_config(configs / "closed.yaml", [override])
    assert list(refused.value.problems) == [problem]
