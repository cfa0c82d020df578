"""The manifest: one CSV that says which images an experiment uses, what they show, and in which fold each is tested."""

import csv
import hashlib
import html
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from dermaffinity.data.images import IMAGE_SUFFIXES
from dermaffinity.data.splits import TRAINING_ONLY, Protocol
from dermaffinity.data.tables import clean, decode_text, look_alikes, split_rows
from dermaffinity.errors import DataError, ManifestError
from dermaffinity.files import atomic_write

COLUMNS = ("image", "mask", "label", "group", "sha256", "width", "height", "fold")
"""The columns of every manifest, in order; those of the adapter follow."""
_NO_METADATA = ("image", "mask", "label", "group", "sha256", "fold")

_HEADER = (
    "name",
    "adapter",
    "experiment",
    "protocol",
    "seed",
    "folds",
    "classes",
    "malignant",
    "source",
    "license",
    "split_hash",
)
_EXACT_IDS = "exact_ids"
"""A line of the header that only a manifest with such ids has."""
_DECISIONS = "decisions"
"""Likewise of a manifest that `apply_decisions` changed."""

# What a spreadsheet fills the header's lines up with. One mark other than a comma is the last class's own.
_FILLED_WITH = ",;\t|"
_FILLING = re.compile(r"(,+|([;\t|])\2+)$")

_SUFFIX = re.compile(rf"(?i)({'|'.join(map(re.escape, sorted(IMAGE_SUFFIXES)))})$")
_AGAIN = "undo the change, or make the manifest again with `dermaffinity prepare`"
_OUTSIDE = "path that is not relative, with '/' and without '..'"


@dataclass(frozen=True, eq=False)
class Manifest:
    """One experiment under one split protocol.

    Args:
        name: Name of the manifest.
        adapter: Name of the adapter that found the images.
        experiment: The adapter's experiment; may be empty.
        protocol: ``group`` or ``image``, see `assign_folds`; or ``presplit`` for a dataset that brings a test set.
        seed: Seed of the split.
        folds: Number of folds K, at least 2; under ``presplit`` 1, the test set.
        classes: Class codes, at least 2, in the order of the class indices.
        malignant: Those of the classes that are malignant.
        source: Where the data come from, as one cites it.
        license: Terms of the data.
        rows: One row per image: `COLUMNS`, then the adapter's own. ``mask`` is missing (NaN) without a mask; ``width``
            and ``height`` are those of the upright image in pixels; ``fold`` is nullable Int64, 0 to K−1, and missing
            for external test images. Under ``presplit`` it is 0 for the test set and −1 for all that is trained on.
        root: Folder or archive that ``image`` and ``mask`` are relative to, where known.
        exact_ids: Whether groups and classes are different ones even where their names are `look_alikes`.
        decisions: What was dropped or relabeled by which table, see `apply_decisions`; empty without any.
        path: The CSV that it was read from.

    Examples:
        >>> from pathlib import Path
        >>> import dermaffinity as da
        >>> manifest = da.read_manifest(Path("data_manifests/library.csv"))
        >>> manifest.folds, manifest.class_counts()
        (3, {'AK': 6, 'BCC': 7, 'ML': 10, 'SCC': 6, 'SK': 8})
        >>> manifest.development()[["image", "label", "group", "fold"]].head(2)
                      image label group  fold
        0  ak/B32b/B32b.png    AK   B32     0
        1    ak/B5b/B5b.png    AK    B5     2
    """

    name: str
    adapter: str
    experiment: str
    protocol: str
    seed: int
    folds: int
    classes: tuple[str, ...]
    malignant: tuple[str, ...]
    source: str
    license: str
    rows: pd.DataFrame
    root: Path | None = None
    exact_ids: bool = False
    decisions: str = ""
    path: Path | None = None

    @property
    def metadata(self) -> list[str]:
        """The columns that may count as evidence: neither the answer nor names of files and patients."""
        return [column for column in self.rows.columns if column not in _NO_METADATA]

    @property
    def split_hash(self) -> str:
        """SHA-256 over the class order and each image's id, label, group and fold, whatever their order.

        It is the same for another copy of the images: at another resolution, in other folders or formats.
        """
        columns = by_id(self.rows)[["image", "label", "group", "fold"]]
        rows = sorted([_text(value) for value in row] for row in columns.itertuples(index=False))
        return hashlib.sha256(json.dumps([self.classes, rows]).encode()).hexdigest()

    @property
    def images_digest(self) -> str:
        """SHA-256 over the contents of the images that are trained on, whatever their names, labels and folds."""
        return hashlib.sha256("\n".join(sorted(self.trained_on()["sha256"])).encode()).hexdigest()

    def development(self) -> pd.DataFrame:
        """Rows that take part in cross-validation; they keep their index."""
        return self.rows[self.rows["fold"].notna()]

    def trained_on(self) -> pd.DataFrame:
        """Development rows that some fold's model is trained on: all, but for a test set of the dataset's own."""
        rows = self.development()
        return rows[rows["fold"] == TRAINING_ONLY] if self.protocol == "presplit" else rows

    def external(self) -> pd.DataFrame:
        """Rows that no training, tuning or selection may touch; they keep their index."""
        return self.rows[self.rows["fold"].isna()]

    def class_counts(self) -> dict[str, int]:
        """Images of each class that are trained on, in class order."""
        counts = self.trained_on()["label"].value_counts()
        return {name: int(counts.get(name, 0)) for name in self.classes}

    def _repr_html_(self) -> str:
        folds = self.rows["fold"].astype(str).replace({"<NA>": "external", str(TRAINING_ONLY): "training"})
        counts = pd.crosstab(self.rows["label"], folds.rename("fold"), margins=True)
        groups = f"{self.rows['group'].nunique():,} groups, protocol {self.protocol}, split {self.split_hash[:12]}"
        return f"<p><b>{html.escape(self.name)}</b>: {len(self.rows):,} images, {groups}</p>{counts.to_html()}"


