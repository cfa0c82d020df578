"""Answers for other class frequencies: Bayes' rule after the temperature, kept with the model."""

import json

import numpy as np
import pandas as pd
import pytest

from dermaffinity import LesionClassifier
from dermaffinity.cli import _with_prior
from dermaffinity.errors import ConfigError
from dermaffinity.inference.model_folder import join_models, read_description

PICTURES = [np.random.default_rng(n).integers(0, 256, (40, 50, 3), dtype=np.uint8) for n in range(6)]
# Of the toy's two fold models: the shares in training and those their probabilities assume, means of logarithms.
SHARES = (np.log([0.2, 0.1, 0.7]) + np.log([0.2, 0.2, 0.6])) / 2
ASSUMED = np.array([0, 0, 0.25])


@pytest.fixture(scope="module")
def classifier(toy_model):
    return LesionClassifier.load(toy_model)


def bayes(probabilities, evidence):
    odds = probabilities * np.exp(evidence)
    return odds / odds.sum(axis=1, keepdims=True)


def test_frequencies_of_a_clinic_re_weight_the_calibrated_probabilities(classifier):
    before = classifier.predict_proba(PICTURES)
    told = classifier.with_prior({"ML": 90, "AK": 8, "BCC": 2})
    expected = bayes(before, np.log([0.08, 0.02, 0.9]) - ASSUMED)
    assert told.predict_proba(PICTURES) == pytest.approx(expected, abs=1e-6)
    assert told.predict(PICTURES).tolist() == classifier.classes_[expected.argmax(axis=1)].tolist()
    assert classifier.predict_proba(PICTURES) == pytest.approx(before, abs=1e-12), "the first one is as it was"
    assert told.predict_proba(PICTURES, calibrated=False) == pytest.approx(
        classifier.predict_proba(PICTURES, calibrated=False)
    )


def test_a_strength_is_a_power_of_the_shares_in_training(classifier):
    before = classifier.predict_proba(PICTURES)
    for strength in (0.0, 0.5, 1.0):
        found = classifier.with_prior(strength=strength).predict_proba(PICTURES)
        assert found == pytest.approx(bayes(before, strength * SHARES - ASSUMED), abs=1e-6)
    shares = dict(zip(classifier.classes_, np.exp(SHARES), strict=True))
    assert classifier.with_prior(shares).predict_proba(PICTURES) == pytest.approx(found, abs=1e-6)
    equal = classifier.with_prior(dict.fromkeys(classifier.classes_, 5)).predict_proba(PICTURES)
    assert equal == pytest.approx(classifier.with_prior(strength=0).predict_proba(PICTURES), abs=1e-6)


def test_the_frequencies_that_are_assumed_change_nothing(classifier):
    assumed = dict(zip(classifier.classes_, np.exp(ASSUMED), strict=True))
    same = classifier.with_prior(assumed)
    assert same.predict_proba(PICTURES) == pytest.approx(classifier.predict_proba(PICTURES), abs=1e-6)


def test_what_is_told_last_counts_and_novelty_and_sets_stay(classifier):
    told = classifier.with_prior({"ML": 1, "AK": 1, "BCC": 1000})
    again = told.with_prior(strength=1.0)
    expected = classifier.with_prior(strength=1.0).predict_proba(PICTURES)
    assert again.predict_proba(PICTURES) == pytest.approx(expected, abs=1e-12)
    before, after = classifier.assess(PICTURES), told.assess(PICTURES)
    for name in ("novelty", "p_values", "embedding"):
        assert getattr(after, name) == pytest.approx(getattr(before, name)), name
    assert [set(one) for one in told.predict_sets(PICTURES)] == [set(one) for one in classifier.predict_sets(PICTURES)]


