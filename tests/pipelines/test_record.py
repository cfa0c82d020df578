import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from made_experiments import CLASSES, COUNTS, made
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "pipelines"))
import record as pipeline

from dermaffinity.experiments.experiment import Experiment
from dermaffinity.metrics.summary import Measured
from dermaffinity.report.tables import console_table


@pytest.fixture(scope="module")
def arms(tmp_path_factory):
    """Arms of which affinity+ errs least."""
    losses = {"logit_adjusted": "LogitAdjustedLoss", "affinity_plus": "AffinityPosteriorLoss"}
    return {
        name: made(
            tmp_path_factory.mktemp(name),
            losses.get(name, "CrossEntropyLoss"),
            noise=0.5 if name == "affinity_plus" else 2.0,
            seed=number,
        )
        for number, name in enumerate(("softmax", "cosen", "cosen_plus", *losses))
    }


@pytest.fixture(scope="module")
def found(arms):
    labels = np.repeat(CLASSES, list(COUNTS.values()))
    facts = {name: np.where(np.arange(400) % 3 > 0, labels, "unknown") for name in pipeline.METADATA}
    images = {"image": [f"{n}.jpg" for n in range(400)], "label": labels, "fold": np.arange(400) % 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Experiment,
            "manifest",
            SimpleNamespace(name="made", rows=pd.DataFrame(images | facts), metadata=list(facts)),
        )
        patch.setitem(Measured.of.__func__.__kwdefaults__, "resamples", 100)  # quick; intervals are tested elsewhere
        patch.setattr(pipeline, "PRIOR_LEFT_OUT", ("logit_adjusted", "affinity_plus"))
        return pipeline.record(arms)


def value(found, part, method, measure="Balanced accuracy"):
    rows = found[(found["part"] == part) & (found["method"] == method) & (found["measure"] == measure)]
    assert len(rows) == 1
    return float(rows["value"].iloc[0])


def test_every_part_has_the_numbers_of_the_experiments(found, arms):
    arm = arms["affinity_plus"]
    told = arm.with_prior(strength=arm.chosen_strengths())
    for name, own in (("affinity_plus", arm), ("affinity_plus, prior", told)):
        for part, results in (
            ("single models", own.out_of_fold),
            ("ensembles of three", own.ensemble().out_of_fold),
            ("external", own.external),
            ("external, ensembles", own.ensemble().external),
        ):
            for measure, title in (("balanced_accuracy", "Balanced accuracy"), ("ece.calibrated", "After calibration")):
                expected = 100 * results.summary.loc[measure, "value"]
                assert value(found, part, name, title) == pytest.approx(expected, abs=0.051)
            error = value(found, part, name, "After calibration")
            assert value(found, "calibration error, calibrated", name, part) == error
    assert value(found, "first seeds averaged", "cosen: 2") == value(found, "ensembles of three", "cosen")
    assert value(found, "first seeds averaged", "cosen: 1") == pytest.approx(
        100 * arms["cosen"].out_of_fold.measured.by_seed["balanced_accuracy"][0], abs=0.051
    )
    strengths = arms["logit_adjusted"].chosen_strengths(reference=arms["softmax"])
    assert value(found, "strength of the prior, as softmax", "logit_adjusted", "fold 1") == strengths[1]


def test_gains_have_the_sign_of_the_better_arm_and_metadata_that_tell_the_class_help(found):
    for base in ("cosen", "cosen_plus", "softmax"):
        assert value(found, f"single models: gain over {base}", "affinity_plus") > 0
    over = found[found["part"] == "single models: gain of affinity_plus"]
    assert set(over["method"]) == {"softmax", "cosen", "cosen_plus", "logit_adjusted", "logit_adjusted, prior"}
    assert value(found, "single models: gain of affinity_plus", "cosen", "p (Holm)") < 0.05
    assert value(found, "ensembles of three: gain over cosen, single models", "affinity_plus") > 0
    for part in ("single models", "external, ensembles"):
        gain = value(found, f"{part}: gain by metadata", "cosen")
        assert gain > 0
        assert value(found, "gain by metadata", "cosen", part) == gain
        before, after = (value(found, f"{part}{kind}", "cosen") for kind in ("", ", with metadata"))
        assert gain == pytest.approx(after - before, abs=0.11)


