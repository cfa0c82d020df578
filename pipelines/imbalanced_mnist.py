"""The digit experiments of Hayat et al. (ICCV 2019): MNIST with rare digits, each table and figure by one command.

    python pipelines/imbalanced_mnist.py table1 MNIST_FOLDER --seeds 0 1 2

MNIST_FOLDER is where torchvision puts MNIST: torchvision.datasets.MNIST("MNIST_FOLDER", download=True). The test set is
MNIST's own, complete and clean; a twentieth of the training images is held out for choices. Every command writes a CSV
of each seed's measures, a Markdown table of the paper beside this run, and a figure, under RUNS/reproduction, and
tracks its trainings in MLflow. A training that several items share is done once, and a second call goes on where the
first one stopped. The paper prints numbers for its tables alone; of its figures, the ranges that its text finds
best are shaded.
"""

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from rich.console import Console

from dermaffinity.cli import guarded
from dermaffinity.config import Config, read_config
from dermaffinity.data.adapters.base import Record
from dermaffinity.data.adapters.mnist import DIGITS, RARE_DIGITS, MnistAdapter
from dermaffinity.data.dataset import ManifestDataset, RowImages
from dermaffinity.data.manifest import write_manifest
from dermaffinity.data.transforms import EvaluationStage
from dermaffinity.errors import ConfigError, TrainingError
from dermaffinity.experiments.compare import compare_experiments
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.job import Images
from dermaffinity.experiments.record import JobFolder
from dermaffinity.experiments.results import write_table
from dermaffinity.experiments.run import Plan, run_experiments
from dermaffinity.files import atomic_write
from dermaffinity.inference.model_folder import load_networks, read_description
from dermaffinity.inference.predict import predict
from dermaffinity.metrics.clusters import cluster_spread
from dermaffinity.report.figures import curve_figure, plane_figure, rows_figure, save_figure
from dermaffinity.report.tables import console_table, markdown_table
from dermaffinity.tracking.mlflow_tracker import MlflowTracker

RARE = "first-10"
"""The experiment behind figures 2, 7, 8 and Table 4: 10 % of the training images of digits 0 to 4."""

TABLE1 = {
    "standard": "all training images",
    "odd-10": "10 % of odd digits",
    "odd-25": "25 % of odd digits",
    "even-10": "10 % of even digits",
    "even-25": "25 % of even digits",
}
TABLE4 = {
    "l1, Gaussian": ("head.distance=l1", "head.similarity=gaussian", "head.sigma=10.0"),
    "l2, Gaussian": ("head.distance=l2", "head.similarity=gaussian", "head.sigma=10.0"),
    "l1, inverse": ("head.distance=l1", "head.similarity=inverse", "head.sigma=1.0"),
    "l2, inverse": ("head.distance=l2", "head.similarity=inverse", "head.sigma=1.0"),
}
PAPER_TABLE1 = {
    "all training images": "CoSen 99.3, affinity 99.6",
    "10 % of odd digits": "CoSen 98.6, affinity 99.3",
    "25 % of odd digits": "CoSen 98.9, affinity 99.4",
    "10 % of even digits": "CoSen 98.4, affinity 99.3",
    "25 % of even digits": "CoSen 98.5, affinity 99.5",
}
PAPER_TABLE4 = {"l1, Gaussian": "99.3", "l2, Gaussian": "99.3", "l1, inverse": "fails", "l2, inverse": "99.1"}
"""As the table has it; the paper's text says that l1 with the Gaussian fails instead."""

NOISE = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
RETAINED = (0.025, 0.05, 0.1, 0.25, 1.0)
SIGMAS = (0.1, 0.5, 1.0, 5.0, 10.0, 20.0, 50.0)
CENTERS = (1, 2, 3, 5, 10, 15, 20)
PAPER_METHODS = ("softmax", "cosen", "affinity")
METHODS = (*PAPER_METHODS, "affinity_plus")
METHODS_2D = ("softmax", "center", "affinity", "affinity_relative")
SHORT = ("training.epochs=4",)
"""Few epochs, for the two sweeps over training images, which have most trainings."""

