"""What the rest of the package knows of experiment tracking: runs that take results, and a tracker that opens them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]


class Run(Protocol):
    """One row of the store: an experiment (parent), or one fold and seed of it (child).

    Everything may be logged twice: a resumed experiment replays what it has, and the store keeps one copy. Artifact
    paths are POSIX and relative to the run. An absolute path in a parameter, tag or dataset source is cut down to its
    last part.

    Examples:
        >>> from dermaffinity.tracking import NullTracker, Run
        >>> run: Run = NullTracker().parent("hamfit-7", "cosen", key="c0ffee", tags={}, description="")
        >>> run.log_metrics({"balanced_accuracy": 0.62})
    """

    @property
    def id(self) -> str:
        """What the store calls the run; empty when nothing is recorded."""

    def log_params(self, params: Mapping[str, object]) -> None:
        """Record a resolved config; nested sections become dotted names.

        Raises:
            TrackingError: The run was recorded with another value of a parameter.
        """

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set the labels that runs are filtered by."""

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Record numbers; those that are not finite are left out.

        What a name says before its first dot becomes a section of charts: ``recall.AK`` is stored as ``recall/AK``.
        """

    def log_history(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Record the curves of a training: row i holds the numbers of epoch i, stored as ``training/<name>``.

        Epochs the store has already are left as they are.
        """

    def log_dataset(self, name: str, digest: str, source: str, context: str, profile: Mapping[str, object]) -> None:
        """Record which data went in.

        Args:
            name: The manifest's name.
            digest: The split hash; MLflow shows its first 36 characters.
            source: Where the library comes from, as in the manifest; not a folder of this machine.
            context: What the data was used for, for example ``cross-validation``.
            profile: Counts that describe the data, for example ``num_rows`` and the images of each class.
        """

    def log_figure(self, figure: "Figure", path: str) -> None:
        """Save a matplotlib figure; the ending of the path sets the format. The caller closes the figure."""

    def log_json(self, value: object, path: str) -> None:
        """Save plain data, NumPy arrays or NumPy numbers as JSON."""

    def log_table(self, table: "pd.DataFrame", path: str) -> None:
        """Save a table as CSV, without its index."""

    def log_text(self, text: str, path: str) -> None:
        """Save a text file in UTF-8."""

    def log_file(self, file: Path) -> None:
        """Save a copy of a file, under its own name."""

    def log_model(
        self,
        write: Callable[[Path], None],
        name: str,
        alias: str,
        *,
        digest: str,
        tags: Mapping[str, str],
        description: str,
    ) -> str:
        """Register a trained model as the next version of a name, unless a version of it has this digest already.

        Args:
            write: Writes the model, laid out as MLflow wants it, to a folder that does not exist yet; only called for a
                digest that the store has not.
            name: What versions are gathered under, for example the manifest's name.
            alias: What points to this version from now on; other aliases are left where they are. Characters that
                MLflow has not in names become ``_``.
            digest: Of all that makes up the model.
            tags: Labels of the version.
            description: Markdown shown with the version, and with the name when it is new.

        Returns:
            The address that the alias makes, for example ``models:/hamfit-7@affinity``; empty when nothing is recorded.
        """

    def link_model(self, digest: str) -> None:
        """Say that this run is about the registered version of a model with this digest, where the store has one."""

    def finish(self, status: RunStatus) -> None:
        """Mark the run as ended."""


