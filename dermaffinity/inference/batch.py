"""A classifier's word on every image of files, folders, zip archives and lists, in one table; memory stays flat."""

import csv
import json
import posixpath
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, repeat
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from dermaffinity.data.library import ImageLibrary, printable
from dermaffinity.errors import ConfigError, DataError, count_of, some_of
from dermaffinity.files import atomic_write
from dermaffinity.inference.ahead import ahead
from dermaffinity.inference.classifier import LesionClassifier
from dermaffinity.inference.predict import BATCH_SIZE

if TYPE_CHECKING:
    import pandas as pd

_LISTS = (".txt", ".csv", ".tsv", ".parquet")
_FILES = (".csv", ".parquet")
# Rows that are written to a Parquet file at once.
_ROW_GROUP = 5_000


class ImageFile(NamedTuple):
    """One image, by itself or in a folder or archive."""

    folder: str  # as the table and errors begin; empty where the path is the whole name
    library: ImageLibrary
    path: str  # in the library

    @property
    def name(self) -> str:
        """What the table and errors call it."""
        return posixpath.join(self.folder, self.path)


class Row(NamedTuple):
    """What a table says about one image."""

    image: str
    predicted: str | None  # None, as all that follows, where there is a problem
    probabilities: Sequence[float] | None
    novelty: float | None
    set: Sequence[str] | None
    problem: str | None