AUGMENTED = ("augmentation.class=dermaffinity.data.augmentation.DigitAugmentation",)
"""Small shifts, rotations and changes of size of the training images, which the paper does not mention."""

Value = TypeVar("Value")


class ThinnedMnist(MnistAdapter):
    """A few of the images: 200 to test, 1,000 to train on, in the proportions of the classes."""

    def select(self, records: list[Record], seed: int) -> list[Record]:
        """See :meth:`DatasetAdapter.select`."""
        selected = super().select(records, seed)
        kept = []
        for test, number in ((True, 200), (False, 1000)):
            part = [record for record in selected if record.test is test]
            share = min(1.0, number / len(part))
            for digit in DIGITS:
                own = [record for record in part if record.label == digit]
                kept += own[: max(5, round(share * len(own)))]
        return kept


class Trial(NamedTuple):
    """One training to do: the task, the method's config, what is changed, and the place in the item."""

    row: str | float
    experiment: str
    config: str
    changes: tuple[str, ...] = ()
    label_noise: float = 0.0
    defaults: tuple[str, ...] = ()  # changes that the command line may change again

    @property
    def method(self) -> str:
        """The config's name without that of its base."""
        return self.config.partition("_")[2]


@dataclass(frozen=True)
class Study:
    """What the command line asks for."""

    item: str
    source: Path
    seeds: Sequence[int]
    overrides: Sequence[str]
    runs: Path
    quick: bool
    tracker: MlflowTracker
    progress: Console
    results: Console

    def measure(self, trials: Sequence[Trial]) -> pd.DataFrame:
        """Trains and tests every trial with every seed.

        Returns:
            A row a trial and seed: ``row``, ``method``, ``experiment``, ``name``, ``seed``; ``accuracy``,
            ``balanced_accuracy``, ``rare_recall`` and ``worst_class_recall``, missing where training failed; and
            ``failure``, why.
        """
        configs = self.configs(trials)
        failures: dict[str, str] = {}
        for manifest in dict.fromkeys(config.data.manifest for config in configs.values()):
            here = {config.name: config for config in configs.values() if config.data.manifest == manifest}
            failures |= self.train(list(here.values()))
        return pd.DataFrame([row for trial in trials for row in self.rows(trial, configs[trial], failures)])

    def configs(self, trials: Sequence[Trial]) -> dict[Trial, Config]:
        """The config of every trial, several of which may share one; writes the manifests that the configs name."""
        manifests = {
            what: self.manifest(*what) for what in dict.fromkeys((t.experiment, t.label_noise) for t in trials)
        }
        return {trial: self.config(trial, manifests[trial.experiment, trial.label_noise]) for trial in trials}

    def manifest(self, experiment: str, label_noise: float) -> Path:
        """Writes the manifest of an experiment; the same one every time."""
        try:
            kind = ThinnedMnist if self.quick else MnistAdapter
            adapter = kind(self.source, experiment=experiment, label_noise=label_noise)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        adapter.manifest_name += "-quick" if self.quick else ""
        manifest = adapter.prepare()
        path = Path("data_manifests") / f"{manifest.name}.csv"
        write_manifest(manifest, path)
        return path

    def config(self, trial: Trial, manifest: Path) -> Config:
        """The method's config on this manifest; its name tells what is changed, and nothing where nothing is."""
        quick = ("training.epochs=2", "training.batch_size=32") if self.quick else ()
        data = f"data.manifest={manifest}"
        name = f"{manifest.stem}_{trial.config.removeprefix('mnist_').replace('_', '-')}"
        plain = read_config(trial.config, [data, *quick, *self.overrides, f"name={name}"])
        asked = [data, *trial.defaults, *quick, *self.overrides, *trial.changes]
        if read_config(trial.config, [*asked, f"name={name}"]).resolved() == plain.resolved():
            return plain
        changes = [re.sub(r"^\w+\.|class=.*\.", "", change) for change in (*trial.defaults, *trial.changes)]
        words = "_".join(changes).replace("=", "-")
        return read_config(trial.config, [*asked, f"name={name}_{words}"])

    def train(self, configs: list[Config]) -> dict[str, str]:
        """Runs configs on one manifest; returns why those failed that did, by job."""
        try:
            self.run(configs)
        except TrainingError as error:
            whole = [config for config in configs if all(self.job(config.name, seed).finished for seed in self.seeds)]
            if whole:
                self.run(whole)  # nothing is trained again; what succeeded is measured
            return {job: reason for job, _, reason in (problem.partition(": ") for problem in error.problems)}
        return {}

    def run(self, configs: list[Config]) -> None:
        """Trains what is not finished yet and measures all."""
        plan = Plan(runs=self.runs, tracker=self.tracker, seeds=self.seeds, resume=True, console=self.progress)
        run_experiments(configs, plan)

    def job(self, name: str, seed: int) -> JobFolder:
        """The folder of one training."""
        return JobFolder.of(self.runs / name, 0, seed)

    def rows(self, trial: Trial, config: Config, failures: dict[str, str]) -> Iterable[dict[str, object]]:
        """A trial's results, a row a seed."""
        rare = RARE_DIGITS.get(trial.experiment.partition("-")[0], DIGITS)
        for seed in self.seeds:
            job = self.job(config.name, seed)
            metrics = job.metrics() if job.finished else {}
            yield {
                "row": trial.row,
                "method": trial.method,
                "experiment": trial.experiment,
                "name": config.name,
                "seed": seed,
                "accuracy": metrics.get("accuracy", np.nan),
                "balanced_accuracy": metrics.get("balanced_accuracy", np.nan),
                "rare_recall": np.mean([metrics.get(f"recall.{digit}", np.nan) for digit in rare]),
                "worst_class_recall": metrics.get("worst_class_recall", np.nan),
                "failure": failures.get(f"{config.name} fold 0 seed {seed}", ""),
            }

    def report(self, measured: pd.DataFrame, figure: Figure, paper: dict[str, str] | None = None) -> None:
        """Writes the CSV, the figure and the table of paper and here, and prints the table."""
        table = self.paper_and_here(measured, paper or {})
        write_table(measured, self.path("csv"))
        save_figure(figure, self.path("png"))
        title = f"{self.item}: accuracy on MNIST's test set, percent; mean ± sd of {len(self.seeds)} seeds"
        with atomic_write(self.path("md")) as file:
            file.write(f"{title}\n\n{markdown_table(table)}")
        self.results.print(console_table(table, title, self.results.width))
        for reason in dict.fromkeys(measured["failure"]):
            if reason:
                names = ", ".join(dict.fromkeys(measured.loc[measured["failure"] == reason, "name"]))
                self.results.print(f"{names}: {reason}", markup=False, soft_wrap=True)
        self.results.print(f"{self.path('csv')}, .md, .png; next: dermaffinity ui", markup=False)

    def paper_and_here(self, measured: pd.DataFrame, paper: dict[str, str]) -> pd.DataFrame:
        """A row a row of the item, a column a method, in percent; the paper's numbers first, if it prints any."""
        methods = list(dict.fromkeys(measured["method"]))
        rows = list(dict.fromkeys(measured["row"]))
        index = pd.MultiIndex.from_tuples([(self.item, str(row)) for row in rows], names=["part", "row"])
        table = pd.DataFrame({"paper": [paper.get(str(row), "–") for row in rows]} if paper else {}, index=index)
        for method in methods:
            own = measured[measured["method"] == method]
            table[f"{method}, here"] = [spoken(own.loc[own["row"] == row, "accuracy"]) for row in rows]
        return table

    def path(self, ending: str) -> Path:
        """A file of this item."""
        return self.runs / "reproduction" / f"{self.item}{'-quick' if self.quick else ''}.{ending}"


