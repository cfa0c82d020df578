"""What tables say about images: which image a line means, which lines belong together, what is a number."""

import re
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from dermaffinity.data.images import IMAGE_SUFFIXES
from dermaffinity.data.tables import clean
from dermaffinity.errors import count_of, nearest, some_of

_NUMBER = r"[-+]?\d+(?:[.,]\d+)?"
_UNIT = re.compile(
    rf"{_NUMBER}\s*(?:years?|yrs?|y|yo|jahre?|j|ans?|años?|anni|months?|mo|weeks?|days?|mm|cm|m|kg|g|%)\.?",
    re.IGNORECASE,
)
_DECIMAL_COMMA = re.compile(r"^([-+]?\d+),(\d+)$")
_WHOLE = re.compile(r"^([-+]?\d+)\.0+$")
# Of the known values of a column of numbers; the others are slips of the pen.
_SHARE_OF_NUMBERS = 0.9
# Not "none", which in a column of findings is one.
_MISSING = frozenset(
    {"", "-", "--", "?", "na", "n/a", "n.a.", "#n/a", "nan", "<na>", "nat", "null", "missing", "unknown"}
    | {"unbekannt", "k.a.", "inconnu", "desconocido", "sconosciuto", "desconhecido"}
)
_TOP_CODED = re.compile(r"^[>≥]\s*(\d+)$|^(\d+)\s*\+$")
_LEADING_ZERO = re.compile(r"[-+]?0\d")
_MOST_COMPARED = 20_000
"""More names are not searched for the nearest one: that would take longer than a person waits."""
_SAMPLE = 300
"""Lines of a table that are looked at to tell its column of images."""


# What every manifest calls a column, and what libraries do, in lower case.
_USUAL = {
    "age": ("age_approx",),
    "sex": ("gender",),
    "site": ("anatom_site_general", "anatom_site_general_challenge", "anatom_site_1", "localization", "region"),
    "skin_tone": ("fitzpatrick_skin_type", "fitspatrick", "fitzpatrick_scale", "fitzpatrick", "skin_tone_class"),
}
_MALE = ("m", "männlich", "maennlich", "masculin", "masculino", "maschile")
_FEMALE = ("f", "w", "weiblich", "féminin", "feminin", "femenino", "feminino", "femminile")
_SEXES = dict.fromkeys(_MALE, "male") | dict.fromkeys(_FEMALE, "female")


