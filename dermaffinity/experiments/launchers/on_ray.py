"""Jobs side by side in the workers of a Ray cluster, or of a pool that lasts as long as the command.

A worker is a process that stays: it imports once, runs job after job, and reads the images where Ray keeps them, once
for all processes of a machine. It writes files and talks to no tracking store. Every machine of a cluster needs this
package and the folder that the command runs in.
"""

import math
import os
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import dermaffinity
from dermaffinity.cluster import connected
from dermaffinity.errors import BusyError, ConfigError, DermaffinityError
from dermaffinity.experiments.job import Images, Job
from dermaffinity.experiments.logbook import Logbook
from dermaffinity.experiments.progress import RunProgress, SilentProgress

# Times that a job is begun before it is given up, because its worker or its machine dies.
_TRIES = 3

# A process with torch and its libraries, in bytes; on a card, with the driver's context.
_PROCESS = 1.2e9

# Seconds that files may take from one machine to another.
_SHARED_WITHIN = 60


@dataclass(frozen=True)
class RayLauncher:
    """Runs jobs in Ray's workers.

    Args:
        address: ``HOST:PORT`` of a cluster, or ``auto`` for the one this machine belongs to; None: this machine alone.
        jobs_per_device: Jobs at once on each GPU, or, without GPUs, on each machine; ``"auto"``: as many as the memory
            holds, but one for each core (on a machine without a GPU: for every two).
    """

    address: str | None = None
    jobs_per_device: int | Literal["auto"] = "auto"

    def run(self, jobs: Sequence[Job], progress: RunProgress, logbook: Logbook) -> list[str]:
        """See `Launcher.run`."""
        if not jobs:
            return []
        with connected(self.address):
            return _Pool(jobs, self.jobs_per_device, progress, logbook).run()


@dataclass(frozen=True)
class _Node:
    """A machine of the cluster, and what each worker on it gets."""

    host: str
    workers: int
    cpus: float
    gpus: float
    threads: int


@dataclass(eq=False)
class _Worker:
    actor: Any
    node: str
    job: Job | None = None  # None while it starts, and between jobs