class Item(NamedTuple):
    """A table or figure of the paper: what is trained for it, all of it or a quick run's part, and how it is shown."""

    trials: Callable[[bool], list[Trial]]
    show: Callable[[Study, pd.DataFrame], None]


def main() -> None:
    """Reads the command line and reproduces one item."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("item", choices=ITEMS)
    parser.add_argument("source", type=Path, help="the folder that torchvision downloads MNIST into")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", dest="overrides", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="give other settings a folder of their own")
    parser.add_argument("--quick", action="store_true", help="a few images and values: shows that it works, no result")
    arguments = parser.parse_args()
    study = Study(
        tracker=MlflowTracker(), progress=Console(stderr=True), results=Console(highlight=False), **vars(arguments)
    )
    item = ITEMS[study.item]
    item.show(study, study.measure(item.trials(study.quick)))


def table1_trials(quick: bool) -> list[Trial]:
    """Five mixtures of rare and common digits, as they are and augmented, every method; in a quick run the paper's."""
    rows = [
        (f"{row}{label}", experiment, changes)
        for label, changes in (("", ()), (", augmented", AUGMENTED))
        for experiment, row in TABLE1.items()
    ]
    return [
        Trial(row, experiment, f"mnist_{method}", changes)
        for row, experiment, changes in chosen(rows, quick)
        for method in (PAPER_METHODS if quick else METHODS)
    ]


