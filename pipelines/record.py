"""The record: what affinity+ gains over CoSen as a method and as a system, by the plan of docs/record_plan.md.

    dermaffinity benchmark hamfit7_{cosen,softmax,cosen_plus,logit_adjusted,vs,balanced_softmax_plus,affinity_plus} \\
        --seeds 0,1,2 --external
    python pipelines/record.py hamfit7

Trains nothing: it reads the finished experiments of all arms, chooses the part of the prior on inner validation images,
averages the seeds of each fold, and writes every measure and gain with its interval to ``runs/record/``.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from rich.console import Console

from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.results import arrays, average_models, write_table
from dermaffinity.metrics.classification import Classes
from dermaffinity.metrics.comparison import adjusted, compare
from dermaffinity.metrics.reliability import fit_temperature, with_temperature
from dermaffinity.metrics.summary import Measured, ScoredImages, summarize_calibration
from dermaffinity.report.method_tables import MEASURES
from dermaffinity.report.tables import console_table
from dermaffinity.training.calibration import ensemble_temperature

ARMS = ("softmax", "cosen", "cosen_plus", "logit_adjusted", "vs", "balanced_softmax_plus", "affinity_plus")
PRIOR_LEFT_OUT = ("logit_adjusted", "vs", "balanced_softmax_plus", "affinity_plus")
"""Arms whose scores are those of equally frequent classes."""
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
PRICE = 0.02
"""What the common classes may lose against softmax, as a fraction of majority recall."""
BOUNDS = ("value", "low", "high")
GAINS = {name: MEASURES[name] for name in ("balanced_accuracy", "minority_recall", "majority_recall")}


class Arm(NamedTuple):
    """An arm's prediction tables."""

    tested: pd.DataFrame
    validation: pd.DataFrame
    external: pd.DataFrame


def main() -> None:
    """Reads the command line, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dataset", help="of the arms' configs, such as hamfit7")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    experiments = {arm: Experiment.open(f"{arguments.dataset}_{arm}", arguments.runs) for arm in ARMS}
    classes = experiments["cosen"].classes
    arms = {
        arm: Arm(*(one.predictions(part) for part in ("predictions", "validation", "external")))
        for arm, one in experiments.items()
    }
    chosen = {arm: chosen_shares(arms[arm], arms["softmax"], classes) for arm in PRIOR_LEFT_OUT}
    for arm, shares in chosen.items():
        arms[f"{arm}, prior"] = Arm(*(with_prior(table, arms[arm], shares, classes) for table in arms[arm]))
    results = pd.concat([measures(arms, classes), gains(arms, classes), prior_rows(chosen)], ignore_index=True)
    results.insert(0, "experiment", experiments["cosen"].record.dataset)
    write_table(results, arguments.runs / "record" / f"{arguments.dataset}.csv")
    console = Console(highlight=False)
    for part, table in tables(results).items():
        console.print(console_table(table, f"{part}: percent [95 % interval]", console.width))


def tables(results: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What to show of each part: an arm a row, a measure a column."""
    shown = {}
    for part, found in results.groupby("part", sort=False):
        cells = [f"{value} [{low}, {high}]" if low else value for value, low, high in found[list(BOUNDS)].to_numpy()]
        table = found.assign(cell=cells).pivot_table(
            index=["part", "method"], columns="measure", values="cell", aggfunc="first", sort=False
        )
        shown[str(part)] = table.rename_axis(index=["part", "row"], columns=None)
    return shown


def chosen_shares(arm: Arm, softmax: Arm, classes: Classes) -> dict[int, float]:
    """For each fold the smallest part of the prior at which common classes pay little on inner validation images."""
    chosen = {}
    for fold, own in arm.validation.groupby("fold"):
        least = majority_recall(softmax.validation[softmax.validation["fold"] == fold], classes) - PRICE
        recalls = ((s, majority_recall(with_prior(own, arm, {fold: s}, classes), classes)) for s in SHARES)
        chosen[fold] = next((s for s, recall in recalls if recall >= least), SHARES[-1])
    return chosen


def with_prior(table: pd.DataFrame, arm: Arm, shares: Mapping[int, float], classes: Classes) -> pd.DataFrame:
    """Predictions z + s · log π, π the class shares of the images outside the model's test fold."""
    labeled = arm.tested.drop_duplicates("image")
    log_prior = {
        fold: np.log(labeled.loc[labeled["fold"] != fold, "label"].value_counts(normalize=True)[list(classes.names)])
        for fold in shares
    }
    log_scores = np.log(table[classes.columns].to_numpy().clip(np.finfo(float).tiny))
    log_scores += np.stack([shares[fold] * log_prior[fold].to_numpy() for fold in table["fold"]])
    scores = np.exp(log_scores - log_scores.max(axis=1, keepdims=True))
    return predicted(table, scores / scores.sum(axis=1, keepdims=True), classes)


def predicted(table: pd.DataFrame, probabilities: np.ndarray, classes: Classes) -> pd.DataFrame:
    """The table with other probabilities."""
    columns = pd.DataFrame(probabilities, columns=classes.columns, index=table.index)
    names = np.asarray(classes.names)[probabilities.argmax(axis=1)]
    return table.assign(**columns, predicted=names)


def majority_recall(table: pd.DataFrame, classes: Classes) -> float:
    """Mean recall of the common classes, seeds together."""
    right = (table["label"] == table["predicted"]).groupby(table["label"]).mean()
    return float(right[[name for name in classes.names if name not in classes.minority]].mean())


