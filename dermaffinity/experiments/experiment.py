"""An experiment: what was run, and what came out, read from its folder when it is asked for."""

import uuid
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import yaml

from dermaffinity.data.manifest import Manifest, read_manifest
from dermaffinity.errors import ComparisonError, DataError, ManifestError
from dermaffinity.experiments.record import FILE, ExperimentRecord, JobFolder, TrackedFolder, training_numbers
from dermaffinity.experiments.results import Results, as_separate_images, at_temperatures, average_models, read_table
from dermaffinity.files import atomic_write
from dermaffinity.inference.model_folder import Description, FoldModel, read_description
from dermaffinity.metrics.classification import Classes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dermaffinity.experiments.compare import ComparedExperiments
    from dermaffinity.experiments.report import Written
    from dermaffinity.inference.classifier import LesionClassifier


class Experiment(TrackedFolder):
    """One config trained on all its folds and seeds, with its results.

    ``RUNS/<name>/`` holds ``experiment.json``, ``config.yaml``, one folder per job, and, once all jobs are finished,
    ``out_of_fold.csv``, summaries, ``figures/`` and the fold models together in ``classifier/``.

    Args:
        path: The experiment's folder.
        jobs: Only these of its jobs; None for every one that is finished.
        failures: What stopped jobs in the call that returned this, a line each.
        manifest: Where its manifest lies, if that was moved.

    Examples:
        >>> import dermaffinity as da
        >>> experiment = da.Experiment.open("runs/small_softmax")
        >>> experiment
        <Experiment 3-fold cross-validation of small_softmax on phantom-5, group protocol>
        >>> experiment.recall()["images"].to_dict()
        {'AK': 6, 'BCC': 7, 'ML': 10, 'SCC': 6, 'SK': 8}
        >>> experiment.record.folds, experiment.seeds
        (3, [0])
    """

    def __init__(
        self,
        path: str | Path,
        *,
        jobs: Sequence[JobFolder] | None = None,
        failures: Sequence[str] = (),
        manifest: Path | None = None,
    ) -> None:
        super().__init__(Path(path))
        self._jobs = jobs
        self.failures = tuple(failures)
        self.moved_to = manifest

    @classmethod
    def open(cls, source: "str | Path | Experiment", runs: str | Path = "runs") -> "Experiment":
        """The experiment of a folder, or of a config's file or name under ``runs``.

        Raises:
            ComparisonError: When there is none; the message lists what there is.
        """
        if isinstance(source, Experiment):
            return source
        for path in (Path(source), Path(runs) / source, Path(runs) / Path(source).stem):
            if (path / FILE).is_file():
                return cls(path)
        known = sorted(path.parent.name for path in Path(runs).glob(f"*/{FILE}"))
        raise ComparisonError(
            f"{source}: no experiment of that name under {runs}; there is {', '.join(known) or 'none'}"
        )

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.path.absolute().name

    @property
    def exists(self) -> bool:
        """Whether it was begun."""
        return (self.path / FILE).exists()

    @cached_property
    def record(self) -> ExperimentRecord:
        """What was run."""
        return ExperimentRecord.read(self.path)

    @property
    def classes(self) -> Classes:
        """The C classes, with the rare and the malignant ones."""
        return self.record.classes

    def job(self, fold: int, seed: int) -> JobFolder:
        """The folder of one fold and seed."""
        return JobFolder.of(self.path, fold, seed)

    def all_jobs(self) -> list[JobFolder]:
        """Every job's folder, finished or not."""
        return [JobFolder(path) for path in sorted(self.path.glob("fold-*_seed-*"))]

    @property
    def jobs(self) -> list[JobFolder]:
        """The finished jobs, or those of them that were asked for."""
        return [job for job in (self.all_jobs() if self._jobs is None else self._jobs) if job.finished]

    @property
    def seeds(self) -> list[int]:
        """Seeds of the finished jobs, ascending."""
        return sorted({int(job.path.name.rpartition("-")[2]) for job in self.jobs})

    @property
    def complete(self) -> bool:
        """Whether no fold of any seed is missing."""
        needed = {self.job(fold, seed) for seed in self.seeds for fold in range(self.record.folds)}
        return bool(needed) and not self.failures and needed <= set(self.jobs)

    def identifier(self) -> str:
        """A word that no other folder has, made at the first call; the folder's tracking runs are told by it."""
        note = self.path / "folder_id.txt"
        if not note.exists():
            with atomic_write(note) as file:
                file.write(uuid.uuid4().hex)
        return note.read_text(encoding="utf-8")

    def predictions(self, part: str = "predictions") -> pd.DataFrame:
        """The joined prediction tables of the jobs, as trained.

        Args:
            part: ``"predictions"`` for the scored rows (test folds), ``"validation"`` or ``"external"``.
        """
        files = [job.path / f"{part}.csv" for job in self.jobs]
        tables = [read_table(file) for file in files if file.exists()]
        if not tables:
            raise ComparisonError(f"{self.path}: no finished job has a {part} table; run dermaffinity crossval first")
        return pd.concat(tables, ignore_index=True)

    @cached_property
    def models(self) -> dict[tuple[int, int], Description]:
        """What each job's model says of itself, by fold and seed; empty for an experiment without networks.

        Raises:
            DataError: When one cannot be read.
        """
        if not self.record.has_network:
            return {}
        found: dict[tuple[int, int], Description] = {}
        for job in self.jobs:
            model = read_description(job.path)
            if model.classes != self.classes.names:
                raise DataError(f"{job.path}: its model has other classes than the experiment")
            found |= {(one.fold, one.seed): model for one in model.fold_models}
        return found

    @property
    def fold_models(self) -> dict[tuple[int, int], FoldModel]:
        """The fold models with their calibration, by fold and seed."""
        return {key: model.fold_models[0] for key, model in self.models.items()}

    @cached_property
    def out_of_fold(self) -> Results:
        """Results for the images it scored: every image by the model that had it as a test image."""
        table, calibrated = self.predictions(), None
        if self.record.scored == "inner":
            table = as_separate_images(table)  # the images that temperatures are fitted on
        elif self.models:
            temperatures = {key: model.calibration.temperature for key, model in self.fold_models.items()}
            calibrated = at_temperatures(table, temperatures, self.classes)
        return Results("out_of_fold", self.classes, table, calibrated, training_numbers(self.jobs))

    @cached_property
    def external(self) -> Results | None:
        """Results for the external images: the mean of the fold models. None where they were not scored."""
        if not self.jobs or not all(job.external.exists() for job in self.jobs):
            return None
        table = average_models(self.predictions("external"), self.classes)
        joint = self.joint_temperatures
        return Results("external", self.classes, table, at_temperatures(table, joint, self.classes) if joint else None)

    @cached_property
    def joint_temperatures(self) -> dict[tuple[int, int], float]:
        """Of the mean of all fold models, which is called fold 0, by fold and seed; empty where models are missing."""
        if not self.complete or self.record.scored == "inner" or not self.models:
            return {}
        if self.record.folds == 1:  # of a single model, the mean is that model
            return {key: model.calibration.temperature for key, model in self.fold_models.items()}
        from dermaffinity.training.calibration import ensemble_temperature

        tables = (self.predictions(part) for part in ("predictions", "validation"))
        scored, validation = (dict(iter(table.groupby("seed"))) for table in tables)
        return {
            (0, seed): ensemble_temperature(scored[seed], validation[seed], self.classes.names) for seed in self.seeds
        }

    @cached_property
    def manifest(self) -> Manifest | None:
        """The manifest it was run on, from where its config says or from beside the runs; None if it is not there.

        Raises:
            ManifestError: When it is damaged, or the one named is another.
        """
        split = self.record.split_hash
        if self.moved_to is not None:
            manifest = read_manifest(self.moved_to)
            if manifest.split_hash != split:
                raise ManifestError(
                    f"{self.moved_to}: split {manifest.split_hash[:12]}, but {self.name} was run on "
                    f"{self.record.dataset}, split {split[:12]}; name that manifest"
                )
            return manifest
        data = yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))["data"]
        for place in (Path(data["manifest"]), self.path.absolute().parent.parent / data["manifest"]):
            if place.is_file():
                manifest = read_manifest(place, Path(data["root"]) if data.get("root") else None)
                if manifest.split_hash == split:
                    return manifest
        return None

    def measures(self) -> pd.DataFrame:
        """Every measure over all classes: index `metric`; columns `value`, `low`, `high`, as fractions."""
        return self.out_of_fold.summary

    def recall(self) -> pd.DataFrame:
        """Recall of each class: index `class`; columns `value`, `low`, `high` as fractions, and `images`."""
        names = list(self.classes.names)
        table = self.measures().loc[[f"recall.{name}" for name in names]].set_axis(pd.Index(names, name="class"))
        return table.assign(images=pd.Series(self.out_of_fold.counts))

    def figure(self) -> "Figure":
        """Recall of each class with its interval."""
        from dermaffinity.report.figures import recall_figure

        return recall_figure({self.name: self.measures()}, self.out_of_fold.counts, f"Recall, {self.record.images}")

    def compare(self, *others: "Experiment | str | Path") -> "ComparedExperiments":
        """This and other experiments on the same split against the last one named, the baseline."""
        from dermaffinity.experiments.compare import compare_experiments

        experiments = [self, *(Experiment.open(other, self.path.parent) for other in others)]
        return compare_experiments(experiments, baseline=experiments[-1].name)

    def report(self, path: str | Path | None = None, *, baseline: str | None = None, images: bool = True) -> "Written":
        """Writes the HTML report; see `dermaffinity.experiments.report.report`."""
        from dermaffinity.experiments.report import report

        return report([self], out=path, baseline=baseline, images=images)

    def classifier(self) -> "LesionClassifier":
        """The classifier of all fold models together."""
        from dermaffinity.inference.classifier import LesionClassifier

        return LesionClassifier.load(self.path, plugins=self.record.config.get("plugins", ()))

    def __repr__(self) -> str:
        return f"<Experiment {self.record.title}>"

    def _repr_html_(self) -> str:
        from dermaffinity.report.html.notebook import shown
        from dermaffinity.report.tables import results_table

        if not self.complete:
            return f"<p>{self!r}: {len(self.jobs)} jobs finished, some folds are still to be run</p>"
        table = results_table({self.name: self.measures()}, self.out_of_fold.counts)
        return shown({f"{self.record.title}: percent [95 % interval]": table}, self.figure())