def show_table1(study: Study, measured: pd.DataFrame) -> None:
    """The table, and the methods against CoSen in every row."""
    study.report(measured, by_row(measured, "Table 1: rare digits"), PAPER_TABLE1)
    for (experiment, row), own in measured.groupby(["experiment", "row"], sort=False):
        if (own["failure"] == "").all():
            experiments = [Experiment(study.runs / name) for name in dict.fromkeys(own["name"])]
            baseline = own.loc[own["method"] == "cosen", "name"].iloc[0]
            compared = compare_experiments(experiments, baseline=baseline, tracker=study.tracker)
            label = "" if row in TABLE1.values() else "-augmented"
            compared.write(study.path("csv").parent / f"compare-{experiment}{label}")


def figure2_trials(quick: bool) -> list[Trial]:
    """Two-dimensional embeddings."""
    return [Trial(RARE, RARE, f"mnist2d_{method}") for method in METHODS_2D]


def show_figure2(study: Study, measured: pd.DataFrame) -> None:
    """Embeddings of rare and common digits, and how far they are spread."""
    rare = [DIGITS.index(digit) for digit in RARE_DIGITS[RARE.partition("-")[0]]]
    drawn, spreads = {}, []
    for row in measured[measured["failure"] == ""].itertuples():
        embedding, labels = embed_test_images(study, row.name, row.seed)
        drawn.setdefault(row.method, (embedding, labels))
        spread = cluster_spread(embedding, labels, len(DIGITS))
        radii = {f"radius.{digit}": radius for digit, radius in zip(DIGITS, spread.relative_radii, strict=True)}
        spreads.append(
            {
                "method": row.method,
                "seed": row.seed,
                "spacing_ratio": spread.spacing_ratio,
                "rare_radius_ratio": spread.radius_ratio(rare),
                **radii,
            }
        )
    table = pd.DataFrame(spreads)
    write_table(table, study.path("csv").with_name(f"{study.path('csv').stem}-spread.csv"))
    study.report(measured, plane_figure(drawn, DIGITS, RARE_DIGITS["first"], "Figure 2: 10 % of digits 0 to 4"))
    means = table.drop(columns="seed").groupby("method", sort=False).mean().map("{:.2f}".format).T
    means.index = pd.MultiIndex.from_tuples([("spread", str(name)) for name in means.index], names=["part", "row"])
    title = "Spread of the test embeddings; radius: of a class, over the mean distance between classes"
    study.results.print(console_table(means, title, study.results.width))
    with study.path("md").open("a", encoding="utf-8") as file:
        file.write(f"\n{title}\n\n{markdown_table(means)}")


def figure5_trials(quick: bool) -> list[Trial]:
    """Wrong labels in training, stopped early on a held-out part that has them as well."""
    return [
        Trial(noise, "standard", f"mnist_{method}", ("training.patience=2",), noise, SHORT)
        for noise in chosen(NOISE, quick)
        for method in ("softmax", "affinity")
    ]


def figure6_trials(quick: bool) -> list[Trial]:
    """Ever fewer training images of digits 0 to 4."""
    return [
        Trial(share, f"first-{100 * share:g}" if share < 1 else "standard", f"mnist_{method}", defaults=SHORT)
        for share in chosen(RETAINED, quick)
        for method in PAPER_METHODS
    ]


