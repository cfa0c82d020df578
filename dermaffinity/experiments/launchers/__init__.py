"""Where jobs run: one after the other in this process, side by side in Ray's workers, or as jobs of Slurm."""

import importlib.util
import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, get_args

from dermaffinity.errors import ConfigError, TrainingError, did_you_mean
from dermaffinity.experiments.job import Job
from dermaffinity.experiments.launchers.inline import InlineLauncher
from dermaffinity.experiments.logbook import Logbook
from dermaffinity.experiments.progress import RunProgress

__all__: list[str] = []

LauncherName = Literal["inline", "ray", "slurm"]
LAUNCHERS: tuple[LauncherName, ...] = get_args(LauncherName)


class Launcher(Protocol):
    """Runs jobs somewhere."""

    def run(self, jobs: Sequence[Job], progress: RunProgress, logbook: Logbook) -> list[str]:
        """Runs every job, and has the logbook look into the files of those that run.

        Returns:
            What failed, a line for each job.
        """


def launcher_of(
    name: LauncherName,
    address: str | None = None,
    jobs_per_device: int | Literal["auto"] = "auto",
    slurm: Mapping[str, str] | None = None,
) -> Launcher:
    """The launcher that some words of the command line stand for.

    Raises:
        ConfigError: When there is no such launcher here.
    """
    if name not in LAUNCHERS:
        allowed = f"{', '.join(LAUNCHERS[:-1])} and {LAUNCHERS[-1]}"
        raise ConfigError(f"--launcher {name}: allowed are {allowed}{did_you_mean(name, LAUNCHERS)}")
    if name != "ray" and address is not None:
        raise ConfigError(f"--address {address}: this is for --launcher ray")
    if name != "slurm" and slurm:
        raise ConfigError(f"--slurm {next(iter(slurm))}: this is for --launcher slurm")
    if name == "inline":
        return InlineLauncher()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise ConfigError(f"--launcher {name}: torchrun has started the processes already; leave it out")
    library, extra = {"ray": ("ray", "cluster"), "slurm": ("submitit", "slurm")}[name]
    if importlib.util.find_spec(library) is None:
        raise ConfigError(f"--launcher {name}: {library} is not installed here; pip install 'dermaffinity[{extra}]'")
    if name == "slurm":
        from dermaffinity.experiments.launchers.on_slurm import SlurmLauncher

        if shutil.which("sbatch") is None:
            raise ConfigError("--launcher slurm: there is no sbatch here; run this where jobs are submitted to Slurm")
        return SlurmLauncher(jobs_per_device, slurm or {})
    from dermaffinity.cluster import check_answers
    from dermaffinity.experiments.launchers.on_ray import RayLauncher

    if address is not None:
        check_answers(address)
    return RayLauncher(address, jobs_per_device)


def launch(jobs: Sequence[Job], launcher: Launcher, progress: RunProgress, logbook: Logbook) -> None:
    """Runs every job that is not done.

    On a CPU the last digits depend on the number of threads, so all launchers give the same numbers where each job has
    as many, and nearly the same elsewhere.

    Args:
        jobs: In any order.
        launcher: Where to.
        progress: Told of the jobs that end.
        logbook: Looks into the jobs' files while they run.

    Raises:
        TrainingError: When jobs failed, after all others have run; the message has a line for each.
    """
    done = [job.done for job in jobs]
    for job in (job for job, ended in zip(jobs, done, strict=True) if ended):
        progress.finish(f"{job.label}: finished before")
    logbook.look()
    failures = launcher.run([job for job, ended in zip(jobs, done, strict=True) if not ended], progress, logbook)
    logbook.look()
    if failures:
        kept = "; the others are finished and kept" if len(failures) < len(jobs) else ""
        raise TrainingError(f"{len(failures)} of {len(jobs)} jobs failed{kept}", failures)
