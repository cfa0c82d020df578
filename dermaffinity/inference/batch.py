"""A classifier's word on every image of files, folders, zip archives and tables, in one table; memory stays flat."""

import csv
import json
import os
import posixpath
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import islice, repeat
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from dermaffinity.data.library import ImageLibrary, printable
from dermaffinity.errors import ConfigError, DataError, count_of, some_of
from dermaffinity.files import atomic_write
from dermaffinity.inference.ahead import ahead
from dermaffinity.inference.classifier import LesionClassifier
from dermaffinity.inference.metadata import columns_found
from dermaffinity.inference.predict import BATCH_SIZE

if TYPE_CHECKING:
    import pandas as pd

    from dermaffinity.data.labels import ImageNames

# As dermaffinity.data.tables.TABLE_SUFFIXES, which takes as long to import as pandas does.
_TABLES = (".txt", ".csv", ".tsv", ".tab", ".xlsx", ".xls", ".ods", ".parquet")
_FILES = (".csv", ".parquet")
# Lost images of a table for which the nearest name is looked up, which takes long among many.
_HINTS = 3
# Rows that are written to a Parquet file at once.
_ROW_GROUP = 5_000


class ImageFile(NamedTuple):
    """One image, by itself, in a folder or archive, or in a line of a table."""

    name: str  # what predictions and errors call it
    library: ImageLibrary
    path: str  # in the library
    cells: Mapping[str, str] = {}  # what the line says besides; every image of a list has the same columns
    fault: str = ""  # why there is nothing to read


class Row(NamedTuple):
    """What a table says about one image."""

    image: str
    cells: Mapping[str, str]
    predicted: str | None  # None, as all that follows, where there is a problem
    probabilities: Sequence[float] | None
    novelty: float | None
    set: Sequence[str] | None
    problem: str | None


