"""Any library whose labels lie in tables."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from dermaffinity.data.adapters.base import SPLIT_PARTS
from dermaffinity.data.adapters.tabled import TabledAdapter
from dermaffinity.data.diagnoses import is_malignant
from dermaffinity.data.labels import ImageNames, one_hot_labels, with_usual_names
from dermaffinity.data.manifest import COLUMNS
from dermaffinity.data.tables import TABLE_SUFFIXES, clean, read_table
from dermaffinity.errors import DataError, count_of, did_you_mean, some_of

# Columns by their usual names, in lower case with underscores; the first that is there is taken.
_LABEL = ("label", "labels", "dx", "diagnosis", "diagnostic", "class", "disease", "target", "category", "diagnosis_3")
_GROUP = ("group",)
_PATIENT = ("patient_id", "patient", "patientid", "subject_id", "subject", "person", "person_id", "case_id", "case")
_LESION = ("lesion_id", "lesion", "lesionid")
_MASK = ("mask", "mask_path", "segmentation")
_SPLIT = ("split", "partition", "subset", "set")


class TableAdapter(TabledAdapter):
    """Reads any library whose labels lie in tables: CSV, TSV, Excel, OpenDocument or Parquet.

    Columns that are not named are guessed, and the guess is printed before anything is written: the image is the
    column whose cells are files of the library, with or without suffix and folder; the others go by their usual names.
    Several tables are joined on the image, or else on a column that they share. Columns of no other use are kept in
    the manifest.

    Args:
        source: The folder of images, in any sub-folders and zip archives.
        labels: The tables; by default all tables that lie in the source.
        image: The column of image ids, file names or paths.
        label: The column of labels, or several columns of 0 and 1, one for each class.
        group: The columns of the patient, the lesion and the like: images that share one share a fold.
        mask: The column of mask files.
        split: The column that says train, val or test of the library's own split.
        classes: The labels to read, in the order of the class indices; all by default.
        malignant: The classes that count as malignant; by default those that are known for it by their names.
        partial: Leave out lines whose image is missing.

    Examples:
        >>> from pathlib import Path
        >>> from dermaffinity.data.adapters import TableAdapter
        >>> adapter = TableAdapter(Path("TABLED"), labels=[Path("TABLED/labels.csv")])
        >>> print(*adapter.notes, sep="\\n")
        labels.csv: read as 6 lines, comma-separated, UTF-8
        image: column 'id'
        label: column 'diagnosis'
        group: column 'patient'
        malignant: melanoma, by their names
        kept in the manifest: age
        Another column is named with --set, such as --set label=COLUMN or --set 'group=[patient, lesion]'
        >>> adapter.prepare(folds=3).class_counts()
        {'melanoma': 3, 'nevus': 3}
    """

    name = "table"
    citation = "Own library, labels in a table"
    license = "not stated"
    classes: tuple[str, ...] = ()
    malignant: tuple[str, ...] = ()

    def __init__(
        self,
        source: Path,
        *,
        labels: Sequence[Path] = (),
        image: str | None = None,
        label: Sequence[str] = (),
        group: Sequence[str] = (),
        mask: str | None = None,
        split: str | None = None,
        classes: Sequence[str] = (),
        malignant: Sequence[str] = (),
        partial: bool = False,
    ) -> None:
        super().__init__(source, partial=partial)
        self._problems: list[str] = []
        tables = self._tables(labels)
        joined = self._joined(tables, image)
        named = {"label": label, "group": group, "mask": [mask] if mask else [], "split": [split] if split else []}
        self._refuse_unknown(joined, named)
        self._lines = with_usual_names(self._in_roles(joined, named))
        self._choose_classes(tuple(map(clean, classes)), tuple(map(clean, malignant)))
        kept = [name for name in _columns(self._lines) if name not in (*COLUMNS, "test", *self.groups)]
        self.notes.append(f"kept in the manifest: {', '.join(kept) or 'no other column'}")
        self.notes.append(
            "Another column is named with --set, such as --set label=COLUMN or --set 'group=[patient, lesion]'"
        )
        self.manifest_name = re.sub(r"[^a-z0-9_-]+", "-", self.library.root.stem.lower()).strip("-") or self.name

    def how_to_get(self) -> str:
        """See :meth:`DatasetAdapter.how_to_get`."""
        return "Point SOURCE at the folder of images, and name the table of their labels with --labels labels.csv."

    def provenance(self) -> str:
        """See :meth:`DatasetAdapter.provenance`."""
        if self.groups:
            return self.citation
        return f"{self.citation}; no groups given, so each image is its own and a patient may lie in several folds"

    def rows(self, problems: list[str]) -> pd.DataFrame:
        """See :meth:`TabledAdapter.rows`."""
        problems += self._problems
        return self._lines[self._lines["label"].isin(self.classes)].copy()

    def _tables(self, asked: Sequence[Path]) -> dict[str, pd.DataFrame]:
        """The tables by their names."""
        inside = [path for path in self.files() if path.lower().endswith(TABLE_SUFFIXES)]
        contents: dict[str, bytes] = {}
        for path in asked or map(Path, inside):
            try:
                contents[path.name] = path.read_bytes() if path.is_file() else self.library.read(path.as_posix())
            except (OSError, DataError) as error:
                found = did_you_mean(path.as_posix(), inside)
                raise DataError(f"{self.name}: no table {path}{found}. {self.how_to_get()}") from error
        if not contents:
            raise DataError(f"{self.name}: no table in {self.library.root}. {self.how_to_get()}")
        tables = {}
        for name, content in contents.items():
            tables[name], form = read_table(content, f"{self.name}: {name}")
            tables[name] = tables[name].loc[:, [bool(column) for column in tables[name]]]  # a nameless index column
            self.notes.append(f"{name}: read as {form}")
        return tables

    def _joined(self, tables: Mapping[str, pd.DataFrame], image: str | None) -> pd.DataFrame:
        """All tables as one, by the lines of the longest that names images; these are the column ``image``."""
        names = ImageNames(self._images())
        keyed = {name: image if image in table else names.column(table) for name, table in tables.items()}
        images = {name: column for name, column in keyed.items() if column}
        if not images or (image and image not in images.values()):
            self._refuse_images(tables, image, names)
        first = max(images, key=lambda name: len(tables[name]))
        self._image = images[first]
        joined = _renamed(tables[first], self._image)
        self.notes.append(f"image: column {self._image!r}")
        for name, table in tables.items():
            if name != first:
                joined = self._with(joined, _Other(name, table, keyed[name]), names)
        return joined

    def _refuse_images(self, tables: Mapping[str, pd.DataFrame], image: str | None, names: ImageNames) -> None:
        problems = []
        if image and not any(image in table for table in tables.values()):
            every = [column for table in tables.values() for column in _columns(table)]
            problems.append(f"no column {image!r} for image{did_you_mean(image, every)}")
        for name, table in tables.items():
            if fault := names.nothing_found(table, image if image in table else None):
                problems.append(f"{name}: {fault}")
        found = ", ".join(f"{name} has {', '.join(map(repr, table))}" for name, table in tables.items())
        raise DataError(
            f"{self.name}: no column names images of {self.library.root}: {found}. Name it with --set image=COLUMN, or "
            "point SOURCE at the folder of the images.",
            problems,
        )

    def _with(self, joined: pd.DataFrame, other: "_Other", names: ImageNames) -> pd.DataFrame:
        """The lines with the cells of another table added."""
        table = other.table
        if other.image:
            table = _renamed(table, other.image)
            keys, key = _paths(joined["image"], names), _paths(table["image"], names)
            by = "the image"
        else:
            shared = [
                c for c in _columns(table) if c in joined and table[c].is_unique and table[c].isin(joined[c]).any()
            ]
            if not shared:
                self._problems.append(
                    f"{other.name}: no column by which it can be joined: none names images or is unique and found in "
                    f"the other tables; its columns are {', '.join(map(repr, table))}"
                )
                return joined
            by = max(shared, key=lambda column: table[column].isin(joined[column]).sum())
            keys, key = joined[by], table[by]
            by = f"the column {by!r}"
        twice = key[key.duplicated() & (key != "")]
        if len(twice):
            self._problems.append(f"{other.name}: {count_of(len(twice), 'line')} repeated: {some_of(set(twice))}")
        cells = (
            table.set_axis(key)
            .loc[(~key.duplicated() & (key != "")).to_numpy()]
            .reindex(keys)
            .set_axis(joined.index)
            .fillna("")
        )
        self.notes.append(f"{other.name}: joined on {by}")
        for name in _columns(cells):
            if name not in joined:
                joined[name] = cells[name]
            elif name != "image":
                both = (joined[name] != "") & (cells[name] != "") & (joined[name] != cells[name])
                if both.any():
                    self._problems.append(
                        f"{other.name}: {count_of(int(both.sum()), 'line')} with another {name!r} than elsewhere: "
                        f"{some_of(joined['image'][both])}"
                    )
                joined[name] = joined[name].where(joined[name] != "", cells[name])
        return joined

    def _refuse_unknown(self, joined: pd.DataFrame, named: Mapping[str, Sequence[str]]) -> None:
        unknown = [
            f"no column {column!r} for {role}{did_you_mean(column, _columns(joined))}"
            for role, columns in named.items()
            for column in columns
            if column not in joined
        ]
        if unknown:
            raise DataError(
                f"{self.name}: the columns found are {self._as_written(joined)}.", [*self._problems, *unknown]
            )

    def _as_written(self, joined: pd.DataFrame) -> str:
        """The columns by the names that they have in the tables."""
        return ", ".join(repr(self._image if name == "image" else name) for name in joined)

    def _in_roles(self, joined: pd.DataFrame, named: Mapping[str, Sequence[str]]) -> pd.DataFrame:
        """The lines with the columns that `rows` promises."""
        usual = {_plain(column): column for column in reversed(_columns(joined))}

        def guess(*names: str) -> list[str]:
            return next(([usual[name]] for name in names if name in usual), [])

        labels = list(named["label"]) or guess(*_LABEL) or _one_hot(joined)
        if not labels:
            raise DataError(
                f"{self.name}: no column of labels was found among {self._as_written(joined)}. Name it with "
                "--set label=COLUMN, or several columns of 0 and 1 with --set 'label=[A, B]'.",
                self._problems,
            )
        groups = list(named["group"]) or guess(*_GROUP) or [*guess(*_PATIENT), *guess(*_LESION)]
        masks, splits = list(named["mask"]) or guess(*_MASK), list(named["split"]) or guess(*_SPLIT)
        label = joined[labels[0]] if len(labels) == 1 else one_hot_labels(joined, labels, self._problems)
        rows = pd.DataFrame({"image": joined["image"], "label": label})
        for role, columns in (("label", labels), ("group", groups), ("mask", masks)):
            if columns:
                self.notes.append(f"{role}: column{'s' * (len(columns) > 1)} {', '.join(map(repr, columns))}")
        if not groups:
            self.notes.append("group: no column was found, so each image is its own and a patient may be in all folds")
            if repeated := _like_groups(joined.drop(columns=["image", *labels])):
                asked = shlex.join(["--set", f"group={repeated[0]}"])
                self.notes.append(f"if {' or '.join(map(repr, repeated))} names the patient or lesion, add {asked}")
        if masks:
            rows["mask"] = joined[masks[0]]
        self.groups = tuple(groups)
        used = {"image", *labels, *masks}
        if splits and self._is_split(joined[splits[0]], asked=bool(named["split"])):
            parts = joined[splits[0]].str.casefold().map(SPLIT_PARTS)
            rows["test"] = (parts == "test").map({True: "yes", False: ""})
            self.presplit = bool((parts == "test").any())
            used |= {splits[0]}
            self.notes.append(f"split: column {splits[0]!r}; --protocol group deals all images into new folds instead")
        kept = {column: joined[column] for column in _columns(joined) if column not in used | {*rows}}
        return rows.assign(**kept)

    def _is_split(self, cells: pd.Series, *, asked: bool) -> bool:
        unknown = sorted(set(cells[~cells.str.casefold().isin(SPLIT_PARTS)]))
        if unknown and asked:
            self._problems.append(f"the split has {some_of(map(repr, unknown))}; allowed are {', '.join(SPLIT_PARTS)}")
        return not unknown

    def _choose_classes(self, classes: tuple[str, ...], malignant: tuple[str, ...]) -> None:
        found = list(dict.fromkeys(sorted(set(self._lines["label"]) - {""})))
        self.classes = classes or tuple(found)
        self._problems += [f"no line has the label {c!r}{did_you_mean(c, found)}" for c in classes if c not in found]
        self._problems += [
            f"the malignant {c!r} is not a class{did_you_mean(c, self.classes)}"
            for c in malignant
            if c not in self.classes
        ]
        self.malignant = malignant or tuple(code for code in self.classes if is_malignant(code, self.name))
        if not malignant:
            guess = f"{', '.join(self.malignant)}, by their names" if self.malignant else "none is known by its name"
            self.notes.append(f"malignant: {guess}")
        if blank := int((self._lines["label"] == "").sum()):
            self.notes.append(f"left out {count_of(blank, 'line')} without a label")
        counts = self._lines["label"].value_counts()
        if others := [f"{name} {counts[name]:,}" for name in counts.index if name not in ("", *self.classes)]:
            self.notes.append(f"left out other labels: {', '.join(others)}")


class _Other(NamedTuple):
    """A table to be joined; ``image`` is its column of images, if it has one."""

    name: str
    table: pd.DataFrame
    image: str | None


def _renamed(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """The table with its column of images as ``image``."""
    others = [name for name in table if name == column or name != "image"]
    return table[others].rename(columns={column: "image"})


def _paths(cells: pd.Series, names: ImageNames) -> pd.Series:
    """The path that each cell means, or the cell itself."""
    return cells.map(lambda cell: next(iter(names.find(cell)), cell) if cell else "")


def _one_hot(joined: pd.DataFrame) -> list[str]:
    """The columns of 0 and 1 of which nearly every line has one 1, in their order."""
    bits = joined[[column for column in joined if joined[column].isin(("0", "1", "0.0", "1.0", "")).all()]]
    numbers = bits.apply(pd.to_numeric).fillna(0)
    if numbers.shape[1] < 2 or (numbers.sum(axis=1) == 1).mean() < 0.9:
        return []
    return _columns(numbers)


def _like_groups(columns: pd.DataFrame) -> list[str]:
    """The columns of ids that several lines share: far fewer values than lines, and far more than a property has."""
    return [name for name in _columns(columns) if 0.2 < columns[name].nunique() / len(columns) < 1]


def _columns(table: pd.DataFrame) -> list[str]:
    return list(map(str, table.columns))


def _plain(column: str) -> str:
    return re.sub(r"[\s-]+", "_", column.casefold())
