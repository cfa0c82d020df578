"""A classifier's word on every image of files, folders and zip archives, in one CSV; memory stays flat."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from torch import Tensor

from dermaffinity.classifier import LesionClassifier
from dermaffinity.data.images import IMAGE_SUFFIXES
from dermaffinity.data.library import ImageLibrary
from dermaffinity.errors import DataError
from dermaffinity.files import atomic_write
from dermaffinity.prediction import BATCH_SIZE


class ImageFile(NamedTuple):
    """One image, by itself or in a folder or archive."""

    name: str  # what the table and errors call it
    library: ImageLibrary
    path: str  # in the library


def find_images(sources: Sequence[Path], on_problem: Callable[[str], None]) -> list[ImageFile]:
    """The image files of folders and archives, and every file that is named itself.

    Args:
        sources: Image files, folders and zip archives.
        on_problem: Told of each source that cannot be used.
    """
    found = []
    for source in sources:
        try:
            if source.is_dir() or source.suffix.lower() == ".zip":
                library = ImageLibrary(source)
                paths = [path for path in library.files() if PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES]
                found += [ImageFile((source / path).as_posix(), library, path) for path in paths]
                if not paths:
                    on_problem(f"{source}: holds no images; looked for {', '.join(sorted(IMAGE_SUFFIXES))}")
            else:
                found.append(ImageFile(source.as_posix(), ImageLibrary(source.parent), source.name))
        except DataError as error:
            on_problem(str(error))
    return found


def predict_files(
    classifier: LesionClassifier,
    files: Sequence[ImageFile],
    out: Path,
    *,
    coverage: float = 0.9,
    on_problem: Callable[[str], None],
    on_progress: Callable[[int, int], None],
) -> int:
    """Writes one row an image, and leaves out what cannot be read.

    The columns are ``image``, ``predicted``, ``p.<class>`` for each class, ``doubt``, and ``set``, its classes with
    semicolons between.

    Args:
        classifier: See `LesionClassifier`.
        files: What `find_images` returns.
        out: The CSV; takes the place of an older one when it is complete.
        coverage: Of the sets.
        on_problem: Told of each image that cannot be used.
        on_progress: Told (images done, images in all).

    Returns:
        Number of rows.
    """
    rows = 0
    with atomic_write(out) as opened:
        table = csv.writer(opened, lineterminator="\n")
        table.writerow(["image", "predicted", *(f"p.{name}" for name in classifier.classes_), "doubt", "set"])
        for start in range(0, len(files), BATCH_SIZE):
            names: list[str] = []
            tensors: list[Tensor] = []
            for file in files[start : start + BATCH_SIZE]:
                try:
                    tensors.append(classifier.prepare(file.library.read(file.path), file.name))
                    names.append(file.name)
                except DataError as error:
                    on_problem(str(error))
            if tensors:
                assessed = classifier.assess_prepared(tensors)
                predicted = classifier.classes_[assessed.probabilities.argmax(axis=1)]
                numbers = zip(assessed.probabilities, assessed.doubt, strict=True)
                texts = zip(names, predicted, classifier.sets(assessed, coverage), strict=True)
                for (name, code, members), (probabilities, doubt) in zip(texts, numbers, strict=True):
                    cells = (f"{value:.6g}" for value in (*probabilities, doubt))
                    table.writerow([name, code, *cells, ";".join(members)])
            rows += len(tensors)
            on_progress(min(start + BATCH_SIZE, len(files)), len(files))
    return rows
