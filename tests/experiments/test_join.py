"""Two experiments as one: every number is the mean of theirs, and the classifier says what the tables say."""

import dataclasses
import itertools
import re
import shutil

import numpy as np
import pandas as pd
import pytest

import dermaffinity as da
from dermaffinity.data.manifest import read_manifest, write_manifest
from dermaffinity.errors import ComparisonError, ConfigError, DataError
from dermaffinity.experiments.report import report
from dermaffinity.experiments.results import read_table
from dermaffinity.inference.model_folder import changed, join_models, read_description, told_prior
from dermaffinity.training.calibration import ensemble_temperature

pytestmark = pytest.mark.slow

AFFINITY = """\
neck: {class: dermaffinity.models.UnitNeck, dim: 8}
head: {class: dermaffinity.heads.AffinityMixtureHead, centers_per_class: 2, sigma: 0.5}
loss: {class: dermaffinity.losses.AffinityPosteriorLoss}
"""


@pytest.fixture(scope="module")
def desk(commands, fresh_folder, phantom_manifest, tiny_config):
    """Affinity, softmax and a copy of softmax, of one epoch, with two persons' moles as external images; joined."""
    folder = fresh_folder("joined")
    manifest = read_manifest(phantom_manifest)
    rows = manifest.rows.copy()
    rows.loc[rows["group"].isin(rows.loc[rows["label"] == "ML", "group"].unique()[:2]), "fold"] = pd.NA
    write_manifest(dataclasses.replace(manifest, rows=rows), folder / "phantom.csv")
    text = tiny_config.read_text().replace(str(phantom_manifest), str(folder / "phantom.csv"))
    text = text.replace("epochs: 3", "epochs: 1")
    softmax = re.sub("loss: .*", "loss: {class: dermaffinity.losses.CrossEntropyLoss}", text)
    affinity = re.sub("(?:neck|head|loss): .*\n", "", text) + AFFINITY
    for name, config in {"affinity": affinity, "softmax": softmax}.items():
        (folder / f"{name}.yaml").write_text(config.replace("name: tiny", f"name: {name}"))
    configs = [f"{name}.yaml" for name in ("affinity", "softmax")]
    done = commands.run("crossval", *configs, "--external", "--baseline", "softmax", folder=folder)
    assert done.code == 0, done.stderr
    shutil.copytree(folder / "runs" / "softmax", folder / "runs" / "again")
    done = commands.run("join", "both", "affinity", "softmax", folder=folder)
    assert done.code == 0, done.stderr
    assert "Next: dermaffinity compare runs/both runs/softmax runs/affinity --baseline affinity" in done.stdout
    return folder


@pytest.fixture(scope="module")
def both(desk):
    return da.Experiment.open(desk / "runs" / "both")


