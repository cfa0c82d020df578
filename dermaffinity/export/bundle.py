"""A MONAI bundle: the folder that MONAI's own tools, MONAI Label and MONAI Deploy take a classifier from.

The bundle's configuration names parts of this module, so that the network and the preprocessing of images are the
tested ones and the bundle holds no Python of its own; dermaffinity is among its required packages.

Specification: https://docs.monai.io/en/stable/mb_specification.html.
"""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import dermaffinity
from dermaffinity.data.library import ImageLibrary
from dermaffinity.errors import DataError, ExportError
from dermaffinity.files import atomic_write, write_json
from dermaffinity.inference.classifier import LesionClassifier
from dermaffinity.inference.ensemble import Ensemble
from dermaffinity.inference.model_folder import FILE, build_network, read_description

_HERE = "dermaffinity.export.bundle"
_VERSION = "1.0.0"
_SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
# ImageNet's normalization of black and white.
_VALUE_RANGE = [-2.12, 2.64]


class BundleNetwork(nn.Module):
    """Maps normalized images (N, 3, S, S) to calibrated probabilities (N, C): what MONAI expects of a classifier.

    Args:
        models: The bundle's ``models`` folder, whose ``classifier.json`` describes the network. Its weights come from
            ``model.pt``, which whoever builds this loads.
        plugins: Modules outside dermaffinity that parts of the network come from; they are imported.
    """

    def __init__(self, models: str | Path, plugins: Sequence[str] = ()) -> None:
        super().__init__()
        description = read_description(Path(models))
        networks = [
            build_network(description.parts(one), len(description.classes), pretrained=False, plugins=plugins)
            for one in description.fold_models
        ]
        self.classifier = Ensemble(description, networks).float()

    def forward(self, images: Tensor) -> Tensor:
        """The probabilities."""
        return self.classifier(images).probabilities


class PrepareImage:
    """The normalized tensor (3, S, S) of an image: a path, the bytes of a file, an array (H, W, 3), a Pillow image.

    Args:
        models: The bundle's ``models`` folder.
    """

    def __init__(self, models: str | Path) -> None:
        self.classifier = LesionClassifier(read_description(Path(models)), [], Path(models))

    def __call__(self, image: Any) -> Tensor:
        """The tensor."""
        return self.classifier.prepare(image, str(image) if isinstance(image, str | Path) else "the image")


class PredictionTable:
    """What MONAI's ClassificationSaver saves to: a CSV that says which column is which class.

    Args:
        path: The CSV.
        models: The bundle's ``models`` folder.
    """

    def __init__(self, path: str | Path, models: str | Path) -> None:
        self.path = Path(path)
        self.classes = read_description(Path(models)).classes
        self.rows: list[list[str]] = []

    def save_batch(self, batch_data: Tensor, meta_data: Mapping[str, Sequence[str]]) -> None:
        """Keeps the probabilities (N, C) of the files named in ``meta_data["filename_or_obj"]``."""
        probabilities = batch_data.detach().cpu().double().numpy()
        for name, row in zip(meta_data["filename_or_obj"], probabilities, strict=True):
            self.rows.append([name, self.classes[row.argmax()], *(f"{value:.6g}" for value in row)])

    def finalize(self) -> None:
        """Writes the table."""
        with atomic_write(self.path) as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["image", "predicted", *(f"p.{name}" for name in self.classes)])
            table.writerows(self.rows)


def image_items(folder: str | Path) -> list[dict[str, str]]:
    """The images of a folder as MONAI's datasets take them: the path, once to be read and once to be kept.

    None for a folder that is not there, because MONAI builds the dataset to look at a bundle as well.
    """
    if not Path(folder).is_dir():
        return []
    library = ImageLibrary(Path(folder))
    paths = library.contents().images
    return [{"image": str(library.root / path), "path": str(library.root / path)} for path in paths]


def require_images(folder: str | Path) -> None:
    """Stops a run that would have nothing to do.

    Raises:
        DataError: When there is no such folder, or no image in it.
    """
    if not image_items(folder):
        raise DataError(f"{folder}: holds no images; give the folder of your images with --dataset_dir FOLDER")


def export_bundle(classifier: LesionClassifier, folder: Path) -> Path:
    """Writes a bundle that MONAI can verify and run.

    Args:
        classifier: Of any number of fold models.
        folder: Gets the bundle as a folder ``<name>_classification``: by that word MONAI Label knows a classifier.

    Returns:
        The bundle's folder.

    Raises:
        ExportError: When the extra ``bundle`` is not installed, without which MONAI cannot run it.

    Examples:
        >>> from pathlib import Path
        >>> from dermaffinity import LesionClassifier
        >>> from dermaffinity.export import export_bundle
        >>> classifier = LesionClassifier.load("runs/library_affinity_plus")
        >>> export_bundle(classifier, Path("exported")).name
        'toy_classification'
    """
    try:
        import fire  # noqa: F401
        import ignite  # noqa: F401
    except ImportError as error:
        raise ExportError(
            f"a MONAI bundle needs packages that are not installed ({error}); install them with "
            "pip install 'dermaffinity[bundle]'"
        ) from error
    description = classifier.description
    root = folder / f"{re.sub(r'[^A-Za-z0-9_-]', '_', description.name)}_classification"
    fold_models = Ensemble(description, classifier.networks).state_dict()
    state = {f"classifier.{name}": tensor.cpu() for name, tensor in fold_models.items()}
    with atomic_write(root / "models" / "model.pt", "wb") as file:
        torch.save(state, file)
    write_json(root / "models" / FILE, json.loads(description.model_dump_json(by_alias=True)))
    write_json(root / "configs" / "metadata.json", _metadata(classifier))
    write_json(root / "configs" / "inference.json", _inference(description.plugins))
    for name, text in {"LICENSE": _license(classifier), "docs/README.md": _readme(classifier)}.items():
        with atomic_write(root / name) as file:
            file.write(text)
    return root


