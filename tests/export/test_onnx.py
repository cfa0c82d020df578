"""What ONNX Runtime says, from the image's file on, is what the classifier says."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from dermaffinity import LesionClassifier
from dermaffinity.config import read_config, shipped
from dermaffinity.data.transforms import EvaluationStage, Normalize
from dermaffinity.errors import ExportError
from dermaffinity.export.onnx import export_onnx
from dermaffinity.heads import Head, HeadOutput, ScoreKind

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SMALL = {"backbone": {"class": "dermaffinity.models.SmallConvNet"}}
UNIT = {"neck": {"class": "dermaffinity.models.UnitNeck", "dim": 8}}
AFFINITY = {"head": {"class": "dermaffinity.heads.AffinityHead", "centers_per_class": 2, "sigma": 0.7}}
LINEAR = {"head": {"class": "dermaffinity.heads.LinearHead"}}


class CosineTowardsCenters(Head):
    """A head that leaves its distance to the base class."""

    score_kind = ScoreKind.LOGIT

    def __init__(self, embedding_dim: int, num_classes: int) -> None:
        super().__init__(embedding_dim, num_classes)
        self.centers = torch.nn.Parameter(torch.randn(num_classes, 2, embedding_dim))

    def forward(self, embedding):
        return HeadOutput((embedding @ self.centers[:, 0].T), embedding, self.centers)

    def probabilities(self, output):
        return output.scores.softmax(dim=1)


def shipped_parts() -> dict[str, dict]:
    """Every backbone, neck and head of the shipped configs. A head sees no backbone: after its first, a small one."""
    found, backbones = {}, []
    names = [f"hamfit7_{method}" for method in shipped("method")]
    names += [f"{dataset}_{method}" for dataset in ("demo", "mnist", "mnist2d") for method in ("softmax", "affinity")]
    for name in names:
        config = read_config(name).resolved()
        if "backbone" not in config:
            continue  # a method without a network
        parts = {section: config[section] for section in ("backbone", "neck", "head")}
        if parts["backbone"].get("views", 1) > 2:
            parts["backbone"] |= {"views": 2}  # each is a network of its own in the file; four are tested below
        if parts["backbone"] in backbones:
            parts |= SMALL
        backbones.append(parts["backbone"])
        found["-".join(part["class"].rpartition(".")[2] for part in parts.values())] = parts
    return found


SHIPPED = shipped_parts()


def exported(classifier, folder):
    export_onnx(classifier, folder)
    return onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])


def agree(session, classifier, numbers=(1, 2, 7)) -> None:
    size = classifier.description.preprocessing.image_size
    names = [output.name for output in session.get_outputs()]
    assert names == ["probabilities", "novelty", "p_values", "disagreement", "embedding"]
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 256, (number, size, size, 3), dtype=np.uint8)
        found = dict(zip(names, session.run(names, {"image": pixels}), strict=True))
        expected = classifier.assess_prepared([Normalize()(image) for image in pixels])
        for name in names:
            wanted = getattr(expected, name)
            assert found[name].shape == wanted.shape
            scale = 1 + np.abs(wanted).max()
            assert found[name] / scale == pytest.approx(wanted / scale, abs=1e-5), name


def test_something_is_shipped():
    assert {"SmallConvNet-IdentityNeck-LinearHead", "ResNet18-UnitNeck-AffinityHead"} <= set(SHIPPED)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if "ResNet" in name else []) for name in SHIPPED]
)
def test_every_shipped_network_gives_the_same_answers_in_batches_of_any_size(name, make_model, tmp_path):
    classifier = LesionClassifier.load(make_model(tmp_path, SHIPPED[name]))
    agree(exported(classifier, tmp_path / "out"), classifier)


@pytest.mark.parametrize(
    "parts",
    [
        {
            **SMALL,
            **UNIT,
            "head": {**AFFINITY["head"], "distance": "l1", "similarity": "inverse", "unit_centers": True},
        },
        {**SMALL, "neck": {"class": "dermaffinity.models.BatchNormNeck"}, "head": {**AFFINITY["head"], "sigma": 0.01}},
    ],
    ids=["l1-inverse", "underflowing-similarities"],
)
def test_other_parts_export_as_well(parts, make_model, tmp_path):
    classifier = LesionClassifier.load(make_model(tmp_path, parts))
    agree(exported(classifier, tmp_path / "out"), classifier, numbers=(1, 3))


def test_a_head_that_leaves_its_distance_to_the_base_class_exports(make_model, tmp_path):
    classifier = LesionClassifier.load(make_model(tmp_path, {**SMALL, **UNIT, **LINEAR}))
    classifier.networks[0].head = CosineTowardsCenters(8, 3).eval()
    agree(exported(classifier, tmp_path / "out"), classifier, numbers=(2,))


@pytest.fixture(scope="module")
def written(make_model, tmp_path_factory):
    """The folder of an exported mean of three fold models, and the classifier."""
    folder = tmp_path_factory.mktemp("three")
    classifier = LesionClassifier.load(make_model(folder, {**SMALL, **UNIT, **AFFINITY}, fold_models=3))
    export_onnx(classifier, folder / "out")
    return folder / "out", classifier


def test_members_are_averaged_calibrated_and_disagree_as_they_do_in_the_classifier(written):
    folder, classifier = written
    agree(onnxruntime.InferenceSession(folder / "model.onnx"), classifier, numbers=(1, 2, 40))
    pixels = np.random.default_rng(40).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    disagreement = classifier.assess_prepared([Normalize()(image) for image in pixels]).disagreement
    assert disagreement.max() > 0, "or nothing is tested"


def test_a_classifier_for_other_class_frequencies_exports_its_answers(written, tmp_path):
    told = written[1].with_prior({"AK": 0.6, "BCC": 0.3, "ML": 0.1})
    agree(exported(told, tmp_path), told, numbers=(1, 40))
    pixels = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    before, after = (one.assess_prepared([Normalize()(pixels[0])]).probabilities for one in (written[1], told))
    assert np.abs(before - after).max() > 0.1, "or nothing is tested"


def test_a_classifier_that_averages_over_flips_and_rotations_exports_them(written, tmp_path):
    classifier = LesionClassifier.load(written[0].parent / "classifier", views=4)
    agree(exported(classifier, tmp_path), classifier, numbers=(1, 3))


def test_the_file_says_what_a_prototype_must_know_and_nothing_of_this_machine(written):
    folder, classifier = written
    model = onnx.load(folder / "model.onnx")
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(told["classes"]) == ["AK", "BCC", "ML"]
    assert json.loads(told["image_size"]) == 32
    assert json.loads(told["novelty_threshold"]) == pytest.approx(classifier.novelty_threshold)
    assert json.loads(told["fold_models"]) == ["fold 0, seed 0", "fold 1, seed 0", "fold 2, seed 0"]
    assert told["intended_use"].startswith("Research use only")
    beside = json.loads((folder / "model.json").read_text())
    assert {key: value if isinstance(value, str) else json.dumps(value) for key, value in beside.items()} == told
    (image,) = model.graph.input
    dimensions = [one.dim_param or one.dim_value for one in image.type.tensor_type.shape.dim]
    assert dimensions[1:] == [32, 32, 3]
    assert isinstance(dimensions[0], str)
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    content = (folder / "model.onnx").read_bytes()
    assert b"/" + b"site-packages" not in content
    assert b".py" not in content
    assert [path.name for path in sorted(folder.iterdir())] == ["model.json", "model.onnx", "preprocess_and_run.py"]


BARE = """
import builtins, runpy, sys
real = builtins.__import__
def only(name, *rest, **more):
    if name.partition(".")[0] in ("torch", "dermaffinity", "torchvision", "monai", "pandas"):
        raise ImportError(name)
    return real(name, *rest, **more)
