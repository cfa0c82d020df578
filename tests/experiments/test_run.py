"""Experiments that exist already, that others are working on, and that grow."""

import base64
import json
import shutil
import zlib
from io import StringIO

import pandas as pd
import pytest
from rich.console import Console

from dermaffinity.config import read_config
from dermaffinity.errors import BusyError, ConfigError, TrackingError, TrainingError
from dermaffinity.experiments import network_job
from dermaffinity.experiments import run as running
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.record import training_numbers
from dermaffinity.experiments.run import Plan, crossval, run_experiments
from dermaffinity.files import hold
from dermaffinity.inference.model_folder import read_description
from dermaffinity.losses import CrossEntropyLoss
from dermaffinity.tracking.base import NullTracker
from dermaffinity.tracking.mlflow_tracker import MlflowTracker
from dermaffinity.tracking.mlflow_view import VIEW_TAG


@pytest.fixture
def runs(uninterrupted, tmp_path):
    """The finished tiny experiment, to be changed."""
    return shutil.copytree(uninterrupted / "runs", tmp_path / "runs")


def run(config, runs, *overrides, tracker=None, **options):
    console = Console(file=StringIO())
    config = read_config(config, overrides)
    plan = Plan(runs=runs, tracker=tracker or NullTracker(), console=console, **options)
    (experiment,) = run_experiments([config], plan)
    return experiment, console.file.getvalue()


