"""How many planted label errors the ranking of `verify --run` finds, and how pure its top is.

    python pipelines/label_errors.py data_manifests/hamfit-7.csv --weights resnet18.pth

Flips some labels to a random other class, cross-validates a logistic regression on frozen ImageNet features on the
manifest's own folds with the wrong labels, ranks all images by three scores, and counts the flipped ones among the
first k. Real errors of the library count as false alarms here, so the precision is a lower bound.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.progress import track

from dermaffinity.cli import guarded
from dermaffinity.data.dataset import ManifestDataset, RowImages
from dermaffinity.data.library import ImageLibrary
from dermaffinity.data.loaders import every_image, load
from dermaffinity.data.manifest import read_manifest
from dermaffinity.data.transforms import EvaluationStage, FixedStage
from dermaffinity.experiments.results import write_table
from dermaffinity.metrics.classification import Classes
from dermaffinity.metrics.label_errors import label_errors
from dermaffinity.models import ResNet18
from dermaffinity.report.figures import curve_figure, save_figure
from dermaffinity.report.tables import markdown_table

SCORES = ("by class (verify)", "probability of the label", "margin to the best other class")
STRENGTH = 0.003  # of the logistic regression, C of scikit-learn: 512 features of 800 images


def main() -> None:
    """Flips, fits, ranks, counts, writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--weights", default="imagenet", help="as for the backbone ResNet18")
    parser.add_argument("--flipped", type=float, default=0.05, help="share of the labels")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("runs/label_errors"))
    arguments = parser.parse_args()
    manifest = read_manifest(arguments.manifest)
    rows = manifest.development().reset_index(drop=True)
    truth = Classes(manifest.classes).indices(rows["label"])
    features = embed(ImageLibrary(manifest.root), rows, truth, arguments.weights)
    rare = np.isin(manifest.classes, Classes.of(manifest.class_counts()).minority)
    console, counted = Console(stderr=True), []
    for draw in track(range(arguments.draws), "flipping, fitting, ranking", console=console):
        labels, flipped = flip(truth, len(manifest.classes), arguments.flipped, np.random.default_rng(draw))
        probabilities = out_of_fold(features, labels, rows["fold"].to_numpy(int))
        for name, order in rankings(labels, probabilities).items():
            for part, among in {"all classes": order, "labels of rare classes": order[rare[labels[order]]]}.items():
                found, k = np.cumsum(flipped[among]), np.arange(1, len(among) + 1)
                precision, recall = found / k, found / max(1, found[-1])
                counted.append(pd.DataFrame({"draw": draw, "score": name, "part": part, "k": k,
                                             "precision": precision, "recall": recall}))  # fmt: skip
    write(pd.concat(counted, ignore_index=True), int(arguments.flipped * len(truth)), arguments.out)


def embed(library: ImageLibrary, rows: pd.DataFrame, labels: np.ndarray, weights: str, size: int = 128) -> np.ndarray:
    """ImageNet features (N, 512)."""
    network = ResNet18(weights=weights).eval()
    dataset = ManifestDataset(RowImages(library, rows, FixedStage(size, None)), labels, EvaluationStage(size))
    batches = load(dataset, every_image(len(rows), 64), workers=0, device=torch.device("cpu"))
    with torch.inference_mode():
        return np.concatenate([network(images).numpy() for images, _ in batches])


def flip(truth: np.ndarray, num_classes: int, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) of which a share was moved to another class, and which (N,) bool."""
    flipped = np.zeros(len(truth), dtype=bool)
    flipped[rng.choice(len(truth), int(share * len(truth)), replace=False)] = True
    return np.where(flipped, (truth + rng.integers(1, num_classes, len(truth))) % num_classes, truth), flipped


def out_of_fold(features: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Probabilities (N, C) of models that never saw the image, trained on the wrong labels."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probabilities = np.zeros((len(labels), labels.max() + 1))
    for fold in np.unique(folds):
        test = folds == fold
        model = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=300))
        probabilities[test] = model.fit(features[~test], labels[~test]).predict_proba(features[test])
    return probabilities


def rankings(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """The images (N,), the most suspect first, by score."""
    own = probabilities[np.arange(len(labels)), labels]
    others = np.where(np.eye(probabilities.shape[1], dtype=bool)[labels], -1, probabilities).max(axis=1)
    orders = (label_errors(labels, probabilities)["index"].to_numpy(), np.argsort(own), np.argsort(own - others))
    return dict(zip(SCORES, orders, strict=True))


def write(counted: pd.DataFrame, planted: int, out: Path) -> None:
    """The table at some k, and the figures of precision and recall against k."""
    whole = counted[counted["part"] == "all classes"]
    for measure in ("precision", "recall"):
        grid = whole[whole["k"].isin([10, 20, 30, 60, 90, 120, 180, 240])].assign(percent=100 * whole[measure])
        curves = {
            str(name): own.groupby("k")["percent"]
            .agg(value="mean", low="min", high="max")
            .rename_axis("x")
            .reset_index()
            for name, own in grid.groupby("score", sort=False)
        }
        figure = curve_figure(
            curves, x_label="images looked at", y_label=f"{measure}, %", title=f"{planted} planted label errors"
        )
        save_figure(figure, out / f"{measure}.png")
    chosen = {"all classes": (planted // 2, planted, 2 * planted, 4 * planted), "labels of rare classes": (10, 20, 40)}
    lines = {}
    for part, levels in chosen.items():
        for k in levels:
            here = counted[(counted["part"] == part) & (counted["k"] == k)].groupby("score", sort=False)
            mean = 100 * here[["precision", "recall"]].mean()
            lines[part, f"{part}, first {k}"] = {
                name: f"{row.precision:.0f} / {row.recall:.0f}"
                for name, row in zip(mean.index, mean.itertuples(), strict=True)
            }
    table = pd.DataFrame.from_dict(lines, orient="index")
    table.index = pd.MultiIndex.from_tuples(list(lines), names=["part", "row"])
    print(markdown_table(table))
    write_table(
        counted.groupby(["part", "score", "k"])[["precision", "recall"]].mean().reset_index(), out / "counted.csv"
    )
    print(f"{out}: precision.png, recall.png, counted.csv")


if __name__ == "__main__":
    guarded(main)
