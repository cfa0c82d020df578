"""The sentences and facts of a report."""

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from dermaffinity.data.manifest import groups_known
from dermaffinity.experiments.compare import ComparedExperiments
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.record import unlike
from dermaffinity.experiments.report.revisit import SeenFold
from dermaffinity.inference.model_folder import Description
from dermaffinity.metrics.classification import MINORITY_BELOW, Classes
from dermaffinity.report.tables import interval_of, percent_interval

# What takes no part where there are no epochs.
_OF_EPOCHS = ("loss", "augmentation")


def plain_summary(experiment: Experiment, compared: ComparedExperiments | None, matrix: np.ndarray) -> list[str]:
    """The results in sentences for readers who skip the tables."""
    values, record, classes = experiment.measures(), experiment.record, experiment.classes
    images, table = sum(record.class_counts.values()), experiment.out_of_fold.table
    known = groups_known(table)
    models = f"means of {len(record.joined)} models" if record.joined else "models"
    of_groups = f"of {table['group'].nunique():,} patients or lesions " if known else ""
    sentences = [
        f"{experiment.name} was cross-validated on {record.dataset}: {images:,} images {of_groups}in "
        f"{len(classes.names)} classes. Every image was classified by one of {record.folds} {models} that was not "
        f"trained on its part of the library{'' if known else ', which may show the same patients'}.",
        f"On average over the classes, {_said(values, 'balanced_accuracy', '95 % interval ')} of a class's images were "
        "recognized (balanced accuracy).",
    ]
    if compared and experiment.name in compared.gains:
        both = (experiment.name, compared.baseline)
        sentences = [
            compared.sentence(),
            *sentences,
            *_gain_sentences(compared.gains[experiment.name], compared.baseline),
            *unlike({one: compared.experiments[one].record for one in both}, compared.baseline),
        ]
    if "minority_recall" in values.index:
        sentences.append(
            f"Of the rare classes, those with fewer than {MINORITY_BELOW} images and fewer than the mean "
            f"({', '.join(classes.minority)}), it recognized {_said(values, 'minority_recall')}."
        )
    recalls = values.loc[[f"recall.{name}" for name in classes.names], "value"]
    weakest = int(np.nanargmin(recalls))
    worst, row = classes.names[weakest], matrix[weakest].astype(float)
    row[weakest] = 0
    taken_for = f"; it was most often taken for {classes.names[int(row.argmax())]}" if row.any() else ""
    sentences.append(f"The weakest class is {worst}: {_said(values, f'recall.{worst}')} recognized{taken_for}.")
    if "malignant_sensitivity" in values.index:
        sentences.append(
            f"Counting {_enumerated(classes.malignant)} as malignant, {_said(values, 'malignant_sensitivity')} of the "
            f"malignant images were called malignant, and {_said(values, 'malignant_specificity')} of the others were "
            "not."
        )
    if experiment.external is not None:
        number = experiment.external.table["image"].nunique()
        sentences.append(
            f"On {number:,} external images the balanced accuracy of the folds' models together was "
            f"{_said(experiment.external.summary, 'balanced_accuracy')}."
        )
    return sentences


def _gain_sentences(gains: pd.DataFrame, baseline: str) -> list[str]:
    def difference(metric: str, unit: str = "") -> str:
        value, low, high = (100 * number for number in interval_of(gains, f"gain.{metric}"))
        return f"{value:+z.1f}{unit} ({low:+z.1f} to {high:+z.1f})".replace("-", "−")

    value, low, high = interval_of(gains, "gain.balanced_accuracy")
    if low <= 0 <= high:
        judged = "the interval holds zero, so these images do not tell which of the two is better"
    else:
        judged = f"so on these images it is {'better' if value > 0 else 'worse'}, for the models that were trained"
    differs = difference("balanced_accuracy", " percentage points")
    sentences = [f"Against {baseline} its balanced accuracy differs by {differs}: {judged}."]
    if {"gain.minority_recall", "gain.majority_recall"} <= set(gains.index):
        sentences.append(
            f"Its recall of the rare classes differs by {difference('minority_recall')}, that of the others by "
            f"{difference('majority_recall')}. An interval that holds zero shows neither a gain nor a loss."
        )
    return sentences


