"""Face verification as in the paper's Table 3: train on some people, tell others apart by the distance of embeddings.

    python pipelines/face_verification.py FOLDER_OF_PEOPLE --weights resnet18.pth
    python pipelines/face_verification.py FOLDER_OF_PEOPLE --protocol lfw --pairs pairs.txt --images lfw-deepfunneled

FOLDER_OF_PEOPLE holds one folder of images for each identity. Without a protocol some identities are kept from training,
and all pairs of their images are verified; with one, training sees every identity and the protocol's pairs are verified.
The accuracy is that of the protocol's folds, each at the threshold that is best on the others; without a protocol, on as
many impostor as genuine pairs. ROC, AUC, EER and TAR use every pair. A second call goes on where the first one stopped.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from dermaffinity.classifier import LesionClassifier
from dermaffinity.cli import guarded
from dermaffinity.config import Page, read_page
from dermaffinity.data.adapters.image_folder import ImageFolderAdapter
from dermaffinity.data.images import decode_image
from dermaffinity.data.library import ImageLibrary
from dermaffinity.data.manifest import Manifest, write_manifest
from dermaffinity.data.pairs import (
    all_pairs,
    balanced,
    read_agedb_pairs,
    read_cfp_pairs,
    read_lfw_pairs,
    read_ytf_pairs,
    template_images,
)
from dermaffinity.experiments import run_experiments
from dermaffinity.files import atomic_write
from dermaffinity.metrics.verification import (
    cosine_scores,
    fold_accuracy,
    roc,
    template_embeddings,
    unmeasured,
    verification_summary,
)
from dermaffinity.reports.figures import roc_figure, save_figure
from dermaffinity.reports.tables import console_table
from dermaffinity.results import write_table
from dermaffinity.tracking.mlflow_tracker import MlflowTracker

METHODS = ("softmax", "affinity")
READERS = {
    "lfw": read_lfw_pairs,
    "ytf": read_ytf_pairs,
    "cfp-ff": lambda root: read_cfp_pairs(root, "FF"),
    "cfp-fp": lambda root: read_cfp_pairs(root, "FP"),
    "agedb-30": read_agedb_pairs,
}
# A closed set of known people is not the question: one fold is kept as a look at it, and only its network is trained.
FOLDS, FOLD = 10, 0


def main() -> None:
    """Prepares, trains, embeds, verifies."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path, help="folder with one folder of images for each identity")
    parser.add_argument("--unseen", type=int, default=10, help="without a protocol: identities kept from training")
    parser.add_argument("--protocol", choices=tuple(READERS))
    parser.add_argument("--pairs", type=Path, help="the protocol's file, of CFP the folder that holds Protocol")
    parser.add_argument("--images", type=Path, help="the folder that the protocol's paths start from")
    parser.add_argument("--frames", type=int, default=20, help="the most frames of a video, evenly spread")
    parser.add_argument("--weights", default="imagenet", help="'imagenet', or the path of a ResNet-18 state_dict")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", dest="overrides", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    if arguments.protocol and not (arguments.pairs and arguments.images):
        parser.error("--protocol needs --pairs and --images")

    if arguments.protocol:
        trained = ImageFolderAdapter(arguments.source).classes
        pairs, library = READERS[arguments.protocol](arguments.pairs), ImageLibrary(arguments.images)
        scored = pairs
    else:
        everyone = ImageFolderAdapter(arguments.source)
        trained, unseen = split_people(everyone.classes, arguments.unseen)
        records = ImageFolderAdapter(arguments.source, classes=unseen).records()
        pairs, library = all_pairs({record.image: record.label for record in records}), everyone.library
        scored = balanced(pairs, seed=0)

    manifest = ImageFolderAdapter(arguments.source, classes=trained).prepare(folds=FOLDS, protocol="image", seed=0)
    path = Path("data_manifests") / f"{manifest.name}.csv"
    write_manifest(manifest, path)
    overrides = [f"data.manifest={path}", *arguments.overrides]
    if not any(override.startswith("backbone") for override in arguments.overrides):
        overrides.append(f"backbone.weights={arguments.weights}")
    names = [f"faces_{method}" for method in METHODS]
    pages = [read_page(name, [*overrides, f"name={manifest.name}_{name}"]) for name in names]
    tracker = MlflowTracker()
    run_experiments(
        pages,
        runs=arguments.runs,
        tracker=tracker,
        folds=[FOLD],
        seeds=arguments.seeds,
        resume=True,
        console=Console(stderr=True),
    )
    templates = template_images(pairs, library.files(), frames=arguments.frames)
    images = {image: decode_image(library.read(image), image) for part in templates.values() for image in part}
    scores = {
        page.name: np.array(
            [scores_of(arguments.runs, page, seed, pairs, templates, images) for seed in arguments.seeds]
        )
        for page in pages
    }
    report(arguments, manifest, pairs, scored, scores, tracker)


