"""From configs to measured experiments: what the command line and the pipelines share."""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import torch
import yaml
from rich.console import Console

import dermaffinity
from dermaffinity.config import Config, import_class, read_config, shipped
from dermaffinity.data.library import ImageLibrary
from dermaffinity.data.manifest import Manifest
from dermaffinity.errors import ConfigError, TrainingError
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.job import Images, Job, identity, is_main_process
from dermaffinity.experiments.launchers import Launcher, LauncherName, launch, launcher_of
from dermaffinity.experiments.launchers.inline import InlineLauncher
from dermaffinity.experiments.logbook import Logbook
from dermaffinity.experiments.progress import RunProgress
from dermaffinity.experiments.record import FILE, ExperimentRecord, JobFolder, Scored, training_numbers
from dermaffinity.experiments.results import Results, write_table
from dermaffinity.files import atomic_write, hold, sweep_partial, write_json
from dermaffinity.inference.mlflow.model import write_mlflow_model
from dermaffinity.inference.model_folder import join_models, read_description
from dermaffinity.report.figures import METHOD_COLORS, confusion_figure, reliability_figure, save_figure
from dermaffinity.tracking.base import NullTracker, Run, Tracker
from dermaffinity.training.precision import slow_precision, with_precision

PATIENCE = 600.0
"""Seconds to wait while another process opens or measures the same experiment."""

# What a browser shows of each experiment first.
_MAIN_MEASURES = ("minority_recall", "worst_class_recall", "balanced_accuracy")
_MAIN_GAINS = ("gain.minority_recall", "gain.balanced_accuracy")


