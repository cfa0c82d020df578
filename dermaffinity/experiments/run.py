"""From configs to measured experiments: what the command line and the pipelines share."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
import yaml
from rich.console import Console

import dermaffinity
from dermaffinity.config import Config, EstimatorConfig, NetworkConfig, flatten, import_class
from dermaffinity.data.manifest import Manifest
from dermaffinity.errors import ConfigError, TrainingError
from dermaffinity.experiments.estimator_job import check_estimator_config
from dermaffinity.experiments.job import Images, Job, Scored, ended_when_stopped, identity, is_main_process
from dermaffinity.experiments.launchers import Launcher, launch
from dermaffinity.experiments.progress import RunProgress
from dermaffinity.experiments.record import (
    EXPERIMENT_FORMAT,
    ExperimentFolder,
    JobFolder,
    as_separate_images,
    average_models,
    class_indices,
    training_numbers,
    with_bounds,
    write_table,
)
from dermaffinity.files import atomic_write, hold, sweep_partial, write_json
from dermaffinity.inference.mlflow.model import write_mlflow_model
from dermaffinity.inference.model_folder import join_models, read_description
from dermaffinity.losses import Loss
from dermaffinity.metrics.classification import confusion_matrix, minority_classes
from dermaffinity.metrics.reliability import reliability_bins, with_temperature
from dermaffinity.metrics.summary import summarize, summarize_calibration
from dermaffinity.report.figures import METHOD_COLORS, confusion_figure, reliability_figure, save_figure
from dermaffinity.tracking.base import NullTracker, Run, Tracker
from dermaffinity.training.calibration import ensemble_temperature
from dermaffinity.training.precision import slow_precision, with_precision

# Seconds to wait while another process opens or measures the same experiment.
_PATIENCE = 600.0

Temperatures = dict[tuple[int, int], float]  # by fold and seed


@dataclass(frozen=True)
class Outcome:
    """What an experiment came to.

    Args:
        folder: Where everything lies.
        summary: A row a metric with ``value``, ``low``, ``high``; None while folds are missing.
        external: The same for the external images, where they were scored.
        external_counts: External images of each class.
        failures: What stopped jobs, a line each, where the caller wanted to know.
    """

    folder: ExperimentFolder
    summary: pd.DataFrame | None
    external: pd.DataFrame | None
    external_counts: dict[str, int]
    failures: tuple[str, ...] = ()


def run_experiments(
    configs: Sequence[Config],
    *,
    runs: Path,
    tracker: Tracker,
    folds: Sequence[int] | None = None,
    seeds: Sequence[int] = (0,),
    resume: bool = False,
    external: bool = False,
    scored: Scored = "test",
    launcher: Launcher = "inline",
    keep_going: bool = False,
    console: Console,
) -> list[Outcome]:
    """Runs every fold and seed of every config, then pools and measures each config.

    Args:
        configs: With different names.
        runs: Folder of all experiments.
        tracker: Where the numbers go.
        folds: Which test folds; None for all.
        seeds: Which seeds.
        resume: Whether to keep what an earlier call finished and go on where it stopped.
        external: Whether to score the manifest's external images with every fold's model.
        scored: ``"inner"`` scores the inner validation rows instead of the test folds.
        launcher: How jobs are run.
        keep_going: Whether a config with jobs that fail is an outcome with its failures, rather than an error.
        console: For progress.

    Returns:
        An outcome for each config; none in those processes of ``torchrun`` that only help to train.

    Raises:
        ConfigError: When the configs cannot be run as asked, before anything is trained.
        TrainingError: When a job fails, after all others have run.
        BusyError: When another process is at one of the jobs.
    """
    if launcher == "local" and "TORCHELASTIC_RUN_ID" in os.environ:
        raise ConfigError("--launcher local: torchrun has started the processes already; leave it out")
    names = [config.name for config in configs]
    if len(set(names)) < len(names):
        raise ConfigError(f"every config needs a name of its own, found {', '.join(names)}")
    folders = [ExperimentFolder(runs / config.name) for config in configs]
    configs = [_with_precision(config, folder) for config, folder in zip(configs, folders, strict=True)]
    manifests = [Images(config.data).manifest for config in configs]
    asked = list(zip(configs, manifests, folders, strict=True))
    if is_main_process():
        for warning in sorted({slow for config in configs if (slow := slow_precision(config))}):
            console.print(f"Warning: {warning}", highlight=False, soft_wrap=True)
        for config, manifest, folder in asked:
            _check_request(config, manifest, folder, folds, seeds, resume, external, scored)
        opened = [
            _open(config, manifest, folder, tracker, scored, color)
            for (config, manifest, folder), color in zip(asked, cycle(METHOD_COLORS), strict=False)
        ]
    else:
        tracker, console = NullTracker(), Console(quiet=True)
        opened = [tracker.parent("", config.name, run_id=None, tags={}, description="") for config in configs]
    jobs = [
        Job(config, fold, seed, folder, run, tracker, scored, external)
        for (config, manifest, folder), run in zip(asked, opened, strict=True)
        for seed in seeds
        for fold in (range(manifest.folds) if folds is None else folds)
    ]
    with ended_when_stopped(*opened):
        failures: tuple[str, ...] = ()
        with RunProgress(len(jobs), console) as progress:
            try:
                launch(jobs, launcher, progress)
            except TrainingError as error:
                if not keep_going:
                    raise
                failures = error.problems
        if not is_main_process():
            return []
        for config, folder in zip(configs, folders, strict=True):
            for remark in shortfalls(config, folder.jobs()):
                console.print(f"Warning: {config.name}: {remark}", highlight=False, soft_wrap=True)
        return [_outcome(folder, run, failures) for folder, run in zip(folders, opened, strict=True)]


def check_identity(config: Config, manifest: Manifest, folder: ExperimentFolder, scored: Scored) -> None:
    """Holds a config against the experiment of its name, if there is one.

    Raises:
        ConfigError: When that is another experiment, with all differences.
    """
    known, now = _known(folder), _identity(_with_precision(config, folder), manifest, scored)
    if known and (differences := _differences(known["identity"], now)):
        raise ConfigError(
            f"{folder.path} holds another experiment of this name. Give this one a name of its own, --set name=NEW, or "
            "remove that folder",
            differences,
        )


def shortfalls(config: Config, jobs: Sequence[JobFolder]) -> list[str]:
    """In what the method of a config did not act in some of its trainings, so that the results are hardly its own."""
    if not isinstance(config, NetworkConfig):
        return []
    loss = cast(type[Loss], import_class(config.loss.class_path))
    numbers = training_numbers(jobs)
    return [
        f"{name.replace('_', ' ')} ended at {numbers['low'][f'training.{name}']:.2f} in at least one training; below "
        f"{least:g} {loss.__name__} hardly acts"
        for name, least in loss.acts_from.items()
        if f"training.{name}" in numbers.index and numbers["low"][f"training.{name}"] < least
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


def _check_request(
    config: Config,
    manifest: Manifest,
    folder: ExperimentFolder,
    folds: Sequence[int] | None,
    seeds: Sequence[int],
    resume: bool,
    external: bool,
    scored: Scored,
) -> None:
    wrong = [fold for fold in folds or () if not 0 <= fold < manifest.folds]
    if wrong:
        raise ConfigError(f"--folds {wrong[0]}: {manifest.name} has the folds 0 to {manifest.folds - 1}")
    if external and manifest.external().empty:
        raise ConfigError(f"--external: {config.data.manifest} has no external images")
    if isinstance(config, EstimatorConfig):
        check_estimator_config(config, manifest, external)
    check_identity(config, manifest, folder, scored)
    asked = [folder.job(fold, seed) for fold in (range(manifest.folds) if folds is None else folds) for seed in seeds]
    finished, started = (sum(state) for state in zip(*((job.finished, job.started) for job in asked), strict=True))
    if (finished or started) and not resume:
        raise ConfigError(
            f"{folder.path} already holds {finished} finished and {started} interrupted of these {len(asked)} jobs. "
            "Add --resume to keep them and go on, or --set name=NEW to start another experiment"
        )


def _open(
    config: Config, manifest: Manifest, folder: ExperimentFolder, tracker: Tracker, scored: Scored, color: str
) -> Run:
    """Makes or reopens the folder and the tracking run of a config."""
    # Held, so that processes that start together on different folds share one tracking run.
    with hold(folder.path, _PATIENCE):
        sweep_partial(folder.path)
        return _open_held(config, manifest, folder, tracker, scored, color)


def _open_held(
    config: Config, manifest: Manifest, folder: ExperimentFolder, tracker: Tracker, scored: Scored, color: str
) -> Run:
    ran = versions()
    description = (
        f"{config.name} on the test set of {manifest.name}"
        if manifest.protocol == "presplit"
        else f"{manifest.folds}-fold cross-validation of {config.name} on {manifest.name}, {manifest.protocol} protocol"
    )
    run = tracker.parent(
        manifest.name,
        config.name,
        run_id=_known(folder).get("run_id"),
        tags={
            "role": "parent",
            "method": config.name,
            "dataset": manifest.name,
            "split_hash": manifest.split_hash,
            "protocol": manifest.protocol,
            "scored": scored,
            "folder_id": folder.identifier(),
            "mlflow.runColor": color,
            "mlflow.source.git.commit": ran.get("git_commit", ""),
            **ran,
        },
        description=description,
    )
    counts = manifest.class_counts()
    # At once: a run whose id is lost would be marked as running for ever.
    write_json(
        folder.path / "experiment.json",
        {
            "format": EXPERIMENT_FORMAT,
            "identity": _identity(config, manifest, scored),
            "run_id": run.id,
            "name": config.name,
            "description": description,
            "dataset": manifest.name,
            "protocol": manifest.protocol,
            "folds": manifest.folds,
            "validation_fraction": config.data.validation_fraction,
            "classes": list(manifest.classes),
            "malignant": list(manifest.malignant),
            "class_counts": counts,
            "versions": ran,
        },
    )
    with atomic_write(folder.path / "config.yaml") as file:
        yaml.safe_dump(config.resolved(), file, sort_keys=False)
    tracker.end_orphans(run, "folder_id", [run_id for job in folder.jobs() if (run_id := job.run_id)])
    run.log_params(identity(config))
    run.log_text(yaml.safe_dump(config.portable(), sort_keys=False), "config.yaml")
    profile = {"num_rows": sum(counts.values()), **counts}
    run.log_dataset(manifest.name, manifest.split_hash, manifest.source, "cross-validation", profile)
    return run


def _outcome(folder: ExperimentFolder, run: Run, failures: Sequence[str]) -> Outcome:
    # A job's label starts with the config's name, which has no blanks.
    own = tuple(failure for failure in failures if failure.startswith(f"{folder.path.name} "))
    if own:
        run.finish("FAILED")
        return Outcome(folder, None, None, {}, own)
    return _pool(folder, run)


def _pool(folder: ExperimentFolder, run: Run) -> Outcome:
    """Joins the jobs' predictions, measures them and draws the figures, once no fold of any seed is missing."""
    with hold(folder.path, _PATIENCE):
        return _pool_held(folder, run)


