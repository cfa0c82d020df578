"""How far a classifier's word goes: calibration, prediction sets, abstaining, and images of things it never learned.

    python pipelines/trust.py runs/hamfit7_softmax runs/hamfit7_affinity --unknown faces=FACES drawings=DRAWINGS
    python pipelines/trust.py runs/hamfit5_affinity --other-classes data_manifests/hamfit-7.csv

Reads what `dermaffinity crossval --external` left and asks the classifier, the mean of the folds' models, about every
external image, and about unknown ones: folders or archives of anything, or the images of a manifest whose class the
experiment does not have. None of these images had a part in training, in the temperatures or in any limit.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track
from sklearn.metrics import roc_auc_score

from dermaffinity.cli import guarded
from dermaffinity.config import read_config
from dermaffinity.data.library import ImageLibrary
from dermaffinity.data.manifest import read_manifest
from dermaffinity.errors import ConfigError
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.job import Images
from dermaffinity.files import atomic_write
from dermaffinity.inference.batch import find_images
from dermaffinity.inference.classifier import Assessment, LesionClassifier
from dermaffinity.metrics.conformal import in_set
from dermaffinity.metrics.curves import coverage_curve
from dermaffinity.metrics.statistics import share_interval
from dermaffinity.report.figures import coverage_figure, save_figure
from dermaffinity.report.tables import console_table, markdown_table, percent_interval

COVERAGE = 0.9  # asked of the prediction sets
ANSWERED = (1.0, 0.9, 0.8, 0.5)  # shares of images that are answered
MOST = 1000  # images of an unknown kind, drawn at random where there are more

progress = Console(stderr=True)

Table = dict[tuple[str, str], str]  # by part and row


class Photograph(NamedTuple):
    """An image in a library."""

    library: ImageLibrary
    path: str


def main() -> None:
    """Asks, measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("experiments", type=Path, nargs="+", help="folders of experiments that scored external images")
    parser.add_argument("--unknown", nargs="*", default=[], metavar="NAME=FOLDER", help="images of something else")
    parser.add_argument("--other-classes", type=Path, help="manifest; its images of classes the experiments lack")
    parser.add_argument("--out", type=Path, default=Path("runs/trust"))
    arguments = parser.parse_args()
    strangers = dict(unknown_files(text) for text in arguments.unknown)
    tables: dict[str, dict[str, Table]] = {}
    for path in arguments.experiments:
        for title, table in examine(path, strangers, arguments.other_classes, arguments.out).items():
            tables.setdefault(title, {})[path.name] = table
    console, texts = Console(highlight=False), []
    for title, by_experiment in tables.items():
        joined = pd.DataFrame(by_experiment).fillna("")
        joined.index.names = ["part", "row"]
        console.print(console_table(joined, title, console.width))
        texts.append(f"## {title}\n\n{markdown_table(joined)}")
    with atomic_write(arguments.out / "trust.md") as file:
        file.write("\n".join(texts))
    print(f"{arguments.out}: the tables as Markdown, and figures")


def examine(
    path: Path, strangers: dict[str, list[Photograph]], other_classes: Path | None, out: Path
) -> dict[str, Table]:
    """The columns of one experiment, by the table's title."""
    experiment, classifier = Experiment(path), LesionClassifier.load(path)
    images = Images(read_config(path / "config.yaml").data)
    rows, _ = images.external()
    if rows.empty or experiment.external is None:
        raise ConfigError(f"{path}: the external images were not scored; run dermaffinity crossval --external --resume")
    known = assess(classifier, [Photograph(images.library, image) for image in rows["image"]], f"{path.name}, external")
    strangers = {**strangers, **left_out(other_classes, images.manifest.classes)}
    unknown = {name: assess(classifier, files, f"{path.name}, {name}") for name, files in strangers.items()}
    labels = images.indices(rows)
    curves = surest_first(labels, known)
    save_figure(coverage_figure(curves), out / f"{path.name}_coverage.png")
    return {
        "Calibration before → after, percent": calibration(experiment),
        f"Sets asked to hold {100 * COVERAGE:g} % of each class, external images, percent": sets(
            labels, rows["group"].to_numpy(), known, classifier
        ),
        "Right among the surest external images, percent": answered(curves),
        "Unknown against external images": unknowns(known, unknown, classifier.novelty_threshold),
    }


def calibration(experiment: Experiment) -> Table:
    """Calibration error and Brier score before and after the temperature, out of fold and outside."""
    cells = {}
    for results in (experiment.out_of_fold, experiment.external):
        part, summary = results.part, results.summary["value"]
        for measure, name in (("ece", "calibration error"), ("brier", "Brier score")):
            before, after = (100 * summary[f"{measure}{ending}"] for ending in ("", ".calibrated"))
            cells[part, f"{name}, {part.replace('_', '-')}"] = f"{before:.1f} → {after:.1f}"
    return cells


