"""Writes the result tables of README.md and docs/*.md from the CSV files in docs/results/.

    python docs/tables.py

A table stands under a comment that names its file, experiment and part, what its rows are, and which columns it shows,
all of them where none is named:

    <!-- table: benchmark; hamfit-7; external; rows are methods; Balanced accuracy, Macro AUC -->

To publish other results, change the CSV and run this. Rows and columns come in the order of the file. Values are kept
as they are printed, in percent or percentage points unless the measure is something else.
"""

import re
from pathlib import Path

import pandas as pd

from dermaffinity.reports.tables import markdown_table

DOCS = Path(__file__).resolve().parent
PAGES = [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))]
TABLE = re.compile(r"(<!-- table: (.*) -->\n\n)((?:\|.*\n)*)")


def main() -> None:
    """Writes every table again where it stands."""
    for page in PAGES:
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")


def with_tables(text: str) -> str:
    """The text with each of its result tables as the CSV files have it."""
    return TABLE.sub(lambda found: found[1] + result_table(*found[2].split("; ")), text)


def result_table(file: str, experiment: str, part: str, rows: str, columns: str = "") -> str:
    """One part of an experiment in Markdown; rows are "rows are methods" or "rows are measures"."""
    results = read_results(file).query("experiment == @experiment and part == @part")
    row, column = ("method", "measure") if rows == "rows are methods" else ("measure", "method")
    cells = results.apply(spoken, axis=1).groupby([results[row], results[column]]).agg(" / ".join).unstack()
    shown = cells.loc[results[row].unique(), columns.split(", ") if columns else results[column].unique()].fillna("")
    shown.index = pd.MultiIndex.from_product([[part], shown.index])
    return markdown_table(shown)


def read_results(file: str) -> pd.DataFrame:
    """A file of docs/results/, its numbers as they are printed."""
    return pd.read_csv(DOCS / "results" / f"{file}.csv", dtype=str, keep_default_na=False)


def spoken(result: pd.Series) -> str:
    """``59.9 [56.8, 62.9]``, ``99.48 ± 0.03`` or ``4.0``, by what there is."""
    if result.get("spread"):
        return f"{result['value']} ± {result['spread']}"
    return f"{result['value']} [{result['low']}, {result['high']}]" if result.get("low") else result["value"]


if __name__ == "__main__":
    main()
