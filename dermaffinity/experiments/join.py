"""Several experiments as one: fold by fold and seed by seed the mean of their networks."""

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from rich.console import Console

from dermaffinity.config.model import NAME
from dermaffinity.errors import ComparisonError, ConfigError, DataError
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.logbook import Logbook
from dermaffinity.experiments.record import ExperimentRecord
from dermaffinity.experiments.results import Model, arrays, read_table, write_table
from dermaffinity.experiments.run import PATIENCE, measured, open_run, versions
from dermaffinity.files import hold, sweep_partial, write_json
from dermaffinity.inference.model_folder import Description, join_models, told_prior
from dermaffinity.metrics.classification import Classes, classification_metrics
from dermaffinity.metrics.reliability import with_temperature
from dermaffinity.training.calibration import ensemble_temperature


def join(
    name: str, sources: Sequence[str | Path | Experiment], *, runs: str | Path = "runs", tracking_uri: str | None = None
) -> Experiment:
    """Makes one experiment of several finished ones: the mean of their networks' probabilities, each counting alike.

    Methods that err on different images, such as a trained network and a closed form on frozen features, know more
    together than each of them. Nothing is trained. The result is an experiment like any other: calibrated on its own,
    compared, reported and tracked, with a classifier that holds the networks of all.

    Args:
        name: Of the new experiment. One of that name is written anew if it joins the same, and refused otherwise.
        sources: Two or more experiments, their folders or names under ``runs``, as they were run: finished on the same
            images, folds and seeds, with the same settings of data. Where the others' probabilities assume other class
            frequencies than the first one's, they are told those.
        runs: Folder of all experiments.
        tracking_uri: MLflow store; by default MLFLOW_TRACKING_URI, else ``mlflow.db`` in this folder.

    Raises:
        ComparisonError: When they have no mean, with every reason.
        ConfigError: When the name is not one, or is that of another experiment.
        DataError: When the models of one of them cannot be read.

    Examples:
        >>> import dermaffinity as da
        >>> both = da.join("small_both", ["small_softmax", "small_cosen"])
        >>> list(both.record.joined), both.complete
        (['small_softmax', 'small_cosen'], True)
    """
    from dermaffinity.tracking.mlflow_tracker import MlflowTracker

    if not re.fullmatch(NAME, name) or len(name) > 100:
        raise ConfigError(
            f"{name[:100]!r} is no name of an experiment: at most 100 letters, digits, _, . and -, the first a letter "
            "or digit"
        )
    members = [Experiment.open(one, runs) for one in ([sources] if isinstance(sources, str) else sources)]
    if problems := [*_problems(name, members), *(one for other in members[1:] for one in _apart(members[0], other))]:
        raise ComparisonError(f"{name}: these experiments have no mean", problems)
    models = [one.models for one in members]
    data = yaml.safe_load((members[0].path / "config.yaml").read_text(encoding="utf-8"))["data"]
    experiment, tracker, record = Experiment(Path(runs) / name), MlflowTracker(tracking_uri), _record(name, members)
    if experiment.exists and (differences := experiment.record.differences(record)):
        raise ConfigError(
            f"{experiment.path} holds another experiment of this name; choose another, or remove that folder",
            differences,
        )
    with hold(experiment.path, PATIENCE):
        sweep_partial(experiment.path)
        if experiment.exists:
            _clear(experiment)
        run = open_run(
            experiment,
            record,
            {"name": name, "joined": list(record.joined), "data": data},
            tracker,
            ran=record.versions,
            source=next(iter(models[0].values())).data.source,
            portable=record.joined,
        )
    with Logbook((), {experiment.path: run}, tracker, Console(stderr=True)) as logbook:
        with hold(experiment.path, PATIENCE):
            for model in models[0]:
                _write_job(experiment, members, model, [own[model] for own in models])
        return measured(experiment.path, run, (), logbook)


