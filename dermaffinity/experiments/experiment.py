"""An experiment: what was run, and what came out, read from its folder when it is asked for."""

import uuid
from collections.abc import Mapping, Sequence
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml

from dermaffinity.config import Component
from dermaffinity.data.manifest import Manifest, read_manifest
from dermaffinity.errors import ComparisonError, DataError, ManifestError
from dermaffinity.experiments.record import FILE, ExperimentRecord, JobFolder, training_numbers
from dermaffinity.experiments.results import (
    Model,
    Results,
    arrays,
    as_separate_images,
    at_temperatures,
    average_models,
    models_of,
    read_table,
)
from dermaffinity.files import atomic_write
from dermaffinity.inference.metadata import MetadataEvidence
from dermaffinity.inference.model_folder import Description, read_description
from dermaffinity.metrics.classification import Classes, classification_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dermaffinity.experiments.compare import ComparedExperiments
    from dermaffinity.experiments.report import Written
    from dermaffinity.inference.classifier import LesionClassifier

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


class Experiment:
    """One config trained on all its folds and seeds, with its results.

    ``RUNS/<name>/`` holds ``experiment.json``, ``config.yaml``, one folder per job, and, once all jobs are finished,
    ``out_of_fold.csv``, summaries, ``figures/`` and the fold models together in ``classifier/``.

    Args:
        path: The experiment's folder.
        jobs: Only these of its jobs; None for every one that is finished.
        failures: What stopped jobs in the call that returned this, a line each.
        manifest: Where its manifest lies, if that was moved.
        averaged: See `ensemble`.
        frequencies: Of the classes by name, see `with_prior`.
        strengths: Of the class frequencies in training, by fold, see `with_prior`.
        metadata: Columns of the manifest, see `with_metadata`; None for those of the config.

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
        averaged: bool = False,
        frequencies: Mapping[str, float] | None = None,
        strengths: Mapping[int, float] | None = None,
        metadata: Sequence[str] | None = None,
    ) -> None:
        self.path = Path(path)
        self.averaged = averaged
        self.frequencies = frequencies
        self._strengths = strengths
        self._metadata = metadata
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
        named = [Path(source).stem] if Path(source).suffix in (".yaml", ".yml") else []  # a config's file
        for path in (Path(source), *(Path(runs) / name for name in (source, *named))):
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
    def label(self) -> str:
        """Its name, and what sets its answers apart from those of the experiment as it was run."""
        parts = [self.name]
        if self.averaged:
            parts.append("ensemble")
        if self.frequencies is not None:
            parts.append("other class frequencies")
        if self._strengths is not None:
            parts.append(f"prior {' to '.join(f'{one:g}' for one in sorted(set(self._strengths.values())))}")
        if self._metadata is not None:
            parts.append(f"with {' and '.join(self._metadata)}")
        return ", ".join(parts)

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

    @property
    def as_run(self) -> bool:
        """Whether it answers as it was run, not averaged over seeds nor told anything by a ``with_`` method."""
        return not self.averaged and (self.frequencies, self._strengths, self._metadata) == (None, None, None)

    def ensemble(self) -> "Experiment":
        """The same experiment with the mean of all seeds' models in each fold, in place of one model after the other.

        The mean is calibrated by `ensemble_temperature`, from inner validation images that are new to two of its
        models. `classifier` is another ensemble: of all folds, for images of no fold.

        Examples:
            >>> import dermaffinity as da
            >>> da.Experiment.open("runs/small_softmax").ensemble().out_of_fold.table["seed"].unique()
            array([0])
        """
        return self._with(averaged=True)

    def with_prior(
        self,
        frequencies: "Mapping[str, float] | pd.Series | None" = None,
        *,
        strength: float | Mapping[int, float] | None = None,
    ) -> "Experiment":
        r"""The same experiment with answers for other class frequencies than those its models assume.

        .. math:: p_c \propto \exp(z_c / T) \, q_c / \rho_c

        for what a model says, z, its temperature T, the class frequencies ρ that it assumes (see `learned_prior`), and
        those told, q. Nothing is trained: this is Bayes' rule, applied to calibrated probabilities.

        Args:
            frequencies: q by class; they need not sum to 1.
            strength: s of :math:`q = \pi^s` with the shares π of the classes in training, one number or one by fold, in
                [0, 2]: 0 for equally frequent classes, 1 for those of the library. See `chosen_strengths`.

        Raises:
            ValueError: Unless one of both is given, every class has a positive frequency, and every fold a strength.

        Examples:
            >>> import dermaffinity as da
            >>> experiment = da.Experiment.open("runs/small_softmax")
            >>> rare = experiment.with_prior({"AK": 0.1, "BCC": 0.1, "ML": 10, "SCC": 0.1, "SK": 0.1})
            >>> bool(rare.recall()["value"]["ML"] >= experiment.recall()["value"]["ML"])
            True
        """
        if (frequencies is None) == (strength is None):
            raise ValueError("give either the frequencies of the classes or a strength")
        if isinstance(frequencies, pd.Series):
            frequencies = {str(name): share for name, share in frequencies.items()}
        if frequencies is not None:
            self.classes.log_frequencies(frequencies)  # or raise what is wrong with them
        return self._with(frequencies=frequencies, strengths=None if strength is None else self._by_fold(strength))

    def _by_fold(self, strength: Any) -> dict[int, float]:
        folds = range(self.record.folds)
        told = strength if isinstance(strength, Mapping) else dict.fromkeys(folds, strength)
        numbers = [float(one) for one in told.values() if isinstance(one, Real)]  # type: ignore[arg-type]
        if set(told) == set(folds) and sum(0 <= one <= 2 for one in numbers) == len(folds):
            return dict(zip(told, numbers, strict=True))
        raise ValueError(
            "a strength is a number from 0, for equally frequent classes, over 1, for the library's, to 2, or one for "
            f"each of the folds {', '.join(map(str, folds))}, such as chosen_strengths() gives; got {strength!r}"
        )

    def with_metadata(self, *columns: str) -> "Experiment":
        """The same experiment with what the manifest's columns say of each image; see `MetadataEvidence`.

        Estimated for each model from the images it was fitted to, and added after its temperature. A site or an age may
        be a shortcut: it may tell which clinic an image came from rather than what it shows.

        Args:
            columns: Of the manifest, such as ``"age", "sex", "site"``.

        Raises:
            DataError: When the manifest is not there, or lacks one of the columns.

        Examples:
            >>> import dermaffinity as da
            >>> experiment = da.Experiment.open("runs/small_softmax").with_metadata("width")
            >>> experiment.measures().loc["accuracy", "value"] >= 0
            np.True_
        """
        return self._with(metadata=columns)

    def chosen_strengths(
        self, *, price: float = 0.02, reference: "Experiment | str | Path | None" = None
    ) -> dict[int, float]:
        """For each fold, how much of the class frequencies to tell its models so that common classes lose little.

        The smallest strength of 0, 0.25, 0.5, 0.75 and 1 at which the majority recall on the fold's inner validation
        images, all seeds together, is at most ``price`` below that of the reference; 1 where none is. Test folds and
        external images have no part in it.

        Args:
            price: What the common classes may lose, as a fraction of recall.
            reference: An experiment with the same folds and seeds, as it is, such as that of softmax, or its name; None
                for this one at strength 1, which needs no other experiment.

        Examples:
            >>> import dermaffinity as da
            >>> experiment = da.Experiment.open("runs/small_softmax")
            >>> experiment.chosen_strengths(price=1.0)  # any loss of the common classes is allowed
            {0: 0.0, 1: 0.0, 2: 0.0}
        """
        base = self.with_prior(strength=1.0) if reference is None else Experiment.open(reference, self.path.parent)
        least = {fold: recall - price for fold, recall in base._inner_majority_recall().items()}
        recalls = {strength: self.with_prior(strength=strength)._inner_majority_recall() for strength in STRENGTHS}
        return {
            fold: next((one for one in STRENGTHS if recalls[one][fold] >= least[fold]), STRENGTHS[-1]) for fold in least
        }

    def identifier(self) -> str:
        """A word that no other folder has, made at the first call; the experiment's tracking run is found by it."""
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
            raise ComparisonError(f"{self.path}: no finished job has a {part} table; {self.record.again}")
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

    @cached_property
    def out_of_fold(self) -> Results:
        """Results for the images it scored: every image by the model, or models, that had it as a test image."""
        numbers = training_numbers(self.jobs)
        if self.record.scored != "test":  # the images that temperatures are fitted on
            return Results("out_of_fold", self.classes, as_separate_images(self.predictions()), training=numbers)
        keep = ("fold",) if self.averaged else ("fold", "seed")
        return Results(
            "out_of_fold", self.classes, *self._answers(self.predictions(), keep, self.temperatures), numbers
        )

    @property
    def results(self) -> list[Results]:
        """All that it measured: nothing, where it was trained on all images."""
        both = () if self.record.scored == "none" else (self.out_of_fold, self.external)
        return [one for one in both if one is not None]

    @cached_property
    def inner(self) -> Results:
        """Results for the inner validation images by single models: for choosing, not for reporting."""
        return Results("inner", self.classes, as_separate_images(self.validation))

    @cached_property
    def validation(self) -> pd.DataFrame:
        """The prediction table of single models for their inner validation images, calibrated where they can be."""
        single = self._with(averaged=False)
        table, calibrated = single._answers(single.predictions("validation"), ("fold", "seed"), single.temperatures)
        return table if calibrated is None else calibrated

    @cached_property
    def external(self) -> Results | None:
        """Results for the external images: the mean of the fold models. None where they were not scored."""
        if not self.jobs or not all(job.external.exists() for job in self.jobs):
            return None
        keep = () if self.averaged else ("seed",)
        answers = self._answers(self.predictions("external"), keep, self.joint_temperatures)
        return Results("external", self.classes, *answers)

    @cached_property
    def temperatures(self) -> dict[Model, float]:
        """Of the models of each fold, by fold and seed; seed 0 for the mean of the seeds. Empty without networks."""
        if not self.record.has_network:
            return {}
        keep = ("fold",) if self.averaged else ("fold", "seed")
        return self._fitted(self.predictions("validation"), keep)

    @cached_property
    def joint_temperatures(self) -> dict[Model, float]:
        """Of the mean of all fold models, which is called fold 0, by fold and seed; empty where models are missing."""
        if not self.complete or self.record.scored == "inner" or not self.record.has_network:
            return {}
        parts = ["validation"] if self.record.folds == 1 else ["predictions", "validation"]
        clean = pd.concat([self.predictions(part) for part in parts], ignore_index=True)
        found = self._fitted(clean, () if self.averaged else ("seed",))
        # No image is new to two models that were trained on everything; their mean is less sure than they are.
        return {min(found): sum(found.values()) / len(found)} if self.record.scored == "none" else found

    @cached_property
    def strengths(self) -> Mapping[int, float] | None:
        """Of the class frequencies in training, by fold: those asked for, or those of the config; None for none."""
        asked = self.record.config.get("prior_strength") if self.record.scored != "inner" else None
        if self._strengths is not None or self.frequencies is not None or asked is None:
            return self._strengths
        return self.chosen_strengths() if asked == "chosen" else dict.fromkeys(range(self.record.folds), asked)

    @property
    def metadata(self) -> tuple[str, ...]:
        """Columns of the manifest that count as evidence: those asked for, or those of the config."""
        asked = self.record.config.get("metadata") if self._metadata is None else self._metadata
        return tuple(asked or ())

    def told_outside(self, seed: int) -> np.ndarray:
        """What class frequencies add to the mean of all fold models of a seed: (C,)."""
        return np.mean([self._prior_told(model) for model in self._priors if model[1] == seed], axis=0)

    @cached_property
    def _priors(self) -> dict[Model, tuple[np.ndarray, np.ndarray]]:
        """Of each model the logarithms (C,) of the class shares in its training, and of those that it assumes."""
        import torch

        from dermaffinity.heads.base import log_shares
        from dermaffinity.training.calibration import learned_prior

        config, names = self.record.config, list(self.classes.names)
        loss, found = Component.model_validate(config["loss"]) if self.record.has_network else None, {}
        for job in self.jobs:
            # Never images to train on: the inner validation part and, unless the dataset brings a test set, the fold.
            # Where the fold was not scored it is not known; its classes are as frequent as those of the others.
            alone = self.record.protocol == "presplit" or self.record.scored != "test"
            parts = ["validation"] if alone else ["validation", "predictions"]
            tables = [read_table(job.path / f"{part}.csv") for part in parts]
            unseen = pd.concat([table["label"] for table in tables]).value_counts().reindex(names, fill_value=0)
            counts = torch.tensor(pd.Series(self.record.class_counts)[names].sub(unseen).to_numpy())
            log_share = log_shares(counts).double().numpy()
            learned = log_share
            if loss is not None:
                learned = learned_prior(
                    loss.build(class_counts=counts, embedding_dim=2),
                    balanced_sampling=config["training"]["balanced_sampling"],
                    refitted=config.get("refit") is not None,
                )
            (model,) = set(models_of(tables[0]))
            found[model] = log_share, learned
        return found

    @cached_property
    def _known(self) -> dict[Model, MetadataEvidence]:
        """What the metadata of the images that each model was fitted to say."""
        rows, found = self._facts, {}
        for job in self.jobs:
            inner = read_table(job.path / "validation.csv")
            (model,) = set(models_of(inner))
            fitted = rows[rows["fold"].notna() & (rows["fold"] != model[0]) & ~rows.index.isin(inner["image"])]
            found[model] = MetadataEvidence.of(fitted, self.metadata, self.classes.names)
        return found

    @cached_property
    def _facts(self) -> pd.DataFrame:
        """The manifest's rows by image."""
        if self.manifest is None:
            raise DataError(
                f"{self.path}: metadata are in the manifest {self.record.dataset}.csv of split "
                f"{self.record.split_hash[:12]}, which is not where its config says; hand it over as manifest=PATH"
            )
        own = self.manifest.metadata
        if missing := [name for name in self.metadata if name not in own]:
            raise DataError(
                f"{self.manifest.name}: no column of metadata {', '.join(map(str, missing))}; those there: "
                f"{', '.join(own) or 'none'}"
            )
        return self.manifest.rows.set_index("image")

    def _told(self, model: Model, images: pd.Series) -> np.ndarray:
        """What class frequencies and metadata add to the logarithms of a model's probabilities: (N, C)."""
        known = self._known[model](self._facts.loc[images]) if self.metadata else np.zeros((len(images), 1))
        return known + self._prior_told(model)

    def _prior_told(self, model: Model) -> np.ndarray:
        log_share, learned = self._priors[model]
        if self.frequencies is not None:
            return self.classes.log_frequencies(self.frequencies) - learned
        return np.zeros(len(learned)) if self.strengths is None else self.strengths[model[0]] * log_share - learned

    def _fitted(self, clean: pd.DataFrame, keep: Sequence[str]) -> dict[Model, float]:
        """The temperatures of the means of models, from tables of images that are new to each of them."""
        from dermaffinity.training.calibration import ensemble_temperature

        # With the frequencies of these very images, whatever is told of others afterwards.
        own = np.stack([log_share - learned for log_share, learned in map(self._priors.__getitem__, models_of(clean))])
        found = {}
        for mean, models in self._joined(keep).items():
            rows = np.array([model in models for model in models_of(clean)])
            found[mean] = ensemble_temperature(clean[rows], len(models), self.classes.names, own[rows])
        return found

    def _answers(
        self, table: pd.DataFrame, keep: Sequence[str], temperatures: Mapping[Model, float]
    ) -> tuple[pd.DataFrame, pd.DataFrame | None]:
        """The means of models, as trained and calibrated; both calibrated where they are told something."""
        means = average_models(table, self.classes, keep)
        is_told = bool(self.frequencies or self.strengths or self.metadata)
        if not is_told and not temperatures:
            return means, None
        joined = self._joined(keep)
        evidence = np.zeros((len(means), len(self.classes.names)))
        for mean, models in joined.items() if is_told else ():
            own = np.array([model == mean for model in models_of(means)])
            evidence[own] = np.mean([self._told(model, means["image"][own]) for model in models], axis=0)
        calibrated = at_temperatures(means, temperatures or dict.fromkeys(joined, 1.0), evidence, self.classes)
        return calibrated if is_told else means, calibrated

    def _joined(self, keep: Sequence[str]) -> dict[Model, list[Model]]:
        """The models behind each mean that keeps folds, or seeds, apart."""
        found: dict[Model, list[Model]] = {}
        for fold, seed in self._priors:
            found.setdefault((fold if "fold" in keep else 0, seed if "seed" in keep else 0), []).append((fold, seed))
        return found

    def _inner_majority_recall(self) -> dict[int, float]:
        """The majority recall on each fold's inner validation images, seeds together; 1 where no class is common."""
        table = self.validation
        of_folds = {fold: table[table["fold"] == fold] for fold in table["fold"].unique().tolist()}
        return {
            fold: classification_metrics(*arrays(own, self.classes), self.classes).get("majority_recall", 1.0)
            for fold, own in of_folds.items()
        }

    def _with(self, **changed: Any) -> "Experiment":
        told = {"frequencies": self.frequencies, "strengths": self._strengths, "metadata": self._metadata}
        now = {"failures": self.failures, "averaged": self.averaged, **told, **changed}
        return Experiment(self.path, jobs=self._jobs, manifest=self.moved_to, **now)

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
                if (manifest.split_hash, manifest.images_digest) == (split, self.record.images_digest):
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
        return compare_experiments(experiments, baseline=experiments[-1].label)

    def report(self, path: str | Path | None = None, *, baseline: str | None = None, images: bool = True) -> "Written":
        """Writes the HTML report; see `dermaffinity.experiments.report.report`."""
        from dermaffinity.experiments.report import report

        return report([self], out=path, baseline=baseline, images=images)

    def classifier(self) -> "LesionClassifier":
        """The classifier of all fold models together."""
        from dermaffinity.inference.classifier import LesionClassifier

        return LesionClassifier.load(self.path, plugins=self.record.config.get("plugins", ()))

    def __repr__(self) -> str:
        told = self.label.removeprefix(f"{self.name}, ")
        return f"<Experiment {self.record.title}{'' if self.as_run else f'; {told}'}>"

    def _repr_html_(self) -> str:
        from dermaffinity.report.html.notebook import shown
        from dermaffinity.report.tables import results_table

        if not self.complete:
            return f"<p>{self!r}: {len(self.jobs)} jobs finished, some folds are still to be run</p>"
        table = results_table({self.label: self.measures()}, self.out_of_fold.counts)
        return shown({f"{self.record.title}: percent [95 % interval]": table}, self.figure())