class How(TypedDict, total=False):
    """Where and how `crossval`, `tune` and `benchmark` run jobs, in the words of the command line."""

    folds: Sequence[int] | None  # which test folds; by default all
    seeds: Sequence[int]  # by default 0
    launcher: LauncherName  # "inline", the default: one by one; "ray": side by side; "slurm": as an array
    address: str | None  # of a Ray cluster; by default this machine alone
    jobs_per_device: int | Literal["auto"]  # jobs at once on each GPU, or on each machine without one
    slurm: Mapping[str, str]  # options of sbatch, such as partition and gres
    runs: str | Path  # folder of all experiments, by default runs
    tracking_uri: str | None  # MLflow store; by default MLFLOW_TRACKING_URI, else mlflow.db in this folder
    quiet: bool  # no progress


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which jobs of every config to run, where and how; see `How` and `crossval`."""

    runs: Path = Path("runs")
    tracker: Tracker = field(default_factory=NullTracker)
    folds: Sequence[int] | None = None
    seeds: Sequence[int] = (0,)
    resume: bool = False
    external: bool = False
    scored: Scored = "test"  # "inner" scores the inner validation rows instead of the test folds
    launcher: Launcher = field(default_factory=InlineLauncher)
    keep_going: bool = False  # a config with jobs that fail is an experiment with failures, rather than an error
    console: Console = field(default_factory=lambda: Console(stderr=True))

    @classmethod
    def of(cls, how: How, **own: Any) -> "Plan":
        """The plan that some words stand for, tracked in MLflow."""
        from dermaffinity.tracking.mlflow_tracker import MlflowTracker

        return cls(
            runs=Path(how.get("runs", "runs")),
            tracker=MlflowTracker(how.get("tracking_uri")),
            folds=how.get("folds"),
            seeds=how.get("seeds", (0,)),
            launcher=launcher_of(
                how.get("launcher", "inline"), how.get("address"), how.get("jobs_per_device", "auto"), how.get("slurm")
            ),
            console=Console(stderr=True, quiet=how.get("quiet", False)),
            **own,
        )

    def jobs(self, folds: int) -> list[tuple[int, int]]:
        """Fold and seed of every job, for a manifest with so many folds."""
        return [(fold, seed) for seed in self.seeds for fold in (range(folds) if self.folds is None else self.folds)]


def crossval(
    configs: "str | Path | Config | Sequence[str | Path | Config]",
    *,
    data: Manifest | str | Path | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
    external: bool = False,
    inner: bool = False,
    quick: bool = False,
    **how: Unpack[How],
) -> list[Experiment]:
    """Trains and scores every fold of one or more configs, and tracks them in MLflow.

    Args:
        configs: Configs, their paths, or names of shipped ones; with ``data`` also names of methods alone.
        data: The manifest that all of them run on, or its path; None for the one each config names.
        overrides: ``key=value`` texts for every config.
        resume: Keep finished jobs and continue.
        external: Score the manifest's external images as well, once, at the end.
        inner: Score the inner validation images instead of the test folds, for choosing settings.
        quick: One epoch at 32 pixels, under names of its own: whether it works at all. Its numbers mean nothing.
        **how: See `How`.

    Returns, raises: As `run_experiments`.

    Examples:
        >>> import dermaffinity as da
        >>> (experiment,) = da.crossval("small_softmax.yaml", resume=True)  # which was run before
        >>> experiment.complete
        True
    """
    asked = [configs] if isinstance(configs, str | Path | Config) else configs
    plan = Plan.of(how, resume=resume, external=external, scored="inner" if inner else "test")
    found = [config_on(one, data, overrides) for one in asked]
    return run_experiments([config.quick() for config in found] if quick else found, plan)


def run_experiments(configs: Sequence[Config], plan: Plan) -> list[Experiment]:
    """Runs every fold and seed of every config, then pools and measures each config.

    Args:
        configs: With different names.
        plan: What to run of each, where and how.

    Returns:
        An experiment for each config; none in those processes of ``torchrun`` that only help to train.

    Raises:
        ConfigError: When the configs cannot be run as asked, before anything is trained.
        TrainingError: When a job fails, after all others have run.
        BusyError: When another process is at one of the jobs.
    """
    names = [config.name for config in configs]
    if len(set(names)) < len(names):
        raise ConfigError(f"every config needs a name of its own, found {', '.join(names)}")
    experiments = [Experiment(plan.runs / name) for name in names]
    configs = [_with_precision(config, one) for config, one in zip(configs, experiments, strict=True)]
    manifests = [Images(config.data).manifest for config in configs]
    asked = list(zip(configs, manifests, experiments, strict=True))
    tracker, console = plan.tracker, plan.console
    runs: dict[Path, Run] = {}
    if is_main_process():
        for warning in sorted({slow for config in configs if (slow := slow_precision(config))}):
            console.print(f"Warning: {warning}", highlight=False, soft_wrap=True)
        for one in asked:
            _check_request(*one, plan)
        runs = {one[2].path: _open(*one, plan) for one in asked}
    else:
        tracker, console = NullTracker(), Console(quiet=True)
    jobs = [job for one in asked for job in _jobs(*one, plan)]
    with Logbook(jobs if runs else (), runs, tracker, console) as logbook:
        failures: tuple[str, ...] = ()
        with RunProgress(len(jobs), console) as progress:
            try:
                launch(jobs, plan.launcher, progress, logbook)
            except TrainingError as error:
                if not plan.keep_going:
                    raise
                failures = error.problems
        if not is_main_process():
            return []
        for config, experiment in zip(configs, experiments, strict=True):
            for remark in shortfalls(config, experiment.jobs):
                console.print(f"Warning: {config.name}: {remark}", highlight=False, soft_wrap=True)
        return [measured(path, run, failures, logbook) for path, run in runs.items()]


def check_identity(config: Config, manifest: Manifest, experiment: Experiment, scored: Scored) -> None:
    """Holds a config against the experiment of its name, if there is one.

    Raises:
        ConfigError: When that is another experiment, with all differences.
    """
    if not experiment.exists:
        return
    now = _record(_with_precision(config, experiment), manifest, scored, {})
    if differences := experiment.record.differences(now):
        raise ConfigError(
            f"{experiment.path} holds another experiment of this name. Give this one a name of its own, "
            "--set name=NEW, or remove that folder",
            differences,
        )


def shortfalls(config: Config, jobs: Sequence[JobFolder]) -> list[str]:
    """In what the method of a config did not act in some of its trainings, so that the results are hardly its own."""
    loss: Any = import_class(path) if (path := config.setting("loss.class")) else None
    if loss is None or not loss.acts_from:
        return []
    lowest = training_numbers(jobs)["low"]
    return [
        f"{name.replace('_', ' ')} ended at {lowest[f'training.{name}']:.2f} in at least one training; below "
        f"{least:g} {loss.__name__} hardly acts"
        for name, least in loss.acts_from.items()
        if lowest.get(f"training.{name}", least) < least
    ]


def versions() -> dict[str, str]:
    """What ran: the package, torch, and the commit of the working directory's repository, if any."""
    found = {"dermaffinity": dermaffinity.__version__, "torch": str(torch.__version__)}
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return found
    if commit.returncode == 0:
        found["git_commit"] = commit.stdout.strip()
    return found


def config_on(source: "str | Path | Config", data: Manifest | str | Path | None, overrides: Sequence[str]) -> Config:
    """A config as it is, or on a manifest, as an experiment of the manifest's name."""
    if isinstance(source, Config):
        return source
    if data is None:
        return read_config(source, overrides)
    path = data.path if isinstance(data, Manifest) else Path(data)
    if path is None:
        raise ConfigError("this manifest is not on the disk; write it with write_manifest, and read it from there")
    named = f"library_{source}" if str(source) in shipped("method") else source  # a method's name alone
    config = read_config(named, overrides, {"data.manifest": str(path)})
    method = config.name.partition("_")[2] or config.name
    return config.model_copy(update={"name": f"{path.stem}_{method}"})


