"""The jobs of configs without a network: an estimator learns from features of masked lesions, and is scored.

They leave the tables, metrics and tracking runs that a network's jobs leave, but no model: fitting takes a minute, and
is done again where a finished job is asked for external images later.
"""

import json

import numpy as np
import pandas as pd

from dermaffinity.classic import Estimator, Features
from dermaffinity.config import EstimatorConfig
from dermaffinity.data.images import decode_image, decode_mask
from dermaffinity.data.manifest import Manifest
from dermaffinity.errors import ConfigError, DataError, TrainingError
from dermaffinity.experiments.job import (
    PATIENCE,
    Images,
    Job,
    ended_when_stopped,
    is_main_process,
    keep,
    open_child,
    parts,
)
from dermaffinity.experiments.progress import JobProgress
from dermaffinity.experiments.results import prediction_table, write_table
from dermaffinity.files import hold, sweep_partial, write_json
from dermaffinity.seeding import derive_seed
from dermaffinity.tracking.base import Run

_NAMED = 10  # images that an error lists


def check_estimator_config(config: EstimatorConfig, manifest: Manifest, external: bool) -> None:
    """Refuses, before anything is computed, what only the manifest shows.

    Args:
        config: The experiment.
        manifest: Its images.
        external: Whether the external images are to be scored.

    Raises:
        ConfigError: When the estimator does not fit the manifest's classes.
        DataError: When images have no mask.
    """
    try:
        config.estimator.build(classes=manifest.classes, seed=0)
    except ValueError as error:
        raise ConfigError(f"{config.name}: estimator: {error}") from error
    rows = manifest.rows if external else manifest.development()
    bare = rows.loc[~_masked(rows), "image"]
    if len(bare):
        raise DataError(
            f"{config.data.manifest}: {len(bare):,} of {len(rows):,} images have no lesion mask, which {config.name} "
            "takes its features from. Add the masks and run dermaffinity prepare again, or run a config that trains a "
            "network",
            [*bare.iloc[:_NAMED], *(["…"] if len(bare) > _NAMED else [])],
        )


def run_estimator_job(job: Job, images: Images, progress: JobProgress) -> None:
    """Fits and scores one fold and seed; what is finished is not done again.

    Raises:
        TrainingError: When the estimator cannot learn from the training rows.
        DataError: When an image or mask cannot be used.
        BusyError: When another process is at this job.
    """
    files = job.files
    if not is_main_process():
        return  # the processes of torchrun share the training of a network; here is none
    if files.finished and (not job.external or files.external.exists()):
        progress.finish(f"{job.label}: finished before")
        return
    with hold(files.path, PATIENCE):
        sweep_partial(files.path)
        if files.finished:
            estimator = _fit(job, images, progress)
        else:
            run = open_child(job)
            with ended_when_stopped(run):
                estimator = _fit(job, images, progress)
                metrics = _score(job, images, estimator, run, progress)
            run.finish("FINISHED")
            # The job is finished from here on, and not before its tracking run is.
            write_json(files.path / "metrics.json", metrics)
        if job.external:
            _score_external(job, images, estimator, progress)


def _fit(job: Job, images: Images, progress: JobProgress) -> Estimator:
    features = _features(job, images, "development", progress)
    fit_rows, _, _ = parts(job, images.rows)
    groups = images.rows["group"].to_numpy()[fit_rows]
    progress.start(f"{job.label}: fitting", len(fit_rows))
    seed = derive_seed("estimator", job.seed, job.fold)
    estimator = _config(job).estimator.build(classes=images.manifest.classes, seed=seed)
    try:
        estimator.fit(features[fit_rows], images.labels[fit_rows], groups)
    except ValueError as error:
        raise TrainingError(f"{type(estimator).__name__} cannot learn from these training rows: {error}") from error
    return estimator


def _score(job: Job, images: Images, estimator: Estimator, run: Run, progress: JobProgress) -> dict[str, float]:
    features = _features(job, images, "development", progress)
    _, inner_rows, test_rows = parts(job, images.rows)

    def table(which: np.ndarray) -> pd.DataFrame:
        probabilities = estimator.predict_proba(features[which])
        return prediction_table(
            images.rows.iloc[which], probabilities, images.manifest.classes, fold=job.fold, seed=job.seed
        )

    validation = table(inner_rows)
    scored = validation if job.scored == "inner" else table(test_rows)
    names = np.array(_config(job).features.build().names)
    selected = {decision: names[chosen].tolist() for decision, chosen in estimator.selected.items()}
    write_json(job.files.path / "selected_features.json", selected)
    run.log_json(selected, "selected_features.json")
    return keep(job, images.manifest, {"validation": validation, "predictions": scored}, run, progress)


def _score_external(job: Job, images: Images, estimator: Estimator, progress: JobProgress) -> None:
    if job.files.external.exists():
        return
    rows, _ = images.external()
    probabilities = estimator.predict_proba(_features(job, images, "external", progress))
    table = prediction_table(rows, probabilities, images.manifest.classes, fold=job.fold, seed=job.seed)
    write_table(table, job.files.external)


def _features(job: Job, images: Images, part: str, progress: JobProgress) -> np.ndarray:
    """(N, F) of the development or external rows; computed once for all configs with this section and folds."""
    section = job.config.resolved()["features"]
    key = (part, json.dumps(section, sort_keys=True))
    if key not in images.features:
        rows = images.rows if part == "development" else images.external()[0]
        progress.start(f"{images.manifest.name}: features of {part} images", len(rows))
        images.features[key] = _compute(_config(job).features.build(), images, rows, progress)
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


def _config(job: Job) -> EstimatorConfig:
    assert isinstance(job.config, EstimatorConfig)
    return job.config
