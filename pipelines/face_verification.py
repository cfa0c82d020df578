"""Face verification as in the paper's Table 3: train on some people, tell others apart by the distance of embeddings.

    python pipelines/face_verification.py PEOPLE --weights resnet18.pth
    python pipelines/face_verification.py PEOPLE --protocol lfw --pairs pairs.txt --images lfw-deepfunneled

PEOPLE holds one folder of images for each identity. Without a protocol some identities are kept from training, and all
pairs of their images are verified; with one, training sees every identity, and the protocol's pairs are verified.
Accuracy is that of the protocol's folds, each at the threshold that is best on the others; without a protocol, on as
many impostor as genuine pairs. The ROC and what is read off it use every pair. For the paper's SE-ResNet-50 add
--set 'backbone={class: dermaffinity.models.TimmBackbone}' data.image_size=112. A second call resumes the first.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console

from dermaffinity.cli import guarded
from dermaffinity.config import read_config
from dermaffinity.data.adapters.image_folder import ImageFolderAdapter
from dermaffinity.data.images import decode_image
from dermaffinity.data.library import ImageLibrary
from dermaffinity.data.manifest import write_manifest
from dermaffinity.data.pairs import (
    all_pairs,
    balanced,
    read_agedb_pairs,
    read_cfp_pairs,
    read_lfw_pairs,
    read_ytf_pairs,
    template_images,
)
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.results import write_table
from dermaffinity.experiments.run import Plan, run_experiments
from dermaffinity.files import atomic_write
from dermaffinity.inference.classifier import LesionClassifier
from dermaffinity.metrics.verification import (
    FoldAccuracy,
    cosine_scores,
    fold_accuracy,
    roc,
    template_embeddings,
    unmeasured,
    verification_summary,
)
from dermaffinity.report.figures import save_figure, verification_figure
from dermaffinity.report.tables import console_table, markdown_table, verification_table
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
    configs = [read_config(name, [*overrides, f"name={manifest.name}_{name}"]) for name in names]
    tracker = MlflowTracker()
    run_experiments(
        configs, Plan(runs=arguments.runs, tracker=tracker, folds=[FOLD], seeds=arguments.seeds, resume=True)
    )
    templates = template_images(pairs, library.files(), frames=arguments.frames)
    scores = {
        config.name: np.array(
            [
                scores_of(arguments.runs / config.name / f"fold-{FOLD}_seed-{seed}", pairs, templates, library)
                for seed in arguments.seeds
            ]
        )
        for config in configs
    }
    protocol = arguments.protocol or "unseen"
    folder = arguments.runs / f"verification-{manifest.name}-{protocol}"
    accuracies, summaries = measure(scores, pairs, scored)
    write(folder, scores, arguments.seeds, pairs, accuracies, summaries)
    for name, summary in summaries.items():
        track(tracker, arguments.runs / name, protocol, accuracies[name], summary, pairs, scores[name])
    results, table = Console(highlight=False), verification_table(summaries, accuracies)
    title = f"{manifest.name}, {protocol}: {len(pairs):,} pairs, percent [95 % interval over people]"
    results.print(console_table(table, title, results.width))
    for note in unmeasured(pairs["same"].to_numpy()):
        results.print(note, markup=False, soft_wrap=True)
    results.print(f"{folder}: tables and ROC; next: dermaffinity ui", markup=False, soft_wrap=True)


def split_people(identities: Sequence[str], unseen: int) -> tuple[list[str], list[str]]:
    """Identities to train on and to verify, drawn once and for all."""
    drawn = set(np.random.default_rng(0).permutation(len(identities))[:unseen].tolist())
    kept = [name for place, name in enumerate(identities) if place not in drawn]
    return kept, [name for place, name in enumerate(identities) if place in drawn]


def scores_of(model: Path, pairs: pd.DataFrame, templates: dict[str, list[str]], library: ImageLibrary) -> np.ndarray:
    """Cosine of each pair's embeddings, those of a video's frames averaged."""
    paths = [path for part in templates.values() for path in part]
    embedding = LesionClassifier.load(model).transform(decode_image(library.read(path), path) for path in paths)
    sizes = [len(part) for part in templates.values()]
    embeddings = template_embeddings(embedding, np.repeat(np.arange(len(sizes)), sizes))
    place = {name: index for index, name in enumerate(templates)}
    return cosine_scores(embeddings, *(pairs[column].map(place).to_numpy() for column in ("first", "second")))


def measure(
    scores: dict[str, np.ndarray], pairs: pd.DataFrame, scored: pd.DataFrame
) -> tuple[dict[str, list[FoldAccuracy]], dict[str, pd.DataFrame]]:
    """Each seed's accuracies of the folds, and the measures of the whole curve; by method."""
    chosen = pairs.index.get_indexer(scored.index)
    same, folds = scored["same"].to_numpy(), scored["fold"].to_numpy()
    accuracies = {name: [fold_accuracy(one[chosen], same, folds) for one in part] for name, part in scores.items()}
    return accuracies, {name: verification_summary(part, pairs) for name, part in scores.items()}


def write(
    folder: Path,
    scores: dict[str, np.ndarray],
    seeds: list[int],
    pairs: pd.DataFrame,
    accuracies: dict[str, list[FoldAccuracy]],
    summaries: dict[str, pd.DataFrame],
) -> None:
    """Every pair's scores, every fold's accuracy, the measures, and the ROC."""
    columns = {f"{name}.{seed}": one for name in scores for seed, one in zip(seeds, scores[name], strict=True)}
    write_table(pairs.assign(**columns), folder / "pairs.csv")
    folds = {
        f"{name}.{seed}": one.accuracies for name in scores for seed, one in zip(seeds, accuracies[name], strict=True)
    }
    write_table(pd.DataFrame(folds).rename_axis("fold").reset_index(), folder / "folds.csv")
    write_table(pd.concat(summaries, names=["method"]).reset_index(), folder / "measures.csv")
    with atomic_write(folder / "measures.md") as file:
        file.write(markdown_table(verification_table(summaries, accuracies)))
    save_figure(curve_figure(scores, pairs, folder.name), folder / "roc.png")


def track(
    tracker: MlflowTracker,
    experiment: Path,
    protocol: str,
    accuracies: list[FoldAccuracy],
    summary: pd.DataFrame,
    pairs: pd.DataFrame,
    scores: np.ndarray,
) -> None:
    """Adds what was found to the tracking run of the experiment whose networks were used."""
    known, key = Experiment(experiment).record, Experiment(experiment).identifier()
    run = tracker.parent(known.dataset, known.name, key=key, tags={}, description=known.title)
    found = {**summary["value"], "accuracy": np.mean([one.mean for one in accuracies])}
    found["accuracy_standard_error"] = np.mean([one.standard_error for one in accuracies])
    run.log_metrics({f"verification.{protocol}/{name}": float(value) for name, value in found.items()})
    run.log_table(summary.reset_index(), f"verification/{protocol}.csv")
    run.log_figure(curve_figure({known.name: scores}, pairs, protocol), f"verification/{protocol}.png")
    run.finish("FINISHED")


def curve_figure(scores: dict[str, np.ndarray], pairs: pd.DataFrame, title: str) -> Figure:
    """ROC of each method, with a band over seeds."""
    same = pairs["same"].to_numpy()
    curves = {name: [roc(one, same)[:2] for one in part] for name, part in scores.items()}
    return verification_figure(curves, int(np.count_nonzero(~same)), title)


if __name__ == "__main__":
    guarded(main)
