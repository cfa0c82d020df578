"""Finished experiments made of prediction tables alone, for what needs no training."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import softmax

from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.record import ExperimentRecord, JobFolder
from dermaffinity.experiments.results import prediction_table, write_table
from dermaffinity.files import write_json

CLASSES = ("a", "b", "rare")
COUNTS = {"a": 240, "b": 120, "rare": 40}


def made(
    folder: Path,
    loss: str,
    *,
    seeds: int = 2,
    inner: pd.DataFrame | None = None,
    noise: float = 1.0,
    seed: int = 0,
    prior_strength: float | str | None = None,
) -> Experiment:
    """A finished experiment of two folds without networks, whose models say something at random of 400 images."""
    config = {
        "backbone": {},
        "loss": {"class": f"dermaffinity.losses.{loss}"},
        "refit": None,
        "prior_strength": prior_strength,
        "training": {"balanced_sampling": False},
        "data": {"validation_fraction": 0.15},
    }
    record = ExperimentRecord(
        name="made",
        config=config,
        scored="test",
        dataset="made",
        split_hash="",
        images_digest="",
        protocol="group",
        folds=2,
        class_counts=COUNTS,
        malignant=(),
        versions={},
    )
    write_json(folder / "experiment.json", record.model_dump(mode="json"))
    random = np.random.default_rng(seed)
    labels = np.repeat(CLASSES, list(COUNTS.values()))
    images = np.array([f"{number}.jpg" for number in range(400)])
    fold_of = np.arange(400) % 2

    def write(path: Path, rows: np.ndarray, fold: int, seed: int) -> None:
        scores = 3 * np.eye(3)[[CLASSES.index(label) for label in labels[rows]]]
        scores += noise * random.normal(size=scores.shape)
        facts = pd.DataFrame({"image": images[rows], "group": images[rows], "label": labels[rows]})
        write_table(prediction_table(facts, softmax(scores, axis=1), CLASSES, fold=fold, seed=seed), path)

    for fold in range(2):
        for one in range(seeds):
            job = JobFolder.of(folder, fold, one).path
            held_out = random.permutation(np.flatnonzero(fold_of != fold))[:40]
            write(job / "predictions.csv", np.flatnonzero(fold_of == fold), fold, one)
            write(job / "validation.csv", held_out, fold, one)
            write(job / "external.csv", np.arange(0, 400, 8), fold, one)
            if inner is not None:
                write_table(inner.assign(fold=fold, seed=one), job / "validation.csv")
            write_json(job / "metrics.json", {})
    return Experiment(folder)
