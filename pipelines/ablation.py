"""What each part of the affinity+ recipe is worth: parts taken away, parts that were tried in addition.

    python pipelines/ablation.py hamfit7_affinity_plus --seeds 0 1 2 --weights resnet18.pth

Everything is measured on inner validation images; the test folds and the external images stay unseen, so that the
recipe may be changed by what this shows. Every seed draws inner validation images of its own. A second call goes on
where the first one stopped, and `--only` runs some of the variants.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console

from dermaffinity.cli import guarded
from dermaffinity.config import Config, read_config
from dermaffinity.errors import ConfigError, TrainingError
from dermaffinity.experiments.compare import ComparedExperiments, compare_experiments
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.run import Plan, run_experiments
from dermaffinity.files import atomic_write
from dermaffinity.report.figures import rows_figure, save_figure
from dermaffinity.report.tables import console_table, markdown_table, p_value, percent_interval
from dermaffinity.tracking.mlflow_tracker import MlflowTracker

VARIANTS = {
    # Taken away.
    "one-center": ("head.centers_per_class=1",),
    "no-prior": ("loss.prior_weight=0",),
    "no-diversity": ("loss.diversity_weight=0",),
    "no-mixing": ("mixing=null",),
    "one-view": ("backbone.views=1",),
    "centers-as-slow": ("training.head_rate_factor=1",),
    "hinge": (
        "head={class: dermaffinity.heads.AffinityHead, sigma: 1.0, unit_centers: true, start: samples}",
        "loss={class: dermaffinity.losses.AffinityLoss, margin: 0.5, diversity: relative}",
    ),
    "linear": (
        "head={class: dermaffinity.heads.LinearHead}",
        "neck={class: dermaffinity.models.IdentityNeck}",
        "loss={class: dermaffinity.losses.LogitAdjustedLoss, tau: 1.0}",
        "training.learning_rate=0.01",
        "training.head_rate_factor=1",
    ),
    # Otherwise, or added.
    "five-centers": ("head.centers_per_class=5",),
    "narrower": ("head.sigma=0.1",),
    "wider": ("head.sigma=0.4",),
    "margin": ("loss.margin=1",),
    "average": ("average={class: dermaffinity.training.tricks.MovingAverage, decay: 0.98}",),
    "mixup": ("mixing={class: dermaffinity.data.mixing.Mixup, alpha: 0.2}",),
    "sharpness": ("sharpness={class: dermaffinity.training.tricks.SharpnessAware, radius: 0.05}",),
    "balanced-sampling": ("training.balanced_sampling=true", "loss.prior_weight=0"),
    "stronger-augmentation": (
        "augmentation.smallest_scale=0.35",
        "augmentation.color=0.3",
        "augmentation.holes=0.5",
    ),
    "twice-as-long": ("training.epochs=48",),
    # For speed.
    "frozen-stages": ("backbone.frozen_stages=2",),
    "growing-images": ("growth={class: dermaffinity.training.tricks.GrowingImages}",),
    "frozen-and-growing": ("backbone.frozen_stages=2", "growth={class: dermaffinity.training.tricks.GrowingImages}"),
    "larger-batches": ("training.batch_size=64", "training.learning_rate=0.006"),
    "lesion-crop": ("data.lesion_crop=0.5",),
}
"""Overrides of each variant. Every one changes one thing, but for what belongs to it: another head has its own rates,
and sampling classes evenly leaves no prior."""

_SHOWN = {"balanced_accuracy": "Balanced accuracy", "minority_recall": "Minority recall", "macro_auc": "Macro AUC"}


def main() -> None:
    """Trains what is not trained yet, compares, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config", help="the recipe's config: a path, or the name of a shipped one")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--weights", help="the path of a ResNet-18 state_dict; default: the config's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folds", type=int, nargs="+")
    parser.add_argument("--set", dest="overrides", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"))
    arguments = parser.parse_args()
    weights = [] if arguments.weights is None else [f"backbone.weights={arguments.weights}"]
    configs = variants(arguments.config, [*weights, *arguments.overrides], arguments.only)
    tracker, results = MlflowTracker(), Console(highlight=False)
    plan = Plan(
        runs=arguments.runs,
        tracker=tracker,
        folds=arguments.folds,
        seeds=arguments.seeds,
        resume=True,
        scored="inner",
        keep_going=True,
    )
    experiments = dict(zip(configs, run_experiments(list(configs.values()), plan), strict=True))
    failures = {name: experiment.failures for name, experiment in experiments.items() if experiment.failures}
    if "recipe" in failures:
        raise TrainingError(f"{arguments.config}: the recipe itself could not be trained", failures["recipe"])
    names = {name: config.name for name, config in configs.items() if name not in failures}
    # The recipe may have been trained with more seeds before, which variants then lack.
    trained = [
        Experiment(one.path, jobs=[one.job(*asked) for asked in plan.jobs(one.record.folds)])
        for one in (experiments[name] for name in names)
    ]
    compared = compare_experiments(trained, baseline=names["recipe"], tracker=tracker)
    table = effects(compared, names)
    title = "Inner validation images: each variant, and what it gains over the recipe"
    results.print(console_table(table, title, results.width))
    for name, lines in failures.items():
        results.print(f"{name}: {'; '.join(lines)}", markup=False, soft_wrap=True)
    with atomic_write(arguments.runs / "ablation.md") as file:
        file.write(f"{title}, percent [95 % interval]\n\n{markdown_table(table)}")
    save_figure(figure(compared, names), arguments.runs / "ablation.png")
    results.print(f"{arguments.runs}: ablation.md, ablation.png; next: dermaffinity ui", markup=False)


def variants(source: str, overrides: list[str], only: list[str]) -> dict[str, Config]:
    """The recipe and its variants by name; all problems at once."""
    configs, problems = {"recipe": read_config(source, overrides)}, []
    for name in only:
        try:
            # The recipe's grid is for its own parts.
            own = {"name": f"{configs['recipe'].name}.{name}", "grid": {}}
            configs[name] = read_config(source, [*overrides, *VARIANTS[name]], own)
        except ConfigError as error:
            problems += [f"{name}: {problem}" for problem in error.problems or (error.message,)]
    if problems:
        raise ConfigError(f"{source}: some variants do not fit this config; leave them out with --only", problems)
    return configs


def effects(compared: ComparedExperiments, names: Mapping[str, str]) -> pd.DataFrame:
    """A row a variant: its measures, what it gains over the recipe, and how sure that is."""
    rows = {}
    for name, experiment in names.items():
        summary = compared.summaries[experiment]
        cells = {title: percent_interval(*summary.loc[measure]) for measure, title in _SHOWN.items()}
        if name == "recipe":
            cells |= {"Gain": "", "Gain, minority recall": "", "p images": ""}
        else:
            gains = compared.gains[experiment]
            tests = compared.tests[experiment].set_index(["test", "metric"])
            cells["Gain"] = percent_interval(*gains.loc["gain.balanced_accuracy"], sign="+")
            cells["Gain, minority recall"] = percent_interval(*gains.loc["gain.minority_recall"], sign="+")
            cells["p images"] = p_value(tests.loc[("sign_flip", "balanced_accuracy"), "p"])
        rows["recipe" if name == "recipe" else "variants", name] = cells
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index.names = ["part", "row"]
    return table


def figure(compared: ComparedExperiments, names: Mapping[str, str]) -> Figure:
    """Gains of the variants over the recipe."""
    measured = {}
    for measure in ("balanced_accuracy", "minority_recall"):
        gains = {name: compared.gains[own].loc[f"gain.{measure}"] for name, own in names.items() if name != "recipe"}
        measured[_SHOWN[measure].lower()] = 100 * pd.DataFrame(gains).T
    return rows_figure(
        measured, x_label="gain over the recipe, percentage points (95 % interval)", title="What each part is worth"
    )


if __name__ == "__main__":
    guarded(main)
