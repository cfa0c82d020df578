"""The jobs of configs without a network: an estimator learns from features of masked lesions, and is scored.

They leave the tables and metrics that a network's jobs leave, but no model: fitting takes a minute, and is done again
where a finished job is asked for external images later.
"""

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dermaffinity.classic import Estimator, Features
from dermaffinity.config import EstimatorConfig
from dermaffinity.data.images import decode_image, decode_mask
from dermaffinity.data.manifest import Manifest
from dermaffinity.errors import ConfigError, DataError, TrainingError
from dermaffinity.experiments.job import PATIENCE, Images, Job, is_main_process, keep, parts
from dermaffinity.experiments.progress import JobProgress
from dermaffinity.experiments.results import prediction_table, write_table
from dermaffinity.files import hold, sweep_partial, write_json
from dermaffinity.seeding import derive_seed

_NAMED = 10  # images that an error lists


@dataclass(frozen=True)
class EstimatorJob(Job):
    """Fits an estimator to features and scores it; see `Job`."""

    config: EstimatorConfig

    def check(self, manifest: Manifest) -> None:
        """Refuses, before anything is computed, what only the manifest shows.

        Raises:
            ConfigError: When the estimator does not fit the manifest's classes.
            DataError: When images have no mask.
        """
        try:
            self.config.estimator.build(classes=manifest.classes, seed=0)
        except ValueError as error:
            raise ConfigError(f"{self.config.name}: estimator: {error}") from error
        rows = manifest.rows if self.external else manifest.development()
        bare = rows.loc[~_masked(rows), "image"]
        if len(bare):
            raise DataError(
                f"{self.config.data.manifest}: {len(bare):,} of {len(rows):,} images have no lesion mask, which "
                f"{self.config.name} takes its features from. Add the masks and run dermaffinity prepare again, or run "
                "a config that trains a network",
                [*bare.iloc[:_NAMED], *(["…"] if len(bare) > _NAMED else [])],
            )

    @property
    def shared(self) -> str:
        """The features that are computed, and of which images."""
        return json.dumps([self.config.resolved()["features"], self.external], sort_keys=True)

    def prepare(self, images: Images, progress: JobProgress) -> None:
        """Computes the features."""
        for part in ("development", "external") if self.external else ("development",):
            _features(self, images, part, progress)

    def run(self, images: Images, progress: JobProgress) -> None:
        """See `Job.run`."""
        files = self.files
        if not is_main_process():
            return  # the processes of torchrun share the training of a network; here is none
        with hold(files.path, PATIENCE):
            sweep_partial(files.path)
            estimator = _fit(self, images, progress)
            if not files.finished:
                metrics = _score(self, images, estimator, progress)
                write_json(files.path / "metrics.json", metrics)  # the job is finished from here on
            if self.external:
                _score_external(self, images, estimator, progress)


def _fit(job: EstimatorJob, images: Images, progress: JobProgress) -> Estimator:
    features = _features(job, images, "development", progress)
    fit_rows, _, _ = parts(job, images.rows)
    groups = images.rows["group"].to_numpy()[fit_rows]
    progress.start(f"{job.label}: fitting", len(fit_rows))
    seed = derive_seed("estimator", job.seed, job.fold)
    estimator = job.config.estimator.build(classes=images.manifest.classes, seed=seed)
    try:
        estimator.fit(features[fit_rows], images.labels[fit_rows], groups)
    except ValueError as error:
        raise TrainingError(f"{type(estimator).__name__} cannot learn from these training rows: {error}") from error
    return estimator


def _score(job: EstimatorJob, images: Images, estimator: Estimator, progress: JobProgress) -> dict[str, float]:
    features = _features(job, images, "development", progress)
    _, inner_rows, test_rows = parts(job, images.rows)

    def table(which: np.ndarray) -> pd.DataFrame:
        probabilities = estimator.predict_proba(features[which])
        return prediction_table(
            images.rows.iloc[which], probabilities, images.manifest.classes, fold=job.fold, seed=job.seed
        )

    validation = table(inner_rows)
    scored = validation if job.scored == "inner" else table(test_rows)
    names = np.array(job.config.features.build().names)
    selected = {decision: names[chosen].tolist() for decision, chosen in estimator.selected.items()}
    write_json(job.files.selected, selected)
    return keep(job, images.manifest, {"validation": validation, "predictions": scored})


def _score_external(job: EstimatorJob, images: Images, estimator: Estimator, progress: JobProgress) -> None:
    if job.files.external.exists():
        return
    rows, _ = images.external()
    probabilities = estimator.predict_proba(_features(job, images, "external", progress))
    table = prediction_table(rows, probabilities, images.manifest.classes, fold=job.fold, seed=job.seed)
    write_table(table, job.files.external)


def _features(job: EstimatorJob, images: Images, part: str, progress: JobProgress) -> np.ndarray:
    """(N, F) of the development or external rows; computed once for all configs with this section and folds."""
    key = (part, json.dumps(job.config.resolved()["features"], sort_keys=True))
    if key not in images.features:
        rows = images.rows if part == "development" else images.external()[0]
        progress.start(f"{images.manifest.name}: features of {part} images", len(rows))
        images.features[key] = _compute(job.config.features.build(), images, rows, progress)
    return images.features[key]


def _compute(features: Features, images: Images, rows: pd.DataFrame, progress: JobProgress) -> np.ndarray:
    computed, problems = [], []
    for path, mask_path in zip(rows["image"], rows["mask"], strict=True):
        image, mask = _laid(images, path, mask_path)
        if mask.any():
            computed.append(features(image, mask))
        else:
            problems.append(f"{path}: {mask_path} shows no lesion")
        progress.images(1)
    if problems:
        raise DataError("features need a lesion; fix these masks, or leave their images out", problems)
    return np.array(computed)


def _laid(images: Images, path: str, mask_path: str) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) uint8 as a network would get it before the central square, and its mask (H, W) bool."""
    image = decode_image(images.library.read(path), path)
    mask = decode_mask(images.library.read(mask_path), mask_path, image.shape[:2])
    # Through the same steps, so that both stay in register.
    white = np.repeat(mask[:, :, None], 3, axis=2).astype(np.uint8) * 255
    return images.stage((image, mask)), images.stage((white, mask))[:, :, 0] > 127


def _masked(rows: pd.DataFrame) -> pd.Series:
    return rows["mask"].map(lambda mask: isinstance(mask, str) and mask != "")
