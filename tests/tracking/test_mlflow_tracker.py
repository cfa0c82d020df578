"""The MLflow tracker against real SQLite stores."""

import base64
import json
import math
import os
import socket
import sqlite3
import time
import uuid
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from dermaffinity.errors import TrackingError
from dermaffinity.tracking import mlflow_tracker
from dermaffinity.tracking.base import NullTracker, Run, Tracker
from dermaffinity.tracking.mlflow_tracker import MlflowTracker, serve_ui, ui_command, view_addresses


@pytest.fixture(scope="module")
def tracker(tmp_path_factory):
    return MlflowTracker(f"sqlite:///{tmp_path_factory.mktemp('a store') / 'runs.db'}")


@pytest.fixture
def parent(tracker, request):
    return open_parent(tracker, request.node.name, key=request.node.name)


@pytest.fixture
def again(tracker, parent, request):
    """Opens the parent once more, as after a kill."""
    return lambda: open_parent(tracker, request.node.name, key=request.node.name)


def open_parent(tracker: Tracker, experiment: str = "hamfit-7", key: str | None = None) -> Run:
    """The run of an experiment: of one's own, or the one that was opened with this key."""
    tags = {"method": "affinity", "role": "parent", "split_hash": "c0ffee"}
    key = key or uuid.uuid4().hex
    return tracker.parent(
        experiment, "affinity", key=key, tags=tags, description="Do centers help?", colors=("#1f77b4", "#d55e00")
    )


def stored(tracker: MlflowTracker, run: Run):
    return tracker.call(lambda client: client.get_run(run.id))


def history(tracker: MlflowTracker, run: Run, metric: str) -> list[tuple[int, float]]:
    points = tracker.call(lambda client: client.get_metric_history(run.id, metric))
    return sorted((point.step, point.value) for point in points)


def artifact(tracker: MlflowTracker, run: Run, path: str) -> Path:
    return tracker.artifact_root / stored(tracker, run).info.artifact_uri.split("/mlartifacts/")[1] / path


def test_a_store_whose_creation_was_killed_is_created_anew(tmp_path):
    (tmp_path / "mlflow.db").touch()
    (tmp_path / "mlflow.db.draft").write_bytes(b"half a database")
    tracker = MlflowTracker(f"sqlite:///{tmp_path}/mlflow.db")
    assert stored(tracker, open_parent(tracker)).info.run_name == "affinity"


def test_children_carry_their_parent_and_its_tags(tracker, parent):
    for fold in range(3):
        tracker.child(parent, f"fold {fold}", tags={"role": "child", "fold": f"{fold}"})
    experiment_id = stored(tracker, parent).info.experiment_id
    query = "tags.method = 'affinity' and tags.split_hash = 'c0ffee' and tags.fold = '1'"
    (found,) = tracker.call(lambda client: client.search_runs([experiment_id], query))
    assert found.info.run_name == "fold 1"
    assert found.data.tags["mlflow.parentRunId"] == parent.id
    assert found.data.tags["role"] == "child"
    assert found.data.tags["mlflow.runColor"] == "#1f77b4"
    assert "mlflow.note.content" not in found.data.tags
    assert stored(tracker, parent).data.tags["mlflow.note.content"] == "Do centers help?"


def test_new_runs_take_the_color_that_fewest_others_have_and_keep_it(tracker, request):
    def color(run):
        return stored(tracker, run).data.tags["mlflow.runColor"]

    experiment = request.node.name
    first, *others = [open_parent(tracker, experiment, key=f"{number}") for number in range(3)]
    tracker.child(first, "fold 0", tags={})  # counts for nothing
    others.append(open_parent(tracker, experiment))
    assert [color(run) for run in (first, *others)] == ["#1f77b4", "#d55e00", "#1f77b4", "#d55e00"]
    assert color(open_parent(tracker, experiment, key="1")) == "#d55e00"


