"""Tables that people made: read as their spreadsheet wrote them, with identifiers that cannot differ unseen."""

import csv
import io
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import pandas as pd

from dermaffinity.errors import DataError, count_of, nearest, some_of

_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_ENCODINGS = {
    "utf-8-sig": "UTF-8",
    "utf-16": "UTF-16",
    "utf-16-le": "UTF-16",
    "utf-16-be": "UTF-16",
    "cp1252": "cp1252",
}
_SPREADSHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx and .ods; .xls
_PARQUET = b"PAR1"
TABLE_SUFFIXES = (".csv", ".tsv", ".tab", ".xlsx", ".xls", ".ods", ".parquet")
_CONTROL = re.compile("[\\0-\\x08\\x0e-\\x1f]")
# Blanks of every kind, and what takes no space on the screen: soft hyphens, joiners, marks of direction and byte order.
_UNSEEN = "[\\s\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]+"
_EDGES = re.compile(f"^{_UNSEEN}|{_UNSEEN}$")


class Table(NamedTuple):
    """A table as text, every header and cell `clean`.

    Args:
        rows: Its lines, by their number in the file; the column line is left out, and so are empty lines.
        form: How it was read, in words.
    """

    rows: pd.DataFrame
    form: str


def read_table(content: bytes, name: str, needed: Sequence[str] = ()) -> Table:
    """Reads a table: a text whose cells are divided by commas, semicolons, tabs or bars, a spreadsheet, or Parquet.

    Args:
        content: The file's bytes.
        name: What errors call the file.
        needed: The columns that must be there; others may be.

    Raises:
        DataError: The file is no such table, lacks columns, or has lines with more cells than columns.
    """
    if content.startswith((*_SPREADSHEETS, _PARQUET)):
        lines, form = _binary_rows(content, name)
    else:
        text, encoding = decode_text(content, name)
        lines, delimiter = split_rows(text, name, needed)
        form = f"{delimiter}-separated, {encoding}"
    cleaned = ((number, [clean(cell) for cell in cells]) for number, cells in lines)
    (_, columns), *rows = [(number, cells) for number, cells in cleaned if any(cells)] or [(0, [])]
    columns = _without_empty_end(columns)
    _check_columns(columns, needed, f"{name} ({form})")
    long = [f"line {number}" for number, cells in rows if any(cells[len(columns) :])]
    if long:
        raise DataError(
            f"{name} ({form}): {count_of(len(long), 'line')} with more cells than the {len(columns)} columns: "
            f"{some_of(long)}. Put quotes around cells that hold the separator."
        )
    width = len(columns)
    cells = [(cells + [""] * width)[:width] for _, cells in rows]
    table = pd.DataFrame(cells, index=[number for number, _ in rows], columns=columns, dtype=str)
    return Table(table, f"{count_of(len(table), 'line')}, {form}")


def _binary_rows(content: bytes, name: str) -> tuple[list[tuple[int, list[str]]], str]:
    """The cells of a spreadsheet's first sheet or of a Parquet file as text, with line numbers, and the form."""
    try:
        if content.startswith(_PARQUET):
            frame = pd.read_parquet(io.BytesIO(content))
            cells, form = [frame.columns.tolist(), *frame.astype(object).to_numpy().tolist()], "Parquet"
        else:
            sheets = pd.read_excel(io.BytesIO(content), sheet_name=None, header=None, engine="calamine")
            first = next(iter(sheets))
            cells, form = sheets[first].astype(object).to_numpy().tolist(), f"spreadsheet, sheet {first!r}"
    except Exception as error:  # each library has its own for a file that is damaged or of another kind
        raise DataError(f"{name}: cannot be read as a spreadsheet or Parquet file ({error})") from error
    return [(line, [_cell_text(cell) for cell in row]) for line, row in enumerate(cells, start=1)], form


