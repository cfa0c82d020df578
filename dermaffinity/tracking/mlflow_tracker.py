"""Runs in an MLflow store: a local SQLite file, or an MLflow server."""

import json
import logging
import math
import os
import re
import socket
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain, count
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn, TypeVar

from filelock import FileLock

from dermaffinity.errors import TrackingError
from dermaffinity.tracking.base import Run, RunStatus
from dermaffinity.tracking.mlflow_view import VIEW_TAG, artifact_address, saved_view, view_address

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # A SQLite connection must not be carried across a fork, and data loaders fork.
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
    # A server that is away is waited for as long as a locked file, a quarter of a minute; the default is over four.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # The lock file of whatever project the command runs in is no part of a model, and may name private package hosts.
    "MLFLOW_UV_AUTO_DETECT": "false",
}

_UI_ENVIRONMENT = {
    # Otherwise eight more processes and 2 GB wait for jobs that only language models have.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}

# What MLflow accepts.
_NAME_LENGTH = 250
_PARAM_LENGTH = 6000
_DIGEST_LENGTH = 36
_NOTE_LENGTH = 20_000
_MANY = 50_000

# How long MLflow waits for another process that writes to the file, in seconds.
_PATIENCE = 20.0

# The tags that hold a description, a color and a child's parent, where a run keeps its report, and how a description
# links it.
_NOTE = "mlflow.note.content"
_COLOR = "mlflow.runColor"
_PARENT = "mlflow.parentRunId"
_REPORT = "report.html"
_LINK = re.compile(rf"^\[Report of .*/{_REPORT}\?.*\)$", re.MULTILINE)

# The tag that a parent is found by.
_KEY = "folder_id"

_Result = TypeVar("_Result")


class MlflowTracker:
    """Opens runs in an MLflow store.

    Connects at the first run. One process should write to a file at a time; a second one's short writes are waited for.

    Args:
        uri: ``sqlite:///FILE`` or the http(s) address of an MLflow server; by default what ``MLFLOW_TRACKING_URI``
            says, as everywhere in MLflow, and without it ``mlflow.db`` in this folder. A relative file is resolved here
            and now. Artifacts of a file lie in ``mlartifacts`` beside it.

    Raises:
        TrackingError: An address of another kind.

    Examples:
        >>> from dermaffinity.tracking import MlflowTracker
        >>> MlflowTracker("sqlite:///mlflow.db").database.name
        'mlflow.db'
    """

    def __init__(self, uri: str | None = None) -> None:
        self.uri = _resolved(uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db")
        self._client: MlflowClient | None = None

    @property
    def database(self) -> Path | None:
        """The store's file; none for a server."""
        return Path(self.uri.removeprefix("sqlite:///")) if self.uri.startswith("sqlite:") else None

    @property
    def artifact_root(self) -> Path | None:
        """The folder of all artifacts; a server has its own."""
        return self.database.parent / "mlartifacts" if self.database else None

    def parent(
        self,
        experiment: str,
        name: str,
        *,
        key: str,
        tags: Mapping[str, str],
        description: str,
        colors: Sequence[str] = (),
    ) -> "MlflowRun":
        """Open the run of one experiment config; see :class:`dermaffinity.tracking.base.Tracker`."""
        experiment_id = self._experiment_id(experiment)
        known = self._found(experiment_id, f"tags.{_KEY} = '{key}'")
        own = {} if known or not colors else {_COLOR: self._least_used(experiment_id, colors)}
        return self._open_run(experiment_id, name, known, {**tags, **own, _KEY: key, _NOTE: description})

    def child(self, parent: Run, name: str, *, tags: Mapping[str, str]) -> "MlflowRun":
        """Open the run of one fold and seed, in its parent's color; see :class:`dermaffinity.tracking.base.Tracker`."""
        opened = self.call(lambda client: client.get_run(parent.id))
        inherited = {
            tag: value
            for tag, value in opened.data.tags.items()
            if tag == _COLOR or not (tag == _KEY or tag.startswith("mlflow."))
        }
        known = self._found(opened.info.experiment_id, f"{_children(parent)} and attributes.run_name = '{name}'")
        return self._open_run(opened.info.experiment_id, name, known, {**inherited, **tags, _PARENT: parent.id})

    def finished(self, parent: Run) -> set[str]:
        """Give the names of finished children; see :class:`dermaffinity.tracking.base.Tracker`."""
        experiment_id = self.call(lambda client: client.get_run(parent.id)).info.experiment_id
        query = f"{_children(parent)} and attributes.status = 'FINISHED'"
        found = self.call(lambda client: client.search_runs([experiment_id], query, max_results=_MANY))
        return {str(run.info.run_name) for run in found}

    def show(self, experiment: str, *, columns: Sequence[str], charts: Sequence[str], rows: Mapping[str, str]) -> None:
        """Save the view that `view_addresses` leads to; see :class:`dermaffinity.tracking.base.Tracker`."""
        listed, drawn = ([_slug(_section(name)) for name in names] for names in (columns, charts))
        view = saved_view(listed, drawn, rows, saved_at=int(time.time() * 1000))
        self._tag_experiment(self._experiment_id(experiment), VIEW_TAG, view)

    def describe(self, experiment: str, text: str) -> None:
        """Set the experiment's description; see :class:`dermaffinity.tracking.base.Tracker`."""
        experiment_id = self._experiment_id(experiment)
        self._set_note(experiment_id, text, _LINK.findall(self._note(experiment_id)))

    def add_report(self, experiment: str, key: str, name: str, html: str, *, private: bool) -> bool:
        """Keep a report with a run and link it; see :class:`dermaffinity.tracking.base.Tracker`."""
        if private if self.database is None else _is_empty(self.database):
            return False
        known = self.call(lambda client: client.get_experiment_by_name(experiment))
        run_id = known and self._found(known.experiment_id, f"tags.{_KEY} = '{key}'")
        if not (known and run_id):
            return False
        MlflowRun(self, run_id, reopened=True).log_text(html, _REPORT)
        link = f"[Report of {name}](#{artifact_address(known.experiment_id, run_id, _REPORT)})"
        note = self._note(known.experiment_id)
        self._set_note(known.experiment_id, _LINK.sub("", note), [*_LINK.findall(note), link])
        return True

    def _note(self, experiment_id: str) -> str:
        return self.call(lambda client: client.get_experiment(experiment_id)).tags.get(_NOTE, "")

    def _set_note(self, experiment_id: str, text: str, links: Sequence[str]) -> None:
        """Write a description with links below its first line, which is all that MLflow shows of it while folded."""
        first, _, rest = text.strip().partition("\n")
        note = "\n\n".join(filter(None, [first, *dict.fromkeys(links), rest.strip()]))
        if len(note) > _NOTE_LENGTH:
            note = note[:_NOTE_LENGTH].rpartition("\n")[0]
        self._tag_experiment(experiment_id, _NOTE, note)

    def _tag_experiment(self, experiment_id: str, key: str, value: str) -> None:
        self.call(lambda client: client.set_experiment_tag(experiment_id, key, value))

    def call(self, action: "Callable[[MlflowClient], _Result]") -> _Result:
        """Run an action on the store, and give its errors clear words.

        Raises:
            TrackingError: The store stayed locked, cannot be written, or refused the action.
        """
        mlflow = _mlflow()
        try:
            if self._client is None:
                self._check_writable()
                self._client = mlflow.MlflowClient(self.uri)
            return action(self._client)
        except (mlflow.MlflowException, sqlite3.Error, OSError) as error:
            raise self._explained(error) from error

    def _found(self, experiment_id: str, query: str) -> str | None:
        found = self.call(lambda client: client.search_runs([experiment_id], query, max_results=1))
        return found[0].info.run_id if found else None

    def _least_used(self, experiment_id: str, colors: Sequence[str]) -> str:
        # Children have no key.
        parents = self.call(
            lambda client: client.search_runs([experiment_id], f"tags.{_KEY} LIKE '%'", max_results=_MANY)
        )
        used = Counter(run.data.tags.get(_COLOR) for run in parents)
        return min(colors, key=lambda color: used[color])

    def _experiment_id(self, name: str) -> str:
        # MLflow's own choice would be a folder of whatever directory the process was started in.
        location = (self.artifact_root / _slug(name)).as_uri() if self.artifact_root else None

        def create_or_find(client: "MlflowClient") -> "Experiment":
            try:
                # The kind opens the runs of trained models and not those of language models.
                client.create_experiment(name, location, tags={"mlflow.experimentKind": "custom_model_development"})
            except _mlflow().MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            experiment = client.get_experiment_by_name(name)
            assert experiment is not None
            return experiment

        experiment = self.call(create_or_find)
        if experiment.lifecycle_stage == "deleted":
            raise TrackingError(
                f"The experiment {name!r} was deleted in {self.uri}. Restore it with 'mlflow experiments restore "
                f"--experiment-id {experiment.experiment_id}', or name another store with --tracking-uri."
            )
        return experiment.experiment_id

    def _open_run(self, experiment_id: str, name: str, run_id: str | None, tags: Mapping[str, str]) -> "MlflowRun":
        # What the table's column "Source" shows.
        tags = {"mlflow.source.name": "dermaffinity", "mlflow.source.type": "LOCAL", **tags}
        tags = {key: _portable(value) for key, value in tags.items()}
        if run_id:
            self.call(lambda client: client.update_run(run_id, status="RUNNING", name=name))
            run = MlflowRun(self, run_id, reopened=True)
            run.set_tags(tags)
            return run
        created = self.call(lambda client: client.create_run(experiment_id, tags=tags, run_name=name))
        return MlflowRun(self, created.info.run_id, reopened=False)

    def _check_writable(self) -> None:
        """Look for ourselves: MLflow waits minutes for a file that cannot be, and logs tracebacks."""
        if self.database is None:
            return
        if _is_empty(self.database):
            self._create_store(self.database)
        connection = sqlite3.connect(f"{self.database.as_uri()}?mode=rw", uri=True, timeout=_PATIENCE)
        try:
            connection.execute("BEGIN IMMEDIATE")
        finally:
            connection.close()

    def _create_store(self, database: Path) -> None:
        """Create the tables in a draft that takes the file's name when whole.

        A process killed while it makes the tables, or two that make them at once, would leave a file broken for good.
        """
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        draft = database.with_name(f"{database.name}.draft")
        database.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{database}.lock", timeout=3 * _PATIENCE):
            if not _is_empty(database):
                return
            draft.write_bytes(b"")
            SqlAlchemyStore(f"sqlite:///{draft}", f"{self.artifact_root}")
            os.replace(draft, database)

    def _explained(self, error: Exception) -> TrackingError:
        if isinstance(error, TimeoutError) or "database is locked" in str(error):
            return TrackingError(
                f"The tracking store {self.database} is locked by another process (waited {_PATIENCE:g} s). "
                "Close whatever holds it, for example a database browser, a backup or a stopped run, "
                "then start the same command again with --resume."
            )
        if "database schema" in str(error):
            return TrackingError(
                f"The tracking store {self.uri} was written by another version of MLflow. Copy the file, then bring it "
                f"up to date with '{sys.executable} -m mlflow db upgrade {self.uri}', or name a new store."
            )
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if self.database is None:
            # What requests says of a server that is away is a chain of its own classes.
            if "Max retries exceeded" in reason:
                told = re.findall(r"(?<=\] )[\w ]+|too many \d+ error responses|timed out", reason)
                reason = told[-1] if told else "no answer"
            return TrackingError(
                f"The tracking server {self.uri} cannot be used: {reason}. Check that it runs, that its database does, "
                "and that it can be reached from here, or name another store with --tracking-uri."
            )
        return TrackingError(
            f"The tracking store {self.uri} cannot be used: {reason}. Check that its folder exists, has space and may "
            "be written, or name another store with --tracking-uri."
        )


class MlflowRun:
    """A run in an MLflow store; see :class:`dermaffinity.tracking.base.Run`."""

    def __init__(self, tracker: MlflowTracker, run_id: str, *, reopened: bool) -> None:
        self.id = run_id
        self._tracker = tracker
        self._reopened = reopened
        # The last value of each metric at each step, so that a replay adds nothing.
        self._curves: dict[str, dict[int, float]] = {}

    def log_params(self, params: Mapping[str, object]) -> None:
        """Record a resolved config; a changed value is refused."""
        # Cut here and not by MLflow, so that a long value equals itself when it is recorded again.
        given = {name: _text(value)[:_PARAM_LENGTH] for name, value in _slugged(dict(_flat(params))).items()}
        stored = self._tracker.call(lambda client: client.get_run(self.id)).data.params
        changed = [
            f"{name}: recorded {stored[name]}, now {value}"
            for name, value in given.items()
            if stored.get(name, value) != value
        ]
        if changed:
            raise TrackingError(
                f"The run {self.id} was recorded with other parameters. Resume it with the config it was started with, "
                "or start a new run.",
                changed,
            )
        new = [_mlflow().entities.Param(name, value) for name, value in given.items() if name not in stored]
        self._tracker.call(lambda client: client.log_batch(self.id, params=new))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set the labels that runs are filtered by."""
        labels = [_mlflow().entities.RunTag(key, _portable(value)) for key, value in tags.items()]
        self._tracker.call(lambda client: client.log_batch(self.id, tags=labels))

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Record numbers; those that are not finite are left out."""
        self._log_points([(name, 0, value) for name, value in _numbers(metrics) if self._curve(name).get(0) != value])

    def log_history(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Record the curves of a training, row i at step i; steps that the store has already are left as they are."""
        self._log_points(
            [
                (name, step, value)
                for step, row in enumerate(rows)
                for name, value in _numbers({f"training.{name}": value for name, value in row.items()})
                if step not in self._curve(name)
            ]
        )

    def log_dataset(self, name: str, digest: str, source: str, context: str, profile: Mapping[str, object]) -> None:
        """Record which data went in."""
        entities = _mlflow().entities
        dataset = entities.Dataset(
            name,
            digest[:_DIGEST_LENGTH],
            source_type="manifest",
            source=json.dumps({"uri": _portable(source)}),
            profile=json.dumps(_plain(profile)),
        )
        inputs = entities.DatasetInput(dataset, [entities.InputTag("mlflow.data.context", context)])
        self._tracker.call(lambda client: client.log_inputs(self.id, datasets=[inputs]))

    def log_figure(self, figure: "Figure", path: str) -> None:
        """Save a matplotlib figure; the ending of the path sets the format."""
        self._tracker.call(lambda client: client.log_figure(self.id, figure, path))

    def log_json(self, value: object, path: str) -> None:
        """Save plain data, NumPy arrays or NumPy numbers as JSON."""
        self.log_text(json.dumps(_plain(value), indent=2), path)

    def log_table(self, table: "pd.DataFrame", path: str) -> None:
        """Save a table as CSV, without its index."""
        self.log_text(table.to_csv(index=False), path)

    def log_text(self, text: str, path: str) -> None:
        """Save a text file in UTF-8."""
        self._tracker.call(lambda client: client.log_text(self.id, text, path))

    def log_file(self, file: Path) -> None:
        """Save a copy of a file, under its own name."""
        self._tracker.call(lambda client: client.log_artifact(self.id, str(file)))

    def log_model(
        self,
        write: Callable[[Path], None],
        name: str,
        alias: str,
        *,
        digest: str,
        tags: Mapping[str, str],
        description: str,
    ) -> str:
        """Register a trained model, once for each digest, and point the alias to it."""
        name, alias = _model_name(name), _alias(alias)
        tags = {key: _portable(value) for key, value in {**tags, "digest": digest}.items()}
        version = self._registered(name, digest) or self._register(write, name, tags, description)
        self._tracker.call(lambda client: client.set_registered_model_alias(name, alias, version))
        return f"models:/{name}@{alias}"

    def link_model(self, digest: str) -> None:
        """Name the newest registered version with this digest in a tag."""
        found = self._tracker.call(lambda client: client.search_model_versions(f"tags.digest = '{digest}'"))
        if found:
            version = max(found, key=lambda one: one.creation_timestamp)
            self.set_tags({"model_version": f"models:/{version.name}/{version.version}"})

    def finish(self, status: RunStatus) -> None:
        """Mark the run as ended."""
        self._tracker.call(lambda client: client.set_terminated(self.id, status))

    def _registered(self, name: str, digest: str) -> str | None:
        query = f"name = '{name}' and tags.digest = '{digest}'"
        found = self._tracker.call(lambda client: client.search_model_versions(query))
        return max((str(version.version) for version in found), key=int, default=None)

    def _register(self, write: Callable[[Path], None], name: str, tags: dict[str, str], description: str) -> str:
        call = self._tracker.call
        with tempfile.TemporaryDirectory(prefix="dermaffinity-") as folder:
            content = Path(folder) / "model"
            # An action like the others, so that a full disk is told in words.
            call(lambda client: write(content))
            experiment_id = call(lambda client: client.get_run(self.id)).info.experiment_id
            model = call(
                lambda client: client.create_logged_model(experiment_id, name, self.id, tags, model_type="classifier")
            )
            call(lambda client: client.log_model_artifacts(model.model_id, str(content)))
        call(lambda client: client.finalize_logged_model(model.model_id, "READY"))
        output = _mlflow().entities.LoggedModelOutput(model.model_id, step=0)
        call(lambda client: client.log_outputs(self.id, [output]))
        call(lambda client: _create_registered_model(client, name, description))
        # By its place: MLflow would look for models:/ID in the store of this folder, whatever the client's store is.
        created = call(
            lambda client: client.create_model_version(
                name,
                model.artifact_location,
                run_id=self.id,
                tags=tags,
                description=description,
                await_creation_for=0,
                model_id=model.model_id,
            )
        )
        return str(created.version)

    def _curve(self, name: str) -> dict[int, float]:
        if name not in self._curves:
            self._curves[name] = self._stored_curve(name) if self._reopened else {}
        return self._curves[name]

    def _stored_curve(self, name: str) -> dict[int, float]:
        points = self._tracker.call(lambda client: client.get_metric_history(self.id, name))
        return {point.step: point.value for point in sorted(points, key=lambda point: point.timestamp)}

    def _log_points(self, points: list[tuple[str, int, float]]) -> None:
        # One time for all, taken before the first try: when a try is repeated the store knows the points it has.
        now = int(time.time() * 1000)
        metrics = [_mlflow().entities.Metric(name, value, now, step) for name, step, value in points]
        self._tracker.call(lambda client: client.log_batch(self.id, metrics=metrics))
        for name, step, value in points:
            self._curve(name)[step] = value


def ui_command(uri: str | None = None, *, port: int = 5000) -> list[str]:
    """Give the command that shows a local store in a browser of this machine.

    Raises:
        TrackingError: There is no store yet, or it is a server, which shows itself.
    """
    tracker = MlflowTracker(uri)
    if tracker.database is None:
        raise TrackingError(f"{uri} is a server already: open it in a browser.")
    if _is_empty(tracker.database):
        raise TrackingError(
            f"There are no runs yet: no file {tracker.database}. Run 'dermaffinity demo' or 'dermaffinity crossval' "
            "here first, or name the store with --tracking-uri."
        )
    server = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    store = ["--backend-store-uri", tracker.uri, "--default-artifact-root", f"{tracker.artifact_root}"]
    return [*server, *store, "--workers", "1", "--uvicorn-opts", "--no-access-log"]


def view_addresses(uri: str | None = None, *, port: int = 5000) -> dict[str, str]:
    """Give the page to open for each experiment of a local store that has a saved view, the newest first.

    Raises:
        TrackingError: There is no store yet, or it is a server.
    """
    ui_command(uri, port=port)
    found = MlflowTracker(uri).call(lambda client: client.search_experiments())
    shown = sorted(
        (experiment for experiment in found if VIEW_TAG in experiment.tags),
        key=lambda experiment: json.loads(experiment.tags[VIEW_TAG])["updatedAt"],
        reverse=True,
    )
    return {
        experiment.name: f"http://127.0.0.1:{port}/#{view_address(experiment.experiment_id)}" for experiment in shown
    }


def serve_ui(uri: str | None = None, *, port: int = 5000) -> NoReturn:
    """Become the server that shows a local store on http://127.0.0.1:PORT; it says when it is ready.

    Raises:
        TrackingError: There is nothing to show, or the port is taken.

    Examples:
        >>> import dermaffinity as da
        >>> da.ui(port=5001)  # doctest: +SKIP
    """
    command = ui_command(uri, port=port)
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise TrackingError(f"Port {port} is in use by another program: choose another with --port.")
    sys.stdout.flush()
    # In this process's place and not below it, so that whatever ends this process ends the server.
    os.execve(command[0], command, {**_ENVIRONMENT, **_UI_ENVIRONMENT, **os.environ})


def _resolved(uri: str) -> str:
    if re.match("https?://.", uri):
        return uri
    file = uri.removeprefix("sqlite:///")
    if file == uri or file in ("", ":memory:"):
        raise TrackingError(
            f"{uri} is not a tracking store. Allowed are sqlite:///FILE (sqlite:///mlflow.db is the default) and the "
            "http(s) address of an MLflow server. MLflow no longer keeps runs in plain folders; an old one is "
            "converted by 'mlflow migrate-filestore'."
        )
    path = Path(file).expanduser().resolve()
    if re.search("[%?]", str(path)):
        raise TrackingError(f"The store {path} cannot be addressed: its path must not hold '%' or '?'.")
    return f"sqlite:///{path}"


@cache  # each change of a level makes every logger forget what it knows, which took a fifteenth of a short training
def _mlflow() -> ModuleType:
    """Import MLflow late, because it takes seconds, and quietly."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    import mlflow

    # The store logs a traceback with each error, all of which are raised again here in words.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    # Would say of every model that its example fits its signature.
    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
    return mlflow


def _is_empty(file: Path) -> bool:
    return not file.exists() or file.stat().st_size == 0


def _children(parent: Run) -> str:
    return f"tags.`{_PARENT}` = '{parent.id}'"


def _create_registered_model(client: "MlflowClient", name: str, description: str) -> None:
    try:
        client.create_registered_model(name, description=description)
    except _mlflow().MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _flat(section: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _numbers(metrics: Mapping[str, float]) -> list[tuple[str, float]]:
    sectioned = {_section(name): value for name, value in metrics.items()}
    return [(name, float(value)) for name, value in _slugged(sectioned).items() if math.isfinite(value)]


def _section(name: str) -> str:
    """Write a metric's name as MLflow sorts it into sections of charts: ``recall.AK`` as ``recall/AK``."""
    return name.replace(".", "/", 1)


def _slugged(named: Mapping[str, _Result]) -> dict[str, _Result]:
    """Rewrite names in MLflow's alphabet; those that become equal are numbered in their order."""
    slugged: dict[str, _Result] = {}
    for name, value in named.items():
        slug = _slug(name)
        numbered = (f"{slug}_{twin}" for twin in count(2))
        slugged[next(free for free in chain([slug], numbered) if free not in slugged)] = value
    return slugged


def _slug(name: str) -> str:
    # A name is also a path for MLflow, so no part of it may be empty or dots.
    parts = re.sub(r"[^\w./ -]+", "_", name)[:_NAME_LENGTH].split("/")
    return "/".join(filter(None, (part.strip("_. ") for part in parts))) or "unnamed"


def _model_name(name: str) -> str:
    """Rewrite a name in what registered models, logged models, aliases and the addresses of models all allow."""
    return re.sub(r"[^\w-]+", "_", name)[:_NAME_LENGTH].strip("_") or "unnamed"


def _alias(name: str) -> str:
    alias = _model_name(name)
    # What MLflow itself calls the last version, and the version of a number.
    return f"{alias}_" if re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE) else alias


def _text(value: object) -> str:
    plain = _plain(value)
    return plain if isinstance(plain, str) else json.dumps(plain)


def _plain(value: object) -> object:
    if isinstance(value, str | PurePath):
        return _portable(str(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _portable(text: str) -> str:
    """Cut an absolute path to its last part: where a file lies tells who owns the machine, and nothing of the run."""
    for path in (PurePosixPath(text.removeprefix("file://")), PureWindowsPath(text)):
        if path.is_absolute():
            return path.name
    return text
