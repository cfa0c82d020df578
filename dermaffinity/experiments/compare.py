"""Experiments against a baseline on the same split: measures, gains, tests, figures."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dermaffinity.data.manifest import by_id
from dermaffinity.errors import ComparisonError
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.record import unlike
from dermaffinity.experiments.results import write_table
from dermaffinity.files import atomic_write
from dermaffinity.metrics.comparison import Comparison
from dermaffinity.metrics.standings import Contest, contest
from dermaffinity.metrics.summary import Measured, ScoredImages
from dermaffinity.report.figures import gain_figure, recall_figure, save_figure
from dermaffinity.report.html.notebook import shown
from dermaffinity.report.method_tables import resolution_table
from dermaffinity.report.tables import gains_table, markdown_table, p_value_table, results_table
from dermaffinity.tracking.base import NullTracker, Tracker

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class ComparedExperiments:
    """Measures of every experiment, and its comparison with the baseline, by name.

    Args:
        experiments: All of them, the baseline first.
        contest: Each but the baseline against it; in its `resolution`, ``visible_images`` is the smallest detectable
            gain.
    """

    experiments: dict[str, Experiment]
    contest: Contest

    @property
    def comparisons(self) -> dict[str, Comparison]:
        """With the baseline, of each other experiment."""
        return self.contest.comparisons

    @property
    def baseline(self) -> str:
        """Name of the baseline."""
        return next(iter(self.experiments))

    @property
    def images(self) -> str:
        """Which images, in words."""
        return self.experiments[self.baseline].record.images

    @property
    def class_counts(self) -> dict[str, int]:
        """Images of each class that were scored."""
        return self.experiments[self.baseline].out_of_fold.counts

    @property
    def summaries(self) -> dict[str, pd.DataFrame]:
        """Measures with intervals, by name."""
        return {name: experiment.measures() for name, experiment in self.experiments.items()}

    @property
    def gains(self) -> dict[str, pd.DataFrame]:
        """Gains over the baseline, by name."""
        return {name: comparison.gains for name, comparison in self.comparisons.items()}

    @property
    def tests(self) -> dict[str, pd.DataFrame]:
        """Paired tests against the baseline, by name."""
        return {name: comparison.tests for name, comparison in self.comparisons.items()}

    @property
    def remarks(self) -> list[str]:
        """What else than their methods sets the experiments apart: image files, and settings that any may have."""
        records = {name: one.record for name, one in self.experiments.items()}
        base = records[self.baseline]
        others = [name for name, record in records.items() if record.images_digest != base.images_digest]
        other_files = (
            f"The same split, {base.split_hash[:12]}, of other image files than {self.baseline} read: "
            f"{', '.join(others)}. It is another resolution or copy, and the gains include its effect."
        )
        return [*([other_files] if others else []), *unlike(records, self.baseline)]

    def tables(self) -> dict[str, pd.DataFrame]:
        """What to show, by title."""
        resolution = resolution_table(self.contest.resolution).drop(columns="Against")  # the title says it
        return {
            f"{self.images.capitalize()}: percent [95 % interval]": results_table(self.summaries, self.class_counts),
            f"Gain over {self.baseline}: percentage points [95 % interval]": gains_table(self.gains, self.class_counts),
            f"p against {self.baseline}, adjusted for the number of methods": p_value_table(self.tests),
            f"What the gain over {self.baseline} in balanced accuracy tells, percentage points": resolution,
        }

    def figure(self) -> "Figure":
        """Gains over the baseline with their intervals."""
        return gain_figure(self.gains, self.baseline, self.class_counts)

    def markdown(self) -> str:
        """The tables in Markdown, each below its title."""
        parts = [f"## {title}\n\n{markdown_table(table)}" for title, table in self.tables().items()]
        return "\n".join([*(f"{remark}\n" for remark in self.remarks), *parts])

    def sentence(self) -> str:
        """How many images of the rare classes each method found, of how many; the most first."""
        every = self.class_counts
        rare = self.experiments[self.baseline].record.classes.minority or (min(every, key=every.__getitem__),)
        counts = np.array([every[code] for code in rare])
        recalls = [f"recall.{code}" for code in rare]
        found = {name: float(counts @ summary.loc[recalls, "value"]) for name, summary in self.summaries.items()}
        first, *others = sorted(found, key=found.__getitem__, reverse=True)
        mean = "" if all(abs(count - round(count)) < 1e-6 for count in found.values()) else ", on average over seeds"
        return (
            f"Of {counts.sum():,} images of rare lesions ({', '.join(rare)}), {first} found {found[first]:.0f}, "
            f"{', '.join(f'{name} {found[name]:.0f}' for name in others)}{mean}."
        )

    def write(self, folder: str | Path) -> list[Path]:
        """Writes everything as Markdown, CSV and figures; returns the files."""
        folder = Path(folder)
        with atomic_write(folder / "comparison.md") as file:
            file.write(self.markdown())
        tables = {"measures": self.summaries, "gains": self.gains, "tests": self.tests}
        for name, by_method in tables.items():
            joined = pd.concat(by_method, names=["method"])
            write_table(
                joined.reset_index() if joined.index.names[-1] else joined.reset_index(level=0), folder / f"{name}.csv"
            )
        title = "Recall of each class, with 95 % intervals"
        save_figure(recall_figure(self.summaries, self.class_counts, title), folder / "recall.png")
        save_figure(self.figure(), folder / "gain.png")
        return [
            folder / name
            for name in ("comparison.md", "measures.csv", "gains.csv", "tests.csv", "recall.png", "gain.png")
        ]

    def __repr__(self) -> str:
        return self.sentence()

    def _repr_html_(self) -> str:
        return shown(self.tables(), self.figure())


def compare(
    sources: Sequence[str | Path | Experiment],
    *,
    baseline: str = "cosen",
    runs: str | Path = "runs",
    tracking_uri: str | None = None,
) -> ComparedExperiments:
    """Gains per class over a baseline on the same split, with intervals and paired tests, tracked with the runs.

    Args:
        sources: Experiments, their folders, or their configs' names.
        baseline: The one that the others are compared with, see `find_baseline`.
        runs: Folder of all experiments.
        tracking_uri: MLflow store; by default MLFLOW_TRACKING_URI, else ``mlflow.db`` in this folder.

    Raises:
        ComparisonError: When splits, images, folds or seeds differ, or the baseline is not among the sources.

    Examples:
        >>> import dermaffinity as da
        >>> compared = da.compare(["runs/small_softmax", "runs/small_cosen"], baseline="small_cosen")
        >>> list(compared.experiments)
        ['small_cosen', 'small_softmax']
    """
    from dermaffinity.tracking.mlflow_tracker import MlflowTracker

    experiments = [Experiment.open(source, runs) for source in sources]
    return compare_experiments(experiments, baseline=baseline, tracker=MlflowTracker(tracking_uri))


def compare_experiments(
    experiments: Sequence[Experiment], *, baseline: str, tracker: Tracker | None = None
) -> ComparedExperiments:
    """See `compare`; without a tracker nothing is tracked."""
    by_name: dict[str, Experiment] = {}
    for experiment in experiments:
        known = by_name.setdefault(experiment.label, experiment)
        if known.path.resolve() != experiment.path.resolve():
            raise ComparisonError(
                f"{known.path} and {experiment.path} are both called {experiment.label}; rename the folder of one"
            )
    base = find_baseline(baseline, by_name)
    if len(by_name) < 2:
        raise ComparisonError(f"nothing to compare {base} with; name at least two experiments")
    by_name = {base: by_name.pop(base), **by_name}  # first, so that every figure gives a method the same color
    check_comparable(by_name)
    ratio = by_name[base].record.test_train_ratio
    against = {name: base for name in by_name if name != base}
    try:
        measured = _measured(by_name)
        held = contest(measured, against, test_train_ratio=ratio)
    except ValueError as error:
        raise ComparisonError(f"these experiments cannot be compared: {error}") from error
    compared = ComparedExperiments(by_name, held)
    _track(tracker or NullTracker(), compared)
    return compared


def _measured(experiments: dict[str, Experiment]) -> dict[str, Measured]:
    """The out-of-fold measures; of other files, paired by the images' ids instead of their paths."""
    if len({one.record.images_digest for one in experiments.values()}) == 1:
        return {name: one.out_of_fold.measured for name, one in experiments.items()}
    return {
        name: Measured.of(ScoredImages.from_table(_paired(one.out_of_fold.table), one.out_of_fold.classes))
        for name, one in experiments.items()
    }