def headlines_of(measures: pd.DataFrame, classes: Classes) -> list[dict[str, str]]:
    """The numbers at the top of the page."""
    wanted = [
        ("balanced_accuracy", "Balanced accuracy", f"mean recall of {len(classes.names)} classes"),
        ("minority_recall", "Minority recall", ", ".join(classes.minority)),
        ("worst_class_recall", "Worst class recall", "the class that is missed most"),
        ("malignant_sensitivity", "Malignant sensitivity", ", ".join(classes.malignant)),
        ("macro_auc", "Macro AUC", "each class against the rest"),
    ]
    headlines = []
    for metric, label, note in wanted:
        if metric in measures.index:
            value, _, interval = percent_interval(*interval_of(measures, metric)).partition(" ")
            interval = interval.strip("[]").replace(", ", " to ")
            headlines.append({"label": label, "value": value, "interval": interval, "note": note})
    return headlines


def run_facts(experiment: Experiment) -> list[tuple[str, str]]:
    """Method and the settings that matter."""
    config, joined = experiment.record.config, experiment.record.joined
    facts = [("Mean of", ", ".join(joined)) if joined else ("Config", experiment.name)]
    for number, (name, own) in enumerate((joined or {"": config}).items(), 1):
        facts += [(f"Part {number}", name)] if joined else []
        training = own.get("training")
        facts += [
            (title, _component(own[section])) for title, section in (
                ("Network", "backbone"), ("Neck", "neck"), ("Head", "head"), ("Loss", "loss"), ("Refit", "refit"),
                ("Augmentation", "augmentation"), ("Features", "features"), ("Estimator", "estimator"),
            ) if own.get(section) and (training is None or training["epochs"] or section not in _OF_EPOCHS)
        ]  # fmt: skip
        if training:
            evenly = ", classes sampled evenly" if training["balanced_sampling"] else ""
            facts.append(("Training", (
                f"{training['epochs']} epochs, batches of {training['batch_size']}, learning rate "
                f"{training['learning_rate']:g}, weight decay {training['weight_decay']:g}, precision "
                f"{training['precision']}{evenly}" if training["epochs"] else "no epochs: see Refit"
            )))  # fmt: skip
    crop = config["data"]["lesion_crop"]
    facts.append(("Image size", f"{config['data']['image_size']} pixels, " + (
        "whole image" if crop is None else f"cropped to the lesion's mask with a margin of {crop:g} lesion sizes"
    )))  # fmt: skip
    return [
        *facts,
        ("Seeds", ", ".join(map(str, experiment.seeds))),
        ("Results written", _written_on(experiment.path / "out_of_fold.csv")),
    ]


def data_facts(experiment: Experiment) -> list[tuple[str, str]]:
    """Where the images come from and how they were split."""
    record, manifest = experiment.record, experiment.manifest
    protocol = {
        "group": "group: all images of a patient or lesion are in the same fold"
        if groups_known(experiment.out_of_fold.table)
        else "group: but no patient or lesion is known, so images were dealt out one by one",
        "image": "image: images are dealt out one by one, whoever they show",
    }
    rows = [
        ("Manifest", record.dataset),
        ("Source", source_of(experiment)),
        ("License", license_of(experiment)),
        ("Folds", f"{record.folds}, test images in turn"),
        ("Protocol", protocol.get(record.protocol, record.protocol)),
        ("Split hash", experiment.record.split_hash),
    ]
    if manifest is not None:
        task = f", task {manifest.experiment}" if manifest.experiment else ""
        rows.insert(1, ("Library", f"adapter {manifest.adapter}{task}"))
    return rows