def _pool_held(folder: ExperimentFolder, run: Run) -> Outcome:
    facts = folder.description()
    table = folder.predictions("predictions")
    missing = [
        (fold, seed)
        for fold in range(facts["folds"])
        for seed in table["seed"].unique()
        if not folder.job(fold, seed).finished
    ]
    if missing:
        run.finish("FINISHED")
        return Outcome(folder, None, None, {})
    classes, single, joint = facts["classes"], None, None
    if facts["identity"]["scored"] == "inner":
        table = as_separate_images(table)  # the images that temperatures are fitted on
    elif "estimator" not in facts["identity"]["config"]:  # which leaves no model
        single = single_temperatures(folder.jobs())
        # Of a single model, the mean is that model.
        several = facts["folds"] > 1
        joint = joint_temperatures(table, folder.predictions("validation"), classes) if several else single
    summary = _measure(folder, run, table, single, facts, "out_of_fold")
    external, counts = None, {}
    if all((job.path / "external.csv").exists() for job in folder.jobs()):
        ensemble = average_models(folder.predictions("external"), classes)
        external = _measure(folder, run, ensemble, joint, facts, "external")
        labels = ensemble.drop_duplicates("image")["label"]
        counts = {name: int((labels == name).sum()) for name in classes}
    if joint is not None:
        seed = min(joint)[1]
        jobs = [folder.job(fold, seed).path for fold in range(facts["folds"])]
        join_models(jobs, folder.classifier, joint[0, seed])
        _register_model(folder, run, facts, summary["value"]["balanced_accuracy"])
    run.finish("FINISHED")
    return Outcome(folder, summary, external, counts)


