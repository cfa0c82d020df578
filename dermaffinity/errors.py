"""Errors that are the user's to fix: the command line prints them as one clear message, never as a traceback."""

import difflib
import re
from collections.abc import Iterable, Sequence


class DermaffinityError(Exception):
    """Something a user can fix. The message says what was found, what is allowed and what to do.

    Args:
        message: One sentence, naming the file or setting.
        problems: Every single problem found, when a file or config has several; printed as a list.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join([self.message, *(f"  - {problem}" for problem in self.problems)])


def summed(faults: Iterable[tuple[str, str]], limit: int = 8) -> list[str]:
    """One line for each fault, with the files that have it.

    Args:
        faults: Pairs of a file's name and what is wrong with it.
        limit: The most files that a line names.
    """
    by_fault: dict[str, list[str]] = {}
    for name, fault in faults:
        by_fault.setdefault(fault, []).append(name)
    lines = []
    for fault, names in by_fault.items():
        several = f"{count_of(len(names), 'file')}: {fault}: {some_of(names, limit)}"
        lines.append(several if len(names) > 1 else f"{names[0]}: {fault}")
    return lines


class DataError(DermaffinityError):
    """An image library, archive, image or mask that cannot be used as it is."""


class ManifestError(DermaffinityError):
    """A manifest that is damaged, was edited after its split, or cannot be split as asked."""


class ConfigError(DermaffinityError):
    """A config or a ``--set`` override that does not describe a valid experiment."""


class TrainingError(DermaffinityError):
    """A training run that cannot go on: a plateau, a non-finite loss, a full disk."""


class TrackingError(DermaffinityError):
    """A tracking store that cannot be opened or written."""


class BusyError(DermaffinityError):
    """A folder that another process is working in."""


class ComparisonError(DermaffinityError):
    """Runs that cannot honestly be compared with one another."""


class ExportError(DermaffinityError):
    """A classifier that cannot be written in another tool's format."""


def some_of(names: Iterable[str], limit: int = 8) -> str:
    """The first names in order, and how many more there are."""
    ordered = sorted(names, key=_numbers_by_size)
    rest = f" and {len(ordered) - limit:,} more" if len(ordered) > limit else ""
    return ", ".join(ordered[:limit]) + rest


def count_of(count: int, noun: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def nearest(word: str, known: Iterable[str], count: int = 1) -> list[str]:
    """The known words that another was probably meant to be, whatever its case; the nearest first."""
    by_folded = {name.casefold(): name for name in known}
    return [by_folded[found] for found in difflib.get_close_matches(word.casefold(), by_folded, n=count)]


def did_you_mean(word: str, known: Iterable[str], count: int = 1) -> str:
    """`` (did you mean 'sigma'?)``, or nothing where no known word is near."""
    near = nearest(word, known, count)
    return f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""


def _numbers_by_size(name: str) -> list[tuple[int, str]]:
    """So that line 9 comes before line 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split("([0-9]+)", name)]
