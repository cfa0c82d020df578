"""A classifier's word on every image of files, folders and zip archives, in one CSV; memory stays flat."""

import csv
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd
from torch import Tensor

from dermaffinity.data.library import ImageLibrary, printable
from dermaffinity.errors import DataError, count_of
from dermaffinity.files import atomic_write
from dermaffinity.inference.classifier import LesionClassifier
from dermaffinity.inference.predict import BATCH_SIZE

# Enough to keep up with the network; the rest of the cores are the network's.
_READERS = 2


class ImageFile(NamedTuple):
    """One image, by itself or in a folder or archive."""

    name: str  # what the table and errors call it
    library: ImageLibrary
    path: str  # in the library


def find_images(sources: Sequence[Path], on_problem: Callable[[str, str], None]) -> list[ImageFile]:
    """The image files of folders and archives, and every file that is named itself.

    Args:
        sources: Image files, folders and zip archives.
        on_problem: Told the name and the fault of each source that cannot be used, and of each file that is neither an
            image nor a text, table or document.

    Examples:
        >>> from pathlib import Path
        >>> from dermaffinity.inference import find_images
        >>> [image.name for image in find_images([Path("lesion.jpg"), Path("PHOTOS/nevus")], on_problem=print)]
        ['lesion.jpg', 'PHOTOS/nevus/P1_a.jpg', 'PHOTOS/nevus/P3_a.jpg', 'PHOTOS/nevus/P5_a.jpg']
    """
    found: list[ImageFile] = []
    for source in sources:
        name = printable(source.as_posix())
        try:
            if not source.exists():
                on_problem(name, "there is no such file or folder")
            elif source.is_dir() or source.suffix.lower() == ".zip":
                library = ImageLibrary(source)
                contents = library.contents()
                found += [ImageFile((source / path).as_posix(), library, path) for path in contents.images]
                for path in contents.others:
                    on_problem(printable((source / path).as_posix()), "no image in a format that is read here")
                if not (contents.images or contents.others):
                    on_problem(name, f"no image among {count_of(len(contents.beside), 'file')}")
            else:
                found.append(ImageFile(source.as_posix(), ImageLibrary(source.parent), source.name))
        except DataError as error:
            on_problem(name, _fault(error, source.name, str(source.resolve())))
    for file in found:
        if not _is_utf8(file.name):
            on_problem(printable(file.name), "the name is not UTF-8, so that no table can hold it; rename the file")
    return [file for file in found if _is_utf8(file.name)]


def predict(
    model: str | Path,
    images: Sequence[str | Path],
    *,
    out: str | Path = "predictions.csv",
    coverage: float = 0.9,
    views: Literal[1, 2, 4, 8] = 1,
    device: Literal["cpu", "cuda", "auto"] = "cpu",
    plugins: Sequence[str] = (),
) -> pd.DataFrame:
    """Predicts image files with a trained classifier; a file that cannot be used is named in a warning.

    Args:
        model: Folder of an experiment, a fold or a classifier, or ``models:/NAME@ALIAS``.
        images: Image files, folders and zip archives.
        out: The table, as CSV.
        coverage: Share of images whose set shall hold their class.
        views: See `LesionClassifier`.
        device: See `LesionClassifier.load`.
        plugins: See `LesionClassifier.load`.

    Returns:
        The table, see `predict_files`; ``set`` holds lists.

    Examples:
        >>> import dermaffinity as da
        >>> table = da.predict("runs/library_affinity_plus", ["PHOTOS"])
        >>> table.columns.tolist()
        ['image', 'predicted', 'p.AK', 'p.BCC', 'p.ML', 'novelty', 'set']
    """

    def warn(name: str, fault: str) -> None:
        warnings.warn(f"{name}: {fault}", stacklevel=2)

    classifier = LesionClassifier.load(model, views=views, device=device, plugins=plugins)
    files = find_images([Path(source) for source in images], warn)
    predict_files(
        classifier, files, Path(out), coverage=coverage, on_problem=warn, on_progress=lambda done, total: None
    )
    return pd.read_csv(out, keep_default_na=False, na_values={}, converters={"set": json.loads})


def predict_files(
    classifier: LesionClassifier,
    files: Sequence[ImageFile],
    out: Path,
    *,
    coverage: float = 0.9,
    on_problem: Callable[[str, str], None],
    on_progress: Callable[[int, int], None],
) -> int:
    """Writes one row per image, and leaves out what cannot be read.

    The columns are ``image``, ``predicted``, ``p.<class>`` for each class, ``novelty``, and ``set``, a JSON list of
    classes, such as ``["AK", "BCC"]``.

    Args:
        classifier: See `LesionClassifier`.
        files: What `find_images` returns.
        out: The CSV; takes the place of an older one when it is complete.
        coverage: Of the sets.
        on_problem: Told the name and the fault of each image that cannot be used.
        on_progress: Told (images done, images in all).

    Returns:
        Number of rows.

    Examples:
        >>> from pathlib import Path
        >>> from dermaffinity import LesionClassifier
        >>> from dermaffinity.inference import find_images, predict_files
        >>> classifier = LesionClassifier.load("runs/library_affinity_plus")
        >>> images, out = find_images([Path("PHOTOS")], on_problem=print), Path("predictions.csv")
        >>> predict_files(classifier, images, out, on_problem=print, on_progress=lambda done, total: None)
        6
        >>> out.read_text().splitlines()[0]
        'image,predicted,p.AK,p.BCC,p.ML,novelty,set'
    """
    rows = 0
    with atomic_write(out) as opened:
        table = csv.writer(opened, lineterminator="\n")
        table.writerow(["image", "predicted", *(f"p.{name}" for name in classifier.classes_), "novelty", "set"])
        done = 0
        for batch in _prepared(classifier, files):
            names: list[str] = []
            tensors: list[Tensor] = []
            for file, prepared in batch:
                if isinstance(prepared, DataError):
                    on_problem(file.name, _fault(prepared, file.name, file.path))
                else:
                    tensors.append(prepared)
                    names.append(file.name)
            if tensors:
                assessed = classifier.assess_prepared(tensors)
                predicted = classifier.classes_[assessed.probabilities.argmax(axis=1)]
                numbers = zip(assessed.probabilities, assessed.novelty, strict=True)
                texts = zip(names, predicted, classifier.sets(assessed, coverage), strict=True)
                for (name, code, members), (probabilities, novelty) in zip(texts, numbers, strict=True):
                    cells = (f"{value:.6g}" for value in (*probabilities, novelty))
                    table.writerow([name, code, *cells, json.dumps(members, ensure_ascii=False)])
            rows += len(tensors)
            done += len(batch)
            on_progress(done, len(files))
    return rows


def _fault(error: DataError, *names: str) -> str:
    """What is wrong, without the name that an error begins with."""
    text = str(error)
    return next((text.removeprefix(f"{name}: ") for name in names if text.startswith(f"{name}: ")), text)


def _is_utf8(name: str) -> bool:
    return printable(name) == name


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
