import numpy as np
import pandas as pd
import pytest

from dermaffinity.data.labels import (
    ImageNames,
    found_images,
    holds_numbers,
    joined_groups,
    known_numbers,
    known_texts,
    numbers_as_written,
    usual_sexes,
    with_usual_names,
)

IMAGES = ["a.zip/x/ISIC_1.jpg", "b/ISIC_2_downsampled.JPG", "b/1.png", "c/1.png", "b/v1.2", "d/Same.jpg", "d/same.jpg"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("ISIC_1", [IMAGES[0]]),
        ("isic_1.jpg", [IMAGES[0]]),
        ("x/ISIC_1", [IMAGES[0]]),
        ("./x\\ISIC_1.png", [IMAGES[0]]),
        ("y/ISIC_1", []),
        ("ISIC_2_downsampled", [IMAGES[1]]),
        ("ISIC_2", []),
        ("1", ["b/1.png", "c/1.png"]),
        ("c/1", ["c/1.png"]),
        ("v1.2", ["b/v1.2"]),
        ("d/same.jpg", ["d/same.jpg"]),
        ("SAME", ["d/Same.jpg", "d/same.jpg"]),
    ],
)
def test_an_image_is_found_by_path_name_or_id_in_any_folder_or_archive(name, found):
    assert ImageNames(IMAGES).find(name) == found


def test_names_that_mean_none_or_several_are_told_with_what_is_near():
    names = pd.Series(["ISIC_1", "1", "ISIC_3", ""], index=[2, 3, 4, 5])
    found, unknown, problems = found_images(names, ImageNames(IMAGES), "image")
    assert found.tolist() == [IMAGES[0], "b/1.png", "", ""]
    assert unknown.tolist() == [False, False, True, False]
    assert problems == [
        "1 image that may mean several files, such as '1': b/1.png, c/1.png. Give the paths, or keep one copy of "
        "each: 1"
    ]
    assert ImageNames(IMAGES).near("ISIC_3") == ["ISIC_1.jpg"]
    assert ImageNames([]).near("ISIC_3") == []


def test_images_that_share_a_key_directly_or_by_way_of_others_share_a_group():
    keys = pd.DataFrame(
        {"patient": ["3", "", "3", "", "", ""], "lesion": ["L1", "L1", "L2", "3", "3", ""]},
    )
    assert joined_groups(keys, list("abcdef")) == ["3", "3", "3", "lesion 3", "lesion 3", "f"]
    assert joined_groups(keys[[]], ["a", "b", "c", "d", "e", "f"]) == list("abcdef")


def test_decimal_commas_become_points_and_units_are_refused():
    assert numbers_as_written(pd.Series(["1,5", "", "2"]), "age")[0].tolist() == ["1.5", "", "2"]
    _, problems = numbers_as_written(pd.Series(["45", "46 y", "3mm"], index=[2, 3, 4]), "age")
    assert problems == [
        "column 'age': 2 cells with a unit: '3mm' (line 4), '46 y' (line 3). Write the numbers alone, all in one unit"
    ]
    marked = pd.Series(["44", "NA", "45,5", "", "unknown"])
    assert numbers_as_written(marked, "age")[0].tolist() == ["44", "", "45.5", "", ""]
    none = pd.Series(["none", "3", "12"])  # of nevi, none are a number
    assert numbers_as_written(none, "nevi")[0].tolist() == none.tolist()
    sites = pd.Series(["face", "NA", "unknown"])
    assert numbers_as_written(sites, "site")[0].tolist() == sites.tolist()
    nothing = pd.Series(["", "unknown"])
    assert numbers_as_written(nothing, "age") == (nothing, [])
    codes = pd.Series(["12a", "1,5", "3 cm"])
    assert numbers_as_written(codes, "code")[0].tolist() == codes.tolist()
    assert not numbers_as_written(codes, "code")[1]


def test_numbers_are_known_however_they_are_written_and_codes_are_none():
    written = pd.Series(["44", "44.0", " 45,5 ", "90+", ">90", "≥ 90", "007", "44 y", "inf", "none", "n/a", "", None])
    assert known_numbers(written).tolist() == pytest.approx([44, 44, 45.5, 90, 90, 90] + [np.nan] * 7, nan_ok=True)
    assert known_texts(written).tolist()[:2] == ["44", "44"]
    assert known_texts(written).notna().tolist() == [True] * 10 + [False] * 3
    assert holds_numbers(pd.Series([44, None, 3], dtype="Int64"))
    assert holds_numbers(pd.Series(["44"] * 9 + ["old"]))
    for texts in (["44"] * 8 + ["old"], ["001", "002"], ["", "NA"], ["yes", "no"]):
        assert not holds_numbers(pd.Series(texts))


def test_age_sex_site_and_skin_tone_have_one_name_whatever_the_library_calls_them():
    rows = pd.DataFrame({"Age_Approx": ["45"], "gender": ["M"], "localization": ["back"], "fitspatrick": ["2"]})
    assert with_usual_names(rows).iloc[0].to_dict() == {"age": "45", "sex": "male", "site": "back", "skin_tone": "2"}
    assert usual_sexes(pd.Series(["W", "männlich", "Female", "divers"])).tolist() == [
        "female", "male", "female", "divers",
    ]  # fmt: skip
    both = pd.DataFrame({"age": ["44"], "age_approx": ["45"]})
    assert with_usual_names(both).iloc[0].to_dict() == {"age": "44", "age_approx": "45"}
    cases = pd.DataFrame({"Age": ["45"], "age": ["44"]})
    assert with_usual_names(cases).iloc[0].to_dict() == {"Age": "45", "age": "44"}
