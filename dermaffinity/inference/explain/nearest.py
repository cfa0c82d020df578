"""What speaks for a prediction: the nearest class centers, the nearest training images, and the pixels it hangs on.

Axes: C classes, M centers per class, D embedding dimensions, K fold models, n training images.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from torch import Tensor, nn

from dermaffinity.heads import Head, HeadOutput
from dermaffinity.inference.model_folder import Description, TrainingExamples

EXAMPLES = 6
"""How many training images are shown."""


def nearest_centers(heads: Sequence[Head], outputs: Sequence[HeadOutput], description: Description) -> pd.DataFrame:
    """The nearest center of each class to one image; see `Explanation.centers`.

    Args:
        heads: Of the K fold models.
        outputs: What each says about the image alone.
        description: Knows how each fold model's distances are standardized.

    Examples:
        >>> from dermaffinity import LesionClassifier
        >>> explanation = LesionClassifier.load("runs/library_affinity_plus").explain("lesion.jpg")
        >>> explanation.centers[["class", "fold_model"]].head(3)  # what this function returned
          class  fold_model
        0    AK           0
        1   BCC           0
        2    ML           0
    """
    rows = []
    for number, (head, output, fold_model) in enumerate(zip(heads, outputs, description.fold_models, strict=True)):
        distance, center = head.center_distances(output)[0].double().min(dim=1)  # (C,) each
        novelty = (distance - fold_model.calibration.distance_mean) / fold_model.calibration.distance_sd
        columns = (center.tolist(), distance.tolist(), novelty.tolist())
        rows += [(name, number, *row) for name, *row in zip(description.classes, *columns, strict=True)]
    return pd.DataFrame(rows, columns=["class", "fold_model", "center", "distance", "novelty"])


def nearest_examples(
    heads: Sequence[Head], outputs: Sequence[HeadOutput], examples: Sequence[TrainingExamples | None]
) -> pd.DataFrame | None:
    """The training images nearest to one image; see `Explanation.examples`.

    Every fold model learned from other images and measures in a scale of its own, so that its distances are divided by
    the median of them, and an image's are averaged over the fold models that learned from it.

    Args:
        heads: Of the K fold models.
        outputs: What each says about the image alone.
        examples: Of each fold model, or None where it has none.

    Examples:
        >>> from dermaffinity import LesionClassifier
        >>> explanation = LesionClassifier.load("runs/library_affinity_plus").explain("lesion.jpg")
        >>> explanation.examples.columns.tolist()  # of what this function returned
        ['image', 'label', 'distance', 'fold_models']
    """
    parts = []
    for head, output, known in zip(heads, outputs, examples, strict=True):
        if known is not None:
            distance = head.distance_to(output.embedding, known.embedding)[0].double().numpy()  # (n,)
            scale = np.median(distance) or 1.0
            parts.append(pd.DataFrame({"image": known.images, "label": known.labels, "distance": distance / scale}))
    if not parts:
        return None
    merged = pd.concat(parts).groupby(["image", "label"], as_index=False)["distance"].agg(["mean", "size"])
    merged = merged.rename(columns={"mean": "distance", "size": "fold_models"})
    return merged.sort_values(["distance", "image"]).head(EXAMPLES).reset_index(drop=True)


def occlusion_map(probabilities: Callable[[Tensor], Tensor], image: Tensor, label: int) -> np.ndarray:
    """How much of a class's probability is lost when the spot around each pixel is covered: (S, S), in [0, 1].

    A soft patch of a quarter of the image's side, of ImageNet's mean color, moves over the image. This asks the
    classifier as a whole, whatever its networks are made of, and its unit is one that a reader knows; the maps of
    gradient methods have four by four values for small images, and other units for each head.

    Source: Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 4.2, in the
    form of MONAI's OcclusionSensitivity.

    Args:
        probabilities: Of normalized images (N, 3, S, S): (N, C).
        image: (3, S, S), normalized.
        label: Index of the class.

    Examples:
        >>> import torch
        >>> from dermaffinity.inference.explain import occlusion_map
        >>> def probabilities(images):  # of class 0: how bright the upper left corner is
        ...     bright = images[:, 0, :16, :16].mean(dim=(1, 2))
        ...     return torch.stack([bright, 1 - bright], dim=1)
        >>> lost = occlusion_map(probabilities, torch.ones(3, 64, 64), label=0)
        >>> lost.shape, bool(lost[:16, :16].mean() > lost[32:, 32:].mean())
        ((64, 64), True)
    """
    from monai.visualize import OcclusionSensitivity

    from dermaffinity.inference.predict import BATCH_SIZE

    # Of the one class only, because MONAI keeps a picture for each number it gets.
    asked = _Module(lambda images: probabilities(images)[:, label : label + 1])
    occlusion = OcclusionSensitivity(
        asked, mask_size=image.shape[1] // 4, n_batch=BATCH_SIZE, verbose=False, activate=False
    )
    with warnings.catch_warnings():
        # MONAI indexes with lists where torch wants tuples; nothing that a user could fix.
        warnings.filterwarnings("ignore", "Using a non-tuple sequence for multidimensional indexing")
        covered, _ = occlusion(image[None])  # (1, 1, S, S)
    lost = asked(image[None])[0, 0] - covered[0, 0]
    return np.asarray(lost.clamp(0, 1), dtype=np.float32)  # of MONAI's own kind of tensor


class _Module(nn.Module):
    """MONAI asks for a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)