@pytest.fixture
def nothing_trains(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("something was trained or tracked")

    monkeypatch.setattr(running, "launch", refuse)
    monkeypatch.setattr(NullTracker, "parent", refuse)


def test_existing_results_are_refused_without_resume(tiny_config, runs, nothing_trains):
    with pytest.raises(ConfigError, match=r"already holds 3 finished and 0 interrupted of these 3 jobs. Add --resume"):
        run(tiny_config, runs)


def test_changed_settings_under_one_name_are_refused_and_listed(tiny_config, runs, nothing_trains):
    with pytest.raises(ConfigError, match=r"holds another experiment of this name. Give this one a name") as error:
        run(tiny_config, runs, "training.epochs=4", "loss.cost_rate=0.5", resume=True)
    assert error.value.problems == ("loss.cost_rate: there 0.1, now 0.5", "training.epochs: there 3, now 4")
    with pytest.raises(ConfigError) as error:
        run(tiny_config, runs, resume=True, scored="inner")
    assert error.value.problems == ("scored: there 'test', now 'inner'",)


def test_weights_that_cannot_be_had_are_told_before_anything_is_begun(tiny_config, runs, nothing_trains):
    backbone = "backbone={class: dermaffinity.models.ResNet18, weights: nowhere.pth}"
    with pytest.raises(ConfigError, match=r"there is no file nowhere\.pth"):
        run(tiny_config, runs, "name=another", backbone)
    assert not (runs / "another").exists()


def test_the_second_of_two_configs_is_checked_before_the_first_is_begun(tiny_config, runs, nothing_trains):
    configs = [read_config(tiny_config, ["name=another"]), read_config(tiny_config, ["training.epochs=4"])]
    with pytest.raises(ConfigError, match="holds another experiment"):
        run_experiments(configs, Plan(runs=runs, resume=True, console=Console(quiet=True)))
    assert not (runs / "another").exists()


def test_a_method_that_hardly_acted_is_named(tiny_config, runs):
    jobs = Experiment(runs / "tiny").jobs
    ratios = [pd.read_csv(job.path / "history.csv")["largest_cost_ratio"].iloc[-1] for job in jobs]
    numbers = training_numbers(jobs).loc["training.largest_cost_ratio"]
    assert numbers.tolist() == pytest.approx([sum(ratios) / 3, min(ratios), max(ratios)])
    assert min(ratios) < 2
    _, said = run(tiny_config, runs, resume=True)
    assert f"Warning: tiny: largest cost ratio ended at {min(ratios):.2f} in at least one training" in said
    written = pd.read_csv(runs / "tiny/out_of_fold_summary.csv", index_col="metric")
    assert written.loc["training.largest_cost_ratio", "low"] == pytest.approx(min(ratios))
    metrics = jobs[0].metrics()
    del metrics["training.largest_cost_ratio"]  # of a training that did not report it yet
    (jobs[0].path / "metrics.json").write_text(json.dumps(metrics))
    assert training_numbers(jobs).loc["training.largest_cost_ratio", "low"] == pytest.approx(min(ratios[1:]))


def test_two_configs_of_one_name_are_refused(tiny_config, runs, nothing_trains):
    with pytest.raises(ConfigError, match="every config needs a name of its own, found tiny, tiny"):
        run_experiments([read_config(tiny_config)] * 2, Plan(runs=runs, console=Console(quiet=True)))


def test_another_place_of_the_data_and_other_workers_are_the_same_experiment(
    tiny_config, runs, phantom_library, tmp_path
):
    moved = shutil.copytree(phantom_library, tmp_path / "moved")
    experiment, shown = run(tiny_config, runs, f"data.root={moved}", "training.workers=2", resume=True)
    assert shown.count("finished before") == 3
    assert experiment.complete


def test_seeds_extend_an_experiment_and_finished_jobs_are_left_alone(tiny_config, runs):
    before = {path: path.stat().st_mtime_ns for path in (runs / "tiny").glob("*seed-0/*")}
    experiment, shown = run(tiny_config, runs, seeds=[0, 1], folds=[2], resume=True)
    assert not experiment.complete  # folds 0 and 1 of seed 1 are missing
    assert shown.count("finished before") == 1
    experiment, _ = run(tiny_config, runs, seeds=[1], folds=[0, 1])
    assert experiment.complete
    table = pd.read_csv(runs / "tiny/out_of_fold.csv")
    assert table.groupby("image")["seed"].apply(sorted).map(tuple).unique().tolist() == [(0, 1)]
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_finished_experiment_registers_its_classifier_once(tiny_config, runs, empty_store, tmp_path):
    tracker = MlflowTracker(f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}")
    for _ in range(2):
        experiment, _ = run(tiny_config, runs, tracker=tracker, resume=True)
    (version,) = tracker.call(lambda client: client.search_model_versions("name = 'phantom-5'"))
    description = read_description(runs / "tiny/classifier")
    assert tracker.call(lambda client: client.get_registered_model("phantom-5")).aliases.keys() == {"tiny"}
    assert version.tags["digest"] == description.digest
    assert version.tags["split_hash"] == description.data.split_hash
    assert version.tags["config"] == "tiny"
    assert float(version.tags["balanced_accuracy"]) == pytest.approx(
        experiment.measures()["value"]["balanced_accuracy"], abs=1e-4
    )
    assert version.description == description.intended_use


def saved_view(experiment):
    state = json.loads(experiment.tags[VIEW_TAG])["state"].removeprefix("deflate;")
    return json.loads(zlib.decompress(base64.b64decode(state)))


def test_the_store_shows_the_rare_classes_first(tiny_config, runs, empty_store, tmp_path):
    tracker = MlflowTracker(f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}")
    found, _ = run(tiny_config, runs, tracker=tracker, resume=True)
    experiment = tracker.call(lambda client: client.get_experiment_by_name("phantom-5"))
    view = saved_view(experiment)
    assert view["selectedColumns"][:3] == [
        f"metrics.`{name}`" for name in ("minority_recall", "worst_class_recall", "balanced_accuracy")
    ]
    drawn = [chart["metricKey"] for chart in view["compareRunCharts"]]
    counts = found.record.class_counts
    assert [counts[name.removeprefix("recall/")] for name in drawn[:5]] == sorted(counts.values())
    assert all(name.startswith("gain/") for name in drawn[5:])
    # The view's own query finds one row, the experiment; with all its measures, and no bound of an interval.
    (row,) = tracker.call(lambda client: client.search_runs([experiment.experiment_id], view["searchFilter"]))
    assert next(iter(row.data.metrics)) == "minority_recall"  # by which MLflow compares
    assert row.data.metrics["recall/ML"] == round(found.measures()["value"]["recall.ML"], 4)
    assert row.data.metrics["calibrated/ece"] == round(found.measures()["value"]["ece.calibrated"], 4)
    assert {name.partition("/")[0] for name in row.data.metrics if "/" in name} == {"recall", "auc", "calibrated"}
    assert {name: row.data.params[name] for name in ("Method", "Head", "Loss")} == {
        "Method": "tiny",
        "Head": "LinearHead",
        "Loss": "CoSenLoss",
    }


def test_a_library_without_a_rare_class_is_shown_by_its_worst_one(
    tiny_config, runs, empty_store, tmp_path, monkeypatch
):
    monkeypatch.setattr("dermaffinity.metrics.classification.MINORITY_BELOW", 0)
    tracker = MlflowTracker(f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}")
    run(tiny_config, runs, tracker=tracker, resume=True)
    experiment = tracker.call(lambda client: client.get_experiment_by_name("phantom-5"))
    view = saved_view(experiment)
    assert view["orderByKey"] == "metrics.`worst_class_recall`"
    (row,) = tracker.call(lambda client: client.search_runs([experiment.experiment_id], view["searchFilter"]))
    assert next(iter(row.data.metrics)) == "worst_class_recall"
    assert "minority_recall" not in row.data.metrics


def test_inner_validation_images_are_scored_instead_of_the_test_folds(tiny_config, tmp_path):
    experiment, _ = run(tiny_config, tmp_path, "training.epochs=1", scored="inner", seeds=[0, 1])
    assert experiment.complete
    for fold in range(3):
        folder = experiment.job(fold, 0).path
        table = pd.read_csv(folder / "predictions.csv")
        assert table.equals(pd.read_csv(folder / "validation.csv"))
        rows = pd.read_csv(tiny_config.parent / "phantom-5.csv", comment="#").set_index("image")["fold"]
        assert (rows[table["image"]] != fold).all()


def test_a_quick_trial_has_a_name_of_its_own_and_all_folds(tiny_config, tmp_path):
    (experiment,) = crossval(read_config(tiny_config), quick=True, runs=tmp_path, quiet=True)
    assert (experiment.path.name, experiment.complete) == (f"{read_config(tiny_config).name}.quick", True)
    settings = read_config(experiment.path / "config.yaml")
    assert (settings.setting("training.epochs"), settings.data.image_size) == (1, 32)
    assert read_config("demo_affinity_frozen").quick().setting("training.epochs") == 0
    assert read_config("demo_knn").quick().name == "demo_knn.quick"


def test_a_job_that_another_process_works_on_is_left_to_it(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(network_job, "PATIENCE", 0.1)
    with (
        hold(Experiment(tmp_path / "tiny").job(0, 0).path, 0),
        pytest.raises(BusyError, match="fold-0_seed-0: another process is working here; wait for it or stop it"),
    ):
        run(tiny_config, tmp_path)
    assert not list(tmp_path.rglob("checkpoint.pt"))


def test_a_store_that_fails_in_mid_run_stops_nothing_and_is_made_up_for(
    tiny_config, tmp_path, empty_store, monkeypatch
):
    tracker = MlflowTracker(f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}")
    with monkeypatch.context() as patch:

        def away(*arguments, **options):
            raise TrackingError("The tracking store is locked by another process.")

        patch.setattr(MlflowTracker, "child", away)
        experiment, shown = run(tiny_config, tmp_path / "runs", "training.epochs=1", tracker=tracker)
    assert experiment.complete
    assert (experiment.path / "out_of_fold_summary.csv").exists()
    assert shown.count("Warning: The tracking store is locked by another process. The jobs go on") == 1
    assert shown.splitlines()[-1].startswith("Warning: Not all is tracked: run the same command")
    assert statuses(tracker) == {"tiny": "RUNNING"}
    _, shown = run(tiny_config, tmp_path / "runs", "training.epochs=1", tracker=tracker, resume=True)
    assert shown.count("finished before") == 3
    assert statuses(tracker) == dict.fromkeys(["tiny", *(f"tiny fold-{fold} seed-0" for fold in range(3))], "FINISHED")


def statuses(tracker):
    found = tracker.call(lambda client: client.search_runs([client.get_experiment_by_name("phantom-5").experiment_id]))
    assert len({one.info.run_name for one in found}) == len(found)
    return {one.info.run_name: one.info.status for one in found}


def test_a_job_that_fails_does_not_stop_the_next_and_goes_by_its_name(tiny_config, tmp_path, monkeypatch):
    forward = CrossEntropyLoss.forward
    calls = []

    def broken_once(self, output, labels):
        calls.append(1)
        terms = forward(self, output, labels)
        return {name: term * float("nan") for name, term in terms.items()} if len(calls) == 1 else terms

    monkeypatch.setattr(CrossEntropyLoss, "forward", broken_once)
    overrides = ("loss={class: dermaffinity.losses.CrossEntropyLoss}", "training.epochs=1")
    with pytest.raises(TrainingError, match="1 of 2 jobs failed; the others are finished and kept") as error:
        run(tiny_config, tmp_path, *overrides, folds=[0, 1])
    (problem,) = error.value.problems
    assert problem.startswith("tiny fold 0 seed 0: training stopped in epoch 1, step 1: cross_entropy = nan")
    assert Experiment(tmp_path / "tiny").job(1, 0).finished
    experiment, _ = run(tiny_config, tmp_path, *overrides, folds=[0])  # not begun, so there is nothing to resume
    assert experiment.job(0, 0).finished


def test_an_experiment_from_before_an_optional_setting_existed_goes_on(tiny_config, runs):
    description = runs / "tiny/experiment.json"
    facts = json.loads(description.read_text())
    assert facts["config"].pop("mixing", "none") is None
    description.write_text(json.dumps(facts))
    experiment, _ = run(tiny_config, runs, resume=True)
    assert experiment.complete