def _register_model(folder: ExperimentFolder, run: Run, facts: dict[str, Any], balanced_accuracy: float) -> None:
    classifier = read_description(folder.classifier)
    run.log_model(
        partial(write_mlflow_model, folder.classifier),
        facts["dataset"],
        facts["name"],
        digest=classifier.digest,
        tags={
            "config": facts["name"],
            "protocol": facts["protocol"],
            "split_hash": classifier.data.split_hash,
            "seed": str(classifier.fold_models[0].seed),
            "balanced_accuracy": f"{balanced_accuracy:.4f}",
            "git_commit": facts["versions"].get("git_commit", ""),
        },
        description=classifier.intended_use,
    )


def single_temperatures(jobs: Sequence[JobFolder]) -> Temperatures:
    """Of each finished job's model alone."""
    descriptions = [read_description(job.path) for job in jobs if job.finished]
    return {
        (m.fold, m.seed): m.calibration.temperature for description in descriptions for m in description.fold_models
    }


def joint_temperatures(table: pd.DataFrame, validation: pd.DataFrame, classes: Sequence[str]) -> Temperatures:
    """Of the mean of all folds' models, which `average_models` calls fold 0.

    Args:
        table: Predictions for the test rows of every fold.
        validation: Those for the inner validation rows.
        classes: The C class codes.
    """
    return {
        (0, seed): ensemble_temperature(table[table["seed"] == seed], validation[validation["seed"] == seed], classes)
        for seed in map(int, table["seed"].unique())
    }