def test_what_is_told_is_kept_with_the_model_and_its_digest_fits(toy_model, classifier, tmp_path):
    told = classifier.with_prior({"ML": 0.9, "AK": 0.08, "BCC": 0.02})
    folders = [toy_model / "fold-0", toy_model / "fold-1"]
    join_models(folders, tmp_path, classifier.description.temperature, told.description.told)
    assert read_description(tmp_path) == told.description
    assert LesionClassifier.load(tmp_path).predict_proba(PICTURES) == pytest.approx(told.predict_proba(PICTURES))
    assert json.loads((tmp_path / "classifier.json").read_text())["told"] == list(told.description.told)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, "either the frequencies of the classes or a strength"),
        ({"strength": -0.1}, r"0 for equally frequent classes, 1 for the library's, at most 2; got -0.1"),
        ({"strength": "x"}, "at most 2; got 'x'"),
        ({"strength": float("nan")}, "at most 2; got nan"),
        ({"frequencies": {"AK": 1, "ML": 1}}, "a positive number; missing: BCC$"),
        ({"frequencies": {"AK": 1, "ML": 1, "BCC": 0}}, "a positive number; not a positive number: BCC 0$"),
        (
            {"frequencies": {"ak": 1, "ML": "5%", "BCC": float("inf"), "nv": 1}},
            r"missing: AK; unknown: 'ak' \(is it 'AK'\?\), 'nv'; not a positive number: ML '5%', BCC inf$",
        ),
        ({"frequencies": pd.Series([1, 2, 3, 4], index=["AK", "BCC", "ML", "ML"])}, "several numbers for ML"),
    ],
)
def test_what_cannot_be_told_is_refused(classifier, words, message):
    with pytest.raises(ValueError, match=message):
        classifier.with_prior(**words)


@pytest.mark.parametrize(
    ("frequencies", "message"),
    [
        (0.5, r"numbers by class, as a dict or pandas Series, .*, got float; a strength is given as strength=0\.5"),
        ([0.2, 0.3, 0.5], "got list$"),
    ],
)
def test_frequencies_that_are_not_by_class_are_refused(classifier, frequencies, message):
    with pytest.raises(TypeError, match=message):
        classifier.with_prior(frequencies)


def test_what_value_counts_gives_are_frequencies(classifier):
    counts = pd.Series(["ML"] * 90 + ["AK"] * 8 + ["BCC"] * 2).value_counts()
    expected = classifier.with_prior({"ML": 90, "AK": 8, "BCC": 2})
    assert classifier.with_prior(counts).description.told == expected.description.told


def test_the_command_line_tells_frequencies_as_well(toy_model, tmp_path, monkeypatch):
    from PIL import Image
    from typer.testing import CliRunner

    from dermaffinity.cli import app

    Image.fromarray(PICTURES[0]).save(tmp_path / "lesion.png")
    monkeypatch.chdir(tmp_path)
    words = ["predict", str(toy_model), "lesion.png", "--quiet", "--prior"]
    for text, told in (("AK=0.9,BCC=0.05,ML=0.05", {"AK": 0.9, "BCC": 0.05, "ML": 0.05}), ("0.5", None)):
        assert CliRunner().invoke(app, [*words, text]).exit_code == 0
        found = pd.read_csv("predictions.csv")[["p.AK", "p.BCC", "p.ML"]].to_numpy()
        classifier = LesionClassifier.load(toy_model)
        asked = classifier.with_prior(told) if told else classifier.with_prior(strength=0.5)
        assert found == pytest.approx(asked.predict_proba("lesion.png"), abs=1e-5)
    refused = CliRunner().invoke(app, [*words[:-1], "--prior=-1"])
    assert isinstance(refused.exception, ConfigError)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("much", "at most 2; got 'much'"),
        ("-1", "at most 2; got -1.0"),
        ("nan", "at most 2; got nan"),
        ("inf", "at most 2; got inf"),
        ("7", "at most 2; got 7.0"),
        ("0,5", "at most 2; got '0,5'"),
        ("AK=0.9", "missing: BCC, ML"),
        ("AK=1,BCC=1,ML=x", "not a positive number: ML 'x'"),
        ("ak=5%,BCC=1,ML=1", r"missing: AK; unknown: 'ak' \(is it 'AK'\?\)"),
        ("AK=5%,BCC=1,ML=1", "not a positive number: AK '5%'"),
        ("AK=1,BCC=1,ML=1,", r"'' between commas is no CLASS=SHARE \(decimals have a point\)"),
        ("AK=0,5,BCC=1,ML=1", r"'5' between commas .*; .*not a positive number: AK 0\.0"),
        ("AK=1,BCC=1,ML=1,AK=3", "'AK' is there twice"),
    ],
)
def test_the_command_line_says_what_is_wrong_with_frequencies(classifier, text, problem):
    with pytest.raises(ConfigError, match=rf"every class with its share; .*{problem}.* For example --prior AK=0\.33,B"):
        _with_prior(classifier, text)