def _check_request(config: Config, manifest: Manifest, experiment: Experiment, plan: Plan) -> None:
    wrong = [fold for fold in plan.folds or () if not 0 <= fold < manifest.folds]
    if wrong:
        raise ConfigError(f"--folds {wrong[0]}: {manifest.name} has the folds 0 to {manifest.folds - 1}")
    if plan.external and manifest.external().empty:
        raise ConfigError(f"--external: {config.data.manifest} has no external images")
    jobs = _jobs(config, manifest, experiment, plan)
    jobs[0].check(manifest)
    assert manifest.root is not None  # or `Images` had refused it
    ImageLibrary(manifest.root)  # or raise that there are no images
    check_identity(config, manifest, experiment, plan.scored)
    finished, started = (
        sum(state) for state in zip(*((job.files.finished, job.files.started) for job in jobs), strict=True)
    )
    if (finished or started) and not plan.resume:
        raise ConfigError(
            f"{experiment.path} already holds {finished} finished and {started} interrupted of these {len(jobs)} "
            "jobs. Add --resume to keep them and continue, or --set name=NEW to start another experiment"
        )


def _jobs(config: Config, manifest: Manifest, experiment: Experiment, plan: Plan) -> list[Job]:
    return [
        Job.of(config, fold, seed, experiment.path, plan.scored, plan.external)
        for fold, seed in plan.jobs(manifest.folds)
    ]


def _open(config: Config, manifest: Manifest, experiment: Experiment, plan: Plan) -> Run:
    """Makes or reopens the folder and the tracking run of a config."""
    # Held, so that processes that start together on different folds share one tracking run.
    with hold(experiment.path, PATIENCE):
        sweep_partial(experiment.path)
        return _open_held(config, manifest, experiment, plan)


def _open_held(config: Config, manifest: Manifest, experiment: Experiment, plan: Plan) -> Run:
    ran = versions()
    record = experiment.record if experiment.exists else _record(config, manifest, plan.scored, ran)
    return open_run(
        experiment,
        record,
        config.resolved(),
        plan.tracker,
        ran=ran,
        source=manifest.source,
        portable=config.portable(),
    )


def open_run(
    experiment: Experiment,
    record: ExperimentRecord,
    config: Mapping[str, Any],
    tracker: Tracker,
    *,
    ran: Mapping[str, str],
    source: str,
    portable: Mapping[str, Any],
) -> Run:
    """Makes or reopens the tracking run of an experiment, whose folder is held, and writes what is run to both.

    Args:
        experiment: Begun or not.
        record: Its own, or the one to begin it with.
        config: Resolved; what it says of files holds on this machine.
        tracker: Opens the run.
        ran: See `versions`.
        source: Where the images come from.
        portable: The config without paths.
    """
    run = tracker.parent(
        record.dataset,
        record.name,
        key=experiment.identifier(),
        tags={
            "role": "parent",
            "method": record.name,
            "dataset": record.dataset,
            "split_hash": record.split_hash,
            "protocol": record.protocol,
            "scored": record.scored,
            "mlflow.source.git.commit": ran.get("git_commit", ""),
            **ran,
        },
        description=record.title,
        colors=METHOD_COLORS,
    )
    if not experiment.exists:
        write_json(experiment.path / FILE, record.model_dump(mode="json"))
    with atomic_write(experiment.path / "config.yaml") as file:
        yaml.safe_dump(dict(config), file, sort_keys=False)
    run.log_params({**_in_short(record), **(record.joined or record.config)})
    counts = record.class_counts
    tracker.show(
        record.dataset,
        columns=[n for n in (*_MAIN_MEASURES, *_MAIN_GAINS) if record.classes.minority or "minority" not in n],
        charts=[f"{kind}.{name}" for kind in ("recall", "gain") for name in sorted(counts, key=counts.__getitem__)],
        rows={"role": "parent", "scored": "test"},
    )
    run.log_text(yaml.safe_dump(dict(portable), sort_keys=False), "config.yaml")
    profile = {"num_rows": sum(counts.values()), **counts}
    run.log_dataset(record.dataset, record.split_hash, source, "cross-validation", profile)
    return run


def _in_short(record: ExperimentRecord) -> dict[str, str]:
    """What tells methods apart, by names that sort first: MLflow compares runs by the first three that differ."""
    if record.joined:
        return {"Method": record.name, "Joined": " and ".join(record.joined)}
    sections = ("head", "loss") if record.has_network else ("estimator",)
    classes = {section.title(): record.config[section]["class"].rpartition(".")[2] for section in sections}
    return {"Method": record.name, **classes}


