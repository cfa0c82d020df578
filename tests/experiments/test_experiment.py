"""The experiment as an object: what a notebook works with."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from made_experiments import CLASSES, COUNTS, made
from rich.console import Console

import dermaffinity as da
from dermaffinity.config import read_config
from dermaffinity.errors import ComparisonError, ConfigError, DataError
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.results import arrays, prediction_table
from dermaffinity.experiments.run import Plan, config_on, run_experiments
from dermaffinity.inference.metadata import MetadataEvidence
from dermaffinity.metrics.reliability import fit_temperature, with_temperature
from dermaffinity.training.calibration import ensemble_temperature


@pytest.fixture(scope="module")
def tiny(uninterrupted) -> Experiment:
    return da.Experiment.open("tiny", uninterrupted / "runs")


def test_recall_has_a_row_per_class_and_is_what_the_predictions_say(tiny):
    recall, table = tiny.recall(), tiny.predictions()
    right = (table["label"] == table["predicted"]).groupby(table["label"]).mean()
    assert recall.index.name == "class"
    assert recall["value"].to_dict() == pytest.approx(right.to_dict())
    assert (recall["low"] <= recall["value"]).all()
    assert (recall["value"] <= recall["high"]).all()
    assert recall["images"].to_dict() == table["label"].value_counts().to_dict()


def test_calibrated_results_are_each_models_at_its_own_temperature(tiny):
    classes, calibrated = tiny.classes, tiny.out_of_fold.calibrated
    for fold in range(3):
        own = tiny.out_of_fold.table.query("fold == @fold")[classes.columns].to_numpy()
        expected = with_temperature(own, tiny.models[fold, 0].fold_models[0].calibration.temperature)
        assert calibrated.query("fold == @fold")[classes.columns].to_numpy() == pytest.approx(expected)
    assert {"ece.calibrated", "brier.calibrated"} < set(tiny.measures().index)


def test_an_experiment_of_some_jobs_knows_only_these(tiny):
    part = Experiment(tiny.path, jobs=[tiny.job(1, 0)])
    assert not part.complete
    assert set(part.predictions()["fold"]) == {1}
    assert part.joint_temperatures == {}
    assert part.measures().loc["accuracy", "value"] == pytest.approx(tiny.job(1, 0).metrics()["accuracy"])


def test_it_compares_reports_and_classifies(tiny, tmp_path):
    with pytest.raises(ComparisonError, match="nothing to compare tiny with"):
        tiny.compare(tiny.path)
    written = tiny.report(tmp_path / "report.html", images=False)
    assert "tiny" in written.path.read_text()
    assert tiny.classifier().classes_.tolist() == list(tiny.classes.names)


def test_a_notebook_shows_tables_and_figures(tiny):
    shown = tiny._repr_html_()
    assert "3-fold cross-validation of tiny on phantom-5, group protocol: percent [95 % interval]" in shown
    assert "<table" in shown
    assert "data:image/png;base64," in shown
    assert repr(tiny) == "<Experiment 3-fold cross-validation of tiny on phantom-5, group protocol>"
    some = Experiment(tiny.path, jobs=[tiny.job(1, 0)])
    assert "1 jobs finished, some folds are still to be run" in some._repr_html_()
    assert "Not a medical device" in tiny.classifier()._repr_html_()
    manifest = tiny.manifest._repr_html_()
    assert f"split {tiny.record.split_hash[:12]}" in manifest
    assert "<th>AK</th>" in manifest


def test_a_library_is_prepared_and_verified(phantom_library, tmp_path):
    notes = []
    manifest = da.prepare(
        "phantom", phantom_library, experiment="5-class", folds=3, out=tmp_path / "mine.csv", on_note=notes.append
    )
    assert (manifest.path, manifest.root) == (tmp_path / "mine.csv", phantom_library.resolve())
    assert da.verify(tmp_path / "mine.csv").manifest.split_hash == manifest.split_hash
    with pytest.raises(ConfigError, match="phantom: these options cannot be used") as caught:
        da.prepare("phantom", phantom_library, experiment="9-class", color="red")
    assert len(caught.value.problems) == 2


def test_a_method_on_a_manifest_is_an_experiment_of_its_name(phantom_library, tmp_path):
    manifest = da.prepare("phantom", phantom_library, experiment="5-class", out=tmp_path / "mine.csv")
    config = config_on("cosen", manifest, ["training.epochs=2"])
    assert (config.name, config.data.manifest, config.training.epochs) == ("mine_cosen", tmp_path / "mine.csv", 2)
    assert config.loss == read_config("library_cosen").loss
    assert config_on("demo_affinity", str(manifest.path), ()).name == "mine_affinity"
    with pytest.raises(ConfigError, match="there is no config cosin"):
        config_on("cosin", manifest, ())


def test_predictions_are_a_table(tiny, tmp_path):
    from PIL import Image

    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "black.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match="broken.png"):
        table = da.predict(tiny.path, [tmp_path], out=tmp_path / "predictions.csv")
    assert table["image"].tolist() == [str(tmp_path / "black.png")]
    assert table[tiny.classes.columns].sum(axis=1).tolist() == pytest.approx([1])
    assert set(table["set"][0]) <= set(tiny.classes.names)


def probabilities(table, fold=None):
    """(N, C), in the order of the images."""
    table = table if fold is None else table[table["fold"] == fold]
    return table.sort_values(["fold", "seed", "image"])[[f"p.{name}" for name in CLASSES]].to_numpy()


def log_share(experiment, fold, seed=0):
    """Of the images that a model was fitted to: those of the other folds without its inner validation part."""
    job, counts = experiment.job(fold, seed).path, pd.Series(experiment.record.class_counts)
    unseen = pd.concat([pd.read_csv(job / f"{name}.csv")["label"] for name in ("predictions", "validation")])
    counts = counts.sub(unseen.value_counts(), fill_value=0)[list(experiment.classes.names)]
    return np.log(counts / counts.sum()).to_numpy()


def test_class_frequencies_are_told_after_the_temperature_by_bayes_rule(tmp_path):
    plain = made(tmp_path, "LogitAdjustedLoss", seeds=1)
    calibrated = plain.out_of_fold.calibrated
    for fold in range(2):
        share, before = np.exp(log_share(plain, fold, 0)), probabilities(calibrated, fold)
        for strength in (0.5, 1.0):
            expected = before * share**strength
            found = plain.with_prior(strength={0: strength, 1: strength}).out_of_fold
            assert probabilities(found.table, fold) == pytest.approx(expected / expected.sum(axis=1, keepdims=True))
            assert found.table.equals(found.calibrated)
        expected = before * [0.2, 0.2, 0.6]
        told = plain.with_prior({"rare": 3, "a": 1, "b": 1}).out_of_fold.table
        assert probabilities(told, fold) == pytest.approx(expected / expected.sum(axis=1, keepdims=True))
    assert told["predicted"].tolist() == told[plain.classes.columns].idxmax(axis=1).str.removeprefix("p.").tolist()
    for same in (plain.with_prior(strength=0.0), plain.with_prior(dict.fromkeys(CLASSES, 7))):
        assert probabilities(same.out_of_fold.table) == pytest.approx(probabilities(calibrated))


def test_a_method_that_learns_the_frequencies_says_the_same_when_told_them_and_less_when_told_none(tmp_path):
    softmax_ = made(tmp_path, "CrossEntropyLoss", seeds=1)
    calibrated = softmax_.out_of_fold.calibrated
    assert probabilities(softmax_.with_prior(strength=1.0).out_of_fold.table) == pytest.approx(
        probabilities(calibrated)
    )
    expected = probabilities(calibrated, 1) / np.exp(log_share(softmax_, 1, 0))
    found = softmax_.with_prior(strength=0.0).out_of_fold.table
    assert probabilities(found, 1) == pytest.approx(expected / expected.sum(axis=1, keepdims=True))


def test_the_temperature_is_the_same_whatever_is_told_and_fits_the_mix_of_the_inner_validation_images(tmp_path):
    plain = made(tmp_path, "LogitAdjustedLoss", seeds=1)
    inner = pd.read_csv(plain.job(0, 0).path / "validation.csv")
    fitted = fit_temperature(*arrays(inner, plain.classes), log_share(plain, 0, 0))
    assert plain.temperatures[0, 0] == pytest.approx(fitted)
    assert plain.with_prior(strength=0.3).temperatures == plain.temperatures


def test_frequencies_are_of_every_class_and_positive(tmp_path):
    plain = made(tmp_path, "LogitAdjustedLoss", seeds=1)
    with pytest.raises(ValueError, match="missing: rare; unknown: 'nevus'; not a positive number: b 0"):
        plain.with_prior({"a": 1, "b": 0, "nevus": 2})
    with pytest.raises(ValueError, match="either the frequencies of the classes or a strength"):
        plain.with_prior()


@pytest.mark.parametrize(
    "strength", [-1, 50, float("nan"), "0.5", "chosen", {}, {0: 0.5}, {0: 0.5, 1: 3.0}, [1.0, 1.0]]
)
def test_a_strength_that_is_none_is_refused_when_it_is_told(tmp_path, strength):
    with pytest.raises(ValueError, match=r"a strength is a number from 0.*for each of the folds 0, 1, such as"):
        made(tmp_path, "CrossEntropyLoss").with_prior(strength=strength)


def test_what_an_experiment_was_told_is_said_with_its_name_and_compared_with_what_it_was(tmp_path):
    plain = made(tmp_path / "made", "CrossEntropyLoss")
    told = plain.with_prior(strength=np.float32(0.5))
    assert [one.label for one in (plain, plain.ensemble(), told, plain.with_prior(strength={0: 0, 1: 1}))] == [
        "made", "made, ensemble", "made, prior 0.5", "made, prior 0 to 1"
    ]  # fmt: skip
    own = plain.with_prior(pd.Series(1, index=CLASSES)).with_metadata("age", "site")
    assert own.frequencies == dict.fromkeys(CLASSES, 1)
    assert own.label == "made, other class frequencies, with age and site"
    assert repr(told) == f"<Experiment {plain.record.title}; prior 0.5>"
    compared = told.compare(plain)
    assert list(compared.experiments) == ["made", "made, prior 0.5"]
    half = told.out_of_fold.summary.loc["balanced_accuracy", "value"]
    gain = half - plain.out_of_fold.summary.loc["balanced_accuracy", "value"]
    assert compared.gains["made, prior 0.5"].loc["gain.balanced_accuracy", "value"] == pytest.approx(gain)
    with pytest.raises(DataError, match=r"made, prior 0\.5: a report is of an experiment as it was run"):
        told.report()


def test_only_a_config_file_stands_for_its_name(tmp_path):
    path = made(tmp_path / "made", "CrossEntropyLoss").path
    assert Experiment.open("configs/made.yaml", path.parent).path == path
    for other in ("made.tuned", "made.ensemble", "made.csv"):
        with pytest.raises(ComparisonError, match=f"{other}: no experiment of that name under .*; there is made"):
            Experiment.open(other, path.parent)


def test_an_ensemble_is_the_mean_of_the_seeds_of_each_fold_and_of_all_models_outside(tmp_path):
    single = made(tmp_path, "CrossEntropyLoss")
    joined = single.ensemble()
    (first, second), found = single.predictions().groupby("seed"), joined.out_of_fold
    assert probabilities(found.table) == pytest.approx((probabilities(first[1]) + probabilities(second[1])) / 2)
    assert set(found.table["seed"]) == {0}
    assert len(found.table) == 400
    outside = single.predictions("external").groupby("image")[single.classes.columns].mean()
    assert probabilities(joined.external.table) == pytest.approx(outside.to_numpy())
    assert len(single.external.table) == 2 * len(joined.external.table) == 100


def test_an_ensemble_is_calibrated_on_images_that_are_new_to_two_of_its_models(tmp_path):
    joined = made(tmp_path, "CrossEntropyLoss", seeds=3).ensemble()
    inner = joined.predictions("validation")
    for fold in range(2):
        own = inner[inner["fold"] == fold]
        assert joined.temperatures[fold, 0] == ensemble_temperature(own, 3, CLASSES)
        before = probabilities(joined.out_of_fold.table, fold)
        expected = with_temperature(before, joined.temperatures[fold, 0])
        assert probabilities(joined.out_of_fold.calibrated, fold) == pytest.approx(expected)
    everything = pd.concat([joined.predictions(), inner])
    assert joined.joint_temperatures == {(0, 0): ensemble_temperature(everything, 6, CLASSES)}


def test_the_smallest_strength_that_spares_the_common_classes_is_chosen(tmp_path):
    labels = ["a"] * 24 + ["b"] * 12 + ["rare"] * 4
    facts = pd.DataFrame({"image": [f"{n}.jpg" for n in range(40)], "group": "", "label": labels})
    certain = np.eye(3)[[CLASSES.index(label) for label in labels]] * 0.94 + 0.02
    # An image of class a is called rare until frequencies of 6 : 1 count half: 0.3 · √6 > 0.6.
    certain[0] = 0.3, 0.1, 0.6
    inner = prediction_table(facts, certain, CLASSES, fold=0, seed=0)
    plain = made(tmp_path / "plain", "LogitAdjustedLoss", inner=inner)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Experiment, "temperatures", dict.fromkeys(plain.temperatures, 1.0))
        assert plain.chosen_strengths(price=0.01) == {0: 0.5, 1: 0.5}
        assert plain.chosen_strengths(price=0.03) == {0: 0.0, 1: 0.0}  # one of 24, the mean with class b half of it
        same = made(tmp_path / "same", "CrossEntropyLoss", inner=inner)
        assert plain.chosen_strengths(price=0.0, reference=same) == {0: 0.0, 1: 0.0}
        best = inner.assign(
            **dict(zip(plain.classes.columns, np.eye(3)[[CLASSES.index(n) for n in labels]].T, strict=True))
        )
        right = made(tmp_path / "right", "CrossEntropyLoss", inner=best.assign(predicted=labels))
        assert plain.chosen_strengths(price=0.01, reference=right) == {0: 0.5, 1: 0.5}
        assert plain.chosen_strengths(price=0.01, reference="right") == {0: 0.5, 1: 0.5}
        assert plain.chosen_strengths(price=-0.01, reference=right) == {0: 1.0, 1: 1.0}


def test_metadata_are_those_of_the_images_that_a_model_was_fitted_to(tmp_path):
    plain = made(tmp_path, "CrossEntropyLoss", seeds=1)
    told = plain.with_metadata("site")
    random, labels = np.random.default_rng(1), np.repeat(CLASSES, list(COUNTS.values()))
    rows = pd.DataFrame({"image": [f"{n}.jpg" for n in range(400)], "label": labels, "fold": np.arange(400) % 2})
    rows["site"] = np.where(random.random(400) < 0.7, labels, "back")
    told.manifest = SimpleNamespace(name="made", rows=rows, metadata=["site"])
    inner = plain.predictions("validation").query("fold == 1")["image"]
    fitted = rows[(rows["fold"] == 0) & ~rows["image"].isin(inner)]
    evidence = MetadataEvidence.of(fitted, ["site"], CLASSES)
    tested = plain.out_of_fold.calibrated.query("fold == 1").sort_values("image")
    expected = with_temperature(
        probabilities(tested), 1, evidence(tested[["image"]].merge(rows, on="image", how="left"))
    )
    assert probabilities(told.out_of_fold.table, 1) == pytest.approx(expected)
    assert told.measures().loc["accuracy", "value"] > plain.measures().loc["accuracy", "value"]
    # Outside, each of the two models adds what its own images say.
    assert len(told.external.table) == 50
    lacking = plain.with_metadata("sex")
    lacking.manifest = told.manifest
    with pytest.raises(DataError, match="made: no column of metadata sex; those there: site"):
        _ = lacking.out_of_fold
    lost = plain.with_metadata("site")
    lost.manifest = None
    with pytest.raises(DataError, match="hand it over as manifest=PATH"):
        _ = lost.out_of_fold


def test_a_config_may_say_how_much_of_the_frequencies_counts(tmp_path):
    plain = made(tmp_path / "plain", "LogitAdjustedLoss", seeds=1, noise=3.0)
    half = made(tmp_path / "half", "LogitAdjustedLoss", seeds=1, noise=3.0, prior_strength=0.5)
    assert probabilities(half.out_of_fold.table) == pytest.approx(
        probabilities(plain.with_prior(strength=0.5).out_of_fold.table)
    )
    for one in (half, half.ensemble()):
        assert one.strengths == {0: 0.5, 1: 0.5}
        assert one.with_prior(strength=1.0).strengths == {0: 1.0, 1: 1.0}
        assert one.with_prior(dict.fromkeys(CLASSES, 1)).strengths is None
    chosen = made(tmp_path / "chosen", "LogitAdjustedLoss", seeds=1, noise=3.0, prior_strength="chosen")
    assert chosen.strengths == plain.chosen_strengths()
    assert chosen.strengths != {0: 0.0, 1: 0.0}, "or nothing is tested"
    expected = [chosen.strengths[fold] * log_share(chosen, fold) for fold in range(2)]
    assert chosen.told_outside(0) == pytest.approx(np.mean(expected, axis=0), abs=1e-6)


def test_the_classifier_of_an_experiment_answers_for_the_frequencies_that_its_results_are_for(tiny_config, tmp_path):
    settings = ["training.epochs=1", "prior_strength=0.25", "metadata=[width]"]
    config = read_config(tiny_config, settings)
    (experiment,) = run_experiments([config], Plan(runs=tmp_path, console=Console(quiet=True)))
    classifier, share = experiment.classifier(), [log_share(experiment, fold) for fold in range(3)]
    # CoSen's scores learn the frequencies.
    assert classifier.description.told == pytest.approx(np.mean([-0.75 * one for one in share], axis=0), abs=1e-6)
    job = da.LesionClassifier.load(experiment.job(1, 0).path)
    assert job.description.told == pytest.approx(-0.75 * share[1], abs=1e-6)
    tested = experiment.out_of_fold.table.query("fold == 1")[:4]
    root, rows = experiment.manifest.root, experiment.manifest.rows
    files, expected = [root / image for image in tested["image"]], tested[experiment.classes.columns].to_numpy()
    known = tested[["image"]].merge(rows, on="image", how="left")[["image", "width"]]
    assert job.predict_proba(files, metadata=known) == pytest.approx(expected, abs=1e-4)
    assert job.predict_proba(files) != pytest.approx(expected, abs=1e-2), "or nothing is tested"
    with pytest.raises(ValueError, match="4 images need as many rows, got 3"):
        job.predict(files, metadata=known[:3])
    # The same from a table, which has an order of its own.
    mixed = known.sample(frac=1, random_state=1)
    mixed.to_csv(tmp_path / "known.csv", index=False)
    table = da.predict(experiment.job(1, 0).path, [tmp_path / "known.csv"], root=root, out=tmp_path / "predictions.csv")
    assert table["width"].astype(int).tolist() == mixed["width"].tolist()
    assert table[experiment.classes.columns].to_numpy() == pytest.approx(expected[mixed.index], abs=1e-4)
    other = read_config(tiny_config, ["metadata=[site]"])
    plan = Plan(runs=tmp_path / "other", console=Console(quiet=True))
    with pytest.raises(ConfigError, match="phantom-5 has no column of metadata site; those there: width, height"):
        run_experiments([other], plan)
