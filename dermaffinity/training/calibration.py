"""What a trained network's probabilities and distances mean, from images it did not learn from."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dermaffinity.heads import Head, HeadOutput, Predictions
from dermaffinity.inference.model_folder import Calibration
from dermaffinity.metrics.conformal import calibration_scores
from dermaffinity.metrics.reliability import fit_temperature, with_temperature

_LIMIT = 0.95  # share of the inner validation images that are not novel


def calibrate(predictions: Predictions, head: Head, classes: Sequence[str]) -> Calibration:
    """Temperature, conformal scores and scale of the novelty.

    Args:
        predictions: For the inner validation images; the test fold has no part in it.
        head: Knows how distances to its centers are measured.
        classes: The C class codes.

    Examples:
        >>> import torch
        >>> from dermaffinity.heads import LinearHead, Predictions
        >>> from dermaffinity.training import calibrate
        >>> head = LinearHead(2, 2).requires_grad_(False)
        >>> scores, embedding, centers = head(torch.randn(20, 2))
        >>> seen = Predictions(scores, scores.softmax(dim=1), embedding, centers, labels=torch.arange(20) % 2)
        >>> calibration = calibrate(seen, head, ("mel", "nv"))
        >>> len(calibration.scores["mel"])
        10
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
        novelty_threshold=float(np.quantile((distance - mean) / sd, _LIMIT)),
    )


def ensemble_temperature(scored: pd.DataFrame, validation: pd.DataFrame, classes: Sequence[str]) -> float:
    r"""The temperature of the mean of all folds' models.

    .. math:: T_K = T_2 - (1 - 2/K) \, (T_1 - T_2)

    No image is new to all K models, but each inner validation image of one fold's model is a test image of another's:
    :math:`T_1` is that of single models on these images, :math:`T_2` that of the mean of the two. A mean of m models is
    less sure than its parts and lacks more of their errors the more they are: where the errors of the logits are
    normal, :math:`T_m = a + b/m`, the line that is followed here to K. Neither a nor b can be negative, which bounds
    the step down by :math:`T_2`. It is for images of no fold; the out-of-fold measures never use it.

    Source of averaging first and calibrating then: Rahaman and Thiery, "Uncertainty Quantification and Deep Ensembles",
    NeurIPS 2021, https://arxiv.org/abs/2007.08792.

    Args:
        scored: Prediction table of the test rows of every fold, one seed.
        validation: That of the inner validation rows.
        classes: The C class codes.

    Examples:
        >>> import pandas as pd
        >>> from dermaffinity.training import ensemble_temperature
        >>> scored = pd.read_csv("out_of_fold.csv")
        >>> validation = scored.assign(fold=1 - scored["fold"])  # as if scored by the other fold's model
        >>> 0.05 <= ensemble_temperature(scored, validation, ("AK", "ML")) <= 20
        True
    """
    columns = [f"p.{name}" for name in classes]
    both = validation.merge(scored, on="image", suffixes=("", ".tested"))
    labels = pd.Index(classes).get_indexer(pd.Index(both["label"]))
    inner, tested = both[columns].to_numpy(), both[[f"{column}.tested" for column in columns]].to_numpy()
    of_one = fit_temperature(np.tile(labels, 2), np.concatenate([inner, tested]))
    of_two = fit_temperature(labels, (inner + tested) / 2)
    models = scored["fold"].nunique()
    return of_two - (1 - 2 / models) * float(np.clip(of_one - of_two, 0, of_two))
