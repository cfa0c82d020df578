"""What a person sees while jobs run: folds, epochs, images per second, time left; on stderr."""

from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class JobProgress(Protocol):
    """Told what one job does."""

    def start(self, label: str, images: int) -> None:
        """A job begins that will pass ``images`` images through the network."""

    def images(self, count: int) -> None:
        """``count`` more images have passed."""

    def skip(self, count: int) -> None:
        """``count`` images had already passed before an interruption."""

    def epoch(self, done: int, total: int, loss: float, score: float | None) -> None:
        """An epoch ended, with its mean objective and, where it was measured, inner-validation balanced accuracy."""


class SilentProgress:
    """Shows nothing."""

    def start(self, *_: object, **__: object) -> None:
        """Nothing."""

    images = skip = epoch = start


class RunProgress:
    """Bars on a terminal, one line an epoch elsewhere.

    Args:
        jobs: Number of jobs to come.
        console: Where to; a console on stderr.
    """

    def __init__(self, jobs: int, console: Console) -> None:
        self.console = console
        self.on_epoch: Callable[[], None] = lambda: None
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.all_jobs = self.bars.add_task("jobs", total=jobs, note="", unit="")
        self.current = self.bars.add_task("", total=None, note="", unit="images/s", visible=False)
        self.label = ""

    def __enter__(self) -> "RunProgress":
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bars.stop()

    def start(self, label: str, images: int) -> None:
        """A job begins that will pass ``images`` images through the network."""
        self.label = label
        self.bars.reset(self.current, total=images, description=label, note="", unit="images/s", visible=True)

    def images(self, count: int) -> None:
        """``count`` more images have passed."""
        self.bars.advance(self.current, count)

    def skip(self, count: int) -> None:
        """``count`` images had already passed before an interruption."""
        self.bars.update(self.current, completed=count)

    def epoch(self, done: int, total: int, loss: float, score: float | None) -> None:
        """An epoch ended, with its mean objective and, where it was measured, inner-validation balanced accuracy."""
        note = f"epoch {done}/{total}, loss {loss:.3f}"
        if score is not None:
            note += f", validation {100 * score:.1f} %"
        self.bars.update(self.current, note=note)
        if not self.console.is_terminal:
            self.console.print(f"{self.label}: {note}", highlight=False, soft_wrap=True)
        self.on_epoch()

    def finish(self, text: str) -> None:
        """A job ended; ``text`` is its result in a few words."""
        self.bars.update(self.current, visible=False)
        self.bars.advance(self.all_jobs)
        self.console.print(text, highlight=False, soft_wrap=True)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        if not task.fields["unit"] or not task.speed:
            return Text("")
        return Text(f"{task.speed:.0f} {task.fields['unit']}")
