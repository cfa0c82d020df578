"""From pages to measured experiments: what the command line and the pipelines share."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from rich.console import Console

import dermaffinity
from dermaffinity.config import Page, flatten
from dermaffinity.data.manifest import Manifest, read_manifest
from dermaffinity.errors import ConfigError
from dermaffinity.files import atomic_write, write_json
from dermaffinity.metrics.calibration import reliability_bins
from dermaffinity.metrics.classification import confusion_matrix, minority_classes
from dermaffinity.metrics.summary import summarize
from dermaffinity.reports.figures import confusion_figure, reliability_figure, save_figure
from dermaffinity.results import ExperimentFolder, average_models, class_indices, with_bounds, write_table
from dermaffinity.tracking.base import Run, Tracker
from dermaffinity.training.cross_validation import Job, Scored
from dermaffinity.training.launchers import Launcher, launch
from dermaffinity.training.progress import RunProgress


@dataclass(frozen=True)
class Outcome:
    """What an experiment came to.

    Args:
        folder: Where everything lies.
        summary: A row a metric with ``value``, ``low``, ``high``; None while folds are missing.
        external: The same for the external images, where they were scored.
    """

    folder: ExperimentFolder
    summary: pd.DataFrame | None
    external: pd.DataFrame | None


def run_experiments(
    pages: Sequence[Page],
    *,
    runs: Path,
    tracker: Tracker,
    folds: Sequence[int] | None = None,
    seeds: Sequence[int] = (0,),
    resume: bool = False,
    external: bool = False,
    scored: Scored = "test",
    launcher: Launcher = "inline",
    console: Console,
) -> list[Outcome]:
    """Runs every fold and seed of every page, then pools and measures each page.

    Args:
        pages: With different names.
        runs: Folder of all experiments.
        tracker: Where the numbers go.
        folds: Which test folds; None for all.
        seeds: Which seeds.
        resume: Whether to keep what an earlier call finished and go on where it stopped.
        external: Whether to score the manifest's external images with every fold's model.
        scored: ``"inner"`` scores the inner validation rows instead of the test folds.
        launcher: How jobs are run.
        console: For progress.

    Raises:
        ConfigError: When the pages cannot be run as asked, before anything is trained.
        TrainingError: When a job fails.
    """
    names = [page.name for page in pages]
    if len(set(names)) < len(names):
        raise ConfigError(f"every page needs a name of its own, found {', '.join(names)}")
    manifests = [read_manifest(page.data.manifest, page.data.root) for page in pages]
    for page, manifest in zip(pages, manifests, strict=True):
        _check_request(page, manifest, folds, external, ExperimentFolder(runs / page.name), seeds, resume)
    opened = [_open(page, manifest, runs, tracker, scored) for page, manifest in zip(pages, manifests, strict=True)]
    jobs = [
        Job(page, fold, seed, folder, run, tracker, scored, external)
        for page, manifest, (folder, run) in zip(pages, manifests, opened, strict=True)
        for seed in seeds
        for fold in (range(manifest.folds) if folds is None else folds)
    ]
    try:
        with RunProgress(len(jobs), console) as progress:
            launch(jobs, launcher, progress)
    except KeyboardInterrupt:
        _finish(opened, "KILLED")
        raise
    except BaseException:
        _finish(opened, "FAILED")
        raise
    return [_pool(folder, run) for folder, run in opened]


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
    page: Page,
    manifest: Manifest,
    folds: Sequence[int] | None,
    external: bool,
    folder: ExperimentFolder,
    seeds: Sequence[int],
    resume: bool,
) -> None:
    wrong = [fold for fold in folds or () if not 0 <= fold < manifest.folds]
    if wrong:
        raise ConfigError(f"--folds {wrong[0]}: {manifest.name} has the folds 0 to {manifest.folds - 1}")
    if external and manifest.external().empty:
        raise ConfigError(f"--external: {page.data.manifest} has no external images")
    asked = [folder.job(fold, seed) for fold in (range(manifest.folds) if folds is None else folds) for seed in seeds]
    finished, started = (sum(state) for state in zip(*((job.finished, job.started) for job in asked), strict=True))
    if (finished or started) and not resume:
        raise ConfigError(
            f"{folder.path} already holds {finished} finished and {started} interrupted of these {len(asked)} jobs. "
            "Add --resume to keep them and go on, or --set name=NEW to start another experiment"
        )


def _open(page: Page, manifest: Manifest, runs: Path, tracker: Tracker, scored: Scored) -> tuple[ExperimentFolder, Run]:
    """Makes or reopens the folder and the tracking run of a page."""
    folder = ExperimentFolder(runs / page.name)
    identity = {"page": _identity(page), "split_hash": manifest.split_hash, "scored": scored}
    known = folder.description() if (folder.path / "experiment.json").exists() else {}
    differing = _differences(known.get("identity", identity), identity)
    if differing:
        raise ConfigError(
            f"{folder.path} holds another experiment of this name. Give this one a name of its own, --set name=NEW, or "
            "remove that folder",
            differing,
        )
    ran = versions()
    run = tracker.parent(
        manifest.name,
        page.name,
        run_id=known.get("run_id"),
        tags={
            "role": "parent",
            "method": page.name,
            "dataset": manifest.name,
            "split_hash": manifest.split_hash,
            "protocol": manifest.protocol,
            "scored": scored,
            **ran,
        },
        description=f"{manifest.folds}-fold cross-validation of {page.name} on {manifest.name}, "
        f"{manifest.protocol} protocol",
    )
    resolved, counts = page.resolved(), manifest.class_counts()
    run.log_params(resolved)
    run.log_text(yaml.safe_dump(resolved, sort_keys=False), "page.yaml")
    profile = {"num_rows": sum(counts.values()), **counts}
    run.log_dataset(manifest.name, manifest.split_hash, manifest.source, "cross-validation", profile)
    write_json(
        folder.path / "experiment.json",
        {
            "identity": identity,
            "run_id": run.id,
            "name": page.name,
            "dataset": manifest.name,
            "protocol": manifest.protocol,
            "folds": manifest.folds,
            "validation_fraction": page.data.validation_fraction,
            "classes": list(manifest.classes),
            "malignant": list(manifest.malignant),
            "class_counts": counts,
            "versions": ran,
        },
    )
    with atomic_write(folder.path / "page.yaml") as file:
        yaml.safe_dump(resolved, file, sort_keys=False)
    return folder, run


def _pool(folder: ExperimentFolder, run: Run) -> Outcome:
    """Joins the jobs' predictions, measures them and draws the figures, once no fold of any seed is missing."""
    facts = folder.description()
    table = folder.predictions("predictions")
    missing = [
        (fold, seed)
        for fold in range(facts["folds"])
        for seed in table["seed"].unique()
        if not folder.job(fold, seed).finished
    ]
    if missing:
        return Outcome(folder, None, None)
    summary = _measure(folder, run, table, facts, "out_of_fold")
    external = None
    if all((job.path / "external.csv").exists() for job in folder.jobs()):
        ensemble = average_models(folder.predictions("external"), facts["classes"])
        external = _measure(folder, run, ensemble, facts, "external")
    run.finish("FINISHED")
    return Outcome(folder, summary, external)


