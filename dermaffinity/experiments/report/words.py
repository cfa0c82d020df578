"""The sentences and facts of a report."""

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from dermaffinity.experiments.compare import ComparedExperiments
from dermaffinity.experiments.report.evidence import Evidence, interval_of
from dermaffinity.experiments.report.revisit import SeenFold
from dermaffinity.metrics.classification import MINORITY_BELOW
from dermaffinity.report.html.render import (
    Headline,
)
from dermaffinity.report.tables import percent_interval


def plain_summary(evidence: Evidence, compared: ComparedExperiments | None, matrix: np.ndarray) -> list[str]:
    """The results in sentences for readers who skip the tables."""
    values, facts = evidence.summary, evidence.facts
    images = sum(evidence.counts.values())
    sentences = [
        f"{evidence.name} was cross-validated on {facts['dataset']}: {images:,} images of "
        f"{evidence.table['group'].nunique():,} patients or lesions in {len(evidence.classes)} classes. Every image "
        f"was classified by one of {facts['folds']} models that was not trained on its part of the library.",
        f"On average over the classes, {_said(values, 'balanced_accuracy', '95 % interval ')} of a class's images were "
        "recognized (balanced accuracy).",
    ]
    if "minority_recall" in values.index:
        sentences.append(
            f"Of the rare classes, those with fewer than {MINORITY_BELOW} images ({', '.join(evidence.minority)}), it "
            f"recognized {_said(values, 'minority_recall')}."
        )
    recalls = values.loc[[f"recall.{name}" for name in evidence.classes], "value"]
    worst = evidence.classes[int(np.nanargmin(recalls))]
    row = matrix[evidence.classes.index(worst)].astype(float)
    row[evidence.classes.index(worst)] = 0
    taken_for = f"; it was most often taken for {evidence.classes[int(row.argmax())]}" if row.any() else ""
    sentences.append(f"The weakest class is {worst}: {_said(values, f'recall.{worst}')} recognized{taken_for}.")
    if "malignant_sensitivity" in values.index:
        sentences.append(
            f"Counting {_enumerated(evidence.malignant)} as malignant, {_said(values, 'malignant_sensitivity')} of the "
            f"malignant images were called malignant, and {_said(values, 'malignant_specificity')} of the others were "
            "not."
        )
    if compared and evidence.name in compared.gains:
        sentences.append(_gain_sentence(compared, evidence.name))
    if evidence.external_summary is not None and evidence.external is not None:
        number = evidence.external["image"].nunique()
        sentences.append(
            f"On {number:,} external images the balanced accuracy of the folds' models together was "
            f"{_said(evidence.external_summary, 'balanced_accuracy')}."
        )
    return sentences


def _gain_sentence(compared: ComparedExperiments, name: str) -> str:
    value, low, high = (100 * number for number in interval_of(compared.gains[name], "gain.balanced_accuracy"))
    difference = f"{value:+z.1f} percentage points ({low:+z.1f} to {high:+z.1f})".replace("-", "−")
    if low <= 0 <= high:
        judged = "the interval holds zero, so these images do not tell which of the two is better"
    else:
        judged = f"so on these images it is {'better' if value > 0 else 'worse'}, for the models that were trained"
    return f"Against {compared.baseline} its balanced accuracy differs by {difference}: {judged}."


def headlines(evidence: Evidence) -> list[Headline]:
    """The numbers at the top of the page."""
    wanted = [
        ("balanced_accuracy", "Balanced accuracy", f"mean recall of {len(evidence.classes)} classes"),
        ("minority_recall", "Minority recall", ", ".join(evidence.minority)),
        ("worst_class_recall", "Worst class recall", "the class that is missed most"),
        ("malignant_sensitivity", "Malignant sensitivity", ", ".join(evidence.malignant)),
        ("macro_auc", "Macro AUC", "each class against the rest"),
    ]
    headlines = []
    for metric, label, note in wanted:
        if metric in evidence.summary.index:
            value, _, interval = percent_interval(*interval_of(evidence.summary, metric)).partition(" ")
            headlines.append(Headline(label, value, interval.strip("[]").replace(", ", " to "), note))
    return headlines


