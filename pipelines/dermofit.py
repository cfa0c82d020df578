"""The paper's Table 2 on the Dermofit Image Library: 5 and 10 classes, three folds, with and without patient leaks.

    python pipelines/dermofit.py FOLDER_OR_ZIPS

Images of one patient carry the same number in their name; Table 2 of Hayat et al. (ICCV 2019) does not say that its
folds keep them together. This recipe runs both protocols: ``group`` keeps every patient in one fold, ``image`` deals
single images. The difference is what a leak is worth. ``affinity`` is our unit-sphere variant of the paper's loss; the
loss as printed is dermofit10_affinity_as_printed. A second call resumes the first.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from dermaffinity.cli import guarded
from dermaffinity.config import read_config
from dermaffinity.data.adapters.dermofit import DermofitAdapter
from dermaffinity.data.manifest import write_manifest
from dermaffinity.data.verify import verify
from dermaffinity.experiments.compare import compare_experiments
from dermaffinity.experiments.run import Plan, run_experiments
from dermaffinity.report.tables import console_table
from dermaffinity.tracking.mlflow_tracker import MlflowTracker

METHODS = ("softmax", "cosen", "affinity", "affinity_plus")
# Percent over three folds, as printed in Table 2, which says neither that it is accuracy nor how it was split.
PUBLISHED = {
    "5-class": {"CoSen CNN": "80.2 ± 2.5", "affinity": "91.1 ± 1.7"},
    "10-class": {"CoSen CNN": "72.6 ± 1.6", "affinity": "80.3 ± 2.1"},
}


def main() -> None:
    """Prepares, verifies, trains, compares; for each experiment and protocol."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path, help="the library's folder, or the folder of its zip archives")
    parser.add_argument("--experiments", nargs="+", choices=tuple(PUBLISHED), default=list(PUBLISHED))
    parser.add_argument("--protocols", nargs="+", choices=("group", "image"), default=["group", "image"])
    parser.add_argument("--weights", default="imagenet", help="'imagenet', or the path of a ResNet-18 state_dict")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--partial", action="store_true", help="accept a library with missing images")
    parser.add_argument("--set", dest="overrides", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    results = Console(highlight=False)
    tracker = MlflowTracker()

    for experiment in arguments.experiments:
        for protocol in arguments.protocols:
            adapter = DermofitAdapter(arguments.source, experiment=experiment, partial=arguments.partial)
            manifest = adapter.prepare(folds=3, protocol=protocol, seed=0)
            path = Path("data_manifests") / f"{manifest.name}-{protocol}.csv"
            write_manifest(manifest, path)
            verification = verify(manifest)
            print("\n".join([*verification.lines(), verification.statement()]))
            if not verification.ok():
                sys.exit(1)

            configs = [f"dermofit{experiment.removesuffix('-class')}_{method}" for method in METHODS]
            overrides = [f"data.manifest={path}", f"backbone.weights={arguments.weights}", *arguments.overrides]
            names = [f"{config}_{protocol}" for config in configs]
            read = [
                read_config(config, [*overrides, f"name={name}"]) for config, name in zip(configs, names, strict=True)
            ]
            plan = Plan(runs=arguments.runs, tracker=tracker, seeds=arguments.seeds, resume=True)
            baseline = names[METHODS.index("cosen")]
            compared = compare_experiments(run_experiments(read, plan), baseline=baseline, tracker=tracker)
            for title, table in compared.tables().items():
                results.print(console_table(table, f"{manifest.name}, {protocol} protocol. {title}", results.width))
            compared.write(arguments.runs / f"compare-{manifest.name}-{protocol}")
        published = ", ".join(f"{method} {value}" for method, value in PUBLISHED[experiment].items())
        results.print(
            f"Published for {experiment}, percent over three folds: {published}", markup=False, soft_wrap=True
        )


if __name__ == "__main__":
    guarded(main)