def find_images(sources: Sequence[Path], on_problem: Callable[[str, str], None]) -> list[ImageFile]:
    """The image files of folders, archives and lists, and every file that is named itself.

    Args:
        sources: Image files, folders, zip archives, and lists of paths relative to the list's own folder: a ``.txt``
            with a path per line, or the column ``image`` of a ``.csv``, ``.tsv`` or ``.parquet``.
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
                found += [ImageFile(_prefix(source), library, path) for path in contents.images]
                for path in contents.others:
                    on_problem(printable((source / path).as_posix()), "no image in a format that is read here")
                if not (contents.images or contents.others):
                    on_problem(name, f"no image among {count_of(len(contents.beside), 'file')}")
            elif source.suffix.lower() in _LISTS:
                found += _listed(source)
            else:
                found.append(ImageFile(_prefix(source.parent), ImageLibrary(source.parent), source.name))
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
    part: str = "1/1",
    launcher: Literal["inline", "ray"] = "inline",
    address: str | None = None,
    coverage: float = 0.9,
    metadata: "str | Path | None" = None,
    views: Literal[1, 2, 4, 8] = 1,
    device: Literal["cpu", "cuda", "auto"] = "cpu",
    plugins: Sequence[str] = (),
) -> "pd.DataFrame":
    """Predicts image files with a trained classifier; a file that cannot be used is named in a warning.

    Args:
        model: Folder of an experiment, a fold or a classifier, or ``models:/NAME@ALIAS``.
        images: Image files, folders, zip archives and lists, see `find_images`.
        out: The table, as ``.csv`` or ``.parquet``; anything else is a folder of Parquet shards, see `predict_shards`.
        part: Of the shards, ``"I/N"`` for the I-th of N parts, each for a process of its own.
        launcher: ``"ray"`` predicts shards side by side, on this machine or on a cluster.
        address: ``HOST:PORT`` of the cluster for ``"ray"``, or ``auto``; None: this machine alone.
        coverage: Share of images whose set shall hold their class.
        metadata: A CSV with the column ``image``, names of files, and those that the classifier was trained with.
        views: See `LesionClassifier`.
        device: See `LesionClassifier.load`.
        plugins: See `LesionClassifier.load`.

    Returns:
        The table, see `predict_files`, or all shards that are finished; ``set`` holds lists.

    Examples:
        >>> import dermaffinity as da
        >>> table = da.predict("runs/library_affinity_plus", ["PHOTOS"])
        >>> table.columns.tolist()
        ['image', 'predicted', 'p.AK', 'p.BCC', 'p.ML', 'novelty', 'set']
    """
    import pandas as pd

    def warn(name: str, fault: str) -> None:
        warnings.warn(f"{name}: {fault}", stacklevel=2)

    classifier = LesionClassifier.load(model, views=views, device=device, plugins=plugins)
    files = find_images([Path(source) for source in images], warn)
    out = Path(out)
    known = None if metadata is None else read_metadata(Path(metadata), classifier)
    words: dict[str, Any] = {"part": part, "launcher": launcher, "address": address, "coverage": coverage}
    predict_to(out, classifier, files, **words, metadata=known, on_problem=warn, on_progress=lambda *counts: None)
    if out.suffix == ".csv":
        return pd.read_csv(out, keep_default_na=False, na_values={}, converters={"set": json.loads})
    table = pd.read_parquet(out)
    table["set"] = table["set"].map(list, na_action="ignore")
    return table


def predict_to(
    out: Path,
    classifier: LesionClassifier,
    files: Sequence[ImageFile],
    *,
    part: str = "1/1",
    launcher: Literal["inline", "ray"] = "inline",
    address: str | None = None,
    coverage: float = 0.9,
    metadata: "pd.DataFrame | None" = None,
    on_problem: Callable[[str, str], None],
    on_progress: Callable[[int, int], None],
) -> int:
    """`predict_files` to a ``.csv`` or ``.parquet``, shards to any other path."""
    from dermaffinity.inference.on_ray import predict_on_ray
    from dermaffinity.inference.shards import predict_shards

    told: dict[str, Any] = {"coverage": coverage, "on_problem": on_problem, "on_progress": on_progress}
    if out.suffix in _FILES:
        if part != "1/1" or launcher != "inline":
            asked = f"--part {part}: parts" if part != "1/1" else f"--launcher {launcher}: workers"
            raise ConfigError(f"{asked} share a folder; give one as --out instead of {out}")
        return predict_files(classifier, files, out, metadata=metadata, **told)
    if metadata is not None:
        raise ConfigError(f"--metadata goes into one table; give --out a name that ends in {' or '.join(_FILES)}")
    if address is not None and launcher != "ray":
        raise ConfigError(f"--address {address}: is for --launcher ray")
    if launcher == "ray":
        return predict_on_ray(classifier, files, out, address=address, part=part, **told)
    return predict_shards(classifier, files, out, part=part, **told)


def read_metadata(path: Path, classifier: LesionClassifier) -> "pd.DataFrame":
    """What a table says of images, by the names of their files.

    Raises:
        DataError: When it cannot be read, lacks columns, names an image twice, or the classifier takes no metadata.
    """
    import pandas as pd

    columns = list(classifier.description.metadata)
    if not columns:
        raise DataError(f"{path}: this classifier was trained without metadata; leave --metadata out")
    try:
        table = pd.read_csv(path, dtype=str)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a CSV ({error})") from error
    if missing := [name for name in ("image", *columns) if name not in table]:
        raise DataError(f"{path}: lacks the columns {', '.join(missing)}; it has {', '.join(table.columns)}")
    names = table["image"].map(lambda name: Path(name).name)
    if (again := names[names.duplicated()]).any():
        raise DataError(f"{path}: names images twice, {again.iloc[0]} for one; leave one row per file name")
    return table[columns].set_axis(names)


def predict_files(
    classifier: LesionClassifier,
    files: Sequence[ImageFile],
    out: Path,
    *,
    coverage: float = 0.9,
    metadata: "pd.DataFrame | None" = None,
    on_problem: Callable[[str, str], None],
    on_progress: Callable[[int, int], None],
) -> int:
    """Writes one row per image.

    The columns are ``image``, ``predicted``, ``p.<class>`` for each class, ``novelty``, and ``set``, in a CSV a JSON
    list of classes, such as ``["AK", "BCC"]``. A CSV leaves out what cannot be read; Parquet has a row for it, whose
    last column, ``problem``, says why.

    Args:
        classifier: See `LesionClassifier`.
        files: What `find_images` returns.
        out: The table, ``.csv`` or ``.parquet``; takes the place of an older one when it is complete.
        coverage: Of the sets.
        metadata: By the name of the file, see `LesionClassifier.assess`.
        on_problem: Told the name and the fault of each image that cannot be used.
        on_progress: Told (images done, images in all).

    Returns:
        Number of images that were predicted.

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
    done = problems = 0

    def rows() -> Iterator[list[Row]]:
        nonlocal done, problems
        for batch in _answers(classifier, files, coverage, metadata):
            yield batch
            for row in batch:
                if row.problem is not None:
                    problems += 1
                    on_problem(row.image, row.problem)
            done += len(batch)
            on_progress(done, len(files))

    write: Callable[..., None] = _write_parquet if out.suffix == ".parquet" else _write_csv
    with atomic_write(out, "wb" if out.suffix == ".parquet" else "w") as opened:
        write(opened, classifier.classes_.tolist(), rows())
    return done - problems