def test_a_known_run_and_its_children_are_found_again(tracker, parent, again):
    child = tracker.child(parent, "fold 0", tags={"role": "child"})
    parent.finish("KILLED")
    child.finish("KILLED")
    assert again().id == parent.id
    assert stored(tracker, parent).info.status == "RUNNING"
    assert tracker.child(again(), "fold 0", tags={}).id == child.id
    assert stored(tracker, child).info.status == "RUNNING"
    # Another experiment's child of the same name is another run.
    assert tracker.child(open_parent(tracker), "fold 0", tags={}).id != child.id


def test_only_finished_children_are_named(tracker, parent):
    for name, status in (("fold 0", "FINISHED"), ("fold 1", "KILLED"), ("fold 2", None)):
        child = tracker.child(parent, name, tags={})
        if status:
            child.finish(status)
    other = tracker.child(open_parent(tracker), "fold 3", tags={})
    other.finish("FINISHED")
    assert tracker.finished(parent) == {"fold 0"}


def test_a_deleted_run_is_replaced_by_a_new_one(tracker, parent, again):
    tracker.call(lambda client: client.delete_run(parent.id))
    assert again().id != parent.id


def test_a_deleted_experiment_is_named_with_the_command_that_restores_it(tracker):
    experiment_id = stored(tracker, open_parent(tracker, "old")).info.experiment_id
    tracker.call(lambda client: client.delete_experiment(experiment_id))
    with pytest.raises(TrackingError, match=f"'old' was deleted .* --experiment-id {experiment_id}"):
        open_parent(tracker, "old")


def test_replayed_history_adds_nothing_twice_and_loses_nothing(tracker, parent, again):
    rows = [{"loss": 1 / (epoch + 1), "accuracy": epoch / 10} for epoch in range(4)]
    parent.log_history(rows[:2])
    reopened = again()
    reopened.log_history(rows)
    reopened.log_history(rows)
    assert history(tracker, parent, "training/loss") == [(0, 1.0), (1, 0.5), (2, 1 / 3), (3, 0.25)]
    assert history(tracker, parent, "training/accuracy") == [(0, 0.0), (1, 0.1), (2, 0.2), (3, 0.3)]


def test_history_that_was_cut_in_the_middle_of_a_step_is_completed(tracker, parent, again):
    parent.log_history([{"a": 1.0, "b": 1.0}])
    parent.log_history([{"a": 1.0}, {"a": 2.0}])
    again().log_history([{"a": 1.0, "b": 1.0}, {"a": 2.0, "b": 2.0}])
    assert history(tracker, parent, "training/a") == history(tracker, parent, "training/b") == [(0, 1.0), (1, 2.0)]


def test_more_points_than_one_request_may_hold_are_all_stored(tracker, parent):
    parent.log_history([{f"m{metric}": float(epoch) for metric in range(30)} for epoch in range(50)])
    assert history(tracker, parent, "training/m29") == [(epoch, float(epoch)) for epoch in range(50)]


def test_metrics_logged_again_are_kept_once_and_changed_ones_count(tracker, parent, again):
    parent.log_metrics({"accuracy": 0.7, "gain.AK": 0.1})
    again().log_metrics({"accuracy": 0.7, "gain.AK": 0.2})
    assert history(tracker, parent, "accuracy") == [(0, 0.7)]
    assert stored(tracker, parent).data.metrics == {"accuracy": 0.7, "gain/AK": 0.2}


def test_a_name_up_to_its_first_dot_is_a_section_of_charts(tracker, parent):
    names = ["recall.MEL", "recall.lentigo v1.2", "external.recall.MEL", "minority_recall", "verification.lfw/auc"]
    parent.log_metrics({name: float(number) for number, name in enumerate(names)})
    assert stored(tracker, parent).data.metrics == {
        "recall/MEL": 0.0,
        "recall/lentigo v1.2": 1.0,
        "external/recall.MEL": 2.0,
        "minority_recall": 3.0,
        "verification/lfw/auc": 4.0,
    }


