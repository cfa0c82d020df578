"""What the fold models of a classifier say together: the one arithmetic of `LesionClassifier` and of every export."""

from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from dermaffinity.inference.classifier import Assessment
from dermaffinity.inference.model_folder import Description
from dermaffinity.models import LesionNetwork
from dermaffinity.models.backbones import batches_of_views


class Ensemble(nn.Module):
    """Maps normalized images (N, 3, S, S) to an `Assessment` of tensors.

    The networks run in float32. What is made of their outputs is computed in float64, or in float32 after ``.float()``,
    as runtimes other than PyTorch need it. The state is that of the fold models alone: the calibration is part of the
    description.

    Args:
        description: Of the classifier, for C classes and K fold models.
        networks: One for each fold model; put into evaluation mode.
    """

    temperature: Tensor
    told: Tensor
    temperatures: Tensor
    shift: Tensor
    distance_mean: Tensor
    distance_sd: Tensor
    known_scores: Tensor
    known_images: Tensor

    def __init__(self, description: Description, networks: Sequence[LesionNetwork]) -> None:
        super().__init__()
        self.fold_models = nn.ModuleList(networks)
        self.is_shifted = [fold_model.shift is not None for fold_model in description.fold_models]
        known = [fold_model.calibration for fold_model in description.fold_models]
        scores = [[calibration.scores[name] for name in description.classes] for calibration in known]
        images = [[len(own) for own in fold_model] for fold_model in scores]  # (K, C)
        # One padded entry at least, so that a class without images is no empty tensor.
        padded = np.full((len(known), len(description.classes), 1 + np.max(images)), np.inf)
        for fold_model, classes in enumerate(scores):
            for label, own in enumerate(classes):
                padded[fold_model, label, : len(own)] = own
        for name, values in {
            "temperature": description.temperature,
            "told": description.told,
            "temperatures": [calibration.temperature for calibration in known],
            "shift": [fold_model.shift or [0.0] * len(description.classes) for fold_model in description.fold_models],
            "distance_mean": [calibration.distance_mean for calibration in known],
            "distance_sd": [calibration.distance_sd for calibration in known],
            "known_scores": padded,
            "known_images": images,
        }.items():
            self.register_buffer(name, torch.tensor(np.asarray(values, dtype=float)), persistent=False)
        self.eval()

    def forward(self, images: Tensor, *, views: int = 1, calibrated: bool = True) -> Assessment[Tensor]:
        """What the fold models say together.

        Args:
            images: Normalized.
            views: Number V of symmetries of each image to average over, see `dermaffinity.models.views_of`.
            calibrated: Whether the probabilities are at the temperature of the mean, for the class frequencies told.
        """
        of_each = [self._of_fold_model(index, images, views) for index in range(len(self.fold_models))]
        probabilities, novelty, usual, embeddings = zip(*of_each, strict=True)
        each = torch.stack(probabilities)  # (K, N, C)
        mean = each.mean(dim=0)
        if calibrated:
            each, mean = (_with_temperature(own, self.temperature, self.told) for own in (each, mean))
        others = each.argmax(dim=2) != mean.argmax(dim=1)  # (K, N)
        return Assessment(
            mean,
            torch.stack(novelty).mean(dim=0),
            torch.stack(usual).mean(dim=0),
            others.to(self.temperature.dtype).mean(dim=0),
            torch.cat(embeddings, dim=1),
        )

    def _of_fold_model(self, index: int, images: Tensor, views: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Probabilities (N, C), novelty (N,) and p-values (N, C), means over the views, and the embedding (N, D)."""
        network = list(cast(Iterable[LesionNetwork], self.fold_models))[index]
        batches = batches_of_views(images, views)
        outputs = [network(batch.contiguous(memory_format=torch.channels_last)) for batch in batches]
        raw = torch.cat([network.head.probabilities(output) for output in outputs]).unflatten(0, (views, -1))
        distance = torch.cat([network.head.center_distance(output).amin(dim=1) for output in outputs])
        distance = distance.unflatten(0, (views, -1))  # (V, N), raw (V, N, C)
        novelty = (distance.to(self.distance_mean.dtype) - self.distance_mean[index]) / self.distance_sd[index]
        # See `dermaffinity.metrics.conformal`.
        score = 1 - _with_temperature(raw, self.temperatures[index])
        below = (self.known_scores[index] < score[..., None]).sum(dim=3)  # (V, N, C)
        usual = (self.known_images[index] - below + 1) / (self.known_images[index] + 1)
        mean = raw.mean(dim=0)
        if self.is_shifted[index]:
            mean = _with_temperature(mean, torch.ones_like(self.temperature), self.shift[index])
        return mean, novelty.mean(dim=0), usual.mean(dim=0), outputs[0].embedding[: images.shape[0]]


def _with_temperature(probabilities: Tensor, temperature: Tensor, evidence: Tensor | float = 0.0) -> Tensor:
    """See `dermaffinity.metrics.reliability.with_temperature`."""
    logits = probabilities.to(temperature.dtype).clamp_min(torch.finfo(torch.float32).tiny).log()
    return (logits / temperature + evidence).softmax(dim=-1)
