"""The whole job in minutes, on a synthetic library that needs no data and no pretrained weights."""

import os
import shlex
from pathlib import Path

from rich.console import Console

from dermaffinity.config import read_config
from dermaffinity.data.adapters.phantom import PhantomAdapter, write_phantom
from dermaffinity.data.manifest import write_manifest
from dermaffinity.data.verify import verify
from dermaffinity.errors import DataError
from dermaffinity.experiments.compare import compare_experiments
from dermaffinity.experiments.report.write import report
from dermaffinity.experiments.run import Plan, run_experiments
from dermaffinity.report.tables import console_table
from dermaffinity.tracking.mlflow_tracker import MlflowTracker

_BASELINE = "demo_cosen"
_CONFIGS = (_BASELINE, "demo_softmax", "demo_affinity_plus")

_NEXT = """\
These images are synthetic: the numbers show that the tool works, not which method is better on skin. By design they
reward two things. Each class is drawn in three or four looks, which suits a head with several centers per class. The
rare AK and SCC share a look with the frequent BCC: a method that knows how rare each class is finds more of
them, and loses some of the common ones.

The report, one HTML file: {report}
Tables and figures:        {tables}
The runs in a browser:     {dermaffinity} ui --tracking-uri {store}
Your own library:          {dermaffinity} study FOLDER --labels labels.csv
                           (without --labels, FOLDER holds one folder of images for each class)
"""


def run_demo(folder: str | Path, progress: Console | None = None, results: Console | None = None) -> None:
    """Draws a library, prepares and verifies it, cross-validates three methods, compares them, writes a report.

    The first line of the results says how many of the rare lesions each method found.

    A second call resumes the first, or shows its results again.

    Args:
        folder: Where everything is written.
        progress: For what happens; default: a console on stderr.
        results: For what came out; default: a console on stdout.

    Examples:
        >>> import dermaffinity as da
        >>> da.demo("demo")  # doctest: +SKIP
    """
    folder, progress, results = Path(folder), progress or Console(stderr=True), results or Console(highlight=False)
    library, manifest_path, runs = folder / "library", folder / "phantom-5.csv", folder / "runs"
    if not library.exists():
        progress.print(f"Drawing a synthetic lesion library in {library} …")
        write_phantom(library, fraction=0.5, image_size=80)
    manifest = PhantomAdapter(library, experiment="5-class").prepare()
    write_manifest(manifest, manifest_path)
    verification = verify(manifest)
    if not verification.ok():
        raise DataError(f"{library} is damaged; delete it and run the demo again", verification.lines())

    tracker = MlflowTracker(f"sqlite:///{folder.absolute() / 'mlflow.db'}")
    configs = [read_config(name, [f"data.manifest={manifest_path}"]) for name in _CONFIGS]
    plan = Plan(runs=runs, tracker=tracker, resume=True, console=progress)
    compared = compare_experiments(run_experiments(configs, plan), baseline=_BASELINE, tracker=tracker)
    tables = compared.write(folder / "compare")[0]
    progress.print("Writing the report …")
    written = report(_CONFIGS[::-1], baseline=_BASELINE, runs=runs, tracking_uri=tracker.uri)

    results.print(compared.sentence(), soft_wrap=True)
    for title, table in compared.tables().items():
        results.print(console_table(table, title, results.width))
    for remark in compared.remarks:
        results.print(remark, markup=False, soft_wrap=True)
    results.print(verification.statement(), markup=False, soft_wrap=True)
    command = "dermaffinity" if os.environ.get("VIRTUAL_ENV") else ".venv/bin/dermaffinity"
    store = shlex.quote(f"sqlite:///{folder / 'mlflow.db'}")
    text = _NEXT.format(dermaffinity=command, store=store, report=written.path, tables=tables)
    results.print(f"\n{text}", soft_wrap=True, highlight=False, markup=False)