def _paired(table: pd.DataFrame) -> pd.DataFrame:
    """The prediction table with ids in place of paths."""
    images = by_id(table.drop_duplicates("image")).set_index(table["image"].drop_duplicates())
    known = images.loc[table["image"]]
    return table.assign(image=known["image"].to_numpy(), group=known["group"].to_numpy())


def find_baseline(text: str, names: Iterable[str]) -> str:
    """The one of some names that a text means: the name itself, or its method, what follows the dataset's name.

    What follows a dot, such as ``.tuned``, is a variant of the method and need not be written.

    Raises:
        ComparisonError: When there is none or several.
    """
    known = list(names)
    matching = [name for name in known if name == text] or [
        name for name in known if f"_{name}".endswith(f"_{text}") or f"_{name}".partition(".")[0].endswith(f"_{text}")
    ]
    if len(matching) != 1:
        raise ComparisonError(
            f"--baseline {text}: {len(matching) or 'none'} of {', '.join(known)} fits; give the full name of one of "
            "them"
        )
    return matching[0]


def check_comparable(experiments: dict[str, Experiment]) -> None:
    """Holds that experiments scored the same part of the same split.

    Raises:
        ComparisonError: With the splits or parts that differ.
    """
    records = {name: experiment.record for name, experiment in experiments.items()}
    if len({record.split_hash for record in records.values()}) > 1:
        raise ComparisonError(
            "these experiments were run on different splits, so their numbers cannot be paired; run them on one "
            "manifest",
            [f"{name}: {record.dataset}, split {record.split_hash[:12]}" for name, record in records.items()],
        )
    if len({record.scored for record in records.values()}) > 1:
        raise ComparisonError(
            "some of these experiments scored the test folds and some the inner validation images",
            [f"{name}: {record.scored}" for name, record in records.items()],
        )


def _track(tracker: Tracker, compared: ComparedExperiments) -> None:
    """Adds the gains to the experiments' tracking runs, those of the baseline being 0, and the tables above them.

    Not where one answers otherwise than it was run: its tracking run is that of the experiment as it was run.
    """
    if not all(experiment.as_run for experiment in compared.experiments.values()):
        return
    baseline, tags = compared.baseline, {"baseline": compared.baseline}
    for name, experiment in compared.experiments.items():
        record = experiment.record
        key, about = experiment.identifier(), record.title
        run = tracker.parent(record.dataset, record.name, key=key, tags=tags, description=about)
        if name == baseline:
            run.log_metrics(dict.fromkeys(next(iter(compared.gains.values())).index, 0.0))
        else:
            gains = compared.gains[name]["value"].round(4)
            run.log_metrics(dict(zip(gains.index, gains, strict=True)))
            run.log_table(compared.gains[name].reset_index(), f"gains_over_{baseline}.csv")
            run.log_table(compared.tests[name], f"tests_against_{baseline}.csv")
        run.finish("FINISHED")
    record = compared.experiments[baseline].record
    if record.scored == "test":
        tracker.describe(record.dataset, f"{compared.sentence()}\n\n{compared.markdown()}")
