"""MONAI's own tools verify, load and run the bundle, and it says what the classifier says."""

import csv
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dermaffinity import LesionClassifier
from dermaffinity.errors import DataError, ExportError
from dermaffinity.export.bundle import BundleNetwork, PrepareImage, export_bundle, require_images

pytest.importorskip("ignite")
pytest.importorskip("fire")

PARTS = {
    "backbone": {"class": "dermaffinity.models.SmallConvNet"},
    "neck": {"class": "dermaffinity.models.UnitNeck", "dim": 8},
    "head": {"class": "dermaffinity.heads.AffinityHead", "centers_per_class": 2, "sigma": 0.7},
}

# The keys that MONAI's bundle specification demands, written from its text; MONAI's own schema lies behind a URL.
TEXT = {"type": "string", "minLength": 1}
FORMAT = {
    "type": "object",
    "required": [
        "type",
        "format",
        "num_channels",
        "spatial_shape",
        "dtype",
        "value_range",
        "is_patch_data",
        "channel_def",
    ],
    "properties": {
        "num_channels": {"type": "integer"},
        "spatial_shape": {"type": "array", "items": {"type": ["integer", "string"]}},
        "value_range": {"type": "array", "items": {"type": "number"}, "minItems": 2},
        "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object", "additionalProperties": TEXT},
    },
}
KEYS = ["version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors", "copyright"]
SCHEMA = {
    "type": "object",
    "required": [*KEYS, "required_packages_version", "network_data_format"],
    "properties": {
        **dict.fromkeys(KEYS, TEXT),
        "required_packages_version": {"type": "object", "additionalProperties": TEXT},
        "changelog": {"type": "object", "additionalProperties": TEXT},
        "references": {"type": "array", "items": TEXT},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {side: {"type": "object", "additionalProperties": FORMAT} for side in ("inputs", "outputs")},
        },
    },
}


@pytest.fixture(autouse=True)
def logging_as_before():
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def written(make_model, tmp_path_factory):
    """A bundle of two fold models, and its classifier."""
    folder = tmp_path_factory.mktemp("bundle")
    classifier = LesionClassifier.load(make_model(folder, PARTS, fold_models=2))
    return export_bundle(classifier, folder / "out"), classifier


def files_of(root: Path) -> dict[str, str]:
    return {"config_file": str(root / "configs/inference.json"), "meta_file": str(root / "configs/metadata.json")}


def test_a_bundle_has_the_files_of_the_specification_in_a_folder_that_monai_label_knows(written):
    root, _ = written
    assert root.name == "toy_classification"
    found = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert found == {
        "LICENSE",
        "configs/inference.json",
        "configs/metadata.json",
        "docs/README.md",
        "models/classifier.json",
        "models/model.pt",
    }


@pytest.mark.slow
def test_monai_finds_all_properties_and_classes_in_order(written):
    from monai.bundle import ConfigWorkflow

    root, _ = written
    workflow = ConfigWorkflow(**files_of(root), workflow_type="infer", logging_file=False, bundle_root=str(root))
    workflow.initialize()
    assert workflow.check_properties() == []
    told = json.loads((root / "configs/metadata.json").read_text())
    assert told["network_data_format"]["outputs"]["pred"]["channel_def"] == {"0": "AK", "1": "BCC", "2": "ML"}
    assert told["version"] in told["changelog"]
    assert told["intended_use"].startswith("Research use only")


def test_monai_verifies_metadata_and_network(written, tmp_path):
    from monai.bundle import verify_metadata, verify_net_in_out

    root, _ = written
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))  # MONAI loads nothing that is there already
    verify_metadata(meta_file=files_of(root)["meta_file"], filepath=str(tmp_path / "schema.json"))
    verify_net_in_out(net_id="network_def", **files_of(root), device="cpu", bundle_root=str(root))


def test_weights_are_plain_tensors_and_the_network_is_the_classifier(written):
    root, classifier = written
    state = torch.load(root / "models/model.pt", weights_only=True)
    assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())
    network = BundleNetwork(root / "models").eval()
    network.load_state_dict(state)
    prepare = PrepareImage(root / "models")
    pictures = list(np.random.default_rng(0).integers(0, 256, (5, 40, 60, 3), dtype=np.uint8))
    with torch.inference_mode():
        found = network(torch.stack([prepare(picture) for picture in pictures]))
    assert found.numpy() == pytest.approx(classifier.predict_proba(pictures), abs=1e-6)


@pytest.mark.slow
def test_monai_runs_the_bundle_and_its_table_holds_the_classifiers_probabilities(written, picture_files, tmp_path):
    root, classifier = written
    moved = shutil.copytree(root, tmp_path / "elsewhere_classification")
    images = tmp_path / "images, all"
    shutil.copytree(picture_files[0].parent, images)
    (images / "notes.txt").write_text("no image")
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*command, "--dataset_dir", str(images)],
        capture_output=True,
        text=True,
        cwd=moved,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with open(moved / "eval/predictions.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["image", "predicted", "p.AK", "p.BCC", "p.ML"]
    assert [Path(row[0]).name for row in rows] == [path.name for path in picture_files]
    found = np.array([row[2:] for row in rows], float)
    assert np.abs(found - classifier.predict_proba(picture_files)).max() <= 1e-4
    assert [row[1] for row in rows] == classifier.predict(picture_files).tolist()


@pytest.mark.parametrize("folder", [".", "nowhere"])
def test_a_folder_without_images_is_refused(folder, tmp_path):
    with pytest.raises(DataError, match="holds no images"):
        require_images(tmp_path / folder)


@pytest.mark.parametrize("missing", ["fire", "ignite"])
def test_a_missing_package_is_named_with_its_extra(missing, written, tmp_path, monkeypatch):
    _, classifier = written
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ExportError, match=rf"{missing}.*pip install 'dermaffinity\[bundle\]'"):
        export_bundle(classifier, tmp_path)
    assert not list(tmp_path.iterdir())