class _Pool:
    """The workers of all machines, and the jobs that wait for one; only the driver has it."""

    def __init__(
        self,
        jobs: Sequence[Job],
        jobs_per_device: int | Literal["auto"],
        progress: RunProgress,
        logbook: Logbook,
    ) -> None:
        self.waiting = deque(jobs)
        self.jobs_per_device = jobs_per_device
        self.progress = progress
        self.logbook = logbook
        # A few trainings at most differ in it.
        self.memory = _PROCESS + max((job.memory() for job in {job.folder: job for job in jobs}.values()), default=0.0)
        self.nodes: dict[str, _Node] = {}
        self.refused: dict[str, str] = {}  # machines that cannot run jobs, and why
        self.busy: dict[Any, _Worker] = {}  # by what they will answer
        self.idle: list[_Worker] = []
        self.images: dict[tuple[Any, str], Any] = {}
        self.tries: Counter[Path] = Counter()
        self.ended: list[Job] = []
        self.failures: list[str] = []

    def run(self) -> list[str]:
        """Runs every job; returns what failed."""
        import ray

        try:
            while self.waiting or self.running:
                self._hire()
                while self.waiting and self.idle:
                    self._assign(self.idle.pop(), self.waiting.popleft())
                self.logbook.look([*self.ended, *self.running])  # once no worker waits for the driver
                self.ended.clear()
                for reference in self._answered():
                    self._take(reference, self.busy.pop(reference))
        finally:
            for worker in (*self.busy.values(), *self.idle):
                ray.kill(worker.actor)
        return self.failures

    @property
    def running(self) -> list[Job]:
        """The jobs that workers are at."""
        return [worker.job for worker in self.busy.values() if worker.job]

    def _answered(self) -> list[Any]:
        import ray

        if self.busy:
            return ray.wait([*self.busy], timeout=1.0)[0]
        time.sleep(1.0)  # until a machine joins
        return []

    def _hire(self) -> None:
        """Starts workers where there is room, no more than there are jobs: at first, and where one has died."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._look_around()
        at = Counter(worker.node for worker in (*self.busy.values(), *self.idle))
        rooms = sorted((place, name) for name, node in self.nodes.items() for place in range(at[name], node.workers))
        for _, name in rooms[: max(0, len(self.waiting) + len(self.running) - at.total())]:
            node = self.nodes[name]
            options = {"num_cpus": node.cpus, "num_gpus": node.gpus, "max_restarts": 0}
            where = NodeAffinitySchedulingStrategy(name, soft=False)
            actor: Any = ray.remote(Worker).options(**options, scheduling_strategy=where).remote()
            worker = _Worker(actor, name)
            share = self.memory if node.gpus else None
            self.busy[actor.settle.remote(dermaffinity.__version__, os.getcwd(), node.threads, share)] = worker

    def _look_around(self) -> None:
        """Notes which machines there are, how many workers each takes, and tells where that is fewer than asked."""
        import ray

        alive = {one["NodeID"]: one for one in ray.nodes() if one["Alive"] and one["NodeID"] not in self.refused}
        if any(one["Resources"].get("GPU") for one in alive.values()):
            alive = {name: one for name, one in alive.items() if one["Resources"].get("GPU")}
        for name, one in alive.items():
            if name not in self.nodes:
                self.nodes[name] = self._measured(name, one)
        self.nodes = {name: node for name, node in self.nodes.items() if name in alive}
        if self.refused and not self.nodes:
            raise ConfigError("no machine of the cluster can run these jobs", list(self.refused.values()))

    def _measured(self, name: str, found: dict[str, Any]) -> _Node:
        resources, host = found["Resources"], found["NodeManagerHostname"]
        cores, cards = max(1, int(resources.get("CPU", 1))), int(resources.get("GPU", 0))
        room = _card_memory(name) if cards else resources.get("memory", math.inf)
        fitting = max(1, int(min(room / self.memory, 1e6)))
        usual = max(1, cores // cards if cards else cores // 2)
        asked = usual if self.jobs_per_device == "auto" else self.jobs_per_device
        if asked > fitting and self.jobs_per_device != "auto":
            self.progress.console.print(
                f"Warning: --jobs-per-device {asked}: the memory of {'a GPU of ' if cards else ''}{host}, "
                f"{room / 2**30:.1f} GiB, holds {fitting}, which are used",
                highlight=False,
                soft_wrap=True,
            )
        each = min(asked, fitting)
        workers = each * max(1, cards)
        cpus = cores // workers or math.floor(1e4 * cores / workers) / 1e4
        gpus = math.floor(1e4 / each) / 1e4 if cards else 0.0  # Ray counts in ten thousandths
        return _Node(host, workers, cpus, gpus, max(1, cores // workers))

    def _assign(self, worker: _Worker, job: Job) -> None:
        import ray

        key = job.config.data, job.shared
        if key not in self.images:
            needed = {(one.config.data, one.shared) for one in (*self.waiting, *self.running)}
            self.images = {known: images for known, images in self.images.items() if known in needed}
            images = Images(job.config.data)
            job.prepare(images, self.progress)
            self.images[key] = ray.put(images)
        worker.job = job
        self.tries[job.files.path] += 1
        self.busy[worker.actor.run.remote(job, self.images[key])] = worker

    def _take(self, reference: Any, worker: _Worker) -> None:
        """What a worker has answered."""
        import ray

        job, worker.job = worker.job, None
        try:
            answer = ray.get(reference)
        except (ray.exceptions.RayActorError, ray.exceptions.ActorUnschedulableError):  # it died, or its machine
            if job is not None and self.tries[job.files.path] < _TRIES:
                self.waiting.appendleft(job)
            elif job is not None:
                self._failed(
                    job,
                    f"its process ended {_TRIES} times; with too little memory, use fewer --jobs-per-device",
                )
            return
        except (ray.exceptions.RaySystemError, ray.exceptions.RayTaskError, RuntimeError, OSError) as error:
            if job is not None:
                raise
            ray.kill(worker.actor)
            self._refuse(worker.node, error)
            return
        self.idle.append(worker)
        if job is None:
            return
        if isinstance(answer, BusyError) and self.tries[job.files.path] in range(2, _TRIES):
            self.waiting.append(job)  # the process of a lost machine may still hold the folder
        elif answer is not None:
            self._failed(job, f"{answer}")
        elif self._arrived(job):
            self.progress.finish(f"{job.label}: {job.result}")
            self.ended.append(job)
        else:
            host = self.nodes[worker.node].host
            self._failed(
                job, f"{host} has finished it, and its files are not here; all machines must share {job.folder}"
            )

    def _failed(self, job: Job, reason: str) -> None:
        self.failures.append(f"{job.label}: {reason}")
        self.progress.finish(self.failures[-1])
        self.logbook.end(job, "FAILED")

    def _refuse(self, name: str, error: Exception) -> None:
        if name in self.refused or name not in self.nodes:
            return
        missing = [line for line in str(error).splitlines() if "No module named" in line]
        reason = missing[-1].strip() if missing else str(error).strip().splitlines()[-1]
        self.refused[name] = (
            f"{self.nodes[name].host}: {reason}. Install dermaffinity {dermaffinity.__version__} there as here, in the "
            f"Python that Ray runs in, and share the folder {os.getcwd()}"
        )
        self.progress.console.print(f"Warning: {self.refused[name]}", highlight=False, soft_wrap=True)

    def _arrived(self, job: Job) -> bool:
        """Whether a job's files are here; over a network they may take a while."""
        until = time.monotonic() + _SHARED_WITHIN
        while not job.done and time.monotonic() < until:
            time.sleep(0.5)
        return job.done


def _card_memory(node: str) -> float:
    """Bytes of a GPU of a machine."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def measure() -> float:
        import torch

        return float(torch.cuda.mem_get_info()[1]) if torch.cuda.is_available() else math.inf

    where = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.get(ray.remote(measure).options(num_gpus=0.001, scheduling_strategy=where).remote())


class Worker:
    """Runs one job after the other, in a process of its own on some machine."""

    def settle(self, version: str, folder: str, threads: int, memory: float | None) -> None:
        """Prepares the process.

        Args:
            version: Of this package, where the command runs.
            folder: Where the command runs.
            threads: Of each job.
            memory: The most that a job may take of a GPU, in bytes; without a GPU None.
        """
        import torch

        if dermaffinity.__version__ != version:
            raise RuntimeError(f"dermaffinity {dermaffinity.__version__} is installed there")
        os.chdir(folder)
        torch.set_num_threads(threads)
        if memory and torch.cuda.is_available():
            # Ray counts cards, and does not guard their memory.
            torch.cuda.set_per_process_memory_fraction(min(1.0, memory / torch.cuda.mem_get_info()[1]))

    def run(self, job: Job, images: Images) -> DermaffinityError | None:
        """Runs a job; returns what went wrong."""
        try:
            job.run(images, SilentProgress())
        except DermaffinityError as error:
            return error
        return None