def told(probabilities: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """What softmax says where classes are equally frequent, by Bayes' rule."""
    odds = probabilities / counts
    return odds / odds.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("part", ["validation", "predictions", "external"])
def test_every_probability_is_the_mean_of_both_at_the_frequencies_of_the_first(desk, both, part):
    columns = both.classes.columns
    for fold in range(3):
        job = f"fold-{fold}_seed-0"
        tables = {name: read_table(desk / "runs" / name / job / f"{part}.csv") for name in ("affinity", "softmax")}
        unseen = [read_table(desk / f"runs/softmax/{job}/{own}.csv") for own in ("validation", "predictions")]
        learned = [
            both.record.class_counts[name] - sum((table["label"] == name).sum() for table in unseen)
            for name in both.classes.names
        ]
        mean = (tables["affinity"][columns] + told(tables["softmax"][columns].to_numpy(), np.array(learned))) / 2
        joined = read_table(desk / "runs" / "both" / job / f"{part}.csv")
        np.testing.assert_allclose(joined[columns], mean, atol=1e-7)
        assert joined["image"].tolist() == tables["affinity"]["image"].tolist()
        assert (joined["predicted"] == np.array(both.classes.names)[mean.to_numpy().argmax(axis=1)]).all()


def test_the_mean_is_calibrated_on_its_own_inner_validation_images(desk, both):
    for fold in range(3):
        inner = both.predictions("validation").query("fold == @fold")
        log_share = both._priors[fold, 0][0]
        expected = ensemble_temperature(inner, 1, both.classes.names, log_share)
        assert both.temperatures[fold, 0] == pytest.approx(expected)
        assert read_description(both.job(fold, 0).path).temperature == pytest.approx(expected)


def test_the_classifier_of_a_fold_says_what_its_table_says(desk, both):
    job = both.job(1, 0)
    classifier = da.LesionClassifier.load(job.path)
    first, second = classifier.description.fold_models
    assert (first.parts, first.shift) == (None, None)
    own = da.Experiment.open(desk / "runs" / "affinity").job(1, 0).path
    assert (job.path / first.file).samefile(own / first.file)  # weights take their space once
    assert second.parts.head.class_path == "dermaffinity.heads.LinearHead"
    table = read_table(job.predictions).head(8)
    images = [both.manifest.root / name for name in table["image"]]
    said = classifier.predict_proba(images, calibrated=False)
    np.testing.assert_allclose(said, table[both.classes.columns], atol=1e-5)
    calibrated = both.out_of_fold.calibrated.set_index("image").loc[table["image"]]
    np.testing.assert_allclose(classifier.predict_proba(images), calibrated[both.classes.columns], atol=1e-5)
    assert classifier.explain(images[0]).centers["fold_model"].nunique() == 2


def test_the_classifier_of_all_folds_is_the_mean_for_external_images(desk, both):
    classifier = both.classifier()
    assert len(classifier.description.fold_models) == 6
    table = both.external.calibrated.head(5)
    images = [both.manifest.root / name for name in table["image"]]
    np.testing.assert_allclose(classifier.predict_proba(images), table[both.classes.columns], atol=1e-5)
    told = classifier.with_prior(strength=1.0).predict_proba(images)
    expected = both.with_prior(strength=1.0).external.table.head(5)
    np.testing.assert_allclose(told, expected[both.classes.columns], atol=1e-5)


def test_exports_say_what_the_classifier_says(desk, both, tmp_path):
    import torch

    from dermaffinity.export.bundle import BundleNetwork

    classifier, folder = both.classifier(), both.path / "classifier"
    network = BundleNetwork(folder)
    network.classifier.fold_models.load_state_dict(torch.nn.ModuleList(classifier.networks).state_dict())
    images = torch.randn(3, 3, 32, 32)
    expected = classifier.assess_prepared(list(images)).probabilities
    np.testing.assert_allclose(network(images).detach(), expected, atol=1e-5)


def test_the_same_again_is_written_anew_and_another_mean_is_refused(desk, both):
    before = both.out_of_fold.table
    again = da.join("both", ["affinity", "softmax"], runs=desk / "runs", tracking_uri=f"sqlite:///{desk}/mlflow.db")
    assert again.out_of_fold.table.equals(before)
    with pytest.raises(
        ConfigError, match="there the mean of affinity, softmax, in this order; now the mean of softmax, aff"
    ):
        da.join("both", ["softmax", "affinity"], runs=desk / "runs", tracking_uri=f"sqlite:///{desk}/mlflow.db")


def test_what_was_told_all_members_is_told_their_mean_once(desk, tmp_path):
    runs = tmp_path / "runs"
    for name in ("affinity", "softmax"):
        folder = shutil.copytree(desk / "runs" / name, runs / name)
        record = (folder / "experiment.json").read_text()
        (folder / "experiment.json").write_text(record.replace('"prior_strength": null', '"prior_strength": 1.0'))
        for job in folder.glob("fold-*"):
            known = read_description(job)
            told = changed(known, told=tuple(told_prior(known.fold_models, strength=1.0)))
            (job / "classifier.json").write_text(told.model_dump_json(by_alias=True))
    both = da.join("both", ["affinity", "softmax"], runs=runs, tracking_uri=f"sqlite:///{desk}/mlflow.db")
    table = both.out_of_fold.table.query("fold == 1").head(5)
    images = [both.manifest.root / name for name in table["image"]]
    said = da.LesionClassifier.load(both.job(1, 0).path).predict_proba(images)
    np.testing.assert_allclose(said, table[both.classes.columns], atol=1e-5)


def test_a_mean_that_was_stopped_is_incomplete_and_nothing_old_is_left_in_it(desk, tmp_path, monkeypatch):
    runs, uri = tmp_path / "runs", f"sqlite:///{desk}/mlflow.db"
    for name in ("affinity", "softmax", "both"):
        shutil.copytree(desk / "runs" / name, runs / name)
    shutil.copytree(runs / "both" / "fold-0_seed-0", runs / "both" / "fold-0_seed-7")  # of an earlier mean
    number = itertools.count()

    def stopped(*arguments, **words):
        if next(number) == 2:
            raise KeyboardInterrupt
        return join_models(*arguments, **words)

    with monkeypatch.context() as patch:
        patch.setattr("dermaffinity.experiments.join.join_models", stopped)
        with pytest.raises(KeyboardInterrupt):
            da.join("both", ["affinity", "softmax"], runs=runs, tracking_uri=uri)
    half = da.Experiment.open("both", runs)
    assert len(half.jobs) == 2
    assert not half.complete
    with pytest.raises(DataError, match="some folds are still to be run"):
        report([half], images=False)
    assert da.join("both", ["affinity", "softmax"], runs=runs, tracking_uri=uri).complete
    assert da.Experiment.open("both", runs).seeds == [0]


def test_a_mean_of_the_same_network_twice_is_that_network(desk):
    uri = f"sqlite:///{desk}/mlflow.db"
    joined = da.join("twice", ["softmax", "again"], runs=desk / "runs", tracking_uri=uri)
    alone = da.Experiment.open("softmax", desk / "runs")
    columns = joined.classes.columns
    np.testing.assert_allclose(joined.out_of_fold.table[columns], alone.out_of_fold.table[columns], atol=1e-7)
    assert joined.joint_temperatures == pytest.approx(alone.joint_temperatures)
    assert joined.compare("softmax").gains["twice"].loc["gain.balanced_accuracy", "value"] == 0


def test_the_report_names_both_and_how_to_join_them(desk, both, tmp_path):
    written = report([both], out=tmp_path / "report.html", images=False)
    text = " ".join(re.sub("<[^>]+>", " ", written.path.read_text()).split())
    assert both.record.title.startswith("3-fold cross-validation of both (the mean of affinity and softmax) on ")
    assert "Mean of affinity, softmax" in text
    assert "Part 1 affinity Network SmallConvNet" in text
    assert "dermaffinity join both affinity softmax" in text
    assert "a mean of several networks has no embedding" in " ".join(written.notes)
    assert "Prediction sets asked to hold the true class" in text


def test_all_reasons_against_a_mean_are_told_at_once(desk, tmp_path):
    runs = tmp_path / "runs"
    for name in ("affinity", "softmax", "both"):
        shutil.copytree(desk / "runs" / name, runs / name, ignore=shutil.ignore_patterns("*.safetensors"))
    shutil.rmtree(runs / "softmax" / "fold-1_seed-0")
    (runs / "softmax" / "fold-0_seed-0" / "external.csv").unlink()
    (runs / "affinity" / "config.yaml").unlink()
    record = (runs / "softmax" / "experiment.json").read_text()
    (runs / "softmax" / "experiment.json").write_text(record.replace('"image_size": 32', '"image_size": 64'))
    told = da.Experiment.open("affinity", runs).with_prior(strength=0.5)
    with pytest.raises(ComparisonError) as refused:
        da.join("softmax", ["affinity", told, "both", "softmax"], runs=runs)
    told = "\n".join(refused.value.problems)
    for expected in (
        "affinity is named twice",
        "softmax is one of them; give the mean a name of its own",
        "affinity was averaged or told something",
        "affinity has lost its config.yaml",
        "both is a mean itself; name affinity and softmax instead",
        "softmax has folds that are still to be run; run the command that made it, such as dermaffinity crossval",
        "softmax has data {",
    ):
        assert expected in told
    shutil.rmtree(runs / "both" / "fold-2_seed-0")
    with pytest.raises(ComparisonError, match="no mean") as refused:
        da.join("three", ["affinity", "both", desk / "runs" / "affinity"], runs=runs)
    told = "\n".join(refused.value.problems)
    assert "runs/affinity are all called affinity; rename the folders but one" in told
    assert "both has folds that are still to be run; run dermaffinity join both affinity softmax again" in told
    with pytest.raises(ComparisonError, match="name two experiments or more, not 1"):
        da.join("one", "affinity", runs=runs)
    (runs / "both" / "fold-0_seed-0" / "external.csv").unlink()
    (runs / "affinity" / "fold-0_seed-0" / "external.csv").unlink()
    with pytest.raises(ComparisonError, match="again scored the external images and affinity did not"):
        da.join("one", [desk / "runs" / "again", runs / "affinity"], runs=runs)
    with pytest.raises(ConfigError, match="'a b' is no name of an experiment"):
        da.join("a b", ["affinity", "softmax"], runs=runs)
    with pytest.raises(ConfigError, match="at most 100 letters"):
        da.join("a" * 101, ["affinity", "softmax"], runs=runs)
