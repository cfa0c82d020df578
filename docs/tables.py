"""Writes the tables and figures of results in README.md and docs/ from the CSV files in docs/results/.

    python docs/tables.py

A table stands under a comment that names its file, experiment and part, what its rows are, and which columns it shows.
Rows and columns that are to be shown may be listed; without a list all are:

    <!-- table: benchmark; hamfit-7; external; rows are methods; Balanced accuracy, Macro AUC -->
    <!-- table: benchmark; hamfit-7; external; rows are measures: Minority recall, Macro AUC; cosen, softmax -->

To publish other results, change the CSV and run this. Without a list, rows and columns come in the order of the file.
Values are kept as they are printed, in percent or percentage points unless the measure is something else.
"""

import re
from pathlib import Path

import pandas as pd

from dermaffinity.report.figures import recall_figure, save_figure
from dermaffinity.report.method_figures import forest_figure, pareto_figure
from dermaffinity.report.method_tables import MEASURES
from dermaffinity.report.tables import markdown_table

DOCS = Path(__file__).resolve().parent
FIGURES = DOCS / "figures"
PAGES = [DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md"))]
CLASS = re.compile(r"^(\S+) \(n=(\d+)\)$", flags=re.MULTILINE)
LATER = {"eight": "single models", "frozen": "out-of-fold", "joined": "single models"}
"""Files with further methods of the record, and where they have the measures of single models."""
TABLE = re.compile(r"(<!-- table: (.*) -->\n\n)((?:\|.*\n)*)\n*")


def main() -> None:
    """Writes every table again where it stands, and the figures."""
    for page in PAGES:
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
    for experiment in ("hamfit-7", "hamfit-5"):
        own, external = summaries(experiment, "out-of-fold"), summaries(experiment, "external")
        stem = experiment.replace("-", "")
        save_figure(forest_figure(own, external, "out-of-fold images"), FIGURES / f"{stem}_forest.png")
        save_figure(pareto_figure(own), FIGURES / f"{stem}_pareto.png")
    measured = summaries("hamfit-7", "single models", "record")
    later = [summaries("hamfit-7", part, file) for file, part in LATER.items()]
    ours = {name: own for part in (measured, *later) for name, own in part.items() if ", " not in name}
    ours = {name: own for name, own in ours.items() if "size" not in name}
    save_figure(forest_figure(ours, {}, "out-of-fold images"), FIGURES / "record_forest.png")
    save_figure(pareto_figure(ours), FIGURES / "record_pareto.png")
    shown = {name: measured[name] for name in ("softmax", "cosen", "cosen_plus", "vs", "affinity_plus")}
    results = read_results("record").query("experiment == 'hamfit-7' and part == 'single models' and method == 'cosen'")
    counts = {name: int(count) for name, count in CLASS.findall("\n".join(results["measure"]))}
    save_figure(recall_figure(shown, counts, "hamfit-7: recall of each class"), FIGURES / "hamfit7_recall.png")


def summaries(experiment: str, part: str, file: str = "benchmark") -> dict[str, pd.DataFrame]:
    """The measures of each method as fractions, under the names that figures know."""
    results = read_results(file).query("experiment == @experiment and part == @part")
    names = {title: name for name, title in MEASURES.items()}
    bounds = results[["value", "low", "high"]].apply(pd.to_numeric) / 100
    bounds.index = pd.Index([names.get(measure) or CLASS.sub(r"recall.\1", measure) for measure in results["measure"]])
    return {method: bounds[(results["method"] == method).to_numpy()] for method in results["method"].unique()}


def with_tables(text: str) -> str:
    """The text with each of its result tables as the CSV files have it."""
    written = TABLE.sub(lambda found: found[1] + result_table(*found[2].split("; ")) + "\n", text)
    return written.rstrip("\n") + "\n"


def result_table(file: str, experiment: str, part: str, rows: str, columns: str = "") -> str:
    """One part of an experiment in Markdown.

    Args:
        file: Name of the CSV without its ending.
        experiment: Which rows of the file.
        part: Which of these.
        rows: "rows are methods" or "rows are measures", with ": " and the shown ones where not all are.
        columns: The shown ones; all where empty.
    """
    results = read_results(file).query("experiment == @experiment and part == @part")
    kind, _, listed = rows.partition(": ")
    row, column = ("method", "measure") if kind == "rows are methods" else ("measure", "method")
    cells = results.apply(spoken, axis=1).groupby([results[row], results[column]]).agg(" / ".join).unstack()
    shown_rows = listed.split(", ") if listed else results[row].unique()
    shown = cells.loc[shown_rows, columns.split(", ") if columns else results[column].unique()].fillna("")
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