builtins.__import__ = only
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_script_gives_the_classifiers_answers_from_files_of_every_kind_without_torch(written, picture_files):
    folder, classifier = written
    command = [sys.executable, "-c", BARE, str(folder / "preprocess_and_run.py"), *map(str, picture_files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Research use only" in done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assessed = classifier.assess(picture_files)
    found = np.array([list(answer["probabilities"].values()) for answer in answers])
    assert np.abs(found - assessed.probabilities).max() <= 1e-4
    assert np.ptp(assessed.probabilities, axis=0).max() > 0.02, "or any picture would do"
    assert [answer["predicted"] for answer in answers] == classifier.predict(picture_files).tolist()
    assert [answer["novelty"] for answer in answers] == pytest.approx(assessed.novelty, abs=1e-3)
    assert [answer["novel"] for answer in answers] == (assessed.novelty > classifier.novelty_threshold).tolist()
    assert [set(answer["set"]) for answer in answers] == [set(one) for one in classifier.sets(assessed)]


def test_the_script_lays_every_picture_pixel_for_pixel_as_the_classifier_does(picture_files):
    from dermaffinity.data.images import decode_image
    from dermaffinity.data.transforms import FixedStage
    from dermaffinity.export.preprocess_and_run import read_rgb, resize

    for size in (16, 33, 128):
        for path in picture_files:
            pixels = decode_image(path.read_bytes(), path.name)
            expected = EvaluationStage(size).square(FixedStage(size, None)((pixels, None)))
            assert np.array_equal(resize(read_rgb(str(path)), size), expected), path.name


def test_an_export_that_would_differ_is_refused_and_nothing_is_written(make_model, tmp_path, monkeypatch):
    classifier = LesionClassifier.load(make_model(tmp_path, {**SMALL, **UNIT, **LINEAR}))
    real = classifier.assess_prepared
    monkeypatch.setattr(
        classifier,
        "assess_prepared",
        lambda tensors: (a := real(tensors))._replace(probabilities=a.probabilities[:, ::-1]),
    )
    with pytest.raises(ExportError, match="differ from the classifier's by 0"):
        export_onnx(classifier, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_its_extra(missing, make_model, tmp_path, monkeypatch):
    classifier = LesionClassifier.load(make_model(tmp_path, {**SMALL, **UNIT, **LINEAR}))
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ExportError, match=rf"{missing}.*pip install 'dermaffinity\[onnx\]'"):
        export_onnx(classifier, tmp_path / "out")
    assert not (tmp_path / "out").exists()