def at_temperatures(table: pd.DataFrame, temperatures: Temperatures, classes: Sequence[str]) -> pd.DataFrame:
    """The table with each model's probabilities at its temperature."""
    columns = [f"p.{name}" for name in classes]
    own = np.array([temperatures[model] for model in zip(table["fold"], table["seed"], strict=True)])
    calibrated = table.copy()
    calibrated[columns] = with_temperature(table[columns].to_numpy(), own[:, None])
    return calibrated


def _measure(
    folder: ExperimentFolder,
    run: Run,
    table: pd.DataFrame,
    temperatures: Temperatures | None,
    facts: dict[str, Any],
    part: str,
) -> pd.DataFrame:
    """Writes and tracks one pooled table with its summary and figures, and how calibrated it is at temperatures."""
    classes = facts["classes"]
    columns = [f"p.{name}" for name in classes]
    summary = summarize(table, classes, minority=minority_classes(facts["class_counts"]), malignant=facts["malignant"])
    tables = {"as trained": table}
    if temperatures is not None:
        tables["calibrated"] = at_temperatures(table, temperatures, classes)
        calibrated = summarize_calibration(tables["calibrated"], classes)
        summary = pd.concat([summary, calibrated.rename("{}.calibrated".format)])
    measured = summary
    if part == "out_of_fold":  # for the tables: each training's own number is tracked with its run
        summary = pd.concat([summary, training_numbers(folder.jobs())])
    write_table(table, folder.path / f"{part}.csv")
    write_table(summary.reset_index(), folder.path / f"{part}_summary.csv")
    prefix = "" if part == "out_of_fold" else f"{part}/"
    run.log_metrics({f"{prefix}{name}": value for name, value in with_bounds(measured).items()})
    run.log_table(table, f"{part}.csv")
    run.log_table(summary.reset_index(), f"{part}_summary.csv")
    labels = class_indices(table["label"], classes)
    matrix = confusion_matrix(labels, table[columns].to_numpy().argmax(axis=1), len(classes))
    bins = {name: reliability_bins(labels, scored[columns].to_numpy()) for name, scored in tables.items()}
    run.log_json({"classes": classes, "matrix": matrix.tolist()}, f"{part}_confusion.json")
    title = f"{facts['name']}, {part.replace('_', ' ')}"
    figures = {
        "confusion": confusion_figure(matrix, classes, title),
        "reliability": reliability_figure(bins, title),
    }
    for name, figure in figures.items():
        run.log_figure(figure, f"{part}_{name}.png")
        save_figure(figure, folder.path / "figures" / f"{part}_{name}.png")
    return summary


def _known(folder: ExperimentFolder) -> dict[str, Any]:
    return folder.description() if (folder.path / "experiment.json").exists() else {}


def _with_precision(config: Config, folder: ExperimentFolder) -> Config:
    """The config with its precision decided, once for an experiment, on whichever machine it began."""
    recorded = _known(folder).get("identity", {}).get("config", {}).get("training", {}).get("precision")
    return with_precision(config, recorded)


def _identity(config: Config, manifest: Manifest, scored: Scored) -> dict[str, Any]:
    """What must be equal for an experiment to be continued."""
    return {"config": identity(config), "split_hash": manifest.split_hash, "scored": scored}


def _differences(known: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    # A setting that is left out equals one that did not exist when the experiment was begun.
    before, now = ({key: value for key, value in flatten(given) if value is not None} for given in (known, asked))
    return [
        f"{key.removeprefix('config.')}: there {before.get(key)!r}, now {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
