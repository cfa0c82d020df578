"""What jobs write to files, logged in the tracking store: live, and by the driver alone.

A job talks to no store. So one writer is enough for a store, a store that is away stops no job, and what a killed
driver has not logged is logged when the command is run again with ``--resume``.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd
from rich.console import Console

from dermaffinity.errors import BusyError, TrackingError
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.job import Job, identity
from dermaffinity.experiments.results import arrays, read_table
from dermaffinity.metrics.classification import confusion_matrix
from dermaffinity.report.figures import confusion_figure, history_figure
from dermaffinity.tracking.base import Run, RunStatus, Tracker

# Seconds until a store that failed is tried again.
_PAUSE = 120.0


@dataclass
class _Page:
    """A job that the store does not have all of."""

    job: Job
    run: Run | None = None  # once something of it was logged
    stamp: int = 0  # of the history that was logged


class Logbook:
    """Logs jobs as children of their experiments' runs, from their files; a second time adds nothing.

    Args:
        jobs: Finished or not.
        parents: The run of each experiment, by its folder.
        tracker: Opens the children.
        console: Is told once when the store fails.

    Raises:
        TrackingError: When the store cannot be asked what it has.
    """

    def __init__(self, jobs: Sequence[Job], parents: Mapping[Path, Run], tracker: Tracker, console: Console) -> None:
        self.parents = parents
        self.tracker = tracker
        self.console = console
        logged = {folder: tracker.finished(run) for folder, run in parents.items()}
        self.pages = {
            job.files.path: _Page(job)
            for job in jobs
            if not (job.files.finished and _run_name(job) in logged[job.folder])
        }
        self.failed: str | None = None
        self.pause_until = 0.0

    def look(self, jobs: Iterable[Job] | None = None) -> None:
        """Logs what is new in the files of some jobs, or of all."""
        paths = self.pages if jobs is None else [job.files.path for job in jobs]
        for page in [self.pages[path] for path in paths if path in self.pages]:
            self.attempt(partial(self._log, page))

    def end(self, job: Job, status: RunStatus) -> None:
        """Marks what is not finished of a job as ended."""
        if not job.files.finished and (page := self.pages.pop(job.files.path, None)):
            self.attempt(lambda: self._opened(page).finish(status))

    def attempt(self, action: Callable[[], object]) -> None:
        """Logs something. A store that fails is told once, and left alone for a while."""
        if time.monotonic() < self.pause_until:
            return
        try:
            action()
            self.failed = None
        except TrackingError as error:
            self.pause_until = time.monotonic() + _PAUSE
            if self.failed is None:
                self._say(f"{error} The jobs go on, and their results are kept in files.")
            self.failed = str(error)

    def __enter__(self) -> "Logbook":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Marks runs as ended when an error or Ctrl-C stops what they record."""
        if error is None and self.failed:
            self._say("Not all is tracked: run the same command (crossval: with --resume) when the store is back.")
        if error is None or self.failed or isinstance(error, BusyError):
            return  # a run of another process goes on
        status: RunStatus = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        with suppress(TrackingError):  # the first error is the one to fix
            for run in [*(page.run for page in self.pages.values() if page.run), *self.parents.values()]:
                run.finish(status)

    def _say(self, text: str) -> None:
        self.console.print(f"Warning: {text}", highlight=False, soft_wrap=True)

    def _log(self, page: _Page) -> None:
        files = page.job.files
        finished = files.finished  # asked first, so that nothing comes between the last epoch and the end
        stamp = files.history.stat().st_mtime_ns if files.history.exists() else 0
        if stamp != page.stamp:
            rows: Any = pd.read_csv(files.history).to_dict("records")
            self._opened(page).log_history(rows)
            page.stamp = stamp
        if finished:
            _log_results(page.job, self._opened(page))
            del self.pages[files.path]

    def _opened(self, page: _Page) -> Run:
        job = page.job
        if page.run is None:
            tags = {"role": "child", "fold": str(job.fold), "seed": str(job.seed)}
            page.run = self.tracker.child(self.parents[job.folder], _run_name(job), tags=tags)
            page.run.log_params(identity(job.config))
        return page.run


def _run_name(job: Job) -> str:
    return f"{job.config.name} {job.files.path.name.replace('_', ' ')}"


def _log_results(job: Job, run: Run) -> None:
    files, classes = job.files, Experiment(job.folder).classes
    # The training's last numbers are the ends of its curves.
    run.log_metrics({name: one for name, one in files.metrics().items() if not name.startswith("training.")})
    run.log_file(files.predictions)
    labels, probabilities = arrays(read_table(files.predictions), classes)
    matrix = confusion_matrix(labels, probabilities.argmax(axis=1), len(classes.names))
    run.log_json({"classes": list(classes.names), "matrix": matrix.tolist()}, "confusion.json")
    run.log_figure(confusion_figure(matrix, classes.names, job.label), "confusion.png")
    if files.history.exists():
        run.log_figure(history_figure(pd.read_csv(files.history), job.label), "history.png")
    if files.selected.exists():
        run.log_file(files.selected)
    run.finish("FINISHED")
