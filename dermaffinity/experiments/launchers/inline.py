"""One job after the other, in this process."""

from collections.abc import Sequence
from functools import partial

from dermaffinity.config import DataSettings
from dermaffinity.errors import TrainingError
from dermaffinity.experiments.job import Images, Job
from dermaffinity.experiments.logbook import Logbook
from dermaffinity.experiments.progress import RunProgress


class InlineLauncher:
    """Runs jobs in this process; those that share images share them in memory."""

    def run(self, jobs: Sequence[Job], progress: RunProgress, logbook: Logbook) -> list[str]:
        """See `Launcher.run`."""
        images: dict[DataSettings, Images] = {}
        failures = []
        for job in jobs:
            if job.config.data not in images:
                images = {job.config.data: Images(job.config.data)}  # only one library's images in memory at a time
            progress.on_epoch = partial(logbook.look, [job])
            try:
                job.run(images[job.config.data], progress)
            except TrainingError as error:  # the job's own; a full disk or missing image would stop the others as well
                failures.append(f"{job.label}: {error}")
                progress.finish(failures[-1])
                logbook.end(job, "FAILED")
            else:
                progress.finish(f"{job.label}: {job.result}")
                logbook.look([job])
        return failures
