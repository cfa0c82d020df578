"""The tiny library with a third of its patients set aside, a model of the rest, and other libraries made from it."""

import html
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import dermaffinity as da
from dermaffinity.data.manifest import read_manifest, write_manifest
from dermaffinity.errors import ConfigError, DataError, some_of
from dermaffinity.experiments import evaluate as module
from dermaffinity.experiments.report import evaluation as report
from dermaffinity.experiments.results import read_table

WRITE_REPORT = report.write_report
CONFIG = """\
name: tiny
data: {manifest: tiny.csv, image_size: 32}
augmentation: {class: dermaffinity.data.augmentation.NoAugmentation}
backbone: {class: dermaffinity.models.SmallConvNet}
neck: {class: dermaffinity.models.IdentityNeck}
head: {class: dermaffinity.heads.LinearHead}
loss: {class: dermaffinity.losses.CrossEntropyLoss}
training: {epochs: 2, batch_size: 8, learning_rate: 0.02}
"""


@pytest.fixture(scope="module")
def place(fresh_folder, phantom_library):
    """An experiment in two folds that scored a third as external images, and ``other.csv`` of these alone."""
    from dermaffinity.data.adapters.phantom import PhantomAdapter

    folder = fresh_folder("evaluate")
    manifest = PhantomAdapter(phantom_library, experiment="5-class").prepare(folds=3)
    rows = manifest.rows.assign(
        age=7 * np.arange(len(manifest.rows)) % 90,
        sex=["f", "m"] * (len(manifest.rows) // 2) + ["f"] * (len(manifest.rows) % 2),
    )
    aside = rows["fold"] == 2
    own = replace(manifest, name="tiny", folds=2, rows=rows.assign(fold=rows["fold"].where(~aside)))
    write_manifest(own, folder / "tiny.csv")
    elsewhere = rows[aside].assign(fold=0).copy()
    elsewhere["fold"] = pd.array(elsewhere.groupby("label").cumcount() % 2, dtype="Int64")
    other = replace(manifest, name="other", protocol="image", folds=2, source="another clinic", rows=elsewhere)
    write_manifest(other, folder / "other.csv")
    (folder / "tiny.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        da.crossval("tiny.yaml", external=True, quiet=True)
    return folder


@pytest.fixture(autouse=True)
def inside(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(report, "write_report", lambda *_: ("", False))


def evaluate(out, manifest="other.csv", **options):
    shutil.rmtree(out, ignore_errors=True)
    return da.evaluate("runs/tiny", manifest, out=out, images=False, **options)


def test_the_external_images_of_its_own_manifest_give_the_very_numbers_of_crossval(place):
    evaluation = evaluate("own", "tiny.csv")
    external = da.Experiment("runs/tiny").external
    pd.testing.assert_frame_equal(evaluation.results.table, external.table)
    pd.testing.assert_frame_equal(evaluation.results.calibrated, external.calibrated)
    pd.testing.assert_frame_equal(evaluation.measures(), external.summary)


def test_metadata_that_a_classifier_was_trained_with_are_heard_as_by_crossval(place):
    da.crossval("tiny.yaml", overrides=["metadata=[age, sex]", "name=heard"], external=True, quiet=True)
    external, unheard = da.Experiment("runs/heard").external, da.Experiment("runs/tiny").external
    evaluation = da.evaluate("runs/heard", "tiny.csv", out="heard", images=False)
    number = len(external.table)
    assert f"Evidence beside the images: age of {number}, sex of {number} of {number} images." in evaluation.notes
    assert not [note for note in evaluation.notes if "says nothing" in note or "Nothing" in note]
    assert da.Experiment.open("runs/heard").report("heard.html").notes == ()
    pd.testing.assert_frame_equal(evaluation.results.table, external.table)
    pd.testing.assert_frame_equal(evaluation.measures(), external.summary)
    manifest = da.read_manifest("other.csv")
    renamed = manifest.rows.rename(columns={"age": "years"}).assign(sex="not asked")
    other = da.evaluate("runs/heard", manifest, out="told", images=False).measures()
    with pytest.raises(ConfigError, match=r"told holds another evaluation \(metadata differ\)"):
        da.evaluate("runs/heard", replace(manifest, rows=renamed), out="told", images=False)
    told = da.evaluate("runs/heard", replace(manifest, rows=renamed), out="untold", images=False)
    assert not told.measures().equals(other)
    there = some_of(map(str, renamed.columns))
    lacking = f"There is no column age, which would count as evidence; those there: {there}."
    assert told.notes[-3:] == (
        "Nothing is known of sex, which would count as evidence.",
        lacking,
        f"sex of {len(renamed)} images says nothing, since the classifier does not know it (not asked).",
    )
    columns = evaluation.classes.columns
    assert abs(external.table[columns] - unheard.calibrated[columns]).to_numpy().max() > 0.01


def test_another_manifest_is_scored_whole_and_as_the_classifier_says(place):
    evaluation = evaluate("other")
    rows = read_manifest(place / "other.csv")
    assert evaluation.results.table["image"].tolist() == sorted(rows.rows["image"])
    classifier = da.LesionClassifier.load("runs/tiny")
    images = [rows.root / image for image in evaluation.results.table["image"]]
    said = classifier.assess(images)
    columns = evaluation.classes.columns
    np.testing.assert_allclose(evaluation.results.calibrated[columns], said.probabilities, atol=1e-5)
    np.testing.assert_allclose(evaluation.novelty.loc[evaluation.results.table["image"]], said.novelty, atol=1e-4)
    np.testing.assert_allclose(evaluation.p_values, said.p_values, atol=1e-8)
    kept = read_table(place / "other" / "predictions.csv")
    np.testing.assert_allclose(kept[columns], said.probabilities, atol=1e-5)


def test_patients_that_it_was_trained_on_are_left_out(place):
    whole = read_manifest(place / "tiny.csv")
    rows = whole.rows.assign(fold=pd.array(np.arange(len(whole.rows)) % 2, dtype="Int64"))
    write_manifest(replace(whole, name="again", protocol="image", rows=rows), place / "again.csv")
    evaluation = evaluate("again", "again.csv")
    trained = set(whole.development()["group"])
    assert not trained & set(evaluation.results.table["group"])
    assert len(evaluation.results.table) == len(whole.external())
    assert f"{len(whole.development())} images" in " ".join(evaluation.notes)


def test_of_a_manifest_without_external_images_that_it_was_made_from_nothing_is_scored(place):
    manifest = read_manifest(place / "tiny.csv")
    manifest = replace(manifest, rows=manifest.development())
    classifier = da.LesionClassifier.load("runs/tiny")
    data = classifier.description.data.model_copy(update={"split_hash": manifest.split_hash})
    classifier.description = classifier.description.model_copy(update={"data": data})
    with pytest.raises(DataError, match="tiny was trained on this very manifest, tiny, which sets no external images"):
        module._unseen(classifier, manifest, [])


def test_an_answer_per_group_is_the_mean_of_the_log_odds(place):
    rows = read_manifest(place / "other.csv")
    doubled = rows.rows.assign(group=rows.rows["label"] + (rows.rows.groupby("label").cumcount() // 2).astype(str))
    write_manifest(replace(rows, name="pairs", rows=doubled), place / "pairs.csv")
    single, pairs = evaluate("single", "pairs.csv"), evaluate("pairs", "pairs.csv", per="group")
    columns = single.classes.columns
    for group, own in single.results.table.groupby("group"):
        found = pairs.results.table.set_index("image").loc[group]
        odds = np.log(own[columns]).sub(np.log(own[columns[0]]), axis=0).mean()
        np.testing.assert_allclose(np.log(found[columns].astype(float) / found[columns[0]]), odds, atol=1e-9)
        assert found["label"] == own["label"].iloc[0]
        assert pairs.novelty[group] == pytest.approx(single.novelty.loc[own["image"]].mean())
    # A temperature before the mean or after it is the same.
    logs = np.log(single.results.calibrated[columns]).groupby(single.results.table["group"]).mean()
    mean = np.exp(logs)
    np.testing.assert_allclose(
        pairs.results.calibrated.set_index("image").loc[mean.index, columns],
        mean.div(mean.sum(axis=1), axis=0),
        atol=1e-9,
    )


def test_groups_of_several_classes_have_no_one_answer(place):
    rows = read_manifest(place / "other.csv")
    write_manifest(replace(rows, name="mixed", rows=rows.rows.assign(group=rows.rows["sex"])), place / "mixed.csv")
    with pytest.raises(DataError, match=r"--per group: 2 groups of 2 hold images of several classes \(f, m\)"):
        evaluate("mixed", "mixed.csv", per="group")


def test_what_is_set_aside_to_adapt_is_whole_groups_and_never_scored(place):
    everything, adapted = evaluate("all"), evaluate("adapted", adapt=0.4)
    before = set(everything.results.table["group"])
    scored = set(adapted.results.table["group"])
    assert adapted.set_aside == len(everything.results.table) - len(adapted.results.table) > 0
    assert scored < before
    part = everything.results.table[~everything.results.table["group"].isin(scored)]
    from dermaffinity.metrics.reliability import fit_temperature

    columns = adapted.classes.columns
    known = fit_temperature(adapted.classes.indices(part["label"]), part[columns].to_numpy())
    assert adapted.temperature == pytest.approx(known)
    assert adapted.temperature != pytest.approx(adapted.model.temperature)
    assert adapted.measures().loc["ece.adapted", "value"] != adapted.measures().loc["ece.calibrated", "value"]
    assert "set aside" in adapted.sentences()[-1]
    told = evaluate("told", adapt=0.4, prior=True)
    counts = part["label"].value_counts().reindex(list(told.classes.names), fill_value=0) + 1
    assumed = np.mean([one.calibration.assumed for one in told.model.fold_models], axis=0)
    raw = told.results.table[columns].to_numpy()
    logits = np.log(raw) / told.temperature + np.log(counts / counts.sum()).to_numpy() - assumed
    known = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(told.adapted.table[columns], known, atol=1e-9)
    assert list(told.summaries) == ["tiny", "told frequencies"]
    with pytest.raises(ConfigError, match="--prior takes class frequencies"):
        evaluate("nothing", prior=True)
    with pytest.raises(ConfigError, match="--adapt 500: of"):
        evaluate("too_much", adapt=500)


def test_classes_that_do_not_fit_are_named_with_what_can_be_done(place):
    rows = read_manifest(place / "other.csv")
    names = {"SK": "BKL", "ML": "mL"}
    strange = rows.rows.assign(label=rows.rows["label"].replace(names))
    classes = tuple(names.get(name, name) for name in rows.classes)
    write_manifest(replace(rows, name="strange", classes=classes, rows=strange), place / "strange.csv")
    with pytest.raises(DataError, match="strange has classes that tiny does not know") as error:
        evaluate("strange", "strange.csv")
    assert "--rename mL=ML" in str(error.value)
    assert "the model's classes are AK, BCC, ML, SCC, SK" in str(error.value)
    renamed = evaluate("renamed", "strange.csv", rename={"BKL": "SK", "mL": "ML"})
    pd.testing.assert_frame_equal(renamed.results.table, evaluate("plain").results.table)
    fewer = evaluate("fewer", "strange.csv", known_only=True)
    assert set(fewer.results.table["label"]) == {"AK", "BCC", "SCC"}
    assert np.isnan(fewer.measures().loc["recall.SK", "value"])
    assert any(note.startswith("No images of ML, SK") for note in fewer.notes)
    with pytest.raises(ConfigError, match=r"--rename BKL=sk: write LIBRARY=MODEL"):
        evaluate("wrong", "strange.csv", rename={"BKL": "sk"})


def test_after_an_interruption_only_the_rest_is_predicted_and_another_evaluation_is_refused(place, monkeypatch):
    monkeypatch.setattr(module, "_AT_A_TIME", 4)
    whole = evaluate("whole")
    parts = sorted((place / "whole" / "parts").glob("*.csv"))
    assert len(parts) > 2
    parts[-1].unlink()
    predicted, done = [], []
    kept = module._predicted
    monkeypatch.setattr(module, "_predicted", lambda *args: predicted.append(len(args[2])) or kept(*args))
    again = da.evaluate("runs/tiny", "other.csv", out="whole", images=False, on_progress=lambda *now: done.append(now))
    number = len(whole.results.table)
    assert predicted == [number - 4 * (len(parts) - 1)]
    assert done[-1] == (number, number)
    pd.testing.assert_frame_equal(again.results.table, whole.results.table)
    with pytest.raises(ConfigError, match=r"whole holds another evaluation \(.*split_hash"):
        da.evaluate("runs/tiny", "tiny.csv", out="whole")


def test_the_report_and_the_store_have_the_numbers(place, monkeypatch):
    from dermaffinity.tracking.mlflow_tracker import MlflowTracker

    monkeypatch.setattr(report, "write_report", WRITE_REPORT)
    evaluation = evaluate("reported", adapt=0.4)
    page = html.unescape((place / "reported" / "report.html").read_text()).replace("\N{NO-BREAK SPACE}", " ")
    value, low, high = 100 * evaluation.measures().loc["balanced_accuracy"]
    assert f"{value:.1f} % of a class's images (balanced accuracy, 95 % interval {low:.1f} to {high:.1f})" in page
    for caption in (
        "Operating points",
        "Prediction sets asked",
        "Novelty",
        "Results by age",
        "Results by sex",
        "Calibration",
    ):
        assert f"<caption><span>{caption}" in page
    assert "another clinic" in page
    assert "adapted temperature" in page
    call = MlflowTracker().call
    query = f"tags.folder_id = '{(place / 'reported' / 'folder_id.txt').read_text()}'"
    everywhere = [found.experiment_id for found in call(lambda client: client.search_experiments())]
    (run,) = call(lambda client: client.search_runs(everywhere, query))
    assert run.data.metrics["balanced_accuracy"] == pytest.approx(value / 100, abs=1e-4)
    name, version = run.data.tags["model_version"].removeprefix("models:/").split("/")
    assert call(lambda client: client.get_model_version(name, version)).tags["digest"] == evaluation.model.digest


def test_the_command_prints_the_table_and_says_where_the_rest_is(place, commands):
    finished = commands.run("evaluate", "runs/tiny", "other.csv", "--adapt", "0.4", "--out", "spoken", folder=place)
    assert finished.code == 0, finished.stderr
    assert "other, images: percent [95 % interval]" in finished.stdout
    assert "spoken: report.html, predictions and tables" in finished.stdout
    assert "data:image/jpeg" in (place / "spoken" / "report.html").read_text()
