"""A library of images and tables about them: the one way from lines of tables to records."""

import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from dermaffinity.data.adapters.base import DatasetAdapter, Record
from dermaffinity.data.labels import ImageNames, found_images, joined_groups, numbers_as_written, with_usual_names
from dermaffinity.data.manifest import COLUMNS, numbers_or_text
from dermaffinity.data.tables import read_table
from dermaffinity.errors import DataError, count_of, did_you_mean, some_of

_NOT_KEPT = ("test", "diagnoses", "leave_out")


class TabledAdapter(DatasetAdapter):
    """Reads a dataset whose labels lie in tables beside its images, in any folders and archives.

    A subclass gives :meth:`rows`, and facts that were published: the counts, which hold strictly unless ``partial``.

    Args:
        source: The folder with the images and tables.
        partial: Accept other counts than the published ones, and leave out lines whose image is missing.

    Examples:
        >>> from dermaffinity.data.adapters import TableAdapter, TabledAdapter
        >>> issubclass(TableAdapter, TabledAdapter)
        True
    """

    def __init__(self, source: Path, *, partial: bool = False) -> None:
        super().__init__(source)
        self.partial = partial

    @abstractmethod
    def rows(self, problems: list[str]) -> pd.DataFrame:
        """A line for each image, all cells text: ``image`` (an id or path), ``label``, the columns that
        ``groups`` names.

        Also ``mask``, ``test`` (``yes`` for the dataset's own test images), ``diagnoses`` (tuples of text) and
        ``leave_out`` (``yes`` for lines that count but are not read), where known; every other column goes into the
        manifest as it is.

        Args:
            problems: Extended in place with what is wrong with the tables.
        """

    def records(self) -> Iterator[Record]:
        """See :meth:`DatasetAdapter.records`."""
        problems: list[str] = []
        rows = with_usual_names(self.rows(problems))
        problems += [] if self.partial else self._miscounts(rows["label"])
        rows = self._read(rows)
        names = ImageNames(self._images())
        rows["image"] = self._found(rows["image"], names, "image", problems)
        if "mask" in rows:
            rows["mask"] = self._found(rows["mask"], names, "mask", problems)
        own = [name for name in map(str, rows) if name not in (*COLUMNS, *self.groups, *_NOT_KEPT)]
        # Of several keys, such as patient and lesion, the manifest keeps each.
        own += [name for name in self.groups if len(self.groups) > 1 and name not in COLUMNS]
        for name in own:
            rows[name], units = numbers_as_written(rows[name], name)
            problems += units
        if problems:
            raise DataError(f"{self.name}: the images and tables in {self.library.root} do not fit together.", problems)
        rows = rows[rows["image"] != ""]
        groups = joined_groups(rows[list(self.groups)], rows["image"].tolist())
        extra = pd.DataFrame({name: numbers_or_text(rows[name]) for name in own}, index=rows.index)
        for line, group, values in zip(rows.to_dict("records"), groups, extra.to_dict("records"), strict=True):
            yield Record(
                line["image"],
                line.get("mask") or None,
                line["label"],
                group,
                {str(name): value for name, value in values.items()},
                test=line.get("test") == "yes",
                diagnoses=line.get("diagnoses", ()),
            )

    def table(self, pattern: str, needed: Sequence[str], *, optional: bool = False) -> pd.DataFrame:
        """The one table of the library whose file name fits a pattern, as text by line.

        Args:
            pattern: A regular expression for the whole file name, whatever its case.
            needed: The columns that must be there.
            optional: Give an empty table where there is no such file.

        Raises:
            DataError: There is none, or several; or it lacks columns.
        """
        found = [p for p in self.files() if re.fullmatch(pattern, PurePosixPath(p).name, re.IGNORECASE)]
        if not found and optional:
            return pd.DataFrame(columns=list(needed), dtype=str)
        if len(found) != 1:
            what = f"{len(found)} tables ({some_of(found)})" if found else f"no table {_readable(pattern)}"
            raise DataError(f"{self.name}: {what} in {self.library.root}, one is needed. {self.how_to_get()}")
        rows, form = read_table(self.library.read(found[0]), f"{self.name}: {found[0]}", needed)
        self.notes.append(f"{found[0]}: read as {form}")
        return rows

    def _read(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The lines that count as images of the classes."""
        if "leave_out" in rows:
            rows = rows[rows["leave_out"] != "yes"]
        other = Counter(rows.loc[~rows["label"].isin(self.classes), "label"])
        if other and ("all" in self.published or self.partial):
            named = ", ".join(f"{label or 'empty'} {count:,}" for label, count in other.items())
            self.notes.append(f"left out {count_of(other.total(), 'image')} with other labels: {named}")
            rows = rows[rows["label"].isin(self.classes)]
        return rows.copy()

    def _images(self) -> list[str]:
        """The files that lines may mean."""
        return self.contents().images

    def _miscounts(self, labels: pd.Series) -> list[str]:
        counts = Counter(labels)
        if "all" in self.published:
            counts = Counter({"all": counts.total()})
        wrong = [
            f"{name} {counts[name]:,} instead of {number:,}"
            for name, number in self.published.items()
            if counts[name] != number
        ]
        unknown = [
            f"{count_of(count, 'line')} with the unknown label {label!r}{did_you_mean(label, self.published)}"
            for label, count in counts.items()
            if self.published and label not in self.published
        ]
        if wrong:
            wrong = [f"other counts than published: {', '.join(wrong)}. --partial accepts a part of the dataset"]
        return wrong + unknown

    def _found(self, asked: pd.Series, names: ImageNames, kind: str, problems: list[str]) -> pd.Series:
        found, unknown, ambiguous = found_images(asked, names, kind)
        problems += ambiguous
        lost = asked[unknown]
        if len(lost):
            lines = [f"{name!r} (line {line})" for line, name in lost.items()]
            finding = f"{count_of(len(lost), kind)} of {len(asked):,} not among the files: {some_of(lines, 4)}"
            if self.partial and len(lost) < len(asked):
                self.notes.append(finding)
            else:
                near = [repr(name) for name in names.near(lost.iloc[0])]
                hint = f". The library has such files as {near[0]}; --partial leaves out what is missing"
                hint = hint if near else ". The library has no image"
                problems.append(f"{finding}{hint}")
        return found


def _readable(pattern: str) -> str:
    """The pattern of a file name as a person would write it."""
    return re.sub(r"\\(.)", r"\1", pattern).replace("(?:", "(")
