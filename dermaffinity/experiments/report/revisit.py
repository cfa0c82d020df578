"""The models of a finished experiment look once more at the images they were tested on.

The out-of-fold table keeps probabilities only. Where the images are still at hand, this gives what else the models
saw: each image's place in the embedding, and its distance from every class, which is its novelty.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dermaffinity.data.dataset import ManifestDataset, RowImages
from dermaffinity.data.library import ImageLibrary
from dermaffinity.data.manifest import Manifest
from dermaffinity.data.transforms import EvaluationStage, FixedStage
from dermaffinity.errors import DataError
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.results import read_table
from dermaffinity.heads import HeadOutput, Predictions
from dermaffinity.inference.model_folder import Description, load_networks
from dermaffinity.inference.predict import predict

# Two machines, or two sizes of batches, round differently; another model or another image differs by far more.
_SAME = 0.02


@dataclass(frozen=True, eq=False)
class SeenFold:
    """What one fold's model says about its test images, for N images, C classes, M centers, D dimensions."""

    fold: int
    images: np.ndarray  # (N,), names
    labels: np.ndarray  # (N,), class indices
    predicted: np.ndarray  # (N,), class indices
    embedding: np.ndarray  # (N, D)
    centers: np.ndarray  # (C, M, D)
    centers_are_places: bool  # see `Head`
    novelty: np.ndarray  # (N,), in standard deviations of the inner validation images
    novelty_threshold: float
    difference: float  # largest one between its probabilities now and in the out-of-fold table


def revisit(
    experiment: Experiment,
    manifest: Manifest,
    *,
    seed: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[SeenFold]:
    """Runs every fold's model of one seed over its test images.

    Args:
        experiment: A finished one.
        manifest: The one it was run on, with a root.
        seed: Which models.
        on_progress: Called with the number of images done and of all.

    Raises:
        DataError: When a model or an image cannot be read, or the models no longer say what the table says.
    """
    assert manifest.root is not None
    table = experiment.out_of_fold.table
    library, total, done = ImageLibrary(manifest.root), len(manifest.development()), 0

    def count(images: int) -> None:
        nonlocal done
        done += images
        on_progress(done, total)

    return [
        _revisit_fold(experiment, manifest, table[(table["seed"] == seed) & (table["fold"] == fold)], library, count)
        for fold in range(manifest.folds)
    ]


def _revisit_fold(
    experiment: Experiment,
    manifest: Manifest,
    known: pd.DataFrame,
    library: ImageLibrary,
    on_images: Callable[[int], None],
) -> SeenFold:
    import torch

    fold, seed = int(known["fold"].iloc[0]), int(known["seed"].iloc[0])
    path, description = experiment.job(fold, seed).path, experiment.models[fold, seed]
    (network,) = load_networks(path, description, experiment.record.config.get("plugins", ()))
    rows = manifest.development().set_index("image").loc[known["image"]].reset_index()
    preprocessing = description.preprocessing
    images = RowImages(library, rows, FixedStage(preprocessing.image_size, preprocessing.lesion_crop))
    labels = experiment.classes.indices(rows["label"])
    dataset = ManifestDataset(images, labels, EvaluationStage(preprocessing.image_size))
    seen = predict(network, dataset, device=torch.device("cpu"), on_images=on_images)
    calibration = description.fold_models[0].calibration
    distance = network.head.center_distance(HeadOutput(seen.scores, seen.embedding, seen.centers)).amin(dim=1)
    return SeenFold(
        fold,
        known["image"].to_numpy(dtype=object),
        labels,
        experiment.classes.indices(known["predicted"]),
        seen.embedding.numpy(),
        seen.centers.numpy(),
        network.head.centers_are_places,
        (distance.numpy().astype(float) - calibration.distance_mean) / calibration.distance_sd,
        calibration.novelty_threshold,
        _difference(seen, read_table(experiment.job(fold, seed).predictions), known["image"], description),
    )


def _difference(seen: Predictions, table: pd.DataFrame, images: pd.Series, description: Description) -> float:
    """From what the job wrote, before the experiment told it anything."""
    before = table.set_index("image").loc[images, [f"p.{name}" for name in description.classes]].to_numpy()
    difference = float(np.abs(seen.probabilities.numpy() - before).max())
    if difference > _SAME:
        raise DataError(
            f"{description.name}: the model of fold {description.fold_models[0].fold} no longer says what its table "
            f"says (probabilities differ by up to {difference:.2f}); the images or the model were changed since"
        )
    return difference
