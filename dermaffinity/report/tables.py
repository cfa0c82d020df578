"""Tables of measures, for the console and for Markdown: classes as rows, methods as columns, numbers in percent.

`results_table`, `gains_table`, `p_value_table` and `verification_table` choose and word the content; `console_table`
and `markdown_table` draw any of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from dermaffinity.metrics.verification import FoldAccuracy

if TYPE_CHECKING:
    from rich.table import Table

OVERALL = {
    "minority_recall": "Minority recall",
    "majority_recall": "Majority recall",
    "worst_class_recall": "Worst class recall",
    "balanced_accuracy": "Balanced accuracy",
    "accuracy": "Accuracy",
    "macro_f1": "Macro F1",
    "macro_auc": "Macro AUC",
    "malignant_sensitivity": "Malignant sensitivity",
    "malignant_specificity": "Malignant specificity",
    "ece": "Calibration error",
}
_VERIFICATION = {"auc": "AUC", "equal_error_rate": "Equal error rate"}
_NUMBER = 11
"""Characters of a column that holds a bound such as ``[-100.0,`` or a word, with the space beside it."""
_TESTS = {"mcnemar": "McNemar", "sign_flip": "Sign flip", "corrected_t": "Corrected t"}


def results_table(summaries: Mapping[str, pd.DataFrame], class_counts: Mapping[str, int]) -> pd.DataFrame:
    """Recall of each class and the overall measures, as `value [low, high]` in percent.

    Args:
        summaries: For each method its `Measured.summary`.
        class_counts: Images of each class, in the order wanted.

    Returns:
        Strings: one column per method; index `part` ("classes", "overall" or "training") and `row`, the class with its
        images or the measure's name. What a method's trainings report of themselves are plain numbers.

    Examples:
        >>> import pandas as pd
        >>> from dermaffinity.metrics import Classes, Measured, ScoredImages
        >>> from dermaffinity.report import results_table
        >>> scored = ScoredImages.from_table(pd.read_csv("out_of_fold.csv"), Classes(("AK", "ML")))
        >>> summary = Measured.of(scored, resamples=50).summary()
        >>> results_table({"cosen": summary}, {"AK": 4, "ML": 4}).loc["classes"]
                              cosen
        row
        AK (n=4)  75.0 [23.9, 96.6]
        ML (n=4)  75.0 [30.1, 95.4]
    """
    return _interval_table(summaries, class_counts, prefix="recall.", overall_prefix="", sign="")


def gains_table(gains: Mapping[str, pd.DataFrame], class_counts: Mapping[str, int]) -> pd.DataFrame:
    """Gains over the baseline, as `+value [low, high]` in percentage points.

    Args:
        gains: For each method the `gains` of `dermaffinity.metrics.comparison.compare`.
        class_counts: Images of each class, in the order wanted.

    Returns:
        As for `results_table`.

    Examples:
        >>> import pandas as pd
        >>> from dermaffinity.metrics import Classes, Measured, ScoredImages, compare
        >>> from dermaffinity.report import gains_table
        >>> scored = ScoredImages.from_table(pd.read_csv("out_of_fold.csv"), Classes(("AK", "ML")))
        >>> measured = Measured.of(scored, resamples=50)
        >>> gains_table({"affinity_plus": compare(measured, measured).gains}, {"AK": 4, "ML": 4}).loc["classes"]
                        affinity_plus
        row
        AK (n=4)  +0.0 [-56.1, +56.1]
        ML (n=4)  +0.0 [-56.1, +56.1]
    """
    return _interval_table(gains, class_counts, prefix="gain.", overall_prefix="gain.", sign="+")


def p_value_table(tests: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """p-values of each test, adjusted for the number of methods.

    Args:
        tests: For each method the `tests` of `dermaffinity.metrics.comparison.compare`.

    Returns:
        Strings: one column per method; index `part` (the test) and `row` (test and measure). A dash where a test needs
        more folds or seeds than there are.

    Examples:
        >>> import pandas as pd
        >>> from dermaffinity.metrics import Classes, Measured, ScoredImages, compare
        >>> from dermaffinity.report import p_value_table
        >>> scored = ScoredImages.from_table(pd.read_csv("out_of_fold.csv"), Classes(("AK", "ML")))
        >>> measured = Measured.of(scored, resamples=50)
        >>> p_value_table({"affinity_plus": compare(measured, measured).tests}).loc["McNemar"]
                          affinity_plus
        row
        McNemar, accuracy         1.000
    """
    columns = {}
    for method, table in tests.items():
        names = [_TESTS[test] for test in table["test"]]
        rows = [f"{name}, {OVERALL[metric].lower()}" for name, metric in zip(names, table["metric"], strict=True)]
        index = pd.MultiIndex.from_arrays([names, rows], names=["part", "row"])
        columns[method] = pd.Series([p_value(p) for p in table["p_holm"]], index=index)
    return pd.DataFrame(columns)


def verification_table(
    summaries: Mapping[str, pd.DataFrame], accuracies: Mapping[str, Sequence[FoldAccuracy]]
) -> pd.DataFrame:
    """Accuracy as `mean ± standard error` over folds, the other measures as `value [low, high]`, in percent.

    Args:
        summaries: For each method what `dermaffinity.metrics.verification.verification_summary` returns.
        accuracies: For each method and seed its accuracies of the folds; means over seeds are shown.

    Returns:
        Strings: one column per method; index `part` and `row`. A dash where a measure does not exist.
    """
    measures = next(iter(summaries.values())).index
    rows = [("accuracy", "Accuracy ± standard error")]
    rows += [("curve", _VERIFICATION.get(name, name.replace("tar.far_", "TAR at FAR "))) for name in measures]
    columns = {}
    for method, summary in summaries.items():
        seeds = accuracies[method]
        mean = sum(one.mean for one in seeds) / len(seeds)
        error = sum(one.standard_error for one in seeds) / len(seeds)
        values = summary[["value", "low", "high"]].to_numpy()
        columns[method] = [
            f"{100 * mean:.1f} ± {100 * error:.1f}",
            *(percent_interval(value, low, high) for value, low, high in values),
        ]
    return pd.DataFrame(columns, index=pd.MultiIndex.from_tuples(rows, names=["part", "row"]))


def console_table(content: pd.DataFrame, title: str, width: int = 100) -> "Table":
    """A table for rich to print, with a line between the parts.

    Args:
        content: From one of this module's other functions.
        title: Shown above.
        width: Columns of the console. If the table needs more, the intervals go under their values.

    Examples:
        >>> import pandas as pd
        >>> from dermaffinity.report import console_table
        >>> rows = pd.MultiIndex.from_tuples([("classes", "mel"), ("overall", "Accuracy")], names=["part", "row"])
        >>> console_table(pd.DataFrame({"cosen": ["23.2", "67.6"]}, index=rows), "Percent").row_count
        2
    """
    from rich.console import Console

    table = _rich_table(content, title)
    if Console(width=10 * width).measure(table).maximum > width:
        return _rich_table(content.map(lambda cell: cell.replace(" [", "\n[")), title, width)
    return table


def markdown_table(content: pd.DataFrame) -> str:
    """The same as a Markdown table, which ends in a newline.

    Args:
        content: From one of this module's other functions.

    Examples:
        >>> import pandas as pd
        >>> from dermaffinity.report import markdown_table
        >>> rows = pd.MultiIndex.from_tuples([("classes", "mel (n=76)"), ("overall", "Balanced accuracy")])
        >>> print(markdown_table(pd.DataFrame({"cosen": ["23.2", "62.0"]}, index=rows)))
        |  | cosen |
        | --- | ---: |
        | mel (n=76) | 23.2 |
        | Balanced accuracy | 62.0 |
    """
    lines = [_markdown_row(["", *map(str, content.columns)]), _markdown_row(["---", *["---:"] * content.shape[1]])]
    lines += [_markdown_row([row, *values]) for (_, row), values in zip(content.index, content.to_numpy(), strict=True)]
    return "\n".join(lines) + "\n"


def interval_of(summary: pd.DataFrame, metric: str) -> tuple[float, float, float]:
    """Value, lower and upper bound of one metric of a summary."""
    value, low, high = summary.loc[[metric], ["value", "low", "high"]].to_numpy(float)[0]
    return float(value), float(low), float(high)


def percent_interval(value: float, low: float, high: float, sign: str = "") -> str:
    """A fraction with its interval as `value [low, high]` in percent.

    What does not exist is a dash; bounds that do not exist are left out.

    Args:
        value: A fraction, or NaN.
        low: Lower bound.
        high: Upper bound.
        sign: `"+"` to write the sign of what is positive as well.
    """
    if pd.isna(value):
        return "–"
    number = f"{sign}z.1f"  # z: no minus before 0.0
    if pd.isna(low) or pd.isna(high):
        return f"{100 * value:{number}}"
    return f"{100 * value:{number}} [{100 * low:{number}}, {100 * high:{number}}]"


def point_interval(points: pd.DataFrame, name: str, kind: str) -> str:
    """`sensitivity` or `specificity` of a class in `dermaffinity.metrics.operating_points`, in percent."""
    value, low, high = points.loc[[name], [kind, f"{kind}.low", f"{kind}.high"]].to_numpy(float)[0]
    return percent_interval(value, low, high)


def training_rows(summaries: Mapping[str, pd.DataFrame]) -> list[str]:
    """What the trainings of some method report of themselves, which is not in percent: ``training.<name>``."""
    return list(dict.fromkeys(name for one in summaries.values() for name in one.index if name.startswith("training.")))


def training_title(name: str) -> str:
    """What a table calls ``training.<name>``."""
    return f"{name.removeprefix('training.').replace('_', ' ').capitalize()} [least, most]"


def cell(name: str, value: float, low: float, high: float, sign: str = "") -> str:
    """A measure with its interval; what trainings report of themselves as plain numbers, all else in percent."""
    scale = 0.01 if name.startswith("training.") else 1
    return percent_interval(scale * value, scale * low, scale * high, sign)


def p_value(p: float) -> str:
    """A p-value with three digits; a dash where there is none."""
    return "–" if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _interval_table(
    tables: Mapping[str, pd.DataFrame], class_counts: Mapping[str, int], *, prefix: str, overall_prefix: str, sign: str
) -> pd.DataFrame:
    present = next(iter(tables.values())).index
    rows = {("classes", f"{name} (n={count})"): f"{prefix}{name}" for name, count in class_counts.items()}
    rows |= {
        ("overall", title): f"{overall_prefix}{name}"
        for name, title in OVERALL.items()
        if f"{overall_prefix}{name}" in present
    }
    rows |= {("training", training_title(name)): name for name in training_rows(tables)}
    columns = {}
    for method, table in tables.items():
        chosen = table.reindex(list(rows.values()))[["value", "low", "high"]].to_numpy(float)
        columns[method] = [
            cell(name, value, low, high, sign) for name, (value, low, high) in zip(rows.values(), chosen, strict=True)
        ]
    return pd.DataFrame(columns, index=pd.MultiIndex.from_tuples(rows, names=["part", "row"]))


def _rich_table(content: pd.DataFrame, title: str, width: int | None = None) -> "Table":
    """Without a width for a console that is wide enough."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    longest = max(map(len, content.index.get_level_values("row")), default=0)
    # Names stay whole where the numbers do.
    whole = width is not None and longest + _NUMBER * len(content.columns) <= width
    table.add_column("", overflow="fold", no_wrap=whole)
    for method in content.columns:  # folded, since names often differ only in their ends
        table.add_column(Text(method, overflow="fold"), justify="right", overflow="fold")
    parts = list(content.index.get_level_values("part"))
    for (part, row), values, next_part in zip(content.index, content.to_numpy(), [*parts[1:], parts[-1]], strict=True):
        # As text: rich would read the brackets of an interval as markup.
        table.add_row(*(Text(cell) for cell in (row, *values)), end_section=bool(part != next_part))
    return table


def _markdown_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