def discipline(experiment: Experiment) -> list[str]:
    """What the models saw of which images, in sentences."""
    config, joined = experiment.record.config, experiment.record.joined
    settings = {name: own.get("training") for name, own in (joined or {"": config}).items()}
    networks = {name: training for name, training in settings.items() if training is not None}
    held_out = (
        f"{100 * config['data']['validation_fraction']:.0f} % of each model's training images were held out by group "
        "as inner validation. "
    )
    if not networks:
        held_out += "The estimator did not learn from them."
    else:
        held_out += (
            "Temperatures, the novelty threshold and the scores behind prediction sets come from there, never from "
            "test images. "
        )
        held_out += " ".join(
            f"Training{f' of {name}' if name else ''} {_end_of(training)}" for name, training in networks.items()
        )
    model = "mean of the models" if joined else "model"
    return [
        f"Every image was scored once ({_seeds(experiment)}), by the {model} of the fold that had it as a test image.",
        held_out,
        *(["Class counts that losses use were taken from the training images of each fold alone."] if networks else []),
        "These files do not tell whether a person chose settings by earlier test results. If so, the numbers are too "
        "good.",
    ]


def _end_of(training: dict[str, Any]) -> str:
    if not training["epochs"]:
        return "had no epochs: only the head was fitted, on features of the backbone as it came."
    if training["patience"] is None:
        return f"ran for all {training['epochs']} epochs; the last network was kept, whatever its score."
    return f"stopped {training['patience']} epochs after the best inner validation score, and that network was kept."


def external_note(experiment: Experiment) -> str:
    """What the external images are, or that there are none."""
    if experiment.external is None:
        aside = 0 if experiment.manifest is None else len(experiment.manifest.external())
        if aside:
            return f"The manifest sets {aside:,} images aside as an external test; they were not scored in this run."
        return "There is no external test: how far these results carry to other clinics and cameras is not known."
    return (
        "Images that the software neither trained nor tuned on. Their probabilities are the mean over the folds' "
        "models. Where they come from the same library as the training images they test other patients or lesions, not "
        "another clinic or camera."
    )


def subgroups_note(experiment: Experiment, columns: list[str]) -> str:
    """How to read results by subgroup, or why there are none."""
    if experiment.manifest is None:
        return "The manifest was not at hand, so results cannot be split by what it may know of patients."
    if not columns:
        return "Not reported: the manifest has no facts of patients, such as age, sex or site."
    return (
        "'Expected' is what would be recognized if each class were recognized as well here as everywhere: subgroups "
        "differ in their diagnoses, and only what lies beside the expected share hints at the subgroup itself. "
        "Intervals take images as independent, and nothing is adjusted for looking at many subgroups at once."
    )


def map_note(experiment: Experiment, seen: list[SeenFold] | None) -> str:
    """How the map was made, or why there is none."""
    if experiment.record.joined:
        return "Left out: a mean of several networks has no embedding; the reports of each have a map."
    if not seen:
        return "Left out: the map needs the images and the models, which were not at hand where this was written."
    difference = max(fold.difference for fold in seen)
    return (
        "For this map the stored models predicted their test images again. The probabilities differ from those of the "
        f"out-of-fold table by at most {difference:.1g}. The map is a principal component analysis of the test images' "
        "embeddings; the centers are projected in the same way."
    )


def cases_note(experiment: Experiment, shown: bool, pictures: bool) -> str:
    """Whether images are shown, and under which terms."""
    if shown or not pictures:
        return license_note(license_of(experiment), shown=shown)
    if experiment.record.joined:
        return "A mean of several networks shows no cases by image; the reports of each do. They are listed by name."
    return "The images were not at hand; cases are listed by name."


def license_note(terms: str, *, shown: bool) -> str:
    """Under which terms images are shown, or that they were not wanted."""
    if not shown:
        return "Images are left out on request."
    return (
        f"This report holds images of the library under its license, {terms}: pass it on only as that allows. A report "
        "without images is written with --no-images."
    )


def unrecorded(experiment: Experiment) -> list[str]:
    """Facts of patients that readers ask for and the manifest does not have."""
    known = set() if experiment.manifest is None else {name.lower() for name in experiment.manifest.rows.columns}
    asked = {
        "age": {"age"},
        "sex": {"sex", "gender"},
        "site of the lesion": {"site", "localization", "anatom_site"},
        "skin tone": {"skin_tone", "skin_type", "fitzpatrick"},
        "ethnicity": {"ethnicity"},
        "camera or device": {"camera", "device"},
        "clinic": {"clinic", "center", "hospital"},
    }
    return [fact for fact, names in asked.items() if not names & known]


