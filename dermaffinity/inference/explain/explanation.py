"""What `LesionClassifier.explain` returns."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dermaffinity.errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Explanation:
    """All that a classifier says about one image, and what speaks for it; C classes, an image of side S.

    Attributes:
        name: Of the classifier.
        intended_use: Of the classifier.
        classes: The C class codes.
        image: (S, S, 3) uint8, what the networks see of it.
        probabilities: (C,), calibrated.
        prediction_set: The classes that the image may well belong to, the likeliest first; may be empty.
        coverage: Of that set.
        novelty: How far the image lies from every class, see `LesionClassifier.novelty`.
        novelty_threshold: The novelty above which an image looks like no training image.
        disagreement: Share of the fold models that name another class.
        centers: The nearest center of each class to the image: one row for each class and fold model, with the columns
            `class`, `fold_model` (its number, from 0), `center` (which of the class's centers, from 0), `distance` (in
            the fold model's own geometry) and `novelty` (that distance standardized as the novelty is: the least of a
            fold model's is its novelty about the image, when it looks at the image in one view).
        examples: The training images nearest to the image, the nearest first, with the columns `image` (its name in the
            library), `label`, `distance` (0 for the same to the networks, 1 for as far as the median training image;
            mean over the fold models that learned from it) and `fold_models` (how many did); None for a model that was
            saved without examples.
        saliency: (S, S) float, in [0, 1]: how much of the probability of the predicted class, in one view, is lost when
            the spot around a pixel is covered.

    Examples:
        >>> from dermaffinity import LesionClassifier
        >>> explanation = LesionClassifier.load("runs/library_affinity_plus").explain("lesion.jpg")
        >>> explanation.predicted in explanation.classes
        True
        >>> explanation.centers.columns.tolist()
        ['class', 'fold_model', 'center', 'distance', 'novelty']
        >>> explanation.save("sheet.png")
    """

    name: str
    intended_use: str
    classes: tuple[str, ...]
    image: np.ndarray
    probabilities: np.ndarray
    prediction_set: tuple[str, ...]
    coverage: float
    novelty: float
    novelty_threshold: float
    disagreement: float
    centers: pd.DataFrame
    examples: pd.DataFrame | None
    saliency: np.ndarray

    @property
    def predicted(self) -> str:
        """The likeliest class."""
        return self.classes[int(self.probabilities.argmax())]

    @property
    def novel(self) -> bool:
        """Whether the novelty is above its limit."""
        return self.novelty > self.novelty_threshold

    def figure(self, library: str | Path | None = None) -> "Figure":
        """The sheet, a matplotlib figure.

        Args:
            library: The training images' folder or zip archive, or the manifest that knows it; to show the nearest
                training images instead of naming them only.

        Raises:
            DataError: When an image cannot be read from the library.
            ManifestError: When the manifest cannot.
        """
        from dermaffinity.inference.explain.sheet import explanation_sheet

        return explanation_sheet(self, [] if library is None else self._thumbnails(Path(library)))

    def _repr_html_(self) -> str:
        from dermaffinity.report.html.notebook import shown

        return shown({}, self.figure())

    def save(self, path: str | Path, library: str | Path | None = None) -> None:
        """Writes the sheet as PNG.

        Args:
            path: Ends in ``.png``; its folder is made if need be.
            library: As for `figure`.

        Raises:
            DataError: As for `figure`, or when the file cannot be written.
        """
        from dermaffinity.report.figures import save_figure

        path = Path(path)
        if path.suffix.lower() != ".png":
            raise DataError(f"{path}: the sheet is a PNG image; give it a name that ends in .png")
        save_figure(self.figure(library), path)

    def _thumbnails(self, source: Path) -> list[np.ndarray]:
        """(S, S, 3) uint8 of each example."""
        from dermaffinity.data.images import decode_image
        from dermaffinity.data.library import ImageLibrary
        from dermaffinity.data.manifest import read_manifest
        from dermaffinity.data.transforms import CentralSquare, ResizeShortSide

        if self.examples is None:
            return []
        root = read_manifest(source).root if source.suffix.lower() == ".csv" else source
        if root is None:
            raise DataError(f"{source}: the folder of its images is not known here; give that folder instead")
        library = ImageLibrary(root)
        side = len(self.image)
        resize, square = ResizeShortSide(side), CentralSquare(side)
        return [square(resize(decode_image(library.read(name), name))) for name in self.examples["image"]]