def _with_calibration_first(name: str) -> str:
    """``ece.calibrated`` as ``calibrated.ece``, so that all of them are one section of charts."""
    return f"calibrated.{name.removesuffix('.calibrated')}" if name.endswith(".calibrated") else name


def _record(config: Config, manifest: Manifest, scored: Scored, ran: dict[str, str]) -> ExperimentRecord:
    if scored == "none":  # a test set of the dataset's own is trained on as well
        manifest = replace(manifest, protocol="group")
    return ExperimentRecord(
        name=config.name,
        config=identity(config),
        scored=scored,
        dataset=manifest.name,
        split_hash=manifest.split_hash,
        images_digest=manifest.images_digest,
        protocol=manifest.protocol,
        folds=1 if scored == "none" else manifest.folds,
        class_counts=manifest.class_counts(),
        malignant=manifest.malignant,
        versions=ran,
    )


def measured(path: Path, run: Run, failures: Sequence[str], logbook: Logbook) -> Experiment:
    """The experiment of a folder, measured, written and tracked once no fold of any seed is missing."""
    # A job's label starts with the config's name, which has no blanks.
    experiment = Experiment(path, failures=[one for one in failures if one.startswith(f"{path.name} ")])
    with hold(path, PATIENCE):
        if experiment.complete:
            _write(experiment)
        logbook.attempt(lambda: _track(experiment, run))
    return experiment


def _write(experiment: Experiment) -> None:
    """Writes the results, and joins the fold models."""
    for results in experiment.results:
        write_table(results.table, experiment.path / f"{results.part}.csv")
        write_table(results.summary.reset_index(), experiment.path / f"{results.part}_summary.csv")
        title = f"{experiment.record.name}, {results.part.replace('_', ' ')}"
        confusion = confusion_figure(results.matrix, results.classes.names, title)
        save_figure(confusion, experiment.path / "figures" / f"{results.part}_confusion.png")
        reliability = reliability_figure(results.bins(), title)
        save_figure(reliability, experiment.path / "figures" / f"{results.part}_reliability.png")
    if joint := experiment.joint_temperatures:
        record, (_, seed) = experiment.record, min(joint)
        seeds = experiment.seeds if record.scored == "none" else [seed]
        folders = [experiment.job(fold, one).path for one in seeds for fold in range(record.folds)]
        join_models(folders, experiment.path / "classifier", joint[0, seed], experiment.told_outside(seed).tolist())


def _track(experiment: Experiment, run: Run) -> None:
    """Tracks what was written, registers the classifier, and ends the run."""
    if experiment.complete:
        for results in experiment.results:
            _track_results(experiment, run, results)
        if experiment.joint_temperatures:
            _register(experiment, run)
    run.finish("FAILED" if experiment.failures else "FINISHED")


def _track_results(experiment: Experiment, run: Run, results: Results) -> None:
    part, summary = results.part, results.summary
    prefix = "" if part == "out_of_fold" else f"{part}."
    # Each training's own numbers are tracked with its run.
    measures = summary["value"].drop(index=results.training.index).rename(_with_calibration_first)
    # The main ones first, as MLflow compares runs by the first; four digits, as it shows all it has.
    main = [name for name in _MAIN_MEASURES if name in measures.index]
    run.log_metrics({f"{prefix}{name}": round(measures[name], 4) for name in (*main, *measures.index)})
    confusion = {"classes": list(results.classes.names), "matrix": results.matrix.tolist()}
    run.log_json(confusion, f"{part}_confusion.json")
    tables = (f"{part}.csv", f"{part}_summary.csv")
    for name in (*tables, f"figures/{part}_confusion.png", f"figures/{part}_reliability.png"):
        run.log_file(experiment.path / name)


def _register(experiment: Experiment, run: Run) -> None:
    record, (_, seed) = experiment.record, min(experiment.joint_temperatures)
    classifier = read_description(experiment.path / "classifier")
    run.log_model(
        partial(write_mlflow_model, experiment.path / "classifier", plugins=record.config.get("plugins", ())),
        record.dataset,
        record.name,
        digest=classifier.digest,
        tags={
            "config": record.name,
            "protocol": record.protocol,
            "split_hash": record.split_hash,
            "seed": str(seed),
            "scored": record.scored,
            **(
                {}
                if record.scored == "none"
                else {"balanced_accuracy": f"{experiment.measures()['value']['balanced_accuracy']:.4f}"}
            ),
            "git_commit": record.versions.get("git_commit", ""),
        },
        description=classifier.intended_use,
    )


def _with_precision(config: Config, experiment: Experiment) -> Config:
    """The config with its precision decided, once for an experiment, on whichever machine it began."""
    known = experiment.record.config.get("training", {}) if experiment.exists else {}
    return with_precision(config, known.get("precision"))
