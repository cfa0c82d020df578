import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dermaffinity.errors import ComparisonError, DataError
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.record import ExperimentRecord, unlike
from dermaffinity.experiments.results import average_models, prediction_table, read_table, write_table
from dermaffinity.metrics.classification import Classes

CLASSES = ("AK", "NA")


def rows_of(*labels: str) -> pd.DataFrame:
    names = [f"a.zip/{number}.png" for number in range(len(labels))]
    return pd.DataFrame({"image": names, "group": [f"g{n}" for n in range(len(labels))], "label": labels})


def record(name: str, **changes) -> ExperimentRecord:
    facts = {"name": name, "config": {"data": {"validation_fraction": 0.2}}, "scored": "test", "dataset": "trial"}
    facts |= {
        "split_hash": "a" * 64,
        "images_digest": "b" * 64,
        "protocol": "group",
        "folds": 3,
        "class_counts": {"AK": 120, "NA": 60},
    }
    return ExperimentRecord(**facts | {"malignant": ("AK",), "versions": {}} | changes)


def experiment(path, name: str) -> Experiment:
    folder = path / name
    folder.mkdir(parents=True)
    (folder / "experiment.json").write_text(record(name).model_dump_json())
    return Experiment(folder)


def test_a_prediction_table_has_one_row_an_image_with_the_likeliest_class():
    rows = rows_of("AK", "NA").set_index(pd.Index([7, 3]))  # manifest rows keep their index
    table = prediction_table(rows, np.array([[0.7, 0.3], [0.6, 0.4]]), CLASSES, fold=1, seed=5)
    assert table.to_dict("list") == {
        "image": ["a.zip/0.png", "a.zip/1.png"],
        "group": ["g0", "g1"],
        "label": ["AK", "NA"],
        "fold": [1, 1],
        "seed": [5, 5],
        "predicted": ["AK", "AK"],
        "p.AK": [0.7, 0.6],
        "p.NA": [0.3, 0.4],
    }