def mean_of_seeds(table: pd.DataFrame, classes: Classes) -> pd.DataFrame:
    """The ensemble of the seeds of each fold, as one seed."""
    means = table.groupby(["fold", "image"])[classes.columns].mean().reset_index()
    facts = table.drop_duplicates(["fold", "image"])[["fold", "image", "group", "label"]]
    joined = means.merge(facts, on=["fold", "image"]).assign(seed=0)
    return predicted(joined, joined[classes.columns].to_numpy(), classes)


def tables_of(arm: Arm, classes: Classes) -> dict[str, pd.DataFrame]:
    """What is measured of an arm, by part."""
    return {
        "single models": arm.tested,
        "ensembles of three": mean_of_seeds(arm.tested, classes),
        "external": average_models(arm.external, classes),
        "external, ensembles": average_models(arm.external.assign(seed=0), classes),
    }


def calibrated(arm: Arm, classes: Classes) -> dict[str, pd.DataFrame]:
    """Out-of-fold and external predictions of single seeds at the temperatures that inner validation images give."""
    single, joint, validation = [], [], dict(iter(arm.validation.groupby(["fold", "seed"])))
    for model, table in arm.tested.groupby(["fold", "seed"]):
        scaled = with_temperature(arrays(table, classes)[1], fit_temperature(*arrays(validation[model], classes)))
        single.append(predicted(table, scaled, classes))
    for seed, table in average_models(arm.external, classes).groupby("seed"):
        of_seed = (part[part["seed"] == seed] for part in (arm.tested, arm.validation))
        scaled = with_temperature(arrays(table, classes)[1], ensemble_temperature(*of_seed, classes.names))
        joint.append(predicted(table, scaled, classes))
    return {"single models": pd.concat(single), "external": pd.concat(joint)}


def measures(arms: Mapping[str, Arm], classes: Classes) -> pd.DataFrame:
    """Every measure of every arm."""
    found = []
    for name, arm in arms.items():
        for part, table in tables_of(arm, classes).items():
            summary = Measured.of(ScoredImages.from_table(table, classes)).summary()
            titles = {measure: title for measure, title in MEASURES.items() if measure in summary.index}
            counts = table.drop_duplicates("image")["label"].value_counts()
            titles |= {f"recall.{one}": f"{one} (n={counts[one]})" for one in classes.names}
            found.append(rows(part, name, summary, titles))
        for part, table in calibrated(arm, classes).items():
            summary = summarize_calibration(table, classes)
            found.append(rows(part, name, summary, {"ece": MEASURES["ece.calibrated"]}))
    return pd.concat(found)


def gains(arms: Mapping[str, Arm], classes: Classes) -> pd.DataFrame:
    """What each arm gains over CoSen and softmax, affinity+ over each rival, and the system effect."""
    by_arm = {name: tables_of(arm, classes) for name, arm in arms.items()}
    found = []
    for part in next(iter(by_arm.values())):
        measured = {name: measure(tables[part], classes) for name, tables in by_arm.items()}
        for base in ("cosen", "cosen_plus", "softmax"):
            for name, other in measured.items():
                if name != base:
                    found.append(rows(f"{part}: gain over {base}", name, compare(measured[base], other).gains, GAINS))
        for ours in ("affinity_plus", "affinity_plus, prior"):
            rivals = {name: other for name, other in measured.items() if not name.startswith("affinity_plus")}
            held = adjusted({name: compare(other, measured[ours]) for name, other in rivals.items()})
            for name, comparison in held.items():
                found.append(rows(f"{part}: gain of {ours}", name, comparison.gains, GAINS))
                tests = comparison.tests.set_index(["test", "metric"])["p_holm"]
                found.append(one(f"{part}: gain of {ours}", name, "p (Holm)", tests["sign_flip", "balanced_accuracy"]))
    for single, ensemble in (("single models", "ensembles of three"), ("external", "external, ensembles")):
        base = by_arm["cosen"][single]
        for name in (name for name in by_arm if name != "cosen"):
            repeated = pd.concat([by_arm[name][ensemble].assign(seed=seed) for seed in base["seed"].unique()])
            effect = compare(measure(base, classes), measure(repeated, classes)).gains
            found.append(rows(f"{ensemble}: gain over cosen, {single}", name, effect, GAINS))
    return pd.concat(found)


def measure(table: pd.DataFrame, classes: Classes) -> Measured:
    """A table, measured."""
    return Measured.of(ScoredImages.from_table(table, classes))


def rows(part: str, method: str, summary: pd.DataFrame, titles: Mapping[str, str]) -> pd.DataFrame:
    """Results in percent as they are printed, one row per measure; gains with their sign."""
    names = {name.removeprefix("gain."): name for name in summary.index}
    spoken = "{:+.1f}" if "gain" in part else "{:.1f}"
    shown = (100 * summary.loc[[names[name] for name in titles], list(BOUNDS)]).map(spoken.format)
    return shown.assign(part=part, method=method, measure=list(titles.values()))[["part", "method", "measure", *BOUNDS]]


def one(part: str, method: str, measure: str, value: float) -> pd.DataFrame:
    """A row of a number without an interval."""
    return pd.DataFrame(
        [[part, method, measure, f"{value:.3f}", "", ""]], columns=["part", "method", "measure", *BOUNDS]
    )


def prior_rows(chosen: Mapping[str, Mapping[int, float]]) -> pd.DataFrame:
    """The chosen part of the prior of each arm and fold."""
    return pd.concat(
        [one("part of the prior", arm, f"fold {k}", s) for arm, shares in chosen.items() for k, s in shares.items()]
    )


if __name__ == "__main__":
    main()
