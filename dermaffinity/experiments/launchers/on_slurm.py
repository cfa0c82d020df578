"""Jobs as tasks of an array of Slurm, through submitit.

A task runs a chunk of jobs on the device it gets, several at a time where asked. At its time limit, and where it is
pre-empted, it is queued again and goes on. The driver waits, looks into the jobs' files and logs them: the folder that
the command runs in is shared, and the driver needs no more than a login machine.
"""

import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from dermaffinity.errors import ConfigError, DermaffinityError, count_of
from dermaffinity.experiments.job import Job
from dermaffinity.experiments.launchers.inline import InlineLauncher
from dermaffinity.experiments.logbook import Logbook
from dermaffinity.experiments.progress import RunProgress
from dermaffinity.tracking.base import NullTracker

# Seconds between looks at files, and between questions to Slurm, which many people ask.
_PAUSE = 5.0
_ASK = 30.0

# Minutes of a task, unless said otherwise; and seconds before its end at which it is told.
_MINUTES = 60
_NOTICE = 60

# A site's usual limit of an array, where it does not say.
_ARRAY = 1000


@dataclass(frozen=True)
class SlurmLauncher:
    """Runs jobs as tasks of one array.

    Args:
        jobs_per_device: Jobs at once in each task; ``"auto"``: one.
        options: Of ``sbatch``, such as ``partition`` and ``gres``; ``time`` is in minutes or ``H:MM:SS``.
        executor: Makes submitit's executor for a folder; None for that of Slurm.
    """

    jobs_per_device: int | Literal["auto"] = "auto"
    options: Mapping[str, str] = field(default_factory=dict)
    executor: Callable[[Path], Any] | None = None

    def run(self, jobs: Sequence[Job], progress: RunProgress, logbook: Logbook) -> list[str]:
        """See `Launcher.run`."""
        if not jobs:
            return []
        side_by_side = 1 if self.jobs_per_device == "auto" else self.jobs_per_device
        size = max(side_by_side, -(-len(jobs) // _array_limit()))
        chunks = [jobs[start : start + size] for start in range(0, len(jobs), size)]
        executor = (self.executor or self._on_slurm)(jobs[0].folder.parent / ".slurm")
        tasks = executor.map_array(Chunk(os.getcwd(), side_by_side), chunks)
        progress.console.print(
            f"Slurm {tasks[0].job_id.partition('_')[0]}: {count_of(len(tasks), 'task')} of {count_of(size, 'job')}",
            highlight=False,
        )
        listed = _listed if self.executor is None else lambda: None
        return _Watch(dict(zip(tasks, chunks, strict=True)), listed, progress, logbook).run()

    def _on_slurm(self, folder: Path) -> Any:
        import submitit

        executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=10_000)
        options = dict(self.options)
        minutes = _minutes(options.pop("time", str(_MINUTES)))
        executor.update_parameters(
            job_name="dermaffinity",
            time=minutes,
            signal_delay_s=_NOTICE,
            array_parallelism=_array_limit(),
            additional_parameters={"requeue": True, **options},
        )
        return executor


@dataclass(frozen=True)
class Chunk:
    """What a task does; submitit sends it with the jobs to a machine, and again when the task is queued again."""

    folder: str
    side_by_side: int

    def __call__(self, jobs: Sequence[Job]) -> list[str]:
        """Runs the jobs that are not done; returns what failed."""
        from dermaffinity.experiments.launchers.on_ray import RayLauncher

        os.chdir(self.folder)
        launcher = InlineLauncher() if self.side_by_side == 1 else RayLauncher(None, self.side_by_side)
        silent = Console(quiet=True)
        try:
            return launcher.run(
                [job for job in jobs if not job.done], RunProgress(0, silent), Logbook((), {}, NullTracker(), silent)
            )
        except DermaffinityError as error:  # what would stop the others of this machine as well
            return [f"{job.label}: {error}" for job in jobs if not job.done]

    def checkpoint(self, jobs: Sequence[Job]) -> Any:
        """Called before the task is stopped; what is finished or saved by then is not done again."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, jobs)


class _Watch:
    """The driver's view of an array: it looks into files, and from time to time asks Slurm."""

    def __init__(
        self,
        tasks: Mapping[Any, Sequence[Job]],
        listed: Callable[[], set[str] | None],
        progress: RunProgress,
        logbook: Logbook,
    ) -> None:
        self.waiting = {task: list(jobs) for task, jobs in tasks.items()}
        self.listed = listed
        self.progress = progress
        self.logbook = logbook
        self.failures: list[str] = []

        self.asked = 0.0
        self.missing: set[Any] = set()

    def run(self) -> list[str]:
        """Waits for all tasks; returns what failed."""
        try:
            while self.waiting:
                ended = self._lost() if time.monotonic() - self.asked > _ASK else set()
                for task in list(self.waiting):
                    self._report(task, task in ended or task.paths.result_pickle.exists())
                self.logbook.look([job for jobs in self.waiting.values() for job in jobs])
                if self.waiting:
                    time.sleep(_PAUSE)
        finally:
            for task in self.waiting:
                task.cancel(check=False)
        return self.failures

    def _lost(self) -> set[Any]:
        """Tasks that Slurm knows no more; of those that it has killed submitit learns nothing without accounting."""
        self.asked = time.monotonic()
        listed = self.listed()
        if listed is None:
            return {task for task in self.waiting if task.done()}
        before, self.missing = self.missing, {task for task in self.waiting if task.job_id not in listed}
        return before & self.missing  # twice, because a task that is queued again is away for a moment

    def _report(self, task: Any, ended: bool) -> None:
        jobs = self.waiting[task]
        reasons = _reasons(task) if ended else {}
        for job in list(jobs):
            if job.done:
                self.progress.finish(f"{job.label}: {job.result}")
                self.logbook.look([job])
            elif ended:
                died = f"its task {task.job_id} of Slurm ended; its last lines are in {task.paths.stderr}"
                self.failures.append(f"{job.label}: {reasons.get(job.label, died)}")
                self.progress.finish(self.failures[-1])
                self.logbook.end(job, "FAILED")
            else:
                continue
            jobs.remove(job)
        if ended:
            del self.waiting[task]


def _reasons(task: Any) -> dict[str, str]:
    """Why jobs of a task failed, by label."""
    import submitit

    try:
        lines = task.result()
    except submitit.core.utils.UncompletedJobError:  # which covers a task that raised an error
        return {}
    return {label: reason for label, _, reason in (line.partition(": ") for line in lines)}


def _array_limit() -> int:
    """The largest number of tasks that an array may have here."""
    try:
        said = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return _ARRAY
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", said.stdout)
    return max(1, int(found[1]) - 1) if found else _ARRAY


def _listed() -> set[str] | None:
    """The tasks that Slurm knows as waiting or running; None without Slurm, or when it does not answer."""
    words = ["squeue", "--noheader", "--array", "--me", "--format=%i"]
    try:
        said = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return set(said.stdout.split())


def _minutes(text: str) -> int:
    """Minutes of a limit as ``sbatch`` takes it, without days and seconds below a minute."""
    if not (found := re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)):
        raise ConfigError(f"--slurm time={text}: write minutes, or H:MM:SS, or D-HH:MM")
    days, first, second, _ = (int(part or 0) for part in found.groups())
    if found[1] is not None or found[4] is not None:
        return max(1, 1440 * days + 60 * first + second)
    return max(1, first)