class Tracker(Protocol):
    """Opens runs. One process writes what an experiment's jobs found; the jobs themselves write files.

    Examples:
        >>> from dermaffinity.tracking import NullTracker, Tracker
        >>> tracker: Tracker = NullTracker()
    """

    def parent(
        self,
        experiment: str,
        name: str,
        *,
        key: str,
        tags: Mapping[str, str],
        description: str,
        colors: Sequence[str] = (),
    ) -> Run:
        """Open the run of one experiment config: the one that was opened with this key before, if it is still there.

        Args:
            experiment: Runs that belong side by side, for example the manifest's name.
            name: What the runs table shows.
            key: A word that no other run's parent has; it becomes the tag ``folder_id``.
            tags: Labels to filter by.
            description: Markdown shown on the run's page.
            colors: ``#rrggbb``; a new run is shown in the one that fewest others of the experiment have.
        """

    def child(self, parent: Run, name: str, *, tags: Mapping[str, str]) -> Run:
        """Open the run of one fold and seed: the parent's child of this name, if there is one.

        It inherits the parent's tags, because filters do not look at parents.
        """

    def finished(self, parent: Run) -> set[str]:
        """Give the names of the children that were finished, after all they have was logged."""

    def show(self, experiment: str, *, columns: Sequence[str], charts: Sequence[str], rows: Mapping[str, str]) -> None:
        """Set what a browser shows first of runs that belong side by side.

        Args:
            experiment: As for ``parent``.
            columns: The metrics to list. Runs are sorted by the first, largest on top.
            charts: The metrics to draw first, in this order.
            rows: Tags of the runs to list.
        """

    def describe(self, experiment: str, text: str) -> None:
        """Set the text above runs that belong side by side, in Markdown; links to reports stay.

        Args:
            experiment: As for ``parent``.
            text: Its first line is what a browser shows before the rest is unfolded.
        """

    def add_report(self, experiment: str, key: str, name: str, html: str, *, private: bool) -> bool:
        """Keep a report with a run, and link it in the text above the runs.

        Args:
            experiment: As for ``parent``.
            key: As for ``parent``. Nothing happens when the store does not hold the run.
            name: What the link says.
            html: The report.
            private: Whether it must not leave this machine, and is therefore not sent to a server.

        Returns:
            Whether it was kept.
        """


class NullTracker:
    """Records nothing.

    Examples:
        >>> from dermaffinity.tracking import NullTracker
        >>> NullTracker().parent("hamfit-7", "cosen", key="c0ffee", tags={}, description="").id
        ''
    """

    def parent(
        self,
        experiment: str,
        name: str,
        *,
        key: str,
        tags: Mapping[str, str],
        description: str,
        colors: Sequence[str] = (),
    ) -> Run:
        """Give a run that forgets everything."""
        return _NullRun()

    def child(self, parent: Run, name: str, *, tags: Mapping[str, str]) -> Run:
        """Give a run that forgets everything."""
        return _NullRun()

    def finished(self, parent: Run) -> set[str]:
        """Give nothing: nothing was logged."""
        return set()

    def show(self, experiment: str, *, columns: Sequence[str], charts: Sequence[str], rows: Mapping[str, str]) -> None:
        """Do nothing."""

    def describe(self, experiment: str, text: str) -> None:
        """Do nothing."""

    def add_report(self, experiment: str, key: str, name: str, html: str, *, private: bool) -> bool:
        """Keep nothing."""
        return False


class _NullRun:
    id = ""

    def log_params(self, params: Mapping[str, object]) -> None: ...
    def set_tags(self, tags: Mapping[str, str]) -> None: ...
    def log_metrics(self, metrics: Mapping[str, float]) -> None: ...
    def log_history(self, rows: Sequence[Mapping[str, float]]) -> None: ...
    def log_dataset(self, name: str, digest: str, source: str, context: str, profile: Mapping[str, object]) -> None: ...
    def log_figure(self, figure: "Figure", path: str) -> None: ...
    def log_json(self, value: object, path: str) -> None: ...
    def log_table(self, table: "pd.DataFrame", path: str) -> None: ...
    def log_text(self, text: str, path: str) -> None: ...
    def log_file(self, file: Path) -> None: ...

    def log_model(
        self,
        write: Callable[[Path], None],
        name: str,
        alias: str,
        *,
        digest: str,
        tags: Mapping[str, str],
        description: str,
    ) -> str:
        return ""

    def link_model(self, digest: str) -> None: ...

    def finish(self, status: RunStatus) -> None: ...