def test_numbers_that_are_not_finite_are_left_out(tracker, parent):
    parent.log_metrics({"auc.AK": math.nan, "nll": math.inf, "accuracy": np.float32(0.5)})
    parent.log_history([{"loss": math.nan}, {"loss": 0.5}])
    assert stored(tracker, parent).data.metrics == {"accuracy": 0.5, "training/loss": 0.5}


def test_names_are_written_in_the_alphabet_of_mlflow_and_stay_apart(tracker, parent):
    names = [
        "recall.a(b)",
        "recall.a[b]",
        "recall.a_b_2",
        "recall.Nævus",
        "train/loss",
        "../x",
        "a//b",
        "((",
        "n" * 300,
    ]
    parent.log_metrics({name: float(number) for number, name in enumerate(names)})
    assert stored(tracker, parent).data.metrics == {
        "recall/a_b": 0.0,
        "recall/a_b_2": 1.0,
        "recall/a_b_2_2": 2.0,
        "recall/Nævus": 3.0,
        "train/loss": 4.0,
        "x": 5.0,
        "a/b": 6.0,
        "unnamed": 7.0,
        "n" * 250: 8.0,
    }


def test_a_config_is_recorded_flat(tracker, parent):
    config = {"name": "x", "head": {"sigma": 10, "classes": ["AK", "a(b)"]}, "loss": {"margin(s)": 0.75}, "mask": None}
    parent.log_params(config)
    parent.log_params(config)
    assert stored(tracker, parent).data.params == {
        "name": "x",
        "head.sigma": "10",
        "head.classes": '["AK", "a(b)"]',
        "loss.margin_s": "0.75",
        "mask": "null",
    }


def test_changed_parameters_are_refused_all_at_once(tracker, parent, again):
    parent.log_params({"epochs": 20, "loss": {"margin": 0.75}, "long": "x" * 7000})
    reopened = again()
    reopened.log_params({"epochs": 20, "long": "x" * 7000, "new": True})
    with pytest.raises(TrackingError, match=r"other parameters\. Resume it with the config") as caught:
        reopened.log_params({"epochs": 30, "loss": {"margin": 0.5}, "long": "x" * 7000})
    assert caught.value.problems == ("epochs: recorded 20, now 30", "loss.margin: recorded 0.75, now 0.5")


def test_no_absolute_path_and_no_account_is_recorded(tracker, tmp_path, parent):
    parent.log_params({"weights": tmp_path / "r18.pth", "plugins": [f"{tmp_path}/mine.py"], "config": "configs/a.yaml"})
    parent.set_tags({"library": f"file://{tmp_path}/library", "drive": r"D:\images\dermofit"})
    parent.log_dataset("hamfit-7", "ab" * 32, f"{tmp_path}/ham10000", "cross-validation", {"num_rows": 1212})
    parent.log_json({"source": tmp_path, "matrix": np.eye(2, dtype=int)}, "summary.json")
    run = stored(tracker, parent)
    assert run.data.params == {"weights": "r18.pth", "plugins": '["mine.py"]', "config": "configs/a.yaml"}
    assert run.data.tags["library"] == "library"
    assert run.data.tags["drive"] == "dermofit"
    assert run.data.tags["mlflow.source.name"] == "dermaffinity"
    assert "mlflow.user" not in run.data.tags
    assert json.loads(artifact(tracker, parent, "summary.json").read_text()) == {
        "source": tmp_path.name,
        "matrix": [[1, 0], [0, 1]],
    }
    recorded = json.dumps([run.data.to_dictionary(), run.inputs.to_dictionary()])
    assert str(tmp_path) not in recorded
    assert str(Path.home()) not in recorded


def experiment_of(tracker: MlflowTracker, run: Run):
    return tracker.call(lambda client: client.get_experiment(client.get_run(run.id).info.experiment_id))


