"""The hamfit benchmark: HAM10000 drawn to Dermofit's class counts, four methods, three folds, one look outside.

    python pipelines/ham10000.py FOLDER_WITH_THE_ARCHIVES --weights resnet18.pth

Dermofit is sold under license. HAM10000 is free for research, and this draw takes Dermofit's class counts from it,
whole lesions at a time: hamfit-7 has 1,212 images of seven classes, hamfit-5 has 960 of five. The images of every other
lesion are external: this recipe trains and chooses nothing on them; the mean of the folds' models scores them once.
A second call resumes the first.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from dermaffinity.cli import guarded
from dermaffinity.config import read_config
from dermaffinity.data.adapters.ham10000 import Ham10000Adapter
from dermaffinity.data.manifest import write_manifest
from dermaffinity.data.verify import verify
from dermaffinity.experiments.compare import compare_experiments
from dermaffinity.experiments.run import Plan, run_experiments
from dermaffinity.report.tables import console_table, markdown_table, results_table
from dermaffinity.tracking.mlflow_tracker import MlflowTracker

METHODS = ("softmax", "cosen", "affinity", "affinity_plus")


def main() -> None:
    """Prepares, verifies, trains, scores, compares."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path, help="folder with HAM10000's archives or unpacked folders")
    parser.add_argument("--experiment", choices=("hamfit-7", "hamfit-5"), default="hamfit-7")
    parser.add_argument("--weights", default="imagenet", help="'imagenet', or the path of a ResNet-18 state_dict")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", dest="overrides", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    results = Console(highlight=False)

    manifest_path = Path("data_manifests") / f"{arguments.experiment}.csv"
    manifest = Ham10000Adapter(arguments.source, experiment=arguments.experiment).prepare(
        folds=3, protocol="group", seed=0
    )
    write_manifest(manifest, manifest_path)
    verification = verify(manifest)
    print("\n".join([*verification.lines(), verification.statement()]))
    if not verification.ok():
        sys.exit(1)

    names = [f"{arguments.experiment.replace('-', '')}_{method}" for method in METHODS]
    overrides = [f"data.manifest={manifest_path}", f"backbone.weights={arguments.weights}", *arguments.overrides]
    tracker = MlflowTracker()
    plan = Plan(runs=arguments.runs, tracker=tracker, seeds=arguments.seeds, resume=True, external=True)
    experiments = run_experiments([read_config(name, overrides) for name in names], plan)
    compared = compare_experiments(experiments, baseline="cosen", tracker=tracker)
    outside = {experiment.name: experiment.external.summary for experiment in experiments}
    external = results_table(outside, experiments[0].external.counts)
    tables = {**compared.tables(), "External images, mean of the folds' models: percent [95 % interval]": external}
    for title, table in tables.items():
        results.print(console_table(table, title, results.width))
    folder = arguments.runs / f"compare-{arguments.experiment}"
    compared.write(folder)
    (folder / "external.md").write_text(markdown_table(external), encoding="utf-8")
    results.print(f"{folder}: tables and figures; next: dermaffinity ui", markup=False)


if __name__ == "__main__":
    guarded(main)