def _problems(name: str, members: Sequence[Experiment]) -> list[str]:
    """What is wrong with the experiments, each by itself."""
    names = [one.name for one in members]
    problems = [] if len(members) > 1 else [f"name two experiments or more, not {len(members)}"]
    for shared in dict.fromkeys(name for name in names if names.count(name) > 1):
        here = {member.path.resolve(): str(member.path) for member in members if member.name == shared}
        several = f"{' and '.join(here.values())} are all called {shared}; rename the folders but one"
        problems.append(several if len(here) > 1 else f"{shared} is named twice")
    problems += [f"{name} is one of them; give the mean a name of its own"] if name in names else []
    for one in members:
        if not one.record.has_network:
            problems.append(f"{one.name} trains no network, so that it leaves no classifier")
        if one.record.joined:
            problems.append(f"{one.name} is a mean itself; name {' and '.join(one.record.joined)} instead")
        if not one.as_run:
            problems.append(f"{one.name} was averaged or told something; do so with the mean")
        if not one.complete:
            problems.append(f"{one.name} has folds that are still to be run; {one.record.again}")
        if not (one.path / "config.yaml").is_file():
            problems.append(f"{one.name} has lost its config.yaml; copy the experiment's folder again")
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
    if other.seeds != first.seeds and other.seeds and first.seeds:
        theirs, ours = (" and ".join(map(str, one.seeds)) for one in (other, first))
        found.append(f"{other.name} has the seeds {theirs}; {first.name} has {ours}")
    if not found and (other.external is None) != (first.external is None):
        lacking, scored = (other.name, first.name) if other.external is None else (first.name, other.name)
        found.append(
            f"{scored} scored the external images and {lacking} did not; run its command again with --external --resume"
        )
    return found


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


def _clear(experiment: Experiment) -> None:
    """Removes what an earlier call has written, so that nothing of it is taken for the new mean."""
    for path in [*(job.path for job in experiment.all_jobs()), experiment.path / "classifier"]:
        shutil.rmtree(path, ignore_errors=True)
    for part in ("out_of_fold", "external"):
        for path in [*experiment.path.glob(f"{part}*.csv"), *experiment.path.glob(f"figures/{part}_*.png")]:
            path.unlink()


def _write_job(
    experiment: Experiment, members: Sequence[Experiment], model: Model, descriptions: Sequence[Description]
) -> None:
    """Writes the folder of one fold and seed: tables, the model of all networks, and at the end the metrics."""
    job, classes = experiment.job(*model), experiment.classes
    first, *others = (description.fold_models[0].calibration for description in descriptions)
    shifts = [np.zeros(len(classes.names)), *(np.subtract(first.assumed, other.assumed) for other in others)]
    # Both are known up to a constant, and rounded.
    shifts = [np.zeros(len(shift)) if np.ptp(shift) < 1e-6 else shift for shift in shifts]
    parts = ["validation", "predictions", *(["external"] if members[0].external is not None else [])]
    tables = {}
    for part in parts:
        each = {one.name: read_table(one.job(*model).path / f"{part}.csv") for one in members}
        tables[part] = _mean(each, classes, shifts)
        write_table(tables[part], job.path / f"{part}.csv")
    own = np.subtract(first.log_shares, first.assumed)
    strength = experiment.record.config.get("prior_strength")
    is_one = isinstance(strength, int | float)  # what is chosen is chosen for a fold with all its seeds
    join_models(
        [one.job(*model).path for one in members],
        job.path,
        ensemble_temperature(tables["validation"], 1, classes.names, own),
        told_prior(descriptions[0].fold_models, strength=strength) if is_one else None,
        name=experiment.name,
        shifts=[shift.tolist() for shift in shifts],
    )
    write_json(job.path / "metrics.json", classification_metrics(*arrays(tables["predictions"], classes), classes))


def _mean(tables: Mapping[str, pd.DataFrame], classes: Classes, shifts: Sequence[np.ndarray]) -> pd.DataFrame:
    """The prediction table of the mean of one fold and seed's networks."""
    (name, first), *others = tables.items()
    for other, table in others:
        if lacking := {*first["image"]} ^ {*table["image"]}:
            raise DataError(f"{name} and {other} have predictions of other images, such as {min(lacking)}")
    each = [table.set_index("image").loc[first["image"], classes.columns].to_numpy() for table in tables.values()]
    # Bayes' rule: what each would say if classes were as frequent as the first one assumes.
    mean = np.mean([with_temperature(own, 1.0, shift) for own, shift in zip(each, shifts, strict=True)], axis=0)
    columns = dict(zip(classes.columns, mean.T, strict=True))
    return first.assign(predicted=np.asarray(classes.names)[mean.argmax(axis=1)], **columns)
