import numpy as np
import pandas as pd
import pytest

from dermaffinity.inference.metadata import MetadataEvidence

ROWS = pd.DataFrame(
    {
        "label": ["mel"] * 4 + ["nv"] * 8,
        "site": ["face", "face", "face", "back"] + ["face"] + ["back"] * 5 + ["unknown", None],
        "age": [70, 80, 75, 60, 20, 25, 30, 35, 40, 45, 50, np.nan],
    }
)


def test_worked_example():
    known = MetadataEvidence.of(ROWS, ["site"], ("mel", "nv"), smoothing=2)
    # Of ten images with a site four are faces: 3 of 4 melanomas, 1 of 6 nevi. Two more of each, 0.8 of them faces.
    expected = np.log([[3.8 / 6 / 0.4, 1.8 / 8 / 0.4], [2.2 / 6 / 0.6, 6.2 / 8 / 0.6]])
    assert known(pd.DataFrame({"site": ["face", "back"]})) == pytest.approx(expected)


def test_what_is_missing_unknown_or_new_says_nothing():
    known = MetadataEvidence.of(ROWS, ["site", "age"], ("mel", "nv"))
    nothing = pd.DataFrame({"site": [None, "", "Unknown", "sole"], "age": [np.nan, None, "", "unknown"]})
    assert (known(nothing) == 0).all()
    assert (known(pd.DataFrame({"other": [1, 2]})) == 0).all()


def test_columns_are_added_and_without_images_of_a_class_say_nothing_of_it():
    site, age = (MetadataEvidence.of(ROWS, [name], ("mel", "nv", "df")) for name in ("site", "age"))
    both = MetadataEvidence.of(ROWS, ["site", "age"], ("mel", "nv", "df"))
    assert both(ROWS) == pytest.approx(site(ROWS) + age(ROWS))
    assert both(ROWS)[:, 2] == pytest.approx(0)


def test_numbers_count_by_bins_and_may_be_texts():
    known = MetadataEvidence.of(ROWS, ["age"], ("mel", "nv"), smoothing=1)
    assert known.columns["age"].edges == pytest.approx([30, 40, 50, 70])  # fifths of eleven ages
    asked = known(pd.DataFrame({"age": ["85", "70", "69.9", "5"]}))
    assert (asked[0] == asked[1]).all()
    assert asked[0, 0] > 0 > asked[0, 1]
    assert (asked[1] != asked[2]).all()
    assert asked[3, 0] < 0 < asked[3, 1]


def test_smoothing_without_end_leaves_nothing_and_texts_survive_a_file():
    known = MetadataEvidence.of(ROWS, ["site", "age"], ("mel", "nv"), smoothing=1e9)
    assert known(ROWS) == pytest.approx(0, abs=1e-6)
    again = MetadataEvidence.model_validate_json(known.model_dump_json())
    assert (again(ROWS) == known(ROWS)).all()
