"""Several experiments as one: fold by fold and seed by seed the mean of their networks."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from rich.console import Console

from dermaffinity.config.model import NAME
from dermaffinity.errors import ComparisonError, ConfigError
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.logbook import Logbook
from dermaffinity.experiments.record import ExperimentRecord, JobFolder
from dermaffinity.experiments.results import Model, arrays, read_table, write_table
from dermaffinity.experiments.run import PATIENCE, measured, open_run, versions
from dermaffinity.files import hold, sweep_partial, write_json
from dermaffinity.inference.model_folder import join_models
from dermaffinity.metrics.classification import Classes, classification_metrics
from dermaffinity.metrics.reliability import with_temperature
from dermaffinity.report.figures import METHOD_COLORS


def join(
    name: str, sources: Sequence[str | Path | Experiment], *, runs: str | Path = "runs", tracking_uri: str | None = None
) -> Experiment:
    """Makes one experiment of several finished ones: the mean of their networks' probabilities, each counting alike.

    Methods that err on different images, such as a trained network and a closed form on frozen features, know more
    together than each of them. Nothing is trained. The result is an experiment like any other: calibrated on its own,
    compared, reported and tracked, with a classifier that holds the networks of all.

    Args:
        name: Of the new experiment. One of that name is written anew if it joins the same, and refused otherwise.
        sources: Two or more experiments, their folders or names under ``runs``, finished with the same images, folds
            and seeds. Where the others' probabilities assume other class frequencies than the first one's, they are
            told those.
        runs: Folder of all experiments.
        tracking_uri: MLflow store; by default MLFLOW_TRACKING_URI, else ``mlflow.db`` in this folder.

    Raises:
        ComparisonError: When they have no mean, with every reason.
        ConfigError: When the name is not one, or is that of another experiment.

    Examples:
        >>> import dermaffinity as da
        >>> both = da.join("small_both", ["small_softmax", "small_cosen"])
        >>> list(both.record.joined), both.complete
        (['small_softmax', 'small_cosen'], True)
    """
    from dermaffinity.tracking.mlflow_tracker import MlflowTracker

    members = [Experiment.open(source, runs) for source in sources]
    if not re.fullmatch(NAME, name):
        raise ConfigError(f"{name!r} is no name of an experiment: letters, digits, _, . and - are allowed")
    if problems := [*_problems(members), *(problem for one in members[1:] for problem in _apart(members[0], one))]:
        raise ComparisonError(f"{name}: these experiments have no mean", problems)
    experiment, tracker = Experiment(Path(runs) / name), MlflowTracker(tracking_uri)
    record = _record(name, members)
    if experiment.exists and (differences := experiment.record.differences(record)):
        raise ConfigError(
            f"{experiment.path} holds another experiment of this name; choose another, or remove that folder",
            differences,
        )
    with hold(experiment.path, PATIENCE):
        sweep_partial(experiment.path)
        config = {"name": name, "joined": list(record.joined), "data": _data_of(members[0])}
        run = open_run(
            experiment,
            record,
            config,
            tracker,
            ran=record.versions,
            source=next(iter(members[0].models.values())).data.source,
            portable=record.joined,
            color=METHOD_COLORS[0],
        )
    with Logbook((), {experiment.path: run}, tracker, Console(stderr=True)) as logbook:
        with hold(experiment.path, PATIENCE):
            _write_jobs(experiment, members)
        return measured(experiment.path, run, (), logbook)


def _problems(members: Sequence[Experiment]) -> list[str]:
    """What is wrong with the experiments, each by itself."""
    names = [one.name for one in members]
    problems = [] if len(members) > 1 else ["there is only one; name two or more"]
    problems += [f"{name} is named twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    for one in members:
        if not one.record.has_network:
            problems.append(f"{one.name} trains no network, so that it leaves no classifier")
        if one.record.joined:
            problems.append(f"{one.name} is a mean itself; name {' and '.join(one.record.joined)} instead")
        if not one.complete:
            problems.append(f"{one.name} has folds that are still to be run: dermaffinity crossval {one.name} --resume")
    return problems


def _apart(first: Experiment, other: Experiment) -> list[str]:
    """Why two experiments have no mean."""
    compared = {
        "split": "split_hash", "image files": "images_digest", "scored images": "scored", "classes": "class_counts",
    }  # fmt: skip
    found = [
        f"{other.name} has other {what} than {first.name}"
        for what, field in compared.items()
        if getattr(other.record, field) != getattr(first.record, field)
    ]
    for key in ("data", "prior_strength", "metadata"):
        own, base = (one.record.config.get(key) for one in (other, first))
        if own != base:
            found.append(f"{other.name} has {key} {own}, {first.name} {base}")
    if other.seeds != first.seeds:
        found.append(f"{other.name} has seeds {_listed(other.seeds)}, {first.name} {_listed(first.seeds)}")
    if (other.external is None) != (first.external is None):
        lacking, scored = (other.name, first.name) if other.external is None else (first.name, other.name)
        found.append(
            f"{scored} scored the external images and {lacking} did not: dermaffinity crossval {lacking} --external "
            "--resume"
        )
    return found


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _record(name: str, members: Sequence[Experiment]) -> ExperimentRecord:
    """That of the mean: the settings that all share, under the first one's."""
    first = members[0].record
    plugins = [plugin for one in members for plugin in one.record.config.get("plugins", ())]
    changes: dict[str, Any] = {
        "name": name,
        "config": {**first.config, "name": name, "plugins": list(dict.fromkeys(plugins))},
        "joined": {one.name: one.record.config for one in members},
        "versions": versions(),
    }
    return first.model_copy(update=changes)