def commands(experiment: Experiment) -> str:
    """The commands that give the same results again."""
    manifest, name = experiment.manifest, experiment.record.dataset
    path = f"data_manifests/{name}.csv"
    lines = []
    if commit := experiment.record.versions.get("git_commit"):
        lines.append(f"git checkout {commit}")
    if manifest is not None:
        words = ["dermaffinity", "prepare", manifest.adapter, "FOLDER"]
        words += ["--experiment", manifest.experiment] if manifest.experiment else []
        words += ["--protocol", manifest.protocol, "--folds", str(manifest.folds), "--seed", str(manifest.seed)]
        lines.append(shlex.join([*words, "--out", path]))
    else:
        lines.append(f"# copy the manifest {name} to {path}")
    lines.append(shlex.join(["dermaffinity", "verify", path]))
    joined = experiment.record.joined
    words = ["dermaffinity", "crossval", *(f"{name}.yaml" for name in joined or (experiment.name,))]
    words += ["--seeds", ",".join(map(str, experiment.seeds))]
    lines.append(shlex.join([*words, *(["--external"] if experiment.external is not None else [])]))
    if joined:
        lines.append(shlex.join(["dermaffinity", "join", experiment.name, *joined]))
    lines.append(shlex.join(["dermaffinity", "report", f"runs/{experiment.name}"]))
    return "\n".join(lines)


def portable_configs(experiment: Experiment) -> dict[str, str]:
    """The resolved configs of all that was trained, without paths of the machine it was run on, by name."""
    record = experiment.record
    configs = {
        name: {**config, "data": {"manifest": f"data_manifests/{record.dataset}.csv", **config["data"]}}
        for name, config in (record.joined or {experiment.name: record.config}).items()
    }
    return {name: yaml.safe_dump(config, sort_keys=False) for name, config in configs.items()}


def versions(experiment: Experiment) -> list[tuple[str, str]]:
    """Of the software, and digests of the data."""
    found, model = dict(experiment.record.versions), model_of(experiment)
    commit = found.pop("git_commit", None)
    found |= {} if model is None else model.versions
    of = " of the mean; the reports of each have those of the trainings" if experiment.record.joined else ""
    rows = [("commit", f"{commit or 'not recorded'}{of}"), *found.items(), ("split", experiment.record.split_hash)]
    return rows if model is None else [*rows, ("images", model.data.images_digest)]


def model_of(experiment: Experiment) -> Description | None:
    """What one of the fold models says of itself; None where there are none."""
    return next(iter(experiment.models.values()), None)


def source_of(experiment: Experiment) -> str:
    """Where the images come from."""
    model = model_of(experiment)
    known = experiment.manifest or (model.data if model else None)
    return known.source if known else "not recorded with these results"


def license_of(experiment: Experiment) -> str:
    """Terms of the images."""
    model = model_of(experiment)
    known = experiment.manifest or (model.data if model else None)
    return (known.license if known else "") or "not recorded with these results"


def _said(summary: pd.DataFrame, metric: str, unit: str = "") -> str:
    value, low, high = (100 * number for number in interval_of(summary, metric))
    return f"{value:.1f} % ({unit}{low:.1f} to {high:.1f})"


def _seeds(experiment: Experiment) -> str:
    many = len(experiment.seeds) > 1
    return f"{'for each of the seeds' if many else 'seed'} {', '.join(map(str, experiment.seeds))}"


def _enumerated(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _component(section: dict[str, Any]) -> str:
    name = section["class"].rpartition(".")[2]
    settings = [
        key.replace("_", " ") if value is True else f"{key.replace('_', ' ')} {value}"
        for key, value in section.items()
        if key != "class" and value is not None and value is not False
    ]
    return f"{name}: {', '.join(settings)}" if settings else name


def _written_on(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d")