def sets(labels: np.ndarray, groups: np.ndarray, known: Assessment, classifier: LesionClassifier) -> Table:
    """How often the sets hold the true class, for each class, against the promise."""
    inside = in_set(known.p_values, COVERAGE)
    promised = classifier.set_guarantees(COVERAGE)["coverage"]
    cells = {}
    for index, code in enumerate(classifier.classes_):
        own = inside[labels == index, index]
        interval = share_interval(own, groups[labels == index])
        seen = percent_interval(own.mean() if len(own) else np.nan, *interval)
        cells["classes", f"{code} (n={len(own)})"] = f"{seen}, promised {100 * promised[code]:.0f}"
    size = inside.sum(axis=1)
    cells["overall", "Classes in a set, mean"] = f"{size.mean():.2f}"
    cells["overall", "Sets of one class"] = f"{100 * (size == 1).mean():.1f}"
    cells["overall", "Empty sets"] = f"{100 * (size == 0).mean():.1f}"
    return cells


def surest_first(labels: np.ndarray, known: Assessment) -> dict[str, pd.DataFrame]:
    """Accuracy over coverage, by confidence and by novelty."""
    right = known.probabilities.argmax(axis=1) == labels
    return {
        "by confidence": coverage_curve(right, 1 - known.probabilities.max(axis=1)),
        "by novelty": coverage_curve(right, known.novelty),
    }


def answered(curves: dict[str, pd.DataFrame]) -> Table:
    """Accuracy when only a share of the images is answered."""
    cells = {}
    for way, curve in curves.items():
        for share in ANSWERED:
            nearest = curve.iloc[(curve["coverage"] - share).abs().argmin()]
            cells[way, f"{100 * share:g} % answered, {way}"] = f"{100 * nearest['accuracy']:.1f}"
    return cells


def unknowns(known: Assessment, unknown: dict[str, Assessment], limit: float) -> Table:
    """How well novelty, and confidence, tell unknown images from external ones."""
    cells = {("known", f"external (n={len(known.novelty)}): above the limit, %"): share_above(known.novelty, limit)}
    for kind, assessed in unknown.items():
        truth = np.repeat([0, 1], [len(known.novelty), len(assessed.novelty)])
        novelty = np.concatenate([known.novelty, assessed.novelty])
        unsure = 1 - np.concatenate([known.probabilities, assessed.probabilities]).max(axis=1)
        name = f"{kind} (n={len(assessed.novelty)})"
        cells[kind, f"{name}: above the limit, %"] = share_above(assessed.novelty, limit)
        cells[kind, f"{name}: AUROC of novelty"] = f"{roc_auc_score(truth, novelty):.3f}"
        cells[kind, f"{name}: AUROC of 1 − confidence"] = f"{roc_auc_score(truth, unsure):.3f}"
    return cells


def share_above(novelty: np.ndarray, limit: float) -> str:
    """Percent of the images above the limit."""
    return f"{100 * (novelty > limit).mean():.1f}"


def assess(classifier: LesionClassifier, files: list[Photograph], what: str) -> Assessment:
    """What the classifier says about images, one after the other from the disk."""

    def contents() -> Iterator[bytes]:
        for file in track(files, what, console=progress, disable=not progress.is_terminal):
            yield file.library.read(file.path)

    return classifier.assess(contents())


def unknown_files(text: str) -> tuple[str, list[Photograph]]:
    """NAME and the images of FOLDER."""
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise ConfigError(f"--unknown {text}: write NAME=FOLDER")
    found = [Photograph(file.library, file.path) for file in find_images([Path(folder)], progress.print)]
    if not found:
        raise ConfigError(f"--unknown {text}: there are no images")
    return name, some(found)


def left_out(manifest_path: Path | None, classes: tuple[str, ...]) -> dict[str, list[Photograph]]:
    """The images of a manifest whose class is not one of these, by class."""
    if manifest_path is None:
        return {}
    manifest = read_manifest(manifest_path)
    if manifest.root is None:
        raise ConfigError(f"{manifest_path}: the folder of its images is not known here; run dermaffinity prepare")
    library = ImageLibrary(manifest.root)
    return {
        label: some([Photograph(library, image) for image in rows["image"]])
        for label, rows in manifest.rows.groupby("label")
        if label not in classes
    }


def some(files: list[Photograph]) -> list[Photograph]:
    """At most so many, always the same ones."""
    chosen = np.random.default_rng(0).permutation(len(files))[:MOST]
    return [files[index] for index in np.sort(chosen)]


if __name__ == "__main__":
    guarded(main)
