"""The experiment as an object: what a notebook works with."""

import numpy as np
import pytest

import dermaffinity as da
from dermaffinity.config import read_config
from dermaffinity.errors import ComparisonError, ConfigError
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.run import _config_on
from dermaffinity.metrics.reliability import with_temperature


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
        expected = with_temperature(own, tiny.fold_models[fold, 0].calibration.temperature)
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
    config = _config_on("cosen", manifest, ["training.epochs=2"])
    assert (config.name, config.data.manifest, config.training.epochs) == ("mine_cosen", tmp_path / "mine.csv", 2)
    assert config.loss == read_config("library_cosen").loss
    assert _config_on("demo_affinity", str(manifest.path), ()).name == "mine_affinity"
    with pytest.raises(ConfigError, match="there is no config cosin"):
        _config_on("cosin", manifest, ())


def test_predictions_are_a_table(tiny, tmp_path):
    from PIL import Image

    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "black.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match="broken.png"):
        table = da.predict(tiny.path, [tmp_path], out=tmp_path / "predictions.csv")
    assert table["image"].tolist() == [str(tmp_path / "black.png")]
    assert table[tiny.classes.columns].sum(axis=1).tolist() == pytest.approx([1])
    assert set(table["set"][0]) <= set(tiny.classes.names)
