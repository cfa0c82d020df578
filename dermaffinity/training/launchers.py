"""How jobs are run: one after the other in this process, or side by side in several."""

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, Literal

from dermaffinity.config import DataSettings
from dermaffinity.errors import DermaffinityError, TrainingError
from dermaffinity.training.cross_validation import Images, Job, run_job
from dermaffinity.training.progress import JobProgress, SilentProgress

Launcher = Literal["inline", "local"]


def launch(jobs: Sequence[Job], launcher: Launcher, progress: JobProgress) -> None:
    """Runs every job; those that share images share them in memory where they share a process.

    Args:
        jobs: In any order.
        launcher: ``"inline"`` for one after the other; ``"local"`` for one process per GPU, or per two CPU cores
            without a GPU.
        progress: Told what happens; with ``"local"`` only of finished jobs.

    Raises:
        TrainingError: When jobs failed, after all others have run; the message has a line for each.
    """
    if launcher == "local":
        _launch_pool(jobs, progress)
    else:
        _launch_inline(jobs, progress)


def _launch_inline(jobs: Sequence[Job], progress: JobProgress) -> None:
    images: dict[DataSettings, Images] = {}
    for job in jobs:
        if job.page.data not in images:
            images = {job.page.data: Images(job.page.data)}  # only one library's images in memory at a time
        run_job(job, images[job.page.data], progress)


def _launch_pool(jobs: Sequence[Job], progress: JobProgress) -> None:
    import torch

    gpus = torch.cuda.device_count()
    size = min(len(jobs), gpus or max(1, (os.cpu_count() or 1) // 2))
    context = multiprocessing.get_context("spawn")
    devices = context.Queue()
    for index in range(size):
        devices.put(index if gpus else None)
    threads = max(1, (os.cpu_count() or 1) // size)
    failures = []
    with ProcessPoolExecutor(size, mp_context=context, initializer=_claim, initargs=(devices, threads)) as pool:
        running = {pool.submit(_run_alone, job): job for job in jobs}
        for future in as_completed(running):
            try:
                future.result()
                progress.finish(f"{running[future].label}: finished")
            except DermaffinityError as error:
                failures.append(f"{running[future].label}: {error}")
    if failures:
        raise TrainingError(f"{len(failures)} of {len(jobs)} jobs failed; the others are finished and kept", failures)


def _claim(devices: Any, threads: int) -> None:
    """Gives a worker process its own GPU, or its share of the cores, before torch is used."""
    device = devices.get()
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(device)
    import torch

    torch.set_num_threads(threads)


def _run_alone(job: Job) -> None:
    run_job(job, Images(job.page.data), SilentProgress())