def split_people(identities: tuple[str, ...], unseen: int) -> tuple[list[str], list[str]]:
    """Identities to train on and to verify, drawn once and for all."""
    drawn = set(np.random.default_rng(0).permutation(len(identities))[:unseen].tolist())
    return (
        [name for place, name in enumerate(identities) if place not in drawn],
        [name for place, name in enumerate(identities) if place in drawn],
    )


def scores_of(
    runs: Path,
    page: Page,
    seed: int,
    pairs: pd.DataFrame,
    templates: dict[str, list[str]],
    images: dict[str, np.ndarray],
) -> np.ndarray:
    """Cosine of each pair's embeddings."""
    classifier = LesionClassifier.load(runs / page.name / f"fold-{FOLD}_seed-{seed}")
    embedding = classifier.transform([images[image] for part in templates.values() for image in part])
    sizes = [len(part) for part in templates.values()]
    embeddings = template_embeddings(embedding, np.repeat(np.arange(len(sizes)), sizes))
    place = {name: index for index, name in enumerate(templates)}
    return cosine_scores(embeddings, *(pairs[column].map(place).to_numpy() for column in ("first", "second")))


def report(
    arguments: argparse.Namespace,
    manifest: Manifest,
    pairs: pd.DataFrame,
    scored: pd.DataFrame,
    scores: dict[str, np.ndarray],
    tracker: MlflowTracker,
) -> None:
    """Writes, tracks and prints what the scores say."""
    same = pairs["same"].to_numpy(dtype=bool)
    impostors = int(np.count_nonzero(~same))
    of_scored = pairs.index.get_indexer(scored.index)
    folder = arguments.runs / f"verification-{manifest.name}-{arguments.protocol or 'unseen'}"
    rows, curves, folds = {}, {}, []
    for name, by_seed in scores.items():
        summary = verification_summary(by_seed, pairs)
        accuracies = [fold_accuracy(one[of_scored], same[of_scored], scored["fold"].to_numpy()) for one in by_seed]
        for seed, accuracy in zip(arguments.seeds, accuracies, strict=True):
            folds += [(name, seed, fold, value) for fold, value in enumerate(accuracy.accuracies)]
        rows[name] = {
            "accuracy": f"{np.mean([100 * one.mean for one in accuracies]):.2f} "
            f"± {np.mean([100 * one.standard_error for one in accuracies]):.2f}",
            **{
                metric: f"{100 * row.value:.2f} [{100 * row.low:.1f}, {100 * row.high:.1f}]"
                for metric, row in summary.iterrows()
                if not np.isnan(row.value)
            },
        }
        curves[name] = [(curve.far, curve.tar) for curve in (roc(one, same) for one in by_seed)]
        write_table(summary.reset_index(), folder / f"{name}.csv")
        run = tracker.parent(
            manifest.name, f"verification {name}", run_id=None, tags={"role": "verification"}, description=folder.name
        )
        run.log_metrics({**summary["value"], "accuracy": float(np.mean([one.mean for one in accuracies]))})
        run.log_table(summary.reset_index(), "verification.csv")
        run.log_figure(roc_figure({name: curves[name]}, impostors, name), "roc.png")
        run.finish("FINISHED")
    write_table(
        pairs.assign(**{f"{n}.{s}": v for n, part in scores.items() for s, v in zip(arguments.seeds, part)}),
        folder / "pairs.csv",
    )
    write_table(pd.DataFrame(folds, columns=["method", "seed", "fold", "accuracy"]), folder / "folds.csv")
    save_figure(roc_figure(curves, impostors, folder.name), folder / "roc.png")


if __name__ == "__main__":
    guarded(main)
