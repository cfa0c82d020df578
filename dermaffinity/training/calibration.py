"""What a trained network's probabilities and distances mean, from images it did not learn from."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from dermaffinity.heads import Head, HeadOutput, Predictions
from dermaffinity.heads.base import log_shares
from dermaffinity.inference.model_folder import Calibration
from dermaffinity.losses import Loss
from dermaffinity.metrics.conformal import calibration_scores
from dermaffinity.metrics.reliability import fit_temperature, with_temperature

_LIMIT = 0.95  # share of the inner validation images that are not novel


def learned_prior(loss: Loss, *, balanced_sampling: bool = False, refitted: bool = False) -> np.ndarray:
    """Logarithms (C,) of the class frequencies that a trained network's probabilities assume, up to a constant.

    Args:
        loss: That it was trained with.
        balanced_sampling: Whether every class was drawn equally often.
        refitted: Whether its head was set afterwards, which is done to answer as if classes were equally frequent.

    Examples:
        >>> import torch
        >>> from dermaffinity.losses import CrossEntropyLoss, LogitAdjustedLoss
        >>> from dermaffinity.training import learned_prior
        >>> counts = torch.tensor([90, 10])
        >>> learned_prior(CrossEntropyLoss(counts, 2)).round(2)  # learns that the first is nine times as frequent
        array([-0.11, -2.3 ])
        >>> learned_prior(LogitAdjustedLoss(counts, 2, tau=1.0))  # leaves that out
        array([0., 0.])
    """
    drawn = torch.zeros_like(loss.class_counts) if balanced_sampling else log_shares(loss.class_counts)
    return np.zeros(len(drawn)) if refitted else (drawn - loss.prior_left_out).double().cpu().numpy()


def calibrate(
    predictions: Predictions, head: Head, classes: Sequence[str], *, log_shares: np.ndarray, assumed: np.ndarray
) -> Calibration:
    """Temperature, conformal scores and scale of the novelty.

    Args:
        predictions: For the inner validation images; the test fold has no part in it.
        head: Knows how distances to its centers are measured.
        classes: The C class codes.
        log_shares: (C,), logarithms of the class shares among the images it was fitted to, and so among these. The
            temperature is fitted with them, and is then right for whatever frequencies are told later.
        assumed: (C,), see `learned_prior`.

    Examples:
        >>> import numpy as np
        >>> import torch
        >>> from dermaffinity.heads import LinearHead, Predictions
        >>> from dermaffinity.training import calibrate
        >>> head = LinearHead(2, 2).requires_grad_(False)
        >>> scores, embedding, centers = head(torch.randn(20, 2))
        >>> seen = Predictions(scores, scores.softmax(dim=1), embedding, centers, labels=torch.arange(20) % 2)
        >>> equal = np.log([0.5, 0.5])
        >>> calibration = calibrate(seen, head, ("mel", "nv"), log_shares=equal, assumed=equal)
        >>> len(calibration.scores["mel"])
        10
    """
    labels, probabilities = predictions.labels.numpy(), predictions.probabilities.numpy()
    temperature = fit_temperature(labels, probabilities, log_shares - assumed)
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
        log_shares=tuple(log_shares.tolist()),
        assumed=tuple(assumed.tolist()),
    )


def ensemble_temperature(
    clean: pd.DataFrame, models: int, classes: Sequence[str], evidence: np.ndarray | float = 0.0
) -> float:
    r"""The temperature of the mean of m models, of which hardly an image is new to more than two.

    .. math:: T_m = T_1 \, \Big(r - \Big(1 - \frac{2}{m}\Big)(1 - r)\Big), \qquad r = \frac{T'_2}{T'_1}

    :math:`T_1` is the temperature of single models on all images that are new to them; :math:`T'_1` and :math:`T'_2`
    are those of single models, and of the mean of two, on the images that are new to both. Models of two folds share
    the images that are inner validation images of one and test images of the other; models of one fold those that are
    inner validation images of two seeds. A mean of m models is less sure than its parts and lacks more of their errors
    the more they are: where the errors of the logits are normal, :math:`T_m = a + b/m`, the line that is followed here
    from two to m. Neither a nor b can be negative, which bounds the step down by :math:`T_2`.

    Source of averaging first and calibrating then: Rahaman and Thiery, "Uncertainty Quantification and Deep Ensembles",
    NeurIPS 2021, https://arxiv.org/abs/2007.08792.

    Args:
        clean: Prediction table: a row per model and image that is new to it.
        models: m, at least 1; 1 is the temperature of a single model.
        classes: The C class codes.
        evidence: (C,), or (N, C) with a row for each of the table's; as for `fit_temperature`.

    Examples:
        >>> import pandas as pd
        >>> from dermaffinity.training import ensemble_temperature
        >>> scored = pd.read_csv("out_of_fold.csv")
        >>> other = scored.assign(fold=1 - scored["fold"])  # as if the other fold's model said the same
        >>> single, both = (ensemble_temperature(pd.concat([scored, other]), m, ("AK", "ML")) for m in (1, 2))
        >>> single == both  # nothing is averaged out
        True
    """
    probabilities = clean[[f"p.{name}" for name in classes]].to_numpy(float)
    labels = pd.Index(classes).get_indexer(pd.Index(clean["label"]))
    told = np.broadcast_to(evidence, probabilities.shape)
    single = fit_temperature(labels, probabilities, told)
    rows = pd.DataFrame({"image": clean["image"].to_numpy(), "row": np.arange(len(clean))})
    first, second = rows.merge(rows, on="image").query("row_x < row_y")[["row_x", "row_y"]].to_numpy().T
    if models == 1 or not len(first):
        return single
    one = np.concatenate([first, second])
    of_one = fit_temperature(labels[one], probabilities[one], told[one])
    means = [(values[first] + values[second]) / 2 for values in (probabilities, told)]
    ratio = fit_temperature(labels[first], *means) / of_one
    return single * (ratio - (1 - 2 / models) * float(np.clip(1 - ratio, 0, ratio)))
