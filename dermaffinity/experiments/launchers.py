"""How jobs are run: one after the other in this process, or side by side in several."""

import multiprocessing
import os
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Literal, cast, get_args

from dermaffinity.config import DataSettings
from dermaffinity.errors import DermaffinityError, TrainingError
from dermaffinity.experiments.job import Images, Job
from dermaffinity.experiments.logbook import Logbook
from dermaffinity.experiments.progress import RunProgress, SilentProgress

Launcher = Literal["inline", "local"]
LAUNCHERS: tuple[Launcher, ...] = get_args(Launcher)


def launch(jobs: Sequence[Job], launcher: Launcher, progress: RunProgress, logbook: Logbook) -> None:
    """Runs every job that is not done; those that share images share them in memory where they share a process.

    On a CPU the last digits depend on the number of threads, so both launchers give the same numbers where ``"local"``
    leaves each job all the cores, and nearly the same elsewhere.

    Args:
        jobs: In any order.
        launcher: ``"inline"`` for one after the other; ``"local"`` for one process per GPU, or per two CPU cores
            without a GPU.
        progress: Told what happens; with ``"local"`` only of finished jobs.
        logbook: Looks into the jobs' files while they run.

    Raises:
        TrainingError: When jobs failed, after all others have run; the message has a line for each.
    """
    waiting = [job for job in jobs if not job.done]
    for job in jobs:
        if job not in waiting:
            progress.finish(f"{job.label}: finished before")
    run = _launch_local if launcher == "local" else _launch_inline
    failures = run(waiting, progress, logbook)
    logbook.look()
    if failures:
        kept = "; the others are finished and kept" if len(failures) < len(jobs) else ""
        raise TrainingError(f"{len(failures)} of {len(jobs)} jobs failed{kept}", failures)


def _launch_inline(jobs: Sequence[Job], progress: RunProgress, logbook: Logbook) -> list[str]:
    images: dict[DataSettings, Images] = {}
    failures = []
    for job in jobs:
        if job.config.data not in images:
            images = {job.config.data: Images(job.config.data)}  # only one library's images in memory at a time
        try:
            job.run(images[job.config.data], progress)
        except TrainingError as error:  # this job's own; a full disk or a missing image would stop the others as well
            failures.append(f"{job.label}: {error}")
            progress.finish(failures[-1])
            logbook.end(job, "FAILED")
        else:
            progress.finish(f"{job.label}: {job.result}")
            logbook.look()
    return failures


def _launch_local(jobs: Sequence[Job], progress: RunProgress, logbook: Logbook) -> list[str]:
    import torch

    # A process for each job: its memory is free again afterwards, and its death is its own.
    cores = torch.get_num_threads()
    free: list[str | None] = [*_gpus()] or [None] * max(1, cores // 2)
    free = free[: len(jobs)]
    threads = max(1, cores // len(free))
    context = multiprocessing.get_context("spawn")
    waiting = list(jobs)
    running: dict[Any, tuple[Job, str | None, Any]] = {}  # by the channel that the job's process answers on
    failures = []
    try:
        while waiting or running:
            while waiting and free:
                job, device = waiting.pop(0), free.pop()
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_run_alone, args=(job, device, threads, sender))
                process.start()
                sender.close()
                running[receiver] = job, device, process
            logbook.look()
            for answered in wait(list(running), timeout=1):
                job, device, process = running.pop(answered)
                try:
                    failure = cast(Connection, answered).recv()
                    process.join()
                except EOFError:
                    process.join()
                    failure = f"its process ended with exit code {process.exitcode}; -9 often means too little memory"
                free.append(device)
                progress.finish(f"{job.label}: {failure or job.result}")
                if failure:
                    failures.append(f"{job.label}: {failure}")
                    logbook.end(job, "FAILED")
    finally:
        for _, _, process in running.values():
            process.terminate()
        for _, _, process in running.values():
            process.join()
    return failures


def _gpus() -> list[str]:
    """The GPUs this process may use, in the words of ``CUDA_VISIBLE_DEVICES``."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return visible.split(",")[:count] if visible else [str(index) for index in range(count)]


def _run_alone(job: Job, device: str | None, threads: int, sender: Connection) -> None:
    """Runs a job on its GPU or its share of the cores, and sends what went wrong, or None."""
    # Ctrl-C reaches every process of a terminal; this one waits until the launcher ends it, once.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # before torch looks for devices
    import torch

    torch.set_num_threads(threads)
    try:
        job.run(Images(job.config.data), SilentProgress())
    except DermaffinityError as error:
        sender.send(str(error))
    except KeyboardInterrupt:
        pass
    else:
        sender.send(None)
