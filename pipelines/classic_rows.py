"""The classic rows of the paper's Table 2 on one prepared library, beside the networks that were trained on it.

    python pipelines/classic_rows.py hamfit7

Flat K-NN, Hierarchical K-NN and Hierarchical Bayes work on color and texture of the masked lesion; every choice is made
on training rows. Run pipelines/ham10000.py or pipelines/dermofit.py first for CoSen, softmax and affinity: those of the
same split are compared with. What was published about Dermofit is printed beside, for orientation: it is another data
set than hamfit, and nobody says that its folds keep patients together. A second call resumes the first.
"""

import argparse
from pathlib import Path

import pandas as pd
from rich.console import Console

from dermaffinity.cli import guarded
from dermaffinity.config import read_config
from dermaffinity.data.manifest import read_manifest
from dermaffinity.experiments.compare import ComparedExperiments, compare_experiments
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.run import Plan, run_experiments
from dermaffinity.report.tables import console_table, markdown_table, results_table
from dermaffinity.tracking.mlflow_tracker import MlflowTracker

CLASSIC = ("knn", "hierarchical_knn", "hierarchical_bayes")
NETWORKS = ("cosen", "softmax", "affinity")
# "Performances" in percent in 5 and 10 classes of Dermofit, three folds: Table 2 of Hayat et al., 2019.
PUBLISHED = {
    "hierarchical_bayes": ("69.6 ± 0.4", "63.1 ± 0.6"),
    "knn": ("69.8 ± 1.6", "64.0 ± 1.3"),
    "hierarchical_knn": ("74.3 ± 2.5", "68.8 ± 2.0"),
    "cosen": ("80.2 ± 2.5", "72.6 ± 1.6"),
    "affinity": ("91.1 ± 1.7", "80.3 ± 2.1"),
}


def main() -> None:
    """Fits, scores and compares; then says what was published."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("library", choices=("hamfit7", "hamfit5", "dermofit10", "dermofit5"))
    parser.add_argument("--manifest", type=Path, help="the prepared manifest; default: the configs' own")
    parser.add_argument(
        "--suffix", default="", help="of the experiments' names, such as _group of pipelines/dermofit.py"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", dest="overrides", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    results = Console(highlight=False)
    library, runs, tracker = arguments.library, arguments.runs, MlflowTracker()

    overrides = [*([f"data.manifest={arguments.manifest}"] if arguments.manifest else []), *arguments.overrides]
    names = [f"{library}_{method}{arguments.suffix}" for method in CLASSIC]
    configs = [
        read_config(f"{library}_{method}", [*overrides, f"name={name}"])
        for method, name in zip(CLASSIC, names, strict=True)
    ]
    manifest = read_manifest(configs[0].data.manifest, configs[0].data.root)
    has_external = not manifest.external().empty
    plan = Plan(runs=runs, tracker=tracker, seeds=arguments.seeds, resume=True, external=has_external)
    experiments = run_experiments(configs, plan)
    trained = [f"{library}_{method}{arguments.suffix}" for method in NETWORKS]
    networks = [Experiment(runs / name) for name in trained if _is_finished(runs / name, manifest.split_hash)]
    baseline = [*networks, *experiments][0].name
    compared = compare_experiments([*experiments, *networks], baseline=baseline, tracker=tracker)
    tables = compared.tables()
    if has_external:
        outside = {experiment.name: experiment.external for experiment in experiments}
        external = results_table({n: one.summary for n, one in outside.items()}, experiments[0].external.counts)
        tables["External images, mean of the folds' models: percent [95 % interval]"] = external
    difference = "the same library, other folds" if library.startswith("dermofit") else "another data set"
    title = f"Accuracy here [95 % interval], and as published on {difference} (± over folds): percent"
    tables[title] = _beside_published(compared, library, arguments.suffix)
    for title, table in tables.items():
        results.print(console_table(table, title, results.width))
    folder = runs / f"compare-classic-{library}{arguments.suffix}"
    compared.write(folder)
    text = "\n".join(f"## {title}\n\n{markdown_table(table)}" for title, table in tables.items())
    (folder / "table2.md").write_text(text, encoding="utf-8")
    if not networks:
        results.print(f"{runs} holds none of {', '.join(trained)} on this split, so no network stands beside.")
    results.print(f"{folder}: tables and figures; next: dermaffinity ui", markup=False)


def _is_finished(path: Path, split_hash: str) -> bool:
    """Whether an experiment's test folds are finished, and on this split."""
    experiment = Experiment(path)
    if not (experiment.exists and experiment.complete):
        return False
    return (experiment.record.split_hash, experiment.record.scored) == (split_hash, "test")


def _beside_published(compared: ComparedExperiments, library: str, suffix: str) -> pd.DataFrame:
    """Accuracy here and as published, in percent; a dash where a network was not trained here."""
    here = results_table(compared.summaries, {}).xs("Accuracy", level="row").iloc[0]
    columns = {
        f"here, {library}": [here.get(f"{library}_{method}{suffix}", "–") for method in PUBLISHED],
        "published, Dermofit 5 classes": [five for five, _ in PUBLISHED.values()],
        "published, Dermofit 10 classes": [ten for _, ten in PUBLISHED.values()],
    }
    rows = pd.MultiIndex.from_product([["methods"], PUBLISHED], names=["part", "row"])
    return pd.DataFrame(columns, index=rows)


if __name__ == "__main__":
    guarded(main)
