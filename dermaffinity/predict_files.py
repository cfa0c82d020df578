"""A classifier's word on every image of files, folders and zip archives, in one CSV; memory stays flat."""

import csv
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from torch import Tensor

from dermaffinity.classifier import LesionClassifier
from dermaffinity.data.images import IMAGE_SUFFIXES
from dermaffinity.data.library import ImageLibrary
from dermaffinity.errors import DataError
from dermaffinity.files import atomic_write
from dermaffinity.prediction import BATCH_SIZE

# Enough to keep up with the network; the rest of the cores are the network's.
_READERS = 2


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
        done = 0
        for batch in _prepared(classifier, files):
            names: list[str] = []
            tensors: list[Tensor] = []
            for file, prepared in batch:
                if isinstance(prepared, DataError):
                    on_problem(str(prepared))
                else:
                    tensors.append(prepared)
                    names.append(file.name)
            if tensors:
                assessed = classifier.assess_prepared(tensors)
                predicted = classifier.classes_[assessed.probabilities.argmax(axis=1)]
                numbers = zip(assessed.probabilities, assessed.doubt, strict=True)
                texts = zip(names, predicted, classifier.sets(assessed, coverage), strict=True)
                for (name, code, members), (probabilities, doubt) in zip(texts, numbers, strict=True):
                    cells = (f"{value:.6g}" for value in (*probabilities, doubt))
                    table.writerow([name, code, *cells, ";".join(members)])
            rows += len(tensors)
            done += len(batch)
            on_progress(done, len(files))
    return rows


def _prepared(
    classifier: LesionClassifier, files: Sequence[ImageFile]
) -> Iterator[list[tuple[ImageFile, Tensor | DataError]]]:
    """Batches in order; the next one is read while the caller works on this one, and no more than that."""

    def prepare(file: ImageFile) -> Tensor | DataError:
        try:
            return classifier.prepare(file.library.read(file.path), file.name)
        except DataError as error:
            return error

    def submit(start: int) -> list[tuple[ImageFile, Future[Tensor | DataError]]]:
        return [(file, readers.submit(prepare, file)) for file in files[start : start + BATCH_SIZE]]

    readers = ThreadPoolExecutor(_READERS)
    try:
        ahead = submit(0)
        for start in range(0, len(files), BATCH_SIZE):
            now, ahead = ahead, submit(start + BATCH_SIZE)
            yield [(file, future.result()) for file, future in now]
    finally:
        readers.shutdown(cancel_futures=True)
