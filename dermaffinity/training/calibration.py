"""What a trained network's probabilities and distances mean, from images it did not learn from."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dermaffinity.heads import Head, HeadOutput, Predictions
from dermaffinity.metrics.calibration import fit_temperature, with_temperature
from dermaffinity.metrics.conformal import calibration_scores
from dermaffinity.model_folder import Calibration
from dermaffinity.results import class_indices

_LIMIT = 0.95  # share of the inner validation images that are not doubtful


def calibrate(predictions: Predictions, head: Head, classes: Sequence[str]) -> Calibration:
    """Temperature, conformal scores and scale of the doubt.

    Args:
        predictions: For the inner validation images; the test fold has no part in it.
        head: Knows how distances to its centers are measured.
        classes: The C class codes.
    """
    labels, probabilities = predictions.labels.numpy(), predictions.probabilities.numpy()
    temperature = fit_temperature(labels, probabilities)
    scores = calibration_scores(labels, with_temperature(probabilities, temperature))
    output = HeadOutput(predictions.scores, predictions.embedding, predictions.centers)
    distance = head.center_distance(output).amin(dim=1).numpy().astype(float)  # (N,)
    mean, sd = distance.mean(), distance.std() or 1.0
    return Calibration(
        temperature=temperature,
        # Up, so that an image that scores as high as one of these counts as such.
        scores={name: tuple((np.ceil(1e6 * own) / 1e6).tolist()) for name, own in zip(classes, scores, strict=True)},
        distance_mean=mean,
        distance_sd=sd,
        doubt_limit=float(np.quantile((distance - mean) / sd, _LIMIT)),
    )


def ensemble_temperature(scored: pd.DataFrame, validation: pd.DataFrame, classes: Sequence[str]) -> float:
    """The temperature of the mean of all folds' models.

    Each at its own temperature they would be too unsure together, because a mean is less sure than its parts. No image
    is new to all of them, so that it is fitted on the mean of the two that an image is new to: an inner validation
    image of one fold's model is a test image of another's. It is for images of no fold; the out-of-fold measures never
    use it.

    Source: Rahaman and Thiery, "Uncertainty Quantification and Deep Ensembles", NeurIPS 2021,
    https://arxiv.org/abs/2007.08792: average first, calibrate then.

    Args:
        scored: Prediction table of the test rows of every fold, one seed.
        validation: That of the inner validation rows.
        classes: The C class codes.
    """
    columns = [f"p.{name}" for name in classes]
    both = validation.merge(scored, on="image", suffixes=("", ".tested"))
    tested = both[[f"{column}.tested" for column in columns]].to_numpy()
    return fit_temperature(class_indices(both["label"], classes), (both[columns].to_numpy() + tested) / 2)