def test_strengths_are_swept_on_inner_validation_images_and_every_table_can_be_shown(found, arms):
    recalls = [
        value(found, "every strength, inner validation", f"affinity_plus at {s:g}", "Majority recall")
        for s in (0, 0.5, 1)
    ]
    assert recalls == sorted(recalls)
    told = arms["affinity_plus"].with_prior(strength=0.5).inner
    expected = 100 * told.summary.loc["majority_recall", "value"]
    assert recalls[1] == pytest.approx(expected, abs=0.051)
    shown = pipeline.tables(found)
    assert list(shown) == list(dict.fromkeys(found["part"]))
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(console_table(shown["single models: gain over cosen"], "title", 200))
    assert "affinity_plus" in console.export_text()


@pytest.mark.parametrize(
    ("part", "own", "others"),
    [("frozen", pipeline.FROZEN, pipeline.TRAINED), ("printed", pipeline.PRINTED, pipeline.HELD_AGAINST)],
)
def test_methods_of_later_rounds_are_held_against_earlier_arms(arms, part, own, others):
    measured, names = pipeline.PARTS[part]
    assert names == (*own, *others)
    standing_in = dict(zip(own, ("cosen_plus", "logit_adjusted"), strict=False)) | {"affinity": "logit_adjusted"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(Measured.of.__func__.__kwdefaults__, "resamples", 100)
        found = measured({name: arms[standing_in.get(name, name)] for name in names})
    ours, best = (arms[name].external.summary["value"]["balanced_accuracy"] for name in ("cosen_plus", "affinity_plus"))
    assert value(found, "external", own[0]) == pytest.approx(100 * ours, abs=0.051)
    gain = value(found, "external: gain", f"{own[0]} over affinity_plus")
    assert gain == pytest.approx(100 * (ours - best), abs=0.051)
    assert set(found[found["part"] == "out-of-fold"]["method"]) == set(own)
    shown = pipeline.tables(found)  # fewer arms than measures: an arm a column
    assert list(shown["out-of-fold"].columns) == list(own)
    assert "Balanced accuracy" in shown["out-of-fold"].index.get_level_values("row")


def test_means_of_models_are_held_against_what_they_are_of_and_against_one_another(arms):
    of = {
        "cosen_plus_joined": "cosen_plus",
        "logit_adjusted_joined": "logit_adjusted",
        "affinity_joined": "affinity_plus",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(Measured.of.__func__.__kwdefaults__, "resamples", 100)
        patch.setattr(pipeline, "JOINED", {name: (own, "logistic_frozen") for name, own in of.items()})
        found = pipeline.joined({name: arms[own] for name, own in (of | {n: n for n in arms}).items()})
    ensembles = {name: own.ensemble().out_of_fold.summary["value"] for name, own in arms.items()}
    part, single = "ensembles of three", "single models"
    gain = 100 * (ensembles["affinity_plus"] - ensembles["cosen_plus"])["balanced_accuracy"]
    assert value(found, f"{part}: gain over cosen_plus", "affinity_joined") == pytest.approx(gain, abs=0.051)
    assert value(found, f"{part}: gain of affinity_joined", "cosen_plus_joined") == pytest.approx(gain, abs=0.051)
    assert value(found, f"{part}: gain by joining", "logit_adjusted_joined") == 0
    assert value(found, "inner validation: gain by joining", "affinity_joined") == 0
    effect = 100 * (ensembles["affinity_plus"] - arms["cosen"].out_of_fold.summary["value"])["balanced_accuracy"]
    assert value(found, f"{part}: gain over cosen, {single}", "affinity_joined") == pytest.approx(effect, abs=0.051)
    arm = arms["logit_adjusted"]
    told = arm.with_prior(strength=arm.chosen_strengths(reference=arms["softmax"])).out_of_fold.summary["value"]
    measured = value(found, single, "logit_adjusted_joined, prior as softmax")
    assert measured == pytest.approx(100 * told["balanced_accuracy"], abs=0.051)
    assert not found["method"].str.startswith("cosen_plus_joined, prior").any()


def test_of_means_of_several_only_the_chosen_are_scored_beyond_inner_validation(arms):
    of = dict.fromkeys(pipeline.SEVERAL, "logit_adjusted") | {n: n for n in ("softmax", "cosen", "affinity_plus")}
    of |= dict(zip(pipeline.CHOSEN, ("affinity_plus", "logit_adjusted"), strict=True))
    of |= {name: "affinity_plus" if name.startswith("affinity") else "cosen_plus" for name in pipeline.LED}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(Measured.of.__func__.__kwdefaults__, "resamples", 100)
        found = pipeline.several({name: arms[own] for name, own in of.items()})
    candidate, control = pipeline.CHOSEN
    scored = found[found["part"] != "inner validation"]["method"].str.split(",").str[0]
    assert not set(scored) & set(pipeline.SEVERAL) - {candidate, control}
    ensembles = {name: arms[name].ensemble().external.summary["value"] for name in ("affinity_plus", "logit_adjusted")}
    gain = 100 * (ensembles["affinity_plus"] - ensembles["logit_adjusted"])["balanced_accuracy"]
    for name, base, expected in ((candidate, control, gain), (control, candidate, -gain)):
        measured = value(found, f"external, ensembles: gain of {name}", base)
        assert measured == pytest.approx(expected, abs=0.051)
    inner = 100 * arms["logit_adjusted"].inner.summary["value"]["majority_recall"]
    measured = value(found, "inner validation", "affinity_all_joined", "Majority recall")
    assert measured == pytest.approx(inner, abs=0.051)


def test_rivals_with_eight_views_are_held_against_their_own_with_one_and_against_affinity_plus(arms):
    of = dict.fromkeys((*pipeline.EIGHT, *pipeline.WITH_EIGHT), "cosen") | {"affinity_plus": "affinity_plus"}
    of |= {f"{name}_eight": "logit_adjusted" for name in pipeline.EIGHT}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(Measured.of.__func__.__kwdefaults__, "resamples", 100)
        found = pipeline.eight({name: arms[own] for name, own in of.items()})
    one, eight, ours = (
        100 * arms[name].out_of_fold.summary["value"]["balanced_accuracy"]
        for name in ("cosen", "logit_adjusted", "affinity_plus")
    )
    assert value(found, "single models", "vs_eight") == pytest.approx(eight, abs=0.051)
    assert value(found, "single models: gain by eight views", "vs") == pytest.approx(eight - one, abs=0.051)
    over = found[found["part"] == "single models: gain of affinity_plus"]
    assert set(over["method"]) == {"cosen_plus", "balanced_softmax_plus", *(f"{n}_eight" for n in pipeline.EIGHT)}
    measured = value(found, "single models: gain of affinity_plus", "vs_eight")
    assert measured == pytest.approx(ours - eight, abs=0.051)
    assert 0 < value(found, "single models: gain of affinity_plus", "vs_eight", "p (Holm)") <= 1


def test_every_part_names_experiments_that_can_be_made():
    configs = {path.stem for path in (Path(pipeline.__file__).parents[1] / "configs" / "methods").glob("*.yaml")}
    made = {**pipeline.JOINED, **pipeline.SEVERAL, **{f"{name}_eight": (name,) for name in pipeline.EIGHT}}
    for _, names in pipeline.PARTS.values():
        for name in names:
            assert set(made.get(name, (name,))) <= configs
