"""The whole classifier as one network: its fold models, and what `LesionClassifier` makes of their outputs in NumPy."""

import copy
from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from dermaffinity.inference.model_folder import Description
from dermaffinity.models import LesionNetwork


class NetworkAssessment(NamedTuple):
    """The tensors of an `Assessment` of N images, for C classes and K fold models, in float32."""

    probabilities: Tensor  # (N, C), calibrated
    novelty: Tensor  # (N,)
    p_values: Tensor  # (N, C)
    disagreement: Tensor  # (N,)
    embedding: Tensor  # (N, K·D)


class CalibratedNetwork(nn.Module):
    """Maps normalized images (N, 3, S, S) to all that `LesionClassifier.assess_prepared` says about them.

    Its state is that of the fold models alone: the calibration is part of the description.

    Args:
        description: Of the classifier.
        networks: One for each fold model; copied to the CPU.
    """

    temperatures: Tensor
    distance_mean: Tensor
    distance_sd: Tensor
    known_scores: Tensor
    known_images: Tensor

    def __init__(self, description: Description, networks: Sequence[LesionNetwork]) -> None:
        super().__init__()
        self.fold_models = nn.ModuleList(copy.deepcopy(network).cpu().eval() for network in networks)
        self.temperature = description.temperature
        known = [fold_model.calibration for fold_model in description.fold_models]
        scores = [[calibration.scores[name] for name in description.classes] for calibration in known]
        images = [[len(own) for own in fold_model] for fold_model in scores]  # (K, C)
        # One padded entry at least, so that a class without images is no empty tensor.
        padded = np.full((len(known), len(description.classes), 1 + np.max(images)), np.inf)
        for fold_model, classes in enumerate(scores):
            for label, own in enumerate(classes):
                padded[fold_model, label, : len(own)] = own
        for name, values in {
            "temperatures": [calibration.temperature for calibration in known],
            "distance_mean": [calibration.distance_mean for calibration in known],
            "distance_sd": [calibration.distance_sd for calibration in known],
            "known_scores": padded,
            "known_images": images,
        }.items():
            self.register_buffer(name, torch.tensor(np.asarray(values), dtype=torch.float32), persistent=False)

    def forward(self, images: Tensor) -> NetworkAssessment:
        """What the fold models say together."""
        probabilities, novelty, usual, embeddings = [], [], [], []
        for index, fold_model in enumerate(cast(Iterable[LesionNetwork], self.fold_models)):
            output = fold_model(images)
            raw = fold_model.head.probabilities(output)
            own = _with_temperature(raw, self.temperatures[index])
            distance = fold_model.head.center_distance(output).amin(dim=1)
            probabilities.append(raw)
            novelty.append((distance - self.distance_mean[index]) / self.distance_sd[index])
            below = (self.known_scores[index] < (1 - own)[:, :, None]).sum(dim=2)  # (N, C)
            usual.append((self.known_images[index] - below + 1) / (self.known_images[index] + 1))
            embeddings.append(output.embedding)
        each = torch.stack(probabilities)  # (K, N, C)
        mean = each.mean(dim=0)
        others = each.argmax(dim=2) != mean.argmax(dim=1)  # (K, N)
        return NetworkAssessment(
            _with_temperature(mean, self.temperature),
            torch.stack(novelty).mean(dim=0),
            torch.stack(usual).mean(dim=0),
            others.float().mean(dim=0),
            torch.cat(embeddings, dim=1),
        )


def _with_temperature(probabilities: Tensor, temperature: Tensor | float) -> Tensor:
    """See `dermaffinity.metrics.reliability.with_temperature`."""
    logits = probabilities.clamp_min(torch.finfo(torch.float32).tiny).log()
    return (logits / temperature).softmax(dim=1)