def test_a_record_says_what_was_run(tmp_path):
    trial = record("trial")
    assert trial.classes == Classes(("AK", "NA"), minority=("NA",), malignant=("AK",))
    assert (trial.images, trial.has_network) == ("out-of-fold images", False)
    assert trial.title == "3-fold cross-validation of trial on trial, group protocol"
    assert trial.test_train_ratio == pytest.approx(1 / (2 * 0.8))
    assert record("trial", scored="inner").test_train_ratio is None
    assert record("trial", folds=1, protocol="presplit").title == "trial on the test set of trial"
    with pytest.raises(ValidationError):
        trial.name = "other"
    changed = record("trial", scored="inner", config={"data": {"validation_fraction": 0.1}}, versions={"torch": "9"})
    assert trial.differences(changed) == [
        "data.validation_fraction: there 0.2, now 0.1",
        "scored: there 'test', now 'inner'",
    ]
    assert Experiment(experiment(tmp_path, "trial").path).record == trial


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=8))
@settings(deadline=None, max_examples=30)
def test_every_probability_survives_the_file_exactly(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("tables") / "table.csv"
    probabilities = np.array([[value, 1 - value] for value in values], dtype=np.float32)
    table = prediction_table(rows_of(*["AK"] * len(values)), probabilities, CLASSES, fold=0, seed=0)
    write_table(table, path)
    read = read_table(path)
    assert np.array_equal(read[["p.AK", "p.NA"]].to_numpy().astype(np.float32), probabilities)


def test_texts_that_look_like_something_else_stay_texts(tmp_path):
    rows = pd.DataFrame({"image": ["1.png", "null"], "group": ["007", "NA"], "label": ["NA", "AK"]})
    table = prediction_table(rows, np.array([[0.2, 0.8], [0.9, 0.1]]), CLASSES, fold=0, seed=0)
    write_table(table, tmp_path / "table.csv")
    pd.testing.assert_frame_equal(read_table(tmp_path / "table.csv"), table)


def test_the_ensemble_averages_the_folds_models_for_each_seed_and_image():
    rows = rows_of("AK", "NA")
    parts = {
        (0, 0): [[0.9, 0.1], [0.6, 0.4]],
        (1, 0): [[0.2, 0.8], [0.2, 0.8]],
        (0, 1): [[0.1, 0.9], [0.5, 0.5]],
        (1, 1): [[0.3, 0.7], [0.7, 0.3]],
    }
    tables = [prediction_table(rows, np.array(p), CLASSES, fold=f, seed=s) for (f, s), p in parts.items()]
    ensemble = average_models(pd.concat(tables), Classes(CLASSES))
    assert list(ensemble.columns) == list(tables[0].columns)
    assert ensemble["seed"].tolist() == [0, 0, 1, 1]
    assert ensemble["image"].tolist() == ["a.zip/0.png", "a.zip/1.png"] * 2
    assert ensemble["p.AK"].tolist() == pytest.approx([0.55, 0.4, 0.2, 0.6])
    assert ensemble["predicted"].tolist() == ["AK", "NA", "NA", "AK"]
    assert ensemble["label"].tolist() == ["AK", "NA"] * 2
    assert set(ensemble["fold"]) == {0}


def test_a_job_is_finished_when_its_metrics_are_there_and_its_checkpoint_is_gone(tmp_path):
    job = experiment(tmp_path, "trial").job(2, 0)
    assert job.path.name == "fold-2_seed-0"
    job.path.mkdir()
    assert (job.started, job.finished) == (False, False)
    job.checkpoint.write_bytes(b"")
    assert (job.started, job.finished) == (True, False)
    (job.path / "metrics.json").write_text('{"accuracy": 0.5}')
    assert (job.started, job.finished) == (True, False)
    job.checkpoint.unlink()
    assert (job.started, job.finished) == (False, True)
    assert job.metrics() == {"accuracy": 0.5}


def test_predictions_join_the_finished_jobs_only(tmp_path):
    folder = experiment(tmp_path, "trial")
    for fold in range(3):
        job = folder.job(fold, 0)
        table = prediction_table(rows_of("AK"), np.array([[0.5, 0.5]]), CLASSES, fold=fold, seed=0)
        write_table(table, job.path / "predictions.csv")
        if fold != 1:
            (job.path / "metrics.json").write_text("{}")
    assert folder.predictions()["fold"].tolist() == [0, 2]
    assert [job.path.name for job in folder.all_jobs()] == ["fold-0_seed-0", "fold-1_seed-0", "fold-2_seed-0"]
    assert [job.path.name for job in folder.jobs] == ["fold-0_seed-0", "fold-2_seed-0"]
    assert not folder.complete
    with pytest.raises(ComparisonError, match="no finished job has a external table; run the command that made it"):
        folder.predictions("external")


def test_a_folder_without_a_readable_description_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no readable experiment\.json .* this is not an experiment's folder"):
        _ = Experiment(tmp_path).record
    (tmp_path / "experiment.json").write_text("{")
    with pytest.raises(DataError, match=r"no readable experiment\.json"):
        _ = Experiment(tmp_path).record
    (tmp_path / "experiment.json").write_text('{"name": "of version 0.1"}')
    with pytest.raises(
        DataError, match="experiment format 1, this version of dermaffinity reads 3; run the experiment"
    ):
        _ = Experiment(tmp_path).record
    (tmp_path / "experiment.json").write_text('{"format": 3, "nam": "x"}')
    with pytest.raises(DataError, match="does not describe an experiment") as caught:
        _ = Experiment(tmp_path).record
    assert "nam: unknown key (did you mean 'name'?)" in caught.value.problems


def test_an_experiment_is_found_by_its_folder_its_name_or_its_config(tmp_path):
    folder = experiment(tmp_path / "runs", "trial")
    for source in (folder.path, "trial", "configs/trial.yaml"):
        assert Experiment.open(source, tmp_path / "runs").path == folder.path


def test_a_name_with_a_dot_is_not_cut_to_another_experiments_name(tmp_path):
    shorter, longer = experiment(tmp_path, "trial_m1"), experiment(tmp_path, "trial_m1.5")
    assert Experiment.open("trial_m1.5", tmp_path).path == longer.path
    assert Experiment.open("trial_m1", tmp_path).path == shorter.path


def test_an_unknown_experiment_lists_those_there_are(tmp_path):
    with pytest.raises(ComparisonError, match=r"trail: no experiment of that name under .*; there is none"):
        Experiment.open("trail", tmp_path)
    experiment(tmp_path, "trial")
    experiment(tmp_path, "other")
    with pytest.raises(ComparisonError, match="there is other, trial"):
        Experiment.open("trail", tmp_path)


def test_what_sets_methods_apart_besides_the_method_is_said_once_for_all_that_share_it():
    shared = {
        "data": {"image_size": 128},
        "training": {"epochs": 24, "learning_rate": 0.003, "balanced_sampling": False},
    }

    def method(name: str, loss: str, views: int = 1, mixing: str | None = None, **training) -> ExperimentRecord:
        parts = {"backbone": {"class": "a.Net", "views": views}, "loss": {"class": loss}}
        parts["mixing"] = mixing and {"class": f"dermaffinity.data.mixing.{mixing}", "alpha": 1.0}
        return record(name, config=shared | parts | {"training": shared["training"] | training})

    base = method("base", "CoSen")
    assert unlike({"base": base, "rival": method("rival", "Softmax", learning_rate=0.01)}, "base") == []
    ours, theirs = method("ours", "Ours", 8, "Remix"), method("theirs", "CoSen", 8, "Remix")
    longer = method("longer", "CoSen", epochs=48, balanced_sampling=True)
    mean = record("mean", config=ours.config, joined={"ours": ours.config, "rival": base.config})
    classic = record("classic")
    every = {"ours": ours, "base": base, "theirs": theirs, "longer": longer, "mean": mean, "classic": classic}
    together = "A gain is one of all this together; run both with the same to see the method's own."
    more = "from base in more than the method:"
    assert unlike(every, "base") == [
        f"ours, theirs differ {more} backbone.views 8 (1); mixing Remix (none). {together}",
        f"longer differs {more} training.epochs 48 (24); training.balanced_sampling true (false). {together}",
        f"mean differs {more} mean of ours and rival (none). {together}",
    ]
    assert unlike(every, "classic") == []