def run_facts(evidence: Evidence) -> list[tuple[str, str]]:
    """Method, network and the settings that matter."""
    config, training = evidence.config, evidence.config["training"]
    facts = [(title, _component(config[section])) for title, section in (
        ("Network", "backbone"), ("Neck", "neck"), ("Head", "head"), ("Loss", "loss"), ("Augmentation", "augmentation")
    )]  # fmt: skip
    crop = config["data"]["lesion_crop"]
    facts.insert(0, ("Config", evidence.name))
    facts += [
        ("Image size", f"{config['data']['image_size']} pixels, " + (
            "whole image" if crop is None else f"cropped to the lesion's mask with a margin of {crop:g} lesion sizes"
        )),
        ("Training", f"{training['epochs']} epochs, batches of {training['batch_size']}, learning rate "
         f"{training['learning_rate']:g}, weight decay {training['weight_decay']:g}, precision "
         f"{training['precision']}" + (", classes sampled evenly" if training["balanced_sampling"] else "")),
        ("Seeds", ", ".join(map(str, evidence.seeds))),
        ("Results written", _written_on(evidence.folder.path / "out_of_fold.csv")),
    ]  # fmt: skip
    return facts


def data_facts(evidence: Evidence) -> list[tuple[str, str]]:
    """Where the images come from and how they were split."""
    facts, manifest = evidence.facts, evidence.manifest
    protocol = {
        "group": "group: all images of a patient or lesion are in the same fold",
        "image": "image: images are dealt out one by one, whoever they show",
    }
    rows = [
        ("Manifest", facts["dataset"]),
        ("Source", evidence.source),
        ("License", evidence.license),
        ("Folds", f"{facts['folds']}, test images in turn"),
        ("Protocol", protocol.get(facts["protocol"], facts["protocol"])),
        ("Split hash", evidence.split_hash),
    ]
    if manifest is not None:
        experiment = f", experiment {manifest.experiment}" if manifest.experiment else ""
        rows.insert(1, ("Library", f"adapter {manifest.adapter}{experiment}"))
    return rows


def discipline(evidence: Evidence) -> list[str]:
    """What the models saw of which images, in sentences."""
    fraction, patience = evidence.facts["validation_fraction"], evidence.config["training"]["patience"]
    stop = (
        f"Training ran for all {evidence.config['training']['epochs']} epochs; the last network was kept, whatever its "
        "score."
        if patience is None
        else f"Training stopped {patience} epochs after the best inner validation score, and that network was kept."
    )
    return [
        f"Every image was scored once ({_seeds(evidence)}), by the model of the fold that had it as a test image.",
        f"{100 * fraction:.0f} % of each model's training images were held out by group as inner validation. "
        "Temperatures, the novelty threshold and the scores behind prediction sets come from there, never from test "
        f"images. {stop}",
        "Class counts that losses use were taken from the training images of each fold alone.",
        "What people changed after they had seen earlier test results cannot be read from these files. Settings that "
        "were chosen so would make the numbers better than they are.",
    ]


def external_note(evidence: Evidence) -> str:
    """What the external images are, or that there are none."""
    if evidence.external is None:
        aside = 0 if evidence.manifest is None else len(evidence.manifest.external())
        if aside:
            return f"The manifest sets {aside:,} images aside as an external test; they were not scored in this run."
        return "There is no external test: how far these results carry to other clinics and cameras is not known."
    return (
        "Images that the software neither trained nor tuned on. Their probabilities are the mean over the folds' "
        "models. Where they come from the same library as the training images they test other patients or lesions, not "
        "another clinic or camera."
    )