def _cell_text(cell: object) -> str:
    """As a person would type it: a spreadsheet keeps the patient 3 as the number 3.0."""
    if cell is None or cell is pd.NaT or cell != cell:  # NaN
        return ""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def decode_text(content: bytes, name: str) -> tuple[str, str]:
    """The text of a file, and the name of its encoding: UTF-8, UTF-16 or cp1252, with or without a byte order mark.

    Raises:
        DataError: The file is a spreadsheet or no text.
    """
    if content.startswith(_SPREADSHEETS):
        raise DataError(f"{name}: is a spreadsheet; save it as CSV there, and give that file")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encodings = ["utf-16"]
    elif b"\0" in content[:2]:
        encodings = ["utf-16-be" if content.startswith(b"\0") else "utf-16-le"]
    else:
        encodings = ["utf-8-sig", "cp1252"]
    for encoding in encodings:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        # Nearly all bytes are letters of cp1252.
        if encoding == "utf-8-sig" or not _CONTROL.search(text):
            return text, _ENCODINGS[encoding]
    raise DataError(f"{name}: is no text in UTF-8, UTF-16 or cp1252; save it as CSV in UTF-8")


def split_rows(text: str, name: str, expected: Collection[str]) -> tuple[list[tuple[int, list[str]]], str]:
    """The cells of each line with its number, as written; and the name of the delimiter.

    Args:
        text: With the column line first. A line ``sep=;``, as some spreadsheets write it, may stand above.
        name: What errors call the file.
        expected: Columns by which the delimiter is told, where it is not by their number.

    Raises:
        DataError: The text is no CSV.
    """
    announced = re.match(r"sep=([,;\t|])\r?\n", text)

    def rows(delimiter: str, strict: bool = True) -> "csv._reader":  # type: ignore[name-defined]
        return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=strict)

    def fit(delimiter: str) -> tuple[int, int]:
        # Not strict: quoted cells are malformed to every delimiter but their own.
        columns = {clean(cell) for cell in next(filter(any, rows(delimiter, strict=False)), [])}
        return len(columns & set(expected)), len(columns)

    try:
        delimiter = announced[1] if announced else max(_DELIMITERS, key=fit)
        reader = rows(delimiter)
        numbered = [(reader.line_num, cells) for cells in reader]
    except csv.Error as error:
        raise DataError(f"{name}: cannot be read as CSV ({error})") from error
    return numbered[1:] if announced else numbered, _DELIMITERS[delimiter]


def clean(text: str) -> str:
    """The text in Unicode's normal form NFC, without blanks and invisible characters around it."""
    return _EDGES.sub("", unicodedata.normalize("NFC", text))


def look_alikes(identifiers: Iterable[str], kind: str) -> list[str]:
    """A problem that names the identifiers which differ only in ways that are easily overlooked; empty without any.

    Those are case, blanks, leading zeros, a trailing ``.0`` and Unicode's normal forms: of a patient who is once
    ``3`` and once ``3.0`` a split would make two.

    Args:
        identifiers: In any number.
        kind: What they are, for the message, in the singular.
    """
    alike: dict[str, set[str]] = {}
    for identifier in identifiers:
        alike.setdefault(_at_a_glance(identifier), set()).add(identifier)
    sets = [" and ".join(map(repr, sorted(names))) for names in alike.values() if len(names) > 1]
    if not sets:
        return []
    return [
        f"{kind} names that differ only in case, blanks, leading zeros or a trailing .0: {some_of(sets)}. Write each "
        "in one way; if they do mean different things, prepare the library with --exact-ids"
    ]


def _at_a_glance(identifier: str) -> str:
    folded = re.sub(_UNSEEN, "", unicodedata.normalize("NFKC", identifier).casefold())
    whole = re.sub(r"(?<=[0-9])\.0+$", "", folded)
    return re.sub(r"(?<![0-9.])0+(?=[0-9])", "", whole)


def _without_empty_end(cells: list[str]) -> list[str]:
    return cells[: max((place for place, cell in enumerate(cells, start=1) if cell), default=0)]


def _check_columns(columns: list[str], needed: Sequence[str], name: str) -> None:
    if not columns:
        wanted = f"the columns {', '.join(needed)} are needed" if needed else "its first line must name the columns"
        raise DataError(f"{name}: is empty; {wanted}")
    problems = []
    for column in needed:
        if column not in columns:
            near = nearest(column, columns)
            problems.append(f"no column {column!r}" + (f" (is it {near[0]!r}?)" if near else ""))
        elif columns.count(column) > 1:
            problems.append(f"{columns.count(column)} columns {column!r}")
    if problems:
        found = ", ".join(map(repr, columns))
        raise DataError(
            f"{name}: the columns found are {found}. Rename them in the first line; {', '.join(needed)} are needed.",
            problems,
        )
