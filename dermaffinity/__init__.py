"""dermaffinity: skin-lesion classifiers for small, strongly imbalanced image libraries.

Every verb of the command line is a function of the same name and words. Two share their name with a package and are
imported from there: ``dermaffinity.experiments.report.report``, which is `Experiment.report`, and
``dermaffinity.export.export``.

Example:
    >>> import dermaffinity as da
    >>> manifest = da.prepare("image_folder", "FOLDER", groups="patients.csv")  # doctest: +SKIP
    >>> ours, cosen = da.crossval(["affinity_plus", "cosen"], data=manifest)  # doctest: +SKIP
    >>> ours.compare(cosen)  # doctest: +SKIP
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dermaffinity.data.manifest import Manifest, read_manifest
    from dermaffinity.data.verify import verify
    from dermaffinity.experiments.benchmark import benchmark
    from dermaffinity.experiments.compare import compare
    from dermaffinity.experiments.demo import run_demo as demo
    from dermaffinity.experiments.evaluate import Evaluation, evaluate
    from dermaffinity.experiments.experiment import Experiment
    from dermaffinity.experiments.fit import fit
    from dermaffinity.experiments.join import join
    from dermaffinity.experiments.prepare import prepare
    from dermaffinity.experiments.review import review
    from dermaffinity.experiments.run import crossval
    from dermaffinity.experiments.study import Study, study
    from dermaffinity.experiments.tune import tune
    from dermaffinity.inference.batch import predict
    from dermaffinity.inference.classifier import LesionClassifier, explain
    from dermaffinity.tracking.mlflow_tracker import serve_ui as ui

__all__ = [
    "Evaluation",
    "Experiment",
    "LesionClassifier",
    "Manifest",
    "Study",
    "benchmark",
    "compare",
    "crossval",
    "demo",
    "evaluate",
    "explain",
    "fit",
    "join",
    "predict",
    "prepare",
    "read_manifest",
    "review",
    "study",
    "tune",
    "ui",
    "verify",
]
__version__ = "0.1.0"

_HOME = {
    "data.manifest": ("Manifest", "read_manifest"),
    "data.verify": ("verify",),
    "experiments.benchmark": ("benchmark",),
    "experiments.compare": ("compare",),
    "experiments.demo": ("run_demo as demo",),
    "experiments.evaluate": ("Evaluation", "evaluate"),
    "experiments.experiment": ("Experiment",),
    "experiments.fit": ("fit",),
    "experiments.join": ("join",),
    "experiments.prepare": ("prepare",),
    "experiments.review": ("review",),
    "experiments.run": ("crossval",),
    "experiments.study": ("Study", "study"),
    "experiments.tune": ("tune",),
    "inference.batch": ("predict",),
    "inference.classifier": ("LesionClassifier", "explain"),
    "tracking.mlflow_tracker": ("serve_ui as ui",),
}


def __getattr__(name: str) -> object:
    # Importing the package costs nothing until something of it is used.
    for module, words in _HOME.items():
        for word in words:
            inside, _, outside = word.partition(" as ")
            if name == (outside or inside):
                return getattr(importlib.import_module(f"{__name__}.{module}"), inside)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
