import numpy as np
import pytest

from dermaffinity.metrics.subgroups import subgroup_gaps


def test_a_subgroup_with_harder_diagnoses_has_no_gap():
    labels = np.array([0] * 60 + [1] * 60)
    right = np.array([1, 1, 1, 0] * 15 + [1, 0, 0, 0] * 15)  # 75 % and 25 %, in every stretch of four
    sites = np.array(["face"] * 20 + ["back"] * 40 + ["face"] * 40 + ["back"] * 20)
    table = subgroup_gaps(labels, right, sites, np.arange(120))
    assert table.loc["face", "recognized"] == pytest.approx((20 * 0.75 + 40 * 0.25) / 60)
    np.testing.assert_allclose(table["gap"], 0, atol=1e-12)
    assert (table["low"] < 0).all()
    assert (table["high"] > 0).all()
    assert table["images"].tolist() == [60, 60]


def test_a_gap_is_found_and_patients_with_many_images_widen_its_interval():
    rng = np.random.default_rng(0)
    sex = np.repeat(["f", "m"], 300)
    right = rng.random(600) < np.where(sex == "f", 0.9, 0.6)
    labels = rng.integers(2, size=600)
    single = subgroup_gaps(labels, right, sex, np.arange(600))
    assert single.loc["f", "low"] > 0
    assert single.loc["m", "high"] < 0
    alike = np.repeat(right[::10], 10)  # ten images of a patient, all right or all wrong
    patients = subgroup_gaps(np.repeat(labels[::10], 10), alike, sex, np.arange(600) // 10)
    assert (patients["high"] - patients["low"]).min() > 2 * (single["high"] - single["low"]).max()