def figure7_trials(quick: bool) -> list[Trial]:
    """The width of the similarity."""
    return [Trial(sigma, RARE, "mnist_affinity", (f"head.sigma={sigma}",)) for sigma in chosen(SIGMAS, quick)]


def figure8_trials(quick: bool) -> list[Trial]:
    """The number of centers."""
    return [Trial(m, RARE, "mnist_affinity", (f"head.centers_per_class={m}",)) for m in chosen(CENTERS, quick)]


def table4_trials(quick: bool) -> list[Trial]:
    """Two distances, two similarities."""
    return [Trial(row, RARE, "mnist_affinity", changes) for row, changes in TABLE4.items()]


def show_table4(study: Study, measured: pd.DataFrame) -> None:
    """The table."""
    study.report(measured, by_row(measured, "Table 4: distance and similarity"), PAPER_TABLE4)


def show_curve(
    study: Study,
    measured: pd.DataFrame,
    *,
    x_label: str,
    title: str,
    published: tuple[float, float] | None = None,
) -> None:
    """A curve a method."""
    figure = curve_figure(
        {method: ranges(own) for method, own in measured.groupby("method", sort=False)},
        x_label=x_label,
        y_label="accuracy on the test set, % (band: all seeds)",
        title=title,
        published=published,
    )
    study.report(measured, figure)


ITEMS = {
    "table1": Item(table1_trials, show_table1),
    "figure2": Item(figure2_trials, show_figure2),
    "figure5": Item(
        figure5_trials,
        partial(show_curve, x_label="share of wrong labels in training", title="Figure 5: wrong labels"),
    ),
    "figure6": Item(
        figure6_trials,
        partial(
            show_curve,
            x_label="share of the training images of digits 0 to 4 that is kept",
            title="Figure 6: rarer digits",
        ),
    ),
    "figure7": Item(
        figure7_trials,
        partial(show_curve, x_label="sigma", title="Figure 7: width of the similarity", published=(5, 20)),
    ),
    "figure8": Item(
        figure8_trials,
        partial(show_curve, x_label="centers per class", title="Figure 8: number of centers", published=(5, 20)),
    ),
    "table4": Item(table4_trials, show_table4),
}


def chosen(values: Sequence[Value], quick: bool) -> Sequence[Value]:
    """All values; of a quick run the first and the last."""
    return (values[0], values[-1]) if quick else values


def by_row(measured: pd.DataFrame, title: str) -> Figure:
    """The methods side by side in each row of a table."""
    return rows_figure(
        {method: ranges(own).set_index("x") for method, own in measured.groupby("method", sort=False)},
        x_label="accuracy on the test set, % (all seeds)",
        title=title,
    )


def ranges(measured: pd.DataFrame) -> pd.DataFrame:
    """Mean, lowest and highest accuracy of the seeds in percent, by row."""
    accuracy = 100 * measured.set_index("row")["accuracy"]
    by_row = accuracy.groupby(level=0, sort=False)
    return (
        pd.DataFrame({"value": by_row.mean(), "low": by_row.min(), "high": by_row.max()}).rename_axis("x").reset_index()
    )


def spoken(accuracy: pd.Series) -> str:
    """``99.14 ± 0.05``; how many of the seeds failed, if any did."""
    good = 100 * accuracy.dropna()
    if good.empty:
        return "fails"
    sd = f" ± {good.std(ddof=1):.2f}" if len(good) > 1 else ""
    failed = len(accuracy) - len(good)
    return f"{good.mean():.2f}{sd}" + (f" ({failed} of {len(accuracy)} fail)" if failed else "")


def embed_test_images(study: Study, name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (N, D) of the test images and their class indices (N,)."""
    path = study.job(name, seed).path
    (network,) = load_networks(path, read_description(path))
    config = read_config(study.runs / name / "config.yaml")
    images = Images(config.data)
    rows = images.rows[images.rows["fold"] == 0]
    decoded = RowImages(images.library, rows, images.stage)
    dataset = ManifestDataset(decoded, images.indices(rows), EvaluationStage(config.data.image_size))
    predictions = predict(network, dataset, device=torch.device("cpu"))
    return predictions.embedding.numpy(), predictions.labels.numpy()


if __name__ == "__main__":
    guarded(main)