def subgroups_note(evidence: Evidence, columns: list[str]) -> str:
    """How to read results by subgroup, or why there are none."""
    if evidence.manifest is None:
        return "The manifest was not at hand, so results cannot be split by what it may know of patients."
    if not columns:
        return "Not reported: the manifest has no facts of patients, such as age, sex or site."
    return (
        "'Expected' is what would be recognized if each class were recognized as well here as everywhere: subgroups "
        "differ in their diagnoses, and only what lies beside the expected share hints at the subgroup itself. "
        "Intervals take images as independent, and nothing is adjusted for looking at many subgroups at once."
    )


def map_note(seen: list[SeenFold] | None) -> str:
    """How the map was made, or why there is none."""
    if not seen:
        return "Left out: the map needs the images and the models, which were not at hand where this was written."
    difference = max(fold.difference for fold in seen)
    return (
        "For this map the stored models looked at their test images once more; their probabilities differ from those "
        f"of the out-of-fold table by at most {difference:.1g}. The map is a principal component analysis of the test "
        "images' embeddings: a linear shadow that depends on no seed, onto which centers fall as images do."
    )


def cases_note(evidence: Evidence, shown: bool, pictures: bool) -> str:
    """Whether images are shown, and under which terms."""
    if shown:
        return (
            f"This report holds images of the library under its license, {evidence.license}: pass it on only as that "
            "allows. A report without images is written with --no-images."
        )
    return (
        "Images are left out on request." if not pictures else "The images were not at hand; cases are listed by name."
    )


def unrecorded(evidence: Evidence) -> list[str]:
    """Facts of patients that readers ask for and the manifest does not have."""
    known = set() if evidence.manifest is None else {name.lower() for name in evidence.manifest.rows.columns}
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


def commands(evidence: Evidence) -> str:
    """The commands that give the same results again."""
    manifest, name = evidence.manifest, evidence.facts["dataset"]
    path = f"data_manifests/{name}.csv"
    lines = []
    if commit := evidence.facts["versions"].get("git_commit"):
        lines.append(f"git checkout {commit}")
    if manifest is not None:
        words = ["dermaffinity", "prepare", manifest.adapter, "FOLDER"]
        words += ["--experiment", manifest.experiment] if manifest.experiment else []
        words += ["--protocol", manifest.protocol, "--folds", str(manifest.folds), "--seed", str(manifest.seed)]
        lines.append(shlex.join([*words, "--out", path]))
    else:
        lines.append(f"# copy the manifest {name} to {path}")
    lines.append(shlex.join(["dermaffinity", "verify", path]))
    words = ["dermaffinity", "crossval", f"{evidence.name}.yaml", "--seeds", ",".join(map(str, evidence.seeds))]
    lines.append(shlex.join([*words, *(["--external"] if evidence.external is not None else [])]))
    lines.append(shlex.join(["dermaffinity", "report", f"runs/{evidence.name}"]))
    return "\n".join(lines)


def portable_config(evidence: Evidence) -> str:
    """The resolved config, without paths of the machine it was run on."""
    config = dict(evidence.config)
    config["data"] = {"manifest": f"data_manifests/{evidence.facts['dataset']}.csv", **config["data"]}
    return yaml.safe_dump(config, sort_keys=False)


def versions(evidence: Evidence) -> list[tuple[str, str]]:
    """Of the software, and digests of the data."""
    found = dict(evidence.facts["versions"])
    commit = found.pop("git_commit", None)
    found |= {} if evidence.model is None else evidence.model.versions
    rows = [("commit", commit or "not recorded"), *found.items(), ("split", evidence.split_hash)]
    if evidence.model is not None:
        rows.append(("images", evidence.model.data.images_digest))
    return rows


def _said(summary: pd.DataFrame, metric: str, unit: str = "") -> str:
    value, low, high = (100 * number for number in interval_of(summary, metric))
    return f"{value:.1f} % ({unit}{low:.1f} to {high:.1f})"


def _seeds(evidence: Evidence) -> str:
    many = len(evidence.seeds) > 1
    return f"{'for each of the seeds' if many else 'seed'} {', '.join(map(str, evidence.seeds))}"


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