def _data_of(experiment: Experiment) -> dict[str, Any]:
    """Where the images lie on this machine."""
    return yaml.safe_load((experiment.path / "config.yaml").read_text(encoding="utf-8"))["data"]


def _write_jobs(experiment: Experiment, members: Sequence[Experiment]) -> None:
    """Writes the folder of every fold and seed: tables, metrics, and the model of all networks."""
    classes = experiment.classes
    parts = ["validation", "predictions", *(["external"] if members[0].external is not None else [])]
    jobs = {model: experiment.job(*model) for model in members[0].assumed_shares}
    shifts = {model: [_shift(members[0], one, model) for one in members] for model in jobs}
    for model, job in jobs.items():
        job.path.mkdir(parents=True, exist_ok=True)
        folders = [one.job(*model) for one in members]
        tables = {part: _mean(folders, part, classes, shifts[model]) for part in parts}
        for part, table in tables.items():
            write_table(table, job.path / f"{part}.csv")
        measures = classification_metrics(*arrays(tables["predictions"], classes), classes)
        write_json(job.path / "metrics.json", measures)
    temperatures = Experiment(experiment.path).temperatures
    for model, job in jobs.items():
        join_models(
            [one.job(*model).path for one in members],
            job.path,
            temperatures[model],
            name=experiment.name,
            shifts=[shift.tolist() for shift in shifts[model]],
        )


def _shift(first: Experiment, other: Experiment, model: Model) -> np.ndarray:
    """What makes another experiment's model assume the class frequencies that the first one's does: (C,)."""
    shift = first.assumed_shares[model] - other.assumed_shares[model]
    # Both are known up to a constant, and rounded.
    return np.zeros(len(shift)) if np.ptp(shift) < 1e-6 else shift


def _mean(jobs: Sequence[JobFolder], part: str, classes: Classes, shifts: Sequence[np.ndarray]) -> pd.DataFrame:
    """The prediction table of the mean of one fold and seed's networks."""
    tables = [read_table(job.path / f"{part}.csv") for job in jobs]
    first = tables[0]
    each = [table.set_index("image").loc[first["image"], classes.columns].to_numpy() for table in tables]
    # Bayes' rule: what each would say if classes were as frequent as the first one assumes.
    mean = np.mean([with_temperature(own, 1.0, shift) for own, shift in zip(each, shifts, strict=True)], axis=0)
    columns = dict(zip(classes.columns, mean.T, strict=True))
    return first.assign(predicted=np.asarray(classes.names)[mean.argmax(axis=1)], **columns)
