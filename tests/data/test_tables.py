import io
import re
import zipfile

import numpy as np
import pandas as pd
import pytest

from dermaffinity.data.tables import clean, look_alikes, read_table
from dermaffinity.errors import DataError

NEEDED = ("image", "group")
SPACE = "urn:oasis:names:tc:opendocument:xmlns"
TEXT = 'office:value-type="string"'
NUMBER = '<table:table-cell office:value-type="float" office:value="7"><text:p>7</text:p></table:table-cell>'
HEAD = (
    f'<office:document-content xmlns:office="{SPACE}:office:1.0" xmlns:table="{SPACE}:table:1.0" '
    f'xmlns:text="{SPACE}:text:1.0"><office:body><office:spreadsheet><table:table table:name="Labels">'
)
TAIL = "</table:table></office:spreadsheet></office:body></office:document-content>"


@pytest.mark.parametrize(
    ("delimiter", "encoding", "form"),
    [
        (",", "utf-8", "comma-separated, UTF-8"),
        (";", "utf-8-sig", "semicolon-separated, UTF-8"),
        ("\t", "utf-16", "tab-separated, UTF-16"),
        ("\t", "utf-16-le", "tab-separated, UTF-16"),
        (",", "utf-16-be", "comma-separated, UTF-16"),
        (";", "cp1252", "semicolon-separated, cp1252"),
        ("|", "utf-8", "bar-separated, UTF-8"),
    ],
)
def test_a_table_is_read_in_whatever_way_a_spreadsheet_writes_it(delimiter, encoding, form):
    lines = [["note", "image", "group"], ['"a;b|c,d"', "Nävus/1.jpg", "Müller"], ["", "2.jpg", "7"]]
    content = "\r\n".join(map(delimiter.join, lines)).encode(encoding)
    table = read_table(content, "t.csv", NEEDED)
    assert table.form == f"2 lines, {form}"
    assert table.rows.to_numpy().tolist() == [["a;b|c,d", "Nävus/1.jpg", "Müller"], ["", "2.jpg", "7"]]


def test_the_delimiter_is_told_by_the_needed_columns_before_the_number_of_columns():
    table = read_table(b"image;group;a,b,c,d\n1.jpg;x;y,z\n", "t.csv", NEEDED)
    assert table.rows.columns.tolist() == ["image", "group", "a,b,c,d"]


def test_headers_and_cells_are_clean_and_lines_keep_their_number():
    content = "sep=;\n\ufeff image ;group\u00a0;;\n;;;\n 1.jpg;P1\u200b ;;\n\n2.jpg\n".encode()
    rows = read_table(content, "t.csv", NEEDED).rows
    assert rows.columns.tolist() == ["image", "group"]
    assert rows.to_dict("index") == {4: {"image": "1.jpg", "group": "P1"}, 6: {"image": "2.jpg", "group": ""}}


def test_a_missing_column_is_told_with_those_found_and_the_nearest():
    with pytest.raises(DataError) as caught:
        read_table(b"Image;Patient\n1;2\n", "t.csv", NEEDED)
    assert caught.value.message == (
        "t.csv (semicolon-separated, UTF-8): the columns found are 'Image', 'Patient'. Rename them in the first line; "
        "image, group are needed."
    )
    assert caught.value.problems == ("no column 'image' (is it 'Image'?)", "no column 'group'")
    with pytest.raises(DataError, match="2 columns 'group'"):
        read_table(b"image,group,group\n", "t.csv", NEEDED)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; the columns image, group are needed"),
        (b"PK\x03\x04 and so on", "cannot be read as a spreadsheet or Parquet file"),
        (b"PAR1 and so on", "cannot be read as a spreadsheet or Parquet file"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is no text in UTF-8, UTF-16 or cp1252"),
        (b"\xff\xfea", "is no text in UTF-8, UTF-16 or cp1252"),
        (b'image,group\n"1,2\n', "cannot be read as CSV"),
        (b"image,group\n1,2,3\n1,2\n4,5,6\n", "2 lines with more cells than the 2 columns: line 2, line 4"),
    ],
)
def test_what_is_no_table_is_one_clear_sentence(content, message):
    with pytest.raises(DataError, match=rf"t\.csv.*{message}"):
        read_table(content, "t.csv", NEEDED)


def test_parquet_and_spreadsheets_are_read_as_a_person_would_type_them():
    frame = pd.DataFrame({"image": ["1", "002"], "group": [3.0, np.nan], "size": [1.5, 2.0], "on": [True, False]})
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    table = read_table(buffer.getvalue(), "t.parquet", NEEDED)
    expected = [["1", "3", "1.5", "True"], ["002", "", "2", "False"]]
    assert (table.form, table.rows.to_numpy().tolist()) == ("2 lines, Parquet", expected)
    cells = "".join(
        f"<table:table-row>{''.join(row)}</table:table-row>"
        for row in [
            [f"<table:table-cell {TEXT}><text:p>{name}</text:p></table:table-cell>" for name in NEEDED],
            [f"<table:table-cell {TEXT}><text:p>a.jpg</text:p></table:table-cell>", NUMBER],
        ]
    )
    sheet = io.BytesIO()
    with zipfile.ZipFile(sheet, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr("META-INF/manifest.xml", "<manifest/>")
        archive.writestr("content.xml", f"{HEAD}{cells}{TAIL}")
    table = read_table(sheet.getvalue(), "t.ods", NEEDED)
    assert table.form == "1 line, spreadsheet, sheet 'Labels'"
    assert table.rows.to_numpy().tolist() == [["a.jpg", "7"]]


def test_clean_joins_unicode_forms_and_drops_what_is_unseen_at_the_edges():
    assert clean("\u2009Na\u0308vus\u200b\u00a0") == "Nävus"
    assert clean("a\u00a0b") == "a\u00a0b"


@pytest.mark.parametrize(
    "pair",
    [
        ("P1", "p1"),
        ("P 1", "P1"),
        ("P1", "P\u200b1"),
        ("3", "3.0"),
        ("3", "003"),
        ("3.00", "03"),
        ("P01", "P1"),
        ("\uff13", "3"),
        ("Straße", "STRASSE"),
    ],
)
def test_names_that_are_easily_taken_for_one_another_are_told(pair):
    (problem,) = look_alikes(["other", *pair], "group")
    assert " and ".join(map(repr, sorted(pair))) in problem
    assert "--exact-ids" in problem


@pytest.mark.parametrize(
    "names",
    [["10", "1", "100"], ["1.5", "1.05", "15"], ["1.10", "1.1"], ["P1", "P2", "P1"], ["a0", "a00b"], ["0", "-"]],
)
def test_names_that_differ_otherwise_are_not_told(names):
    assert look_alikes(names, "group") == []


def test_many_look_alikes_are_summed_up():
    names = [text for number in range(20) for text in (f"{number}", f"{number}.0")]
    (problem,) = look_alikes(names, "group")
    assert re.search(r"'0' and '0\.0', '1' and '1\.0', .* and 12 more\. Write each", problem)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_quoted_cells_are_read_whatever_divides_them(delimiter):
    content = f'"image"{delimiter}"group"\n"a.jpg"{delimiter}"P1"\n'.encode()
    table, _ = read_table(content, "groups.csv", ("image", "group"))
    assert table[["image", "group"]].to_numpy().tolist() == [["a.jpg", "P1"]]