def test_a_view_is_saved_as_mlflow_saves_its_own(tracker, parent, request):
    columns, charts = ["minority_recall", "gain.minority_recall"], ["recall.b(1)", "recall.AK", "gain.AK"]
    tracker.show(request.node.name, columns=columns, charts=charts, rows={"role": "parent", "scored": "test"})
    experiment = experiment_of(tracker, parent)
    saved = json.loads(experiment.tags["mlflow.sharedViewState.methods"])
    assert (saved["name"], saved["createdAt"]) == ("Methods side by side", saved["updatedAt"])
    assert saved["createdAt"] == pytest.approx(1000 * time.time(), abs=60_000)
    encoding, packed = saved["state"].split(";")
    assert encoding == "deflate"
    view = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert (view["searchFilter"], view["orderByAsc"]) == ("tags.role = 'parent' and tags.scored = 'test'", False)
    assert view["orderByKey"] == "metrics.`minority_recall`"
    assert view["selectedColumns"] == ["metrics.`minority_recall`", "metrics.`gain/minority_recall`"]
    assert view["columnOrder"][-2:] == view["selectedColumns"]
    assert set(view["columnOrder"]) == set(view["columnWidths"])
    drawn = [(chart["metricKey"], chart["metricSectionId"], chart["type"]) for chart in view["compareRunCharts"]]
    assert drawn == [("recall/b_1", "recall", "BAR"), ("recall/AK", "recall", "BAR"), ("gain/AK", "gain", "BAR")]
    assert [(section["uuid"], section["name"]) for section in view["compareRunSections"]] == [
        ("recall", "recall"),
        ("gain", "gain"),
    ]
    found = tracker.call(lambda client: client.search_runs([experiment.experiment_id], view["searchFilter"]))
    assert found == []  # the query is one that MLflow understands; this run has no tag `scored`


def test_every_view_of_a_store_has_an_address_the_newest_first(tmp_path):
    tracker = MlflowTracker(f"sqlite:///{tmp_path / 'mlflow.db'}")
    for name in ("old", "new"):
        tracker.show(name, columns=["accuracy"], charts=[], rows={})
        time.sleep(0.002)
    open_parent(tracker, "without")
    first, second = view_addresses(tracker.uri, port=5123).items()
    assert first == (
        "new",
        "http://127.0.0.1:5123/#/experiments/2/runs?workflowType=machine_learning&viewStateShareKey=methods",
    )
    assert second[0] == "old"


def test_a_report_is_kept_with_its_run_and_linked_whatever_is_described_later(tracker, parent, request):
    def note() -> str:
        return experiment_of(tracker, parent).tags["mlflow.note.content"]

    name, experiment_id = request.node.name, experiment_of(tracker, parent).experiment_id
    tracker.describe(name, "Of 6, a found 5.\n\n| | a |\n|---|---|\n| AK | 5 |\n")
    assert note().splitlines()[0] == "Of 6, a found 5."
    for html in ("<p>1</p>", "<p>2</p>"):
        assert tracker.add_report(name, name, "affinity", html, private=True)
    assert artifact(tracker, parent, "report.html").read_text() == "<p>2</p>"
    link = (
        f"[Report of affinity](#/experiments/{experiment_id}/runs/{parent.id}/artifacts/report.html"
        "?workflowType=machine_learning)"
    )
    assert note() == f"Of 6, a found 5.\n\n{link}\n\n| | a |\n|---|---|\n| AK | 5 |"
    tracker.describe(name, "Of 6, b found 6.\n\n| | b |\n")
    assert note() == f"Of 6, b found 6.\n\n{link}\n\n| | b |"
    tracker.describe(name, "Long.\n" + "| row |\n" * 5000)
    assert note().startswith(f"Long.\n\n{link}\n\n| row |\n")
    assert note().endswith("\n| row |")