def _answers(
    classifier: LesionClassifier, files: Sequence[ImageFile], coverage: float, metadata: "pd.DataFrame | None"
) -> Iterator[list[Row]]:
    """Batches of rows in order; the images of the next batch are read meanwhile, and no more than that."""

    def read(file: ImageFile) -> np.ndarray | DataError:
        try:
            return classifier.pixels(file.library.read(file.path), file.name)
        except DataError as error:
            return error

    images = ahead(read, files, BATCH_SIZE)
    for start in range(0, len(files), BATCH_SIZE):
        batch = list(islice(images, min(BATCH_SIZE, len(files) - start)))
        found = list(zip(files[start : start + BATCH_SIZE], batch, strict=True))
        good = [(file.name, image) for file, image in found if not isinstance(image, DataError)]
        answers: Iterator[Row] = iter(())
        if good:
            names, pixels = zip(*good, strict=True)
            assessed = classifier.assess_pixels(pixels)
            if metadata is not None:
                known = metadata.reindex([Path(name).name for name in names])
                assessed = classifier.with_evidence(assessed, known)
            predicted = classifier.classes_[assessed.probabilities.argmax(axis=1)].tolist()
            numbers = assessed.probabilities.tolist(), assessed.novelty.tolist()
            answers = map(Row, names, predicted, *numbers, classifier.sets(assessed, coverage), repeat(None))
        yield [
            Row(file.name, None, None, None, None, _fault(image, file.name, file.path))
            if isinstance(image, DataError)
            else next(answers)
            for file, image in found
        ]


def _write_csv(opened: IO[str], classes: Sequence[str], batches: Iterator[list[Row]]) -> None:
    table = csv.writer(opened, lineterminator="\n")
    table.writerow(["image", "predicted", *(f"p.{name}" for name in classes), "novelty", "set"])
    for batch in batches:
        for image, predicted, probabilities, novelty, members, _ in batch:
            if probabilities is not None:
                cells = (f"{value:.6g}" for value in (*probabilities, novelty))
                table.writerow([image, predicted, *cells, json.dumps(members, ensure_ascii=False)])


def _write_parquet(opened: IO[bytes], classes: Sequence[str], batches: Iterator[list[Row]]) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    text = pa.string()
    schema = pa.schema(
        [("image", text), ("predicted", text)]
        + [(f"p.{name}", pa.float32()) for name in classes]
        + [("novelty", pa.float32()), ("set", pa.list_(text)), ("problem", text)]
    )

    def group(rows: list[Row]) -> pa.Table:
        image, predicted, probabilities, novelty, members, problem = zip(*rows, strict=True) if rows else [()] * 6
        each = [[None if row is None else row[c] for row in probabilities] for c in range(len(classes))]
        return pa.table([image, predicted, *each, novelty, members, problem], schema=schema)

    with ParquetWriter(opened, schema) as table:
        waiting: list[Row] = []
        for batch in batches:
            waiting += batch
            if len(waiting) >= _ROW_GROUP:
                table.write_table(group(waiting))
                waiting = []
        table.write_table(group(waiting))


def _prefix(folder: Path) -> str:
    return "" if folder == Path() else folder.as_posix()


def _listed(source: Path) -> Iterator[ImageFile]:
    """The images that a list names; none of them is looked for yet."""
    here, anywhere = ImageLibrary(source.parent), ImageLibrary(Path("/"))
    try:
        for path in _paths(source):
            yield ImageFile("/", anywhere, path.lstrip("/")) if path.startswith("/") else ImageFile("", here, path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{source.name}: cannot be read as a list of images ({error})") from error


def _paths(source: Path) -> Iterator[str]:
    suffix = source.suffix.lower()
    if suffix == ".parquet":
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile

        try:
            with ParquetFile(source) as table:
                _check_column(source, table.schema_arrow.names)
                for group in table.iter_batches(columns=["image"]):
                    yield from filter(None, group.column(0).to_pylist())
        except pa.ArrowException as error:
            raise DataError(f"{source.name}: cannot be read as a list of images ({error})") from error
        return
    with source.open(encoding="utf-8-sig", newline="") as opened:
        if suffix == ".txt":
            yield from filter(None, (line.rstrip("\r\n") for line in opened))
            return
        first = opened.readline()
        delimiter = max(",;\t", key=first.count)
        columns = next(csv.reader([first], delimiter=delimiter), [])
        _check_column(source, columns)
        place = columns.index("image")
        yield from (row[place] for row in csv.reader(opened, delimiter=delimiter) if row and row[place])


def _check_column(source: Path, columns: Sequence[str]) -> None:
    if "image" not in columns:
        found = some_of(map(repr, columns)) or "none"
        raise DataError(f"{source.name}: a table of images has a column 'image', found {found}; rename the column")


def _fault(error: DataError, *names: str) -> str:
    """What is wrong, without the name that an error begins with."""
    text = str(error)
    return next((text.removeprefix(f"{name}: ") for name in names if text.startswith(f"{name}: ")), text)


def _is_utf8(name: str) -> bool:
    return printable(name) == name