def find_images(
    sources: Sequence[Path], on_problem: Callable[[str, str], None], root: Path | None = None
) -> list[ImageFile]:
    """The image files of folders, archives and tables, and every file that is named itself.

    Args:
        sources: Image files, folders, zip archives, and tables: CSV, TSV, Excel, OpenDocument or Parquet, with the
            column ``image``, or another whose cells are images: paths, file names or ids, see `ImageNames`. A ``.txt``
            is a table of one column, without a header.
        on_problem: Told the name and the fault of each source that cannot be used, of each archive and link in a folder
            that cannot, of each line of a table that names no image, and of each file that is neither an image nor a
            text, table or document.
        root: Folder or archive of the images that tables name; by default the table's own folder.

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
                contents = library.contents(partial(_tell_within, source, on_problem))
                found += [ImageFile(posixpath.join(_prefix(source), path), library, path) for path in contents.images]
                for path in contents.others:
                    _tell_within(source, on_problem, path, "no image in a format that is read here")
                if not (contents.images or contents.others):
                    on_problem(name, f"no image among {count_of(len(contents.beside), 'file')}")
            elif source.suffix.lower() in _TABLES:
                found += _Listed(source, root, on_problem).images()
            else:
                found.append(ImageFile(source.as_posix(), ImageLibrary(source.parent), source.name))
        except DataError as error:
            on_problem(name, _fault(error, source.name, str(source.resolve())))
    for file in found:
        if not _is_utf8(file.name):
            on_problem(printable(file.name), "the name is not UTF-8, so that no table can hold it; rename the file")
    found = [file for file in found if _is_utf8(file.name)]
    if columns := dict.fromkeys((column for file in found for column in file.cells), ""):
        found = [file._replace(cells=columns | dict(file.cells)) for file in found]
    return found


def predict(
    model: str | Path,
    images: str | Path | Sequence[str | Path],
    *,
    out: str | Path = "predictions.csv",
    part: str = "1/1",
    launcher: Literal["inline", "ray"] = "inline",
    address: str | None = None,
    coverage: float = 0.9,
    root: str | Path | None = None,
    views: Literal[1, 2, 4, 8] = 1,
    device: Literal["cpu", "cuda", "auto"] = "cpu",
    plugins: Sequence[str] = (),
) -> "pd.DataFrame":
    """Predicts image files with a trained classifier; warnings name unusable files and metadata that say nothing.

    Args:
        model: Folder of an experiment, a fold or a classifier, or ``models:/NAME@ALIAS``.
        images: Image files, folders, zip archives and tables, see `find_images`; one or several.
        out: The table, as ``.csv`` or ``.parquet``; anything else is a folder of Parquet shards, see `predict_shards`.
        part: Of the shards, ``"I/N"`` for the I-th of N parts, each for a process of its own.
        launcher: ``"ray"`` predicts shards side by side, on this machine or on a cluster.
        address: ``HOST:PORT`` of the cluster for ``"ray"``, or ``auto``; None: this machine alone.
        coverage: Share of images whose set shall hold their class.
        root: See `find_images`.
        views: See `LesionClassifier`.
        device: See `LesionClassifier.load`.
        plugins: See `LesionClassifier.load`.

    Returns:
        The table, see `predict_files`, or all shards that are finished; ``set`` holds lists.

    Examples:
        >>> import dermaffinity as da
        >>> table = da.predict("runs/library_affinity_plus", "PHOTOS")
        >>> table.columns.tolist()
        ['image', 'predicted', 'p.AK', 'p.BCC', 'p.ML', 'novelty', 'set']
    """
    import pandas as pd

    def warn(name: str, fault: str) -> None:
        warnings.warn(f"{name}: {fault}", stacklevel=2)

    classifier = LesionClassifier.load(model, views=views, device=device, plugins=plugins)
    sources = [images] if isinstance(images, str | Path) else images
    files = find_images([Path(source) for source in sources], warn, None if root is None else Path(root))
    out = Path(out)
    if classifier.description.metadata:
        for sentence in classifier.description.heard(pd.DataFrame([file.cells for file in files]))[1]:
            warnings.warn(sentence, stacklevel=2)
    words: dict[str, Any] = {"part": part, "launcher": launcher, "address": address, "coverage": coverage}
    predict_to(out, classifier, files, **words, on_problem=warn, on_progress=lambda *counts: None)
    if out.suffix == ".csv":
        texts = dict.fromkeys(["image", *columns_of(files)], str)
        return pd.read_csv(out, keep_default_na=False, na_values={}, dtype=texts, converters={"set": json.loads})
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
    on_problem: Callable[[str, str], None],
    on_progress: Callable[[int, int], None],
) -> int:
    """`predict_files` to a ``.csv`` or ``.parquet``, shards to any other path."""
    from dermaffinity.inference.on_ray import predict_on_ray
    from dermaffinity.inference.shards import predict_shards

    taken = {"predicted", "novelty", "set", "problem", *(f"p.{name}" for name in classifier.classes_)}
    if clash := [column for column in columns_of(files) if column in taken]:
        raise DataError(
            f"the table of images has the column{'s' * (len(clash) > 1)} {', '.join(map(repr, clash))}, which the "
            "predictions have as well; rename or remove them there"
        )
    told: dict[str, Any] = {"coverage": coverage, "on_problem": on_problem, "on_progress": on_progress}
    if out.suffix in _FILES:
        if part != "1/1" or launcher != "inline":
            asked = f"--part {part}: parts" if part != "1/1" else f"--launcher {launcher}: workers"
            raise ConfigError(f"{asked} share a folder; give one as --out instead of {out}")
        return predict_files(classifier, files, out, **told)
    if out.suffix and not out.is_dir():
        raise ConfigError(
            f"--out {out}: predictions are written as .csv, .parquet, or as Parquet shards into a folder, whose name "
            "has no such ending unless it exists"
        )
    if address is not None and launcher != "ray":
        raise ConfigError(f"--address {address}: is for --launcher ray")
    if launcher == "ray":
        return predict_on_ray(classifier, files, out, address=address, part=part, **told)
    return predict_shards(classifier, files, out, part=part, **told)


def columns_of(files: Sequence[ImageFile]) -> list[str]:
    """The columns that tables add to the images."""
    return list(files[0].cells) if files else []


def predict_files(
    classifier: LesionClassifier,
    files: Sequence[ImageFile],
    out: Path,
    *,
    coverage: float = 0.9,
    on_problem: Callable[[str, str], None],
    on_progress: Callable[[int, int], None],
) -> int:
    """Writes one row per image.

    The columns are ``image``, those of the tables of images, ``predicted``, ``p.<class>`` for each class, ``novelty``,
    and ``set``, in a CSV a JSON list of classes, such as ``["AK", "BCC"]``. A CSV leaves out what cannot be read;
    Parquet has a row for it, whose last column, ``problem``, says why. What the tables say of columns that the
    classifier was trained with as metadata counts as evidence.

    Args:
        classifier: See `LesionClassifier`.
        files: What `find_images` returns.
        out: The table, ``.csv`` or ``.parquet``; takes the place of an older one when it is complete.
        coverage: Of the sets.
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
        for batch in _answers(classifier, files, coverage):
            yield batch
            for row in batch:
                if row.problem is not None:
                    problems += 1
                    on_problem(row.image, row.problem)
            done += len(batch)
            on_progress(done, len(files))

    write: Callable[..., None] = _write_parquet if out.suffix == ".parquet" else _write_csv
    with atomic_write(out, "wb" if out.suffix == ".parquet" else "w") as opened:
        write(opened, columns_of(files), classifier.classes_.tolist(), rows())
    return done - problems