def groups_known(rows: pd.DataFrame) -> bool:
    """Whether the patient or lesion of any image is known; the group of one without is its own path.

    Args:
        rows: With the columns ``image`` and ``group``.
    """
    return bool((rows["group"] != rows["image"]).any())


def by_id(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with their images' ids in place of paths, also where an image is its own group.

    The id is the file's name without suffix, or its path without suffix where names repeat.

    Examples:
        >>> import pandas as pd
        >>> from dermaffinity.data import by_id
        >>> by_id(pd.DataFrame({"image": ["a.zip/1.jpg", "b/2.png"], "group": ["P1", "b/2.png"]})).to_numpy().tolist()
        [['1', 'P1'], ['2', '2']]
    """
    paths = rows["image"].map(lambda path: re.sub(_SUFFIX, "", path))
    names = paths.str.rpartition("/")[2]
    ids = names if names.is_unique else paths
    return rows.assign(image=ids, group=rows["group"].where(rows["group"] != rows["image"], ids))


def write_manifest(manifest: Manifest, path: str | Path) -> None:
    """Writes the CSV, and beside it ``<stem>.root`` with this machine's root; one manifest always gives the same bytes.

    Args:
        manifest: Written with its rows in their order.
        path: Ends in ``.csv``. An existing file is replaced whole or not at all.

    Raises:
        ManifestError: Listing everything that `read_manifest` would refuse.
        DataError: When the file cannot be written.

    Examples:
        >>> from dermaffinity.data import read_manifest, write_manifest
        >>> manifest = read_manifest("data_manifests/library.csv")
        >>> write_manifest(manifest, "copy.csv")
        >>> read_manifest("copy.csv").split_hash == manifest.split_hash
        True
    """
    path = Path(path)
    if problems := _problems(manifest):
        raise ManifestError(f"{path}: not written, because nothing could be done with this manifest", problems)
    values = {key: getattr(manifest, key) for key in _HEADER}
    values |= {"classes": csv_line(manifest.classes), "malignant": csv_line(manifest.malignant)}
    if manifest.exact_ids:
        values[_EXACT_IDS] = "yes"
    if manifest.decisions:
        values[_DECISIONS] = manifest.decisions
    # A value of several lines would end the header.
    header = [f"# {key}: {' '.join(str(value).splitlines())}".rstrip() for key, value in values.items()]
    table = manifest.rows.map(_text).to_csv(index=False, lineterminator="\n")
    root_file = path.with_suffix(".root")
    with atomic_write(path) as file:
        file.write("\n".join([*header, table]))
    if manifest.root is None:
        root_file.unlink(missing_ok=True)
    else:
        with atomic_write(root_file) as file:
            file.write(f"{manifest.root.resolve()}\n")


def read_manifest(path: str | Path, root: str | Path | None = None) -> Manifest:
    """Reads and checks a manifest.

    Columns of the adapter become numbers where every value is one and keep their text otherwise; empty cells are
    missing. Labels and groups are made `clean`; a spreadsheet may have written the file anew with another delimiter or
    encoding.

    Args:
        path: The CSV.
        root: Where the images lie; by default what ``<stem>.root`` beside the CSV says, if there is one.

    Raises:
        ManifestError: Listing all problems: missing keys or columns, values, labels, folds or groups that cannot be,
            images listed twice, a class that a fold lacks, and a split that was changed after it was made.

    Examples:
        >>> import dermaffinity as da
        >>> da.read_manifest("data_manifests/library.csv").classes
        ('AK', 'BCC', 'ML', 'SCC', 'SK')
    """
    path = Path(path)
    header, table, problems = _parse(path)
    problems += [f"the header has no line '# {key}: …'" for key in _HEADER if key not in header]
    problems += [f"there is no column {column!r}" for column in COLUMNS if column not in table]
    for key in ("seed", "folds"):
        if not re.fullmatch(r"[0-9]+", header.get(key, "0")):
            problems.append(f"the header's {key} is no whole number: {header.pop(key)!r}")
    if set(COLUMNS) <= set(table):
        manifest = _build(header, table, Path(root) if root else _root_beside(path), problems)
        problems += _problems(manifest)
        if header.get("split_hash", manifest.split_hash) != manifest.split_hash:
            problems.append(
                "the split hash differs: the class order or an image, label, group or fold was changed after the "
                "split was made"
            )
    if problems:
        raise ManifestError(f"{path}: this manifest cannot be used; {_AGAIN}", problems)
    return replace(manifest, path=path)


def _parse(path: Path) -> tuple[dict[str, str], pd.DataFrame, list[str]]:
    """Header, table of text, and the problems of the table's form."""
    try:
        text, _ = decode_text(path.read_bytes(), str(path))
        header, text = split_header(text)
        (_, columns), *numbered = split_rows(text, str(path), COLUMNS)[0] or [(0, [])]
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such manifest; make one with `dermaffinity prepare`") from None
    except (OSError, DataError) as error:
        raise ManifestError(f"{path}: cannot be read as a manifest ({error})") from error
    columns = [clean(name) for name in columns]
    cells = [row for _, row in numbered]
    whole = [row for row in cells if len(row) == len(columns)]
    problems = [f"the column {name!r} occurs twice" for name in sorted({c for c in columns if columns.count(c) > 1})]
    broken = [row[0] if row else "an empty line" for row in cells if len(row) != len(columns)]
    if broken:
        problems.append(f"rows that do not have {len(columns)} cells: {_some(broken)}")
    table = pd.DataFrame(whole, columns=columns, dtype=str)
    return header, table.loc[:, ~table.columns.duplicated()], problems


def split_header(text: str) -> tuple[dict[str, str], str]:
    """The ``# key: value`` lines, and the table below; a spreadsheet fills them up to the table's width."""
    header: dict[str, str] = {}
    while match := re.match(r'"?#[^\r\n]*(?:\r\n?|\n|$)', text):
        text = text[match.end() :]
        line = match[0].rstrip("\r\n")
        if line.startswith('"'):
            delimiter = line[-1] if line[-1] in _FILLED_WITH else ","
            line = delimiter.join(next(csv.reader([line], delimiter=delimiter)))
        line = _FILLING.sub("", line)
        key, _, value = line.removeprefix("#").partition(":")
        header[clean(key)] = value.strip()
    return header, text


def _build(header: dict[str, str], table: pd.DataFrame, root: Path | None, problems: list[str]) -> Manifest:
    """The manifest; what is missing or malformed is noted in ``problems`` and made harmless for the checks to go on."""
    rows = table.copy()
    for column, form, meaning in (
        ("width", "[1-9][0-9]{0,8}", "no number of pixels"),
        ("height", "[1-9][0-9]{0,8}", "no number of pixels"),
        ("fold", "-1|[0-9]{0,8}", "neither a fold number nor empty"),
    ):
        wrong = ~rows[column].str.fullmatch(form)
        if wrong.any():
            values = _some(f"{value!r} of {image}" for value, image in rows.loc[wrong, [column, "image"]].to_numpy())
            problems.append(f"{column} that is {meaning}: {values}")
        rows[column] = pd.to_numeric(rows[column].where(~wrong & (rows[column] != ""))).astype("Int64")
        if column != "fold" and not wrong.any():
            rows[column] = rows[column].astype("int64")
    rows["mask"] = rows["mask"].where(rows["mask"] != "")
    rows["label"] = rows["label"].map(clean)
    # The group of an image that is its own is the image's path, as it is on the disk.
    rows["group"] = rows["group"].where(rows["group"] == rows["image"], rows["group"].map(clean))
    for column in rows.columns.difference(list(COLUMNS), sort=False):
        rows[column] = numbers_or_text(rows[column])
    classes = codes(header["classes"]) if "classes" in header else tuple(sorted(set(rows["label"])))
    return Manifest(
        name=header.get("name", ""),
        adapter=header.get("adapter", ""),
        experiment=header.get("experiment", ""),
        protocol=header.get("protocol", "group"),
        seed=int(header.get("seed", 0)),
        folds=int(header["folds"]) if "folds" in header else max(2, int(rows["fold"].max()) + 1),
        classes=classes,
        malignant=codes(header.get("malignant", "")),
        source=header.get("source", ""),
        license=header.get("license", ""),
        rows=rows,
        root=root,
        exact_ids=header.get(_EXACT_IDS) == "yes",
        decisions=header.get(_DECISIONS, ""),
    )


def _problems(manifest: Manifest) -> list[str]:
    """Everything that would spoil a run, as far as it shows without looking at the images."""
    classes, folds, number = manifest.classes, manifest.folds, len(manifest.rows)
    problems = []
    if len(classes) < 2:
        problems.append(f"there must be at least 2 classes, found {len(classes)}")
    if len(set(classes)) < len(classes):
        problems.append(f"a class is named twice in {', '.join(classes)}")
    unclean = [name for name in classes if clean(name) != name or not name]
    problems += [
        f"the class {name!r} is empty, has blanks around it or is not in Unicode's form NFC" for name in unclean
    ]
    problems += [f"malignant {name!r} is no class" for name in manifest.malignant if name not in classes]
    if manifest.protocol not in get_args(Protocol):
        problems.append(f"the protocol must be {' or '.join(get_args(Protocol))}, found {manifest.protocol!r}")
    presplit = manifest.protocol == "presplit"
    if presplit and folds != 1:
        problems.append(f"under the protocol presplit there is 1 fold, the test set, found {folds}")
        return problems + _row_problems(manifest)
    if not presplit and not 2 <= folds <= number:
        problems.append(f"there must be at least 2 folds and at most as many as images ({number}), found {folds}")
        return problems + _row_problems(manifest)
    development = manifest.development()
    present = set(zip(development["fold"], development["label"], strict=True))
    parts = {TRAINING_ONLY: "the training part", 0: "the test set"} if presplit else _fold_names(folds)
    absent = [
        f"{part} has no {name}" for fold, part in parts.items() for name in classes if (fold, name) not in present
    ]
    return problems + _row_problems(manifest) + absent


def _fold_names(folds: int) -> dict[int, str]:
    return {fold: f"fold {fold}" for fold in range(folds)}


def _row_problems(manifest: Manifest) -> list[str]:
    rows, classes, last = manifest.rows, manifest.classes, manifest.folds - 1
    first = TRAINING_ONLY if manifest.protocol == "presplit" else 0
    unknown = rows[~rows["label"].isin(classes)].groupby("label")["image"]
    of_several = rows["group"] != rows["image"]
    problems = [f"label {label!r} is none of {', '.join(classes)}: {_some(images)}" for label, images in unknown]
    faults = {
        "listed more than once": rows["image"].duplicated(),
        f"image {_OUTSIDE}": ~rows["image"].map(_is_inside),
        f"mask {_OUTSIDE}": rows["mask"].notna() & ~rows["mask"].map(_is_inside),
        "without a group": rows["group"] == "",
        "group with blanks around it or not in Unicode's form NFC": of_several
        & (rows["group"].map(clean) != rows["group"]),
        "sha256 that is not 64 hexadecimal digits": ~rows["sha256"].str.fullmatch("[0-9a-f]{64}"),
        f"fold outside {first} to {last}": rows["fold"].notna() & ~rows["fold"].between(first, last).fillna(False),
    }
    for fault, wrong in faults.items():
        if wrong.any():
            problems.append(f"{fault}: {_some(rows.loc[wrong, 'image'])}")
    if not manifest.exact_ids:
        problems += [*look_alikes(classes, "class"), *look_alikes(rows.loc[of_several, "group"], "group")]
    if manifest.protocol == "group":
        places = rows["fold"].fillna(-2).groupby(rows["group"]).nunique()
        if (places > 1).any():
            divided = _some(places.index[places > 1])
            problems.append(f"groups in more than one fold, or in a fold and external: {divided}")
    return problems


def _root_beside(path: Path) -> Path | None:
    file = path.with_suffix(".root")
    return Path(file.read_text(encoding="utf-8").rstrip("\n")) if file.is_file() else None


def _is_inside(path: object) -> bool:
    name = str(path)
    return bool(name) and not name.startswith("/") and "\\" not in name and ".." not in name.split("/")


def numbers_or_text(column: pd.Series) -> pd.Series:
    """Numbers only where writing them gives the same text again: '007' is a code, not a number."""
    filled = column != ""
    text = column[filled]
    if text.str.fullmatch("-?(0|[1-9][0-9]{0,17})").all():
        return pd.to_numeric(column.where(filled)).astype("Int64")
    numbers = pd.to_numeric(text, errors="coerce")
    if numbers.notna().all() and (numbers.map(str) == text).all():
        return numbers.reindex(column.index)
    return column.where(filled)


def _text(value: Any) -> str:
    """A cell; line breaks within it are made alike, because CSV writers leave a lone carriage return unquoted."""
    return "" if pd.isna(value) else re.sub("\r\n?", "\n", str(value))


def csv_line(values: Sequence[str]) -> str:
    """Class codes as the header has them."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return line.getvalue()


def codes(line: str) -> tuple[str, ...]:
    """The class codes of a header's line."""
    return tuple(map(clean, next(csv.reader([line]))))


def _some(values: Iterable[object], most: int = 5) -> str:
    found = [str(value) for value in values]
    return ", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")
