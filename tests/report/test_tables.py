import io

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from dermaffinity.metrics.verification import FoldAccuracy
from dermaffinity.report.tables import (
    console_table,
    gains_table,
    markdown_table,
    p_value_table,
    results_table,
    verification_table,
)

COUNTS = {"ML": 331, "PYO": 24}


def intervals(rows):
    return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"]).rename_axis("metric")


SUMMARY = intervals(
    {
        "balanced_accuracy": (0.8249, 0.7, 0.9),
        "recall.ML": (0.9, 0.8631, 0.9277),
        "recall.PYO": (0.75, 0.5510, 0.8800),
        "brier": (0.3, 0.2, 0.4),
    }
)


def printed(table, width):
    console = Console(width=width, color_system=None, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text().splitlines()


def test_results_are_percent_with_intervals_classes_first():
    content = results_table({"cosen": SUMMARY, "affinity": SUMMARY}, COUNTS)
    assert list(content.columns) == ["cosen", "affinity"]
    assert content["cosen"].to_dict() == {
        ("classes", "ML (n=331)"): "90.0 [86.3, 92.8]",
        ("classes", "PYO (n=24)"): "75.0 [55.1, 88.0]",
        ("overall", "Balanced accuracy"): "82.5 [70.0, 90.0]",
    }


def test_what_trainings_report_is_a_plain_number_and_a_dash_for_the_other_methods():
    cosen = pd.concat([SUMMARY, intervals({"training.largest_cost_ratio": (4.25, 2.71, 9.5)})])
    content = results_table({"affinity": SUMMARY, "cosen": cosen}, COUNTS)
    assert content.loc[("training", "Largest cost ratio [least, most]")].to_dict() == {
        "affinity": "–",
        "cosen": "4.2 [2.7, 9.5]",
    }


def test_gains_carry_their_sign_and_zero_has_no_minus():
    gains = intervals({"gain.ML": (-0.0001, -0.02, 0.02), "gain.PYO": (0.125, 0.0, 0.25)})
    content = gains_table({"affinity": gains}, COUNTS)
    assert content["affinity"].tolist() == ["+0.0 [-2.0, +2.0]", "+12.5 [+0.0, +25.0]"]


def test_a_class_without_images_is_a_dash():
    empty = intervals({"recall.ML": (0.5, 0.4, 0.6), "recall.PYO": (np.nan, np.nan, np.nan)})
    assert results_table({"cosen": empty}, COUNTS)["cosen"].tolist() == ["50.0 [40.0, 60.0]", "–"]


def test_p_values_are_the_adjusted_ones_in_words():
    tests = pd.DataFrame(
        {
            "test": ["mcnemar", "sign_flip", "corrected_t"],
            "metric": ["accuracy", "minority_recall", "balanced_accuracy"],
            "p": [0.02, 0.0001, np.nan],
            "p_holm": [0.04, 0.0002, np.nan],
        }
    )
    assert p_value_table({"affinity": tests})["affinity"].to_dict() == {
        ("McNemar", "McNemar, accuracy"): "0.040",
        ("Sign flip", "Sign flip, minority recall"): "< 0.001",
        ("Corrected t", "Corrected t, balanced accuracy"): "–",
    }


def test_markdown_worked_example():
    assert markdown_table(results_table({"cosen": SUMMARY}, COUNTS)) == (
        "|  | cosen |\n"
        "| --- | ---: |\n"
        "| ML (n=331) | 90.0 [86.3, 92.8] |\n"
        "| PYO (n=24) | 75.0 [55.1, 88.0] |\n"
        "| Balanced accuracy | 82.5 [70.0, 90.0] |\n"
    )


@pytest.mark.parametrize(("methods", "width"), [(2, 80), (4, 100), (4, 80)])
def test_console_table_fits_and_loses_no_number(methods, width):
    content = results_table({f"method_{k}": SUMMARY for k in range(methods)}, COUNTS)
    lines = printed(console_table(content, "Recall", width), width)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    assert text.count("75.0") == text.count("[55.1, 88.0]") == methods
    assert "…" not in text


def test_long_names_of_methods_are_never_cut():
    methods = [f"a-library-with-a-long-name_{method}" for method in ("affinity_frozen", "affinity_plus", "cosen")]
    lines = printed(console_table(results_table(dict.fromkeys(methods, SUMMARY), COUNTS), "Recall", 80), 80)
    assert not any("…" in line for line in lines)


@pytest.mark.parametrize(("count", "whole"), [(3, True), (9, False)])  # at 80 columns nine numbers need the names' room
def test_names_of_rows_stay_whole_where_the_numbers_do(count, whole):
    name = "demo_balanced_softmax_plus"
    index = pd.MultiIndex.from_tuples([("methods", name)], names=["part", "row"])
    cells = {f"measure_{number}": ["61.2 [56.8, 65.7]"] for number in range(count)}
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(console_table(pd.DataFrame(cells, index=index), "title", 80))
    text = console.export_text()
    assert (name in text) == whole
    assert text.count("61.2") == count


def test_console_table_puts_intervals_on_their_own_line_only_when_narrow():
    content = results_table({f"method_{k}": SUMMARY for k in range(4)}, COUNTS)
    assert any("75.0 [55.1, 88.0]" in line for line in printed(console_table(content, "Recall", 100), 100))
    assert not any("75.0 [" in line for line in printed(console_table(content, "Recall", 80), 80))


def test_verification_is_accuracy_with_its_standard_error_and_then_the_curve():
    rows = {"auc": (0.95, 0.9, 0.99), "tar.far_0.01": (0.8, np.nan, np.nan), "tar.far_0.001": (np.nan,) * 3}
    # Accuracies 0.8 and 1.0: mean 0.9, standard deviation 0.1414, over √2 folds 0.1; the other seed has 0.7 and 0.
    seeds = [FoldAccuracy(np.array(values), np.zeros(2)) for values in ([0.8, 1.0], [0.7, 0.7])]
    content = verification_table({"affinity": intervals(rows)}, {"affinity": seeds})
    assert content["affinity"].to_dict() == {
        ("accuracy", "Accuracy ± standard error"): "80.0 ± 5.0",
        ("curve", "AUC"): "95.0 [90.0, 99.0]",
        ("curve", "TAR at FAR 0.01"): "80.0",
        ("curve", "TAR at FAR 0.001"): "–",
    }