def _answers(classifier: LesionClassifier, files: Sequence[ImageFile], coverage: float) -> Iterator[list[Row]]:
    """Batches of rows in order; the images of the next batch are read meanwhile, and no more than that."""

    def read(file: ImageFile) -> np.ndarray | DataError:
        if file.fault:
            return DataError(file.fault)
        try:
            return classifier.pixels(file.library.read(file.path), file.name)
        except DataError as error:
            return error

    images = ahead(read, files, BATCH_SIZE)
    for start in range(0, len(files), BATCH_SIZE):
        batch = list(islice(images, min(BATCH_SIZE, len(files) - start)))
        found = list(zip(files[start : start + BATCH_SIZE], batch, strict=True))
        good = [(file, image) for file, image in found if not isinstance(image, DataError)]
        answers: Iterator[Row] = iter(())
        if good:
            read_files, pixels = zip(*good, strict=True)
            names, cells = [file.name for file in read_files], [file.cells for file in read_files]
            assessed = classifier.with_evidence(classifier.assess_pixels(pixels), _evidence(classifier, cells))
            predicted = classifier.classes_[assessed.probabilities.argmax(axis=1)].tolist()
            numbers = assessed.probabilities.tolist(), assessed.novelty.tolist()
            answers = map(Row, names, cells, predicted, *numbers, classifier.sets(assessed, coverage), repeat(None))
        yield [
            Row(file.name, file.cells, None, None, None, None, _fault(image, file.name, file.path))
            if isinstance(image, DataError)
            else next(answers)
            for file, image in found
        ]


def _evidence(classifier: LesionClassifier, cells: Sequence[Mapping[str, str]]) -> "pd.DataFrame | None":
    """What tables say of the columns that the classifier was trained with, if they do."""
    if not columns_found(classifier.description.metadata, list(cells[0])):
        return None
    import pandas as pd

    return pd.DataFrame(list(cells))


def _write_csv(opened: IO[str], columns: Sequence[str], classes: Sequence[str], batches: Iterator[list[Row]]) -> None:
    table = csv.writer(opened, lineterminator="\n")
    table.writerow(["image", *columns, "predicted", *(f"p.{name}" for name in classes), "novelty", "set"])
    for batch in batches:
        for image, cells, predicted, probabilities, novelty, members, _ in batch:
            if probabilities is not None:
                numbers = (f"{value:.6g}" for value in (*probabilities, novelty))
                members = json.dumps(members, ensure_ascii=False)
                table.writerow([image, *cells.values(), predicted, *numbers, members])


def _write_parquet(
    opened: IO[bytes], columns: Sequence[str], classes: Sequence[str], batches: Iterator[list[Row]]
) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    text = pa.string()
    schema = pa.schema(
        [(name, text) for name in ("image", *columns, "predicted")]
        + [(f"p.{name}", pa.float32()) for name in classes]
        + [("novelty", pa.float32()), ("set", pa.list_(text)), ("problem", text)]
    )

    def group(rows: list[Row]) -> pa.Table:
        image, cells, predicted, probabilities, novelty, members, problem = (
            zip(*rows, strict=True) if rows else [()] * 7
        )
        kept = [[row[column] for row in cells] for column in columns]
        each = [[None if row is None else row[c] for row in probabilities] for c in range(len(classes))]
        return pa.table([image, *kept, predicted, *each, novelty, members, problem], schema=schema)

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