def test_a_report_of_a_run_that_the_store_does_not_hold_is_not_kept(tracker, tmp_path):
    elsewhere = MlflowTracker(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert not elsewhere.add_report("hamfit-7", "c0ffee", "affinity", "", private=False)
    assert not list(tmp_path.iterdir())
    open_parent(tracker)
    for experiment in ("hamfit-7", "unknown"):
        assert not tracker.add_report(experiment, "c0ffee", "affinity", "", private=False)


def test_a_report_with_images_of_the_library_is_not_sent_to_a_server():
    # Port 9 of this machine answers nobody: a try to send would be an error.
    assert not MlflowTracker("http://127.0.0.1:9").add_report("hamfit-7", "c0ffee", "affinity", "", private=True)


def test_the_dataset_is_an_input_and_counted_once(tracker, parent):
    for _ in range(2):
        parent.log_dataset("hamfit-7", "ab" * 32, "doi:10.7910/DVN/DBW86T", "cross-validation", {"num_rows": 1212})
    (entry,) = stored(tracker, parent).inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("hamfit-7", "ab" * 18)
    assert json.loads(entry.dataset.source) == {"uri": "doi:10.7910/DVN/DBW86T"}
    assert json.loads(entry.dataset.profile) == {"num_rows": 1212}
    assert [(tag.key, tag.value) for tag in entry.tags] == [("mlflow.data.context", "cross-validation")]


def test_figures_tables_and_texts_lie_beside_the_database_whatever_the_folder(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    tracker = MlflowTracker("sqlite:///lab results/mlflow.db")
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = open_parent(tracker, "hamfit-7 (lesions)")

    from matplotlib.figure import Figure

    run.log_figure(Figure(), "figures/confusion.png")
    run.log_table(pd.DataFrame({"image": ["a.jpg"], "p.AK": [0.25]}), "tables/predictions.csv")
    run.log_text("Größe: 3 µm", "config.yaml")
    (tmp_path / "elsewhere.csv").write_text("image\n")
    run.log_file(tmp_path / "elsewhere.csv")
    folder = tmp_path / "lab results" / "mlartifacts" / "hamfit-7 _lesions" / run.id / "artifacts"
    assert (folder / "figures/confusion.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "tables/predictions.csv").read_text() == "image,p.AK\na.jpg,0.25\n"
    assert (folder / "config.yaml").read_text(encoding="utf-8") == "Größe: 3 µm"
    assert (folder / "elsewhere.csv").read_text() == "image\n"
    assert not list((tmp_path / "elsewhere").iterdir())


def register(run: Run, digest: str, name: str = "hamfit-7", alias: str = "affinity") -> tuple[str, list[Path]]:
    """Registers a model of one file; tells its address and where it was written, if it was."""
    written = []

    def write(folder: Path) -> None:
        assert not folder.exists()
        folder.mkdir()
        (folder / "MLmodel").write_text(f"model_uuid: {digest}")
        written.append(folder)

    tags = {"config": alias, "library": "/data/hamfit"}
    address = run.log_model(write, name, alias, digest=digest, tags=tags, description="Research use only.")
    return address, written


def versions(tracker: MlflowTracker, name: str) -> dict[str, str]:
    found = tracker.call(lambda client: client.search_model_versions(f"name = '{name}'"))
    return {str(version.version): version.tags["digest"] for version in found}


def pointed(tracker: MlflowTracker, name: str) -> dict[str, str]:
    aliases = tracker.call(lambda client: client.get_registered_model(name)).aliases
    return {alias: str(version) for alias, version in aliases.items()}


def test_a_model_is_registered_once_for_each_digest_and_its_alias_moves_alone(tracker, parent):
    address, written = register(parent, "d1", "once", "affinity")
    assert address == "models:/once@affinity"
    assert len(written) == 1
    assert not written[0].exists()  # only the store keeps it
    tracker.call(lambda client: client.set_registered_model_alias("once", "champion", "1"))
    assert register(parent, "d1", "once", "affinity") == (address, [])
    assert versions(tracker, "once") == {"1": "d1"}
    register(parent, "d2", "once", "affinity")
    assert versions(tracker, "once") == {"1": "d1", "2": "d2"}
    assert pointed(tracker, "once") == {"champion": "1", "affinity": "2"}
    register(parent, "d1", "once", "affinity")  # the older one is the newest word again
    assert pointed(tracker, "once") == {"champion": "1", "affinity": "1"}
    assert versions(tracker, "once") == {"1": "d1", "2": "d2"}


def test_a_version_names_its_run_its_use_and_no_path_of_this_machine(tracker, parent):
    register(parent, "d1", "facts")
    version = tracker.call(lambda client: client.get_model_version_by_alias("facts", "affinity"))
    assert version.tags == {"config": "affinity", "library": "hamfit", "digest": "d1"}
    assert version.description == "Research use only."
    assert version.run_id == parent.id
    assert tracker.call(lambda client: client.get_registered_model("facts")).description == "Research use only."
    (output,) = stored(tracker, parent).outputs.model_outputs
    model = tracker.call(lambda client: client.get_logged_model(output.model_id))
    assert version.source == model.artifact_location
    assert (model.status, model.source_run_id) == ("READY", parent.id)
    assert "mlflow.user" not in model.tags
    assert (Path(model.artifact_location.removeprefix("file://").replace("%20", " ")) / "MLmodel").is_file()


@pytest.mark.parametrize(
    ("name", "alias", "address"),
    [
        ("Klinik (Süd): 7.1", "hamfit7.affinity", "models:/Klinik_Süd_7_1@hamfit7_affinity"),
        ("named/v1", "v2", "models:/named_v1@v2_"),
        ("..", "Latest", "models:/unnamed@Latest_"),
        ("n" * 300, "a" * 300, f"models:/{'n' * 250}@{'a' * 250}"),
    ],
)
def test_models_and_aliases_get_names_that_mlflow_allows(tracker, parent, name, alias, address):
    from mlflow.tracking._model_registry.utils import _get_store

    assert register(parent, "d1", name, alias)[0] == address
    found, _, pointer = address.removeprefix("models:/").partition("@")
    assert pointed(tracker, found) == {pointer: "1"}
    assert _get_store(tracker.uri).get_model_version_by_alias(found, pointer).tags["digest"] == "d1"


def test_a_model_that_finds_no_space_is_one_clear_error(tracker, parent):
    def write(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(TrackingError, match="No space left on device"):
        parent.log_model(write, "full", "affinity", digest="d", tags={}, description="")
    assert stored(tracker, parent).outputs.model_outputs == []
    assert tracker.call(lambda client: client.search_model_versions("name = 'full'")) == []


def test_a_store_locked_by_another_program_is_named_in_time(tracker, monkeypatch):
    monkeypatch.setattr(mlflow_tracker, "_PATIENCE", 0.3)
    other = sqlite3.connect(tracker.database)
    other.execute("BEGIN EXCLUSIVE")
    try:
        started = time.monotonic()
        with pytest.raises(TrackingError, match=r"locked by another process \(waited 0.3 s\)\. Close"):
            open_parent(MlflowTracker(tracker.uri))
        assert time.monotonic() - started < 5
    finally:
        other.close()
    assert open_parent(MlflowTracker(tracker.uri)).id


def test_a_store_that_is_locked_later_is_named_as_well(tracker, parent, monkeypatch):
    def locked(client, run_id, **content):  # what MLflow says after 20 seconds
        raise MlflowException("(sqlite3.OperationalError) database is locked")

    monkeypatch.setattr(MlflowClient, "log_batch", locked)
    with pytest.raises(TrackingError, match="locked by another process"):
        parent.log_metrics({"accuracy": 0.5})


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may write everywhere")
def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(TrackingError, match=r"cannot be used: .*Permission denied.* Check that its folder"):
        open_parent(MlflowTracker(f"sqlite:///{tmp_path}/mlflow.db"))


def test_a_folder_that_cannot_exist_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrackingError, match=r"cannot be used: .*Check that its folder exists"):
        open_parent(MlflowTracker(f"sqlite:///{tmp_path}/file/mlflow.db"))


def test_a_file_that_is_no_database_is_one_clear_error(tmp_path):
    (tmp_path / "mlflow.db").write_text("image,label\n" * 100)
    with pytest.raises(TrackingError, match="file is not a database"):
        open_parent(MlflowTracker(f"sqlite:///{tmp_path}/mlflow.db"))
    assert (tmp_path / "mlflow.db").read_text().startswith("image,label")


def test_the_default_store_is_a_file_of_this_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracker = MlflowTracker()
    assert tracker.uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracker.artifact_root == tmp_path / "mlartifacts"


def test_a_server_is_left_as_it_is():
    tracker = MlflowTracker("http://127.0.0.1:5000")
    assert (tracker.uri, tracker.database, tracker.artifact_root) == ("http://127.0.0.1:5000", None, None)


def test_a_server_that_is_away_is_one_clear_error(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError) as caught:
        open_parent(MlflowTracker("http://127.0.0.1:9"))
    assert str(caught.value).startswith(
        "The tracking server http://127.0.0.1:9 cannot be used: Connection refused. Check"
    )


@pytest.mark.parametrize(
    "uri", ["mlruns", "file:///data/mlruns", "sqlite://", "sqlite:///:memory:", "postgresql://db/x"]
)
def test_other_stores_are_refused_with_what_is_allowed(uri):
    with pytest.raises(TrackingError, match=r"is not a tracking store\. Allowed are sqlite:///FILE"):
        MlflowTracker(uri)


def test_a_path_that_no_address_can_hold_is_refused():
    with pytest.raises(TrackingError, match="must not hold '%'"):
        MlflowTracker("sqlite:///50% done/mlflow.db")


def test_the_browser_view_gets_the_store_and_its_artifacts_on_this_machine_alone(tracker, parent):
    command = ui_command(tracker.uri, port=5123)
    options = dict(zip(command[4::2], command[5::2], strict=True))
    assert command[1:4] == ["-m", "mlflow", "server"]
    assert options["--host"] == "127.0.0.1"
    assert options["--port"] == "5123"
    assert options["--backend-store-uri"] == tracker.uri
    assert options["--default-artifact-root"] == str(tracker.artifact_root)


def test_the_browser_view_has_nothing_to_show_without_a_store(tmp_path):
    with pytest.raises(TrackingError, match="There are no runs yet"):
        ui_command(f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(TrackingError, match="is a server already"):
        ui_command("http://127.0.0.1:5000")


def test_a_port_in_use_is_named(tracker, parent):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(TrackingError, match=f"Port {port} is in use"):
            serve_ui(tracker.uri, port=port)


def test_the_null_tracker_takes_everything_and_records_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = NullTracker().child(open_parent(NullTracker()), "fold 0", tags={})
    run.log_params({"a": 1})
    run.set_tags({"a": "b"})
    run.log_metrics({"a": 1.0})
    run.log_history([{"a": 1.0}])
    run.log_dataset("a", "b", "c", "d", {})
    run.log_json({}, "a.json")
    run.log_text("a", "a.txt")
    run.log_file(tmp_path / "none.csv")
    assert register(run, "d1") == ("", [])
    run.finish("FINISHED")
    NullTracker().show("a", columns=["a"], charts=["a"], rows={})
    NullTracker().describe("a", "b")
    assert not NullTracker().add_report("a", "b", "c", "d", private=False)
    assert NullTracker().finished(run) == set()
    assert run.id == ""
    assert not list(tmp_path.iterdir())


def test_without_an_address_the_store_is_the_one_mlflow_itself_would_use(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert MlflowTracker().uri == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    assert MlflowTracker().uri == f"sqlite:///{tmp_path}/other.db"
    assert MlflowTracker("http://127.0.0.1:5000").uri == "http://127.0.0.1:5000"