def _measure(folder: ExperimentFolder, run: Run, table: pd.DataFrame, facts: dict[str, Any], part: str) -> pd.DataFrame:
    """Writes and tracks one pooled table with its summary and figures."""
    classes = facts["classes"]
    summary = summarize(table, classes, minority=minority_classes(facts["class_counts"]), malignant=facts["malignant"])
    write_table(table, folder.path / f"{part}.csv")
    write_table(summary.reset_index(), folder.path / f"{part}_summary.csv")
    prefix = "" if part == "out_of_fold" else f"{part}."
    run.log_metrics({f"{prefix}{name}": value for name, value in with_bounds(summary).items()})
    run.log_table(table, f"{part}.csv")
    run.log_table(summary.reset_index(), f"{part}_summary.csv")
    labels, probabilities = class_indices(table["label"], classes), table[[f"p.{name}" for name in classes]].to_numpy()
    matrix = confusion_matrix(labels, probabilities.argmax(axis=1), len(classes))
    run.log_json({"classes": classes, "matrix": matrix.tolist()}, f"{part}_confusion.json")
    title = f"{facts['name']}, {part.replace('_', ' ')}"
    figures = {
        "confusion": confusion_figure(matrix, classes, title),
        "reliability": reliability_figure(reliability_bins(labels, probabilities), title),
    }
    for name, figure in figures.items():
        run.log_figure(figure, f"{part}_{name}.png")
        save_figure(figure, folder.path / "figures" / f"{part}_{name}.png")
    return summary


def _finish(opened: list[tuple[ExperimentFolder, Run]], status: Any) -> None:
    for _, run in opened:
        run.finish(status)


def _identity(page: Page) -> dict[str, Any]:
    """What makes two pages the same experiment: all but where files lie and how many processes read them."""
    resolved = page.resolved()
    for section, key in (("data", "root"), ("data", "manifest"), ("training", "workers")):
        resolved[section].pop(key, None)
    return resolved


def _differences(known: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    before, now = dict(flatten(known)), dict(flatten(asked))
    return [
        f"{key.removeprefix('page.')}: there {before.get(key)!r}, now {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