class _Listed:
    """The images that the lines of a table name, each with its other cells."""

    def __init__(self, source: Path, root: Path | None, on_problem: Callable[[str, str], None]) -> None:
        self._source, self._on_problem = source, on_problem
        self._unusable: list[tuple[str, str]] = []  # in the folder of the images
        self._library, self._anywhere = ImageLibrary(root or source.parent), ImageLibrary(Path("/"))
        self._lost = 0

    def images(self) -> list[ImageFile]:
        """One for each line that names any.

        Raises:
            DataError: The table cannot be read, or none of its lines names an image.
        """
        lines = self._lines()
        if not len(lines):
            raise DataError(f"{self._source.name}: has no rows, so that it names no image")
        column = "image" if "image" in lines else self._names.column(lines)
        named = lines[lines[column] != ""] if column else lines[:0]
        kept = [str(name) for name in lines if name != "image"]
        cells = [dict(zip(kept, line, strict=True)) for line in named[kept].itertuples(index=False)]
        images = [self._image(name, line) for name, line in zip(named[column], cells, strict=True)] if column else []
        if self._lost or column is None:
            for path, fault in self._unusable:
                _tell_within(self._library.root, self._on_problem, path, fault)
        if column is None:
            found = f"found {some_of(map(repr, lines)) or 'none'}"
            nearest = f"; {fault}" if (fault := self._names.nothing_found(lines)) else ""
            raise self._nothing(f"a table of images has a column 'image', or one that names images: {found}{nearest}")
        if self._lost and self._lost == len(images):
            raise self._nothing(self._names.nothing_found(lines, column) or "none of its images is there")
        for number in lines.index.difference(named.index):
            name = printable(f"{self._source.as_posix()} line {number}")
            self._on_problem(name, f"names no image: its cell of the column {column!r} is empty")
        return images

    def _nothing(self, fault: str) -> DataError:
        return DataError(
            f"{self._source.name}: {fault}. Images are looked for in {self._library.root}; name another folder with "
            "--root FOLDER"
        )

    def _lines(self) -> "pd.DataFrame":
        import pandas as pd

        from dermaffinity.data.tables import decode_text, read_table

        try:
            content = self._source.read_bytes()
        except OSError as error:
            raise DataError(f"{self._source.name}: cannot be read ({error.strerror})") from error
        if self._source.suffix.lower() == ".txt":
            text, _ = decode_text(content, self._source.name)
            return pd.DataFrame({"image": [name for line in text.split("\n") if (name := line.rstrip("\r"))]})
        lines = read_table(content, self._source.name).rows
        lines = lines.loc[:, [bool(name) for name in lines]]  # a nameless index column
        if twice := set(lines.columns[lines.columns.duplicated()]):
            raise DataError(f"{self._source.name}: several columns have the name {some_of(map(repr, twice))}")
        return lines

    @cached_property
    def _names(self) -> "ImageNames":
        # Listing a large folder takes a while, and a list of paths does not need it.
        from dermaffinity.data.labels import ImageNames

        return ImageNames(self._library.contents(lambda *problem: self._unusable.append(problem)).images)

    def _image(self, name: str, cells: Mapping[str, str]) -> ImageFile:
        if os.path.isfile(self._library.root / name):
            library = self._anywhere if name.startswith("/") else self._library
            return ImageFile(name, library, name.lstrip("/"), cells)
        found = self._names.find(name)
        if len(found) == 1:
            return ImageFile(name, self._library, found[0], cells)
        if found:
            return ImageFile(name, self._library, name, cells, f"may mean {some_of(found, 4)}; give the path")
        self._lost += 1
        near = self._names.near(name) if self._lost <= _HINTS else []
        hint = f", the nearest is {near[0]!r}" if near else ""
        return ImageFile(name, self._library, name, cells, f"no image of this name in {self._library.root}{hint}")


def _tell_within(folder: Path, on_problem: Callable[[str, str], None], path: str, fault: str) -> None:
    on_problem(printable((folder / path).as_posix()), fault)


def _fault(error: DataError, *names: str) -> str:
    """What is wrong, without the name that an error begins with."""
    text = str(error)
    return next((text.removeprefix(f"{name}: ") for name in names if text.startswith(f"{name}: ")), text)


def _is_utf8(name: str) -> bool:
    return printable(name) == name