class ImageNames:
    """Finds the images that a table means by a path, a file name or an id, in whichever folder or archive they lie.

    Case, a leading ``./``, backslashes and a missing suffix make no difference where they leave one image.

    Args:
        images: Paths as `ImageLibrary` gives them.
    """

    def __init__(self, images: Iterable[str]) -> None:
        self._images: dict[str, list[str]] = {}  # by the id, in lower case
        for image in images:
            self._images.setdefault(_id(PurePosixPath(clean(image)).name.casefold()), []).append(image)

    def find(self, name: str) -> list[str]:
        """All images that a name may mean: none, one or several."""
        asked = clean(name).replace("\\", "/").removeprefix("./").strip("/")
        candidates = self._images.get(_id(PurePosixPath(asked.casefold()).name), [])
        if exact := [image for image in candidates if clean(image) == asked]:
            return exact
        tail = f"/{asked.casefold()}"
        with_suffix = [image for image in candidates if f"/{clean(image).casefold()}".endswith(tail)]
        return with_suffix or [image for image in candidates if _id(f"/{clean(image).casefold()}").endswith(_id(tail))]

    def near(self, name: str) -> list[str]:
        """The file most like a name that means none, or else any; empty without images."""
        ids = list(islice(self._images, _MOST_COMPARED))
        found = nearest(_id(PurePosixPath(name).name), ids) or ids[:1]
        return [PurePosixPath(self._images[one][0]).name for one in found]

    def column(self, table: pd.DataFrame) -> str | None:
        """The column whose cells are most often images, or None."""
        sample = table.iloc[:: max(1, len(table) // _SAMPLE)]
        hits = {str(column): sum(bool(self.find(cell)) for cell in sample[column] if cell) for column in table}
        best = max(hits, key=hits.__getitem__, default="")
        return best if best and hits[best] else None

    def nothing_found(self, table: pd.DataFrame, column: str | None = None) -> str:
        """What is wrong with a table that names no image: its cells, and the file nearest to them; empty without cells.

        Args:
            table: As text.
            column: That of the images; by default the one with the most different cells.
        """
        column = column or str(max(table, key=lambda one: table[one].nunique(), default=""))
        cells = table.loc[table[column] != "", column] if column else pd.Series(dtype=str)
        if not len(cells) or not (near := self.near(cells.iloc[0])):
            return ""
        return (
            f"none of the {count_of(len(cells), 'cell')} of the column {column!r}, such as {cells.iloc[0]!r}, is a "
            f"file; the library has such files as {near[0]!r}"
        )


def found_images(names: pd.Series, images: ImageNames, kind: str) -> tuple[pd.Series, pd.Series, list[str]]:
    """The image of each line, whether its name means none, and a problem for names that mean several.

    Args:
        names: As the table has them, by line; empty cells are left empty.
        images: Where to look.
        kind: What they are, for the message: "image" or "mask".
    """
    found = names.map(lambda name: images.find(name) if name else [""])
    several = names[found.map(len) > 1]
    problems = []
    if len(several):
        first = found[several.index[0]]
        problems.append(
            f"{count_of(len(several), kind)} that may mean several files, such as {several.iloc[0]!r}: "
            f"{some_of(first, 4)}. Give the paths, or keep one copy of each: {some_of(several)}"
        )
    return found.map(lambda paths: paths[0] if paths else ""), found.map(len) == 0, problems


def joined_groups(keys: pd.DataFrame, images: Sequence[str]) -> list[str]:
    """A group for each image, so that images share one if they share any key, directly or by way of others.

    Args:
        keys: A row for each image and a column for each key, such as patient and lesion; empty where unknown.
        images: Their paths; the group of an image without any key is its own path.
    """
    parent = list(range(len(images)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    for column in keys:
        first: dict[str, int] = {}
        for row, value in enumerate(keys[column]):
            if value:
                parent[root(row)] = root(first.setdefault(value, row))
    names: dict[int, tuple[int, str]] = {}
    for place, column in enumerate(keys):
        for row, value in enumerate(keys[column]):
            if value:
                # Beyond the first, keys name themselves: lesion 3 is not patient 3.
                name = place, value if place == 0 else f"{column} {value}"
                names[root(row)] = min(name, names.get(root(row), name))
    return [names.get(root(row), (0, image))[1] for row, image in enumerate(images)]


def with_usual_names(rows: pd.DataFrame) -> pd.DataFrame:
    """The table with age, sex, site and skin tone under these names, and the sexes in small letters."""
    found = {name: column_of(name, list(rows.columns)) for name in _USUAL}
    rows = rows.rename(columns={column: name for name, column in found.items() if column is not None})
    if "sex" in rows:
        rows["sex"] = usual_sexes(rows["sex"])
    return rows


def column_of(name: str, columns: Sequence[str]) -> str | None:
    """The column of a table that has this name, in any case, or another usual one for the same; None without any."""
    if name in columns:
        return name
    folded = name.casefold()
    usual = next((one for one, others in _USUAL.items() if folded in (one, *others)), folded)
    lower = {str(column).casefold(): column for column in reversed(columns)}
    return next((lower[one] for one in (folded, usual, *_USUAL.get(usual, ())) if one in lower), None)


def known_texts(column: pd.Series) -> pd.Series:
    """The values as texts, 44.0 as 44; missing where nothing is known: what is empty, ``unknown``, ``n/a`` and such."""
    texts = column.astype("string").str.strip().str.replace(_WHOLE, r"\1", regex=True)
    return texts.where(~texts.str.casefold().isin(_MISSING))


def known_numbers(column: pd.Series) -> pd.Series:
    """The values that are finite numbers; the others missing.

    A decimal comma is read as a point, ``90+`` and ``>90`` as 90; ``007`` is a code.
    """
    texts = known_texts(column).str.replace(_DECIMAL_COMMA, r"\1.\2", regex=True)
    texts = texts.str.replace(_TOP_CODED, lambda found: found[1] or found[2], regex=True)
    texts = texts.where(~texts.str.match(_LEADING_ZERO).fillna(False))
    numbers = pd.to_numeric(texts.astype(object), errors="coerce").astype(float)
    return numbers.where(np.isfinite(numbers))


def holds_numbers(column: pd.Series) -> bool:
    """Whether 90 % or more of its known values are numbers."""
    known = known_numbers(column).notna().sum()
    return bool(known and known >= _SHARE_OF_NUMBERS * known_texts(column).notna().sum())


def usual_sexes(column: pd.Series) -> pd.Series:
    """The texts in small letters, and the sexes in full."""
    return column.str.casefold().replace(_SEXES)


def joined_table(rows: pd.DataFrame, other: pd.DataFrame, key: str, problems: list[str]) -> pd.DataFrame:
    """The lines with the columns of another table that has one line for each key; empty where it has none.

    Args:
        rows: Keep their lines.
        other: Has the key as well.
        key: The column by which both are joined.
        problems: Extended in place with keys that ``other`` repeats.
    """
    twice = other.loc[other[key].duplicated(), key]
    if len(twice):
        problems.append(f"{count_of(len(twice), 'line')} repeated for a {key}: {some_of(set(twice))}")
    return rows.join(other[~other[key].duplicated()].set_index(key), on=key).fillna("")


def one_hot_labels(rows: pd.DataFrame, columns: list[str], problems: list[str], key: str = "image") -> pd.Series:
    """The column that has the 1 of each line; empty where all cells are.

    Args:
        rows: With the columns of 0 and 1.
        columns: One for each class.
        problems: Extended in place with the lines that have no 1, or several.
        key: The column that names the lines in problems.
    """
    numbers = rows[columns].apply(pd.to_numeric, errors="coerce")
    marked = numbers.sum(axis=1)
    wrong = rows.loc[(numbers.isna().any(axis=1) | (marked != 1)) & (rows[columns] != "").any(axis=1), key]
    if len(wrong):
        problems.append(
            f"{count_of(len(wrong), 'line')} without exactly one 1 in the columns {', '.join(columns)}: "
            f"{some_of(wrong)}"
        )
    return numbers.fillna(0).idxmax(axis=1).where(marked == 1, "")


def numbers_as_written(column: pd.Series, name: str) -> tuple[pd.Series, list[str]]:
    """A column of numbers with decimal points in place of commas, and empty where it is marked as missing.

    Other columns stay as they are, with a problem if numbers in them carry units.
    """
    filled = column[known_texts(column).notna()]
    numeric = filled.str.fullmatch(_NUMBER)
    if filled.empty:
        return column, []
    if numeric.all():
        return filled.str.replace(_DECIMAL_COMMA, r"\1.\2", regex=True).reindex(column.index, fill_value=""), []
    united = filled[~numeric]
    if not united.str.fullmatch(_UNIT).all():
        return column, []
    cells = [f"{cell!r} (line {line})" for line, cell in united.items()]
    return column, [f"column {name!r}: {count_of(len(cells), 'cell')} with a unit: {some_of(cells, 4)}. "
                    "Write the numbers alone, all in one unit"]  # fmt: skip


def _id(name: str) -> str:
    """A file name or path without the suffix of an image."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else name