def _inference(plugins: Sequence[str]) -> dict[str, Any]:
    models = "$@bundle_root + '/models'"
    return {
        # MONAI takes one name from each import.
        "imports": [
            "$import torch",
            "$from monai.handlers import from_engine",
            f"$from {_HERE} import image_items",
            f"$from {_HERE} import require_images",
        ],
        "bundle_root": ".",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": "$@bundle_root + '/images'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": {"_target_": f"{_HERE}.BundleNetwork", "models": models, "plugins": list(plugins)},
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "Lambdad",
                    "keys": "image",
                    "func": {"_target_": f"{_HERE}.PrepareImage", "models": models},
                },
                {"_target_": "EnsureTyped", "keys": "image"},
            ],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$image_items(@dataset_dir)",
            "transform": "@preprocessing",
        },
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 16,
            "shuffle": False,
            "num_workers": 0,
        },
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {"_target_": "Compose", "transforms": [{"_target_": "EnsureTyped", "keys": "pred"}]},
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "$@bundle_root + '/models/model.pt'",
                "load_dict": {"model": "@network"},
                "map_location": "@device",
            },
            {
                "_target_": "ClassificationSaver",
                "batch_transform": "$lambda batch: [{'filename_or_obj': item['path']} for item in batch]",
                "output_transform": "$from_engine('pred')",
                "saver": {
                    "_target_": f"{_HERE}.PredictionTable",
                    "path": "$@output_dir + '/predictions.csv'",
                    "models": models,
                },
            },
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "run": ["$require_images(@dataset_dir)", "$@evaluator.run()"],
    }


def _metadata(classifier: LesionClassifier) -> dict[str, Any]:
    description = classifier.description
    size = description.preprocessing.image_size
    source = description.data.source or "not stated"
    shared = {"dtype": "float32", "is_patch_data": False}
    return {
        "schema": _SCHEMA,
        "version": _VERSION,
        "changelog": {_VERSION: "exported by dermaffinity"},
        "monai_version": metadata.version("monai"),
        "pytorch_version": metadata.version("torch").partition("+")[0],
        "numpy_version": metadata.version("numpy"),
        "required_packages_version": {
            "dermaffinity": dermaffinity.__version__,
            "pytorch-ignite": metadata.version("pytorch-ignite"),
            "fire": metadata.version("fire"),
            "torchvision": metadata.version("torchvision").partition("+")[0],
            "pillow": metadata.version("pillow"),
        },
        "name": f"{description.name} skin lesion classification",
        "task": "Classification of skin lesions in photographs",
        "description": (
            f"{len(description.classes)} classes of skin lesions, with calibrated probabilities; "
            f"mean of {len(description.fold_models)} networks trained on {description.data.name}."
        ),
        "authors": "the authors of the training run; see docs/README.md",
        "copyright": "see LICENSE",
        "intended_use": description.intended_use,
        "data_source": source,
        "data_type": "image files",
        "references": [
            "Hayat et al., Gaussian Affinity for Max-margin Class Imbalanced Learning, ICCV 2019, "
            "https://arxiv.org/abs/1901.07711",
        ],
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "RGB",
                    "modality": "photograph",
                    "num_channels": 3,
                    "spatial_shape": [size, size],
                    "value_range": _VALUE_RANGE,
                    "channel_def": {"0": "R", "1": "G", "2": "B"},
                    **shared,
                }
            },
            "outputs": {
                "pred": {
                    "type": "probabilities",
                    "format": "classes",
                    "num_channels": len(description.classes),
                    "spatial_shape": [1, 1],
                    "value_range": [0, 1],
                    "channel_def": {str(index): name for index, name in enumerate(description.classes)},
                    **shared,
                }
            },
        },
    }


def _license(classifier: LesionClassifier) -> str:
    data = classifier.description.data
    return f"""\
The configuration of this bundle, and the dermaffinity library that it calls, are under the Apache License, Version 2.0,
http://www.apache.org/licenses/LICENSE-2.0, without warranties or conditions of any kind.

The weights in models/model.pt were trained on images under a license of their own, which may bind whoever uses or
passes on the weights:
  data     {data.name}
  source   {data.source}
  license  {data.license}

{classifier.description.intended_use}
"""


def _readme(classifier: LesionClassifier) -> str:
    description = classifier.description
    crop = description.preprocessing.lesion_crop
    cut = "" if crop is None else "\nIt was trained on squares cut around the lesion: cut your images so.\n"
    return f"""\
# {description.name}

**{description.intended_use}**

Maps a photograph of a skin lesion to calibrated probabilities of {len(description.classes)} classes, in this order:
{", ".join(description.classes)}. Trained on {description.data.name}: {description.data.source}
({description.data.license}).
{cut}
From the bundle's folder, after `pip install 'dermaffinity[bundle]'`:

    python -m monai.bundle run --config_file configs/inference.json --dataset_dir FOLDER_OF_IMAGES

writes `eval/predictions.csv`. A file that cannot be read stops the run; `dermaffinity predict` reports and skips it.

* Images are preprocessed by `dermaffinity.export.bundle.PrepareImage`, the very steps of training, from files or
arrays.
* `pred` holds one probability a class, as MONAI Label shows them; its option `add_post_restore` has to be False. MONAI
  Deploy reads class indices instead: there, append `{{"_target_": "AsDiscreted", "keys": "pred", "argmax": true}}` to
  `postprocessing`.
* MONAI evaluates the expressions of a configuration: treat any bundle as a program, and run none that you do not trust.
* Novelty, sets and explanations are not part of a bundle; `dermaffinity.LesionClassifier` has them.
"""
