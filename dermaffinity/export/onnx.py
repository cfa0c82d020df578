"""ONNX: one file that runs without PyTorch, from a preprocessed image to calibrated probabilities and novelty."""

import contextlib
import copy
import io
import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from dermaffinity.data.transforms import Normalize
from dermaffinity.errors import ExportError
from dermaffinity.files import atomic_write, write_json
from dermaffinity.inference.classifier import Assessment, LesionClassifier
from dermaffinity.inference.ensemble import Ensemble

if TYPE_CHECKING:
    from onnx import ModelProto

MODEL = "model.onnx"
SCRIPT = "preprocess_and_run.py"

_TOLERANCE = 1e-4
# Of this order: dark, bright and colored noise, which no calibration maps to the same answer.
_PROBES = ((1, 40), (3, 256))


class _OnnxNetwork(nn.Module):
    """From pixels, so that no prototype can normalize them in another way."""

    mean: Tensor
    std: Tensor

    def __init__(self, ensemble: Ensemble, views: int) -> None:
        super().__init__()
        self.ensemble = ensemble
        self.views = views
        normalize = Normalize()
        self.register_buffer("mean", normalize.mean)
        self.register_buffer("std", normalize.std)

    def forward(self, image: Tensor) -> Assessment[Tensor]:
        """Everything about images (N, S, S, 3) uint8."""
        return self.ensemble((image.permute(0, 3, 1, 2).float() - self.mean) / self.std, views=self.views)


def export_onnx(classifier: LesionClassifier, folder: Path) -> list[Path]:
    """Writes ``model.onnx``, what it says of itself as ``model.json``, and a script that runs it without this library.

    The input ``image`` is (N, S, S, 3) uint8 RGB, preprocessed as ``preprocess_and_run.py`` does; the outputs are those
    of `Assessment`: ``probabilities``, ``novelty``, ``p_values``, ``disagreement``, ``embedding``. An image's set at
    coverage c holds the classes whose p-value is above 1 − c, by more than rounding. The file's metadata say classes,
    novelty threshold, intended use and more.

    The graph computes in float32. Where an image scores like one of the calibration images to six digits, as those
    images themselves do, its p-value may be one step off.

    Args:
        classifier: Of any number of fold models.
        folder: Where to; made if need be.

    Returns:
        The files.

    Raises:
        ExportError: When the extra ``onnx`` is not installed, or ONNX Runtime's numbers are not the classifier's.

    Examples:
        >>> from pathlib import Path
        >>> from dermaffinity import LesionClassifier
        >>> from dermaffinity.export import export_onnx
        >>> classifier = LesionClassifier.load("runs/library_affinity_plus/fold-0")
        >>> sorted(path.name for path in export_onnx(classifier, Path("exported")))
        ['model.json', 'model.onnx', 'preprocess_and_run.py']
    """
    size = classifier.description.preprocessing.image_size
    # ONNX Runtime lacks kernels for float64; copied, because the classifier keeps its own device and precision.
    ensemble = Ensemble(classifier.description, copy.deepcopy(classifier.networks)).cpu().float()
    network = _OnnxNetwork(ensemble, classifier.views).eval()
    facts = _facts(classifier)
    try:
        content = _serialized(network, size, facts)
        _check(content, classifier, size)
    except ImportError as error:
        raise ExportError(
            f"ONNX export needs packages that are not installed ({error}); install them with "
            "pip install 'dermaffinity[onnx]'"
        ) from error
    with atomic_write(folder / MODEL, "wb") as file:
        file.write(content)
    write_json(folder / "model.json", facts)
    shutil.copyfile(Path(__file__).with_name(SCRIPT), folder / SCRIPT)
    return [folder / MODEL, folder / "model.json", folder / SCRIPT]


def _facts(classifier: LesionClassifier) -> dict[str, Any]:
    """What a prototype must know about the file."""
    description = classifier.description
    return {
        "name": description.name,
        "classes": list(description.classes),
        "malignant": list(description.malignant),
        "image_size": description.preprocessing.image_size,
        "lesion_crop": description.preprocessing.lesion_crop,
        "novelty_threshold": classifier.novelty_threshold,
        "temperature": description.temperature,
        "fold_models": [f"fold {fold_model.fold}, seed {fold_model.seed}" for fold_model in description.fold_models],
        "calibration_images": {
            name: sum(len(fold_model.calibration.scores[name]) for fold_model in description.fold_models)
            for name in description.classes
        },
        "intended_use": description.intended_use,
        "data": description.data.model_dump(include={"name", "source", "license", "split_hash"}),
        "versions": description.versions,
        "classifier_digest": description.digest,
    }


def _serialized(network: nn.Module, size: int, facts: dict[str, Any]) -> bytes:
    import onnx
    import onnxscript  # noqa: F401  (what torch exports with; asked for here to name the extra)

    # Two images: a batch of one would be taken for a constant.
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    with _silence():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            input_names=["image"],
            output_names=list(Assessment._fields),
            dynamic_shapes=({0: torch.export.Dim("N")},),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _forget_origin(model)
    model.doc_string = facts["intended_use"]
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
    onnx.helper.set_model_props(model, texts)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _forget_origin(model: "ModelProto") -> None:
    """Removes the stack traces that the exporter notes at every node: they name folders of this machine."""
    graphs = [model.graph, *model.functions]
    for graph in graphs:
        graph.ClearField("metadata_props")
        graph.ClearField("doc_string")
        for part in (*graph.node, *graph.value_info):
            part.ClearField("metadata_props")
            part.ClearField("doc_string")
    for part in (*model.graph.initializer, *model.graph.input, *model.graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _check(content: bytes, classifier: LesionClassifier, size: int) -> None:
    from onnxruntime import InferenceSession

    session = InferenceSession(content, providers=["CPUExecutionProvider"])
    normalize, random = Normalize(), np.random.default_rng(0)
    for number, brightest in _PROBES:
        pixels = random.integers(0, brightest, (number, size, size, 3), dtype=np.uint8)
        (found,) = session.run(["probabilities"], {"image": pixels})
        expected = classifier.assess_prepared([normalize(image) for image in pixels]).probabilities
        if not (gap := float(np.abs(found - expected).max())) <= _TOLERANCE:
            raise ExportError(
                f"{classifier.description.name}: ONNX Runtime's probabilities differ from the classifier's by "
                f"{gap:.2g}, more than {_TOLERANCE:g}; nothing was written. Please report this"
            )


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps the exporter's progress and advice, written for its developers, from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
