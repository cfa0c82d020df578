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


def test_a_slip_of_the_pen_leaves_a_column_of_numbers_one_and_says_nothing():
    rows = pd.DataFrame({"label": ["mel"] * 10 + ["nv"] * 10, "age": [str(age) for age in range(60, 80)]})
    clean = MetadataEvidence.of(rows.drop(index=[3, 12]), ["age"], ("mel", "nv"))
    odd = rows.assign(age=rows["age"].where(~rows.index.isin([3, 12]), "eighty"))  # one in ten
    known = MetadataEvidence.of(odd, ["age"], ("mel", "nv"))
    assert known == clean
    assert known(pd.DataFrame({"age": ["eighty", "inf", "44"]})).any(axis=1).tolist() == [False, False, True]
    more = MetadataEvidence.of(odd.assign(age=odd["age"].replace("61", "sixty")), ["age"], ("mel", "nv"))
    assert more.columns["age"].edges == ()
    assert {"eighty", "sixty", "79"} < set(more.columns["age"].evidence)


def test_a_number_among_texts_is_the_same_however_it_is_written():
    rows = pd.DataFrame({"label": ["mel", "nv"] * 4, "type": ["1", "2", "1.0", "a", 1, "b", 1.0, "007"]})
    known = MetadataEvidence.of(rows, ["type"], ("mel", "nv"), smoothing=1)
    assert set(known.columns["type"].evidence) == {"1", "2", "a", "b", "007"}
    asked = [known(pd.DataFrame({"type": one})) for one in (["1"] * 2, ["1.0", " 1 "], [1, 1], [1.0, 1.0])]
    assert asked[0][0, 0] > 0
    assert all((one == asked[0]).all() for one in asked)
    # A model of an earlier version has numbers as its table wrote them.
    earlier = {"columns": {"type": {"edges": (), "evidence": {"1.0": (0.5, -0.5), "NA": (1, 1)}}}}
    found = MetadataEvidence.model_validate(earlier)(pd.DataFrame({"type": ["1", "1.0", "NA"]}))
    assert found.tolist() == [[0.5, -0.5], [0.5, -0.5], [0, 0]]


def test_marks_of_what_is_missing_are_no_category():
    marks = ["NA", "n/a", "<NA>", "-", "?", "null", "NaN", "unknown", "", None, np.nan, pd.NA]
    rows = pd.DataFrame({"label": ["mel", "nv"] * 8, "site": ["face", "back"] * 2 + marks})
    known = MetadataEvidence.of(rows, ["site"], ("mel", "nv"))
    assert known == MetadataEvidence.of(rows[:4], ["site"], ("mel", "nv"))
    assert (known(rows[4:]) == 0).all()
    nothing = MetadataEvidence.of(rows[4:], ["site"], ("mel", "nv"))
    assert nothing(rows).tolist() == [[0, 0]] * 16


def test_values_in_another_case_and_decimal_commas_are_the_same():
    known = MetadataEvidence.of(ROWS.assign(age=ROWS["age"] + 0.5), ["site", "age"], ("mel", "nv"))
    other = ROWS.assign(site=ROWS["site"].str.upper(), age=[str(age + 0.5).replace(".", ",") for age in ROWS["age"]])
    assert (known(other) == known(ROWS.assign(age=ROWS["age"] + 0.5))).all()
    assert known(other[["age"]]).any(axis=1).sum() == 11
    mixed = MetadataEvidence.of(ROWS.assign(site=["Face", "FACE", *ROWS["site"][2:]]), ["site"], ("mel", "nv"))
    assert mixed == MetadataEvidence.of(ROWS, ["site"], ("mel", "nv"))


def test_it_is_told_which_values_are_heard():
    known = MetadataEvidence.of(ROWS, ["site", "age"], ("mel", "nv"))
    asked = pd.DataFrame({"Localization": ["sole", "Face", "n/a", None], "age": ["44 years", 44, "unknown", "85+"]})
    assert known.heard(asked).to_dict("list") == {
        "site": [False, True, False, False],
        "age": [False, True, False, True],
    }
    assert known.heard(ROWS[["site"]]).sum().tolist() == [10, 0]
    assert not known.heard(pd.DataFrame(index=[3, 4])).to_numpy().any()


def test_other_tables_may_call_columns_and_sexes_otherwise():
    rows = ROWS.assign(sex=["female"] * 4 + ["male"] * 8).rename(columns={"age": "age_approx"})
    known = MetadataEvidence.of(rows, ["age_approx", "sex", "site"], ("mel", "nv"))
    other = rows.assign(sex=["f", "F", "Female", " f "] + ["M"] * 8)
    renamed = other.rename(columns={"age_approx": "Age", "sex": "GENDER", "site": "localization"})
    assert (known(renamed) == known(rows)).all()
    assert known(renamed[["GENDER"]]).any(axis=1).all()
    short = MetadataEvidence.of(rows.assign(sex=["F"] * 4 + ["M"] * 8), ["sex"], ("mel", "nv"))
    assert (short(renamed) == MetadataEvidence.of(rows, ["sex"], ("mel", "nv"))(rows)).all()
