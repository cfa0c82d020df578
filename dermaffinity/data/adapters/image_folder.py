"""Any library of one folder per class."""

import difflib
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from dermaffinity.data.adapters.base import DatasetAdapter, Record, count_of, some_of
from dermaffinity.data.images import IMAGE_SUFFIXES
from dermaffinity.errors import ConfigError, DataError


class ImageFolderAdapter(DatasetAdapter):
    """Reads a folder (or zip, or folder of zips) whose top folders are the classes.

    Give the groups wherever they are known: images of one patient or lesion on both sides of a split make every
    number too good. Without groups each image is its own, and the manifest says so.

    Args:
        source: The folder of class folders.
        classes: The folders to read, in the order of the class indices; all of them, sorted, when empty.
        malignant: The classes that count as malignant.
        groups: A CSV with the columns ``image`` (path relative to ``source``, or a file name that occurs once) and
            ``group``, with a line for every image of the classes.
        group_pattern: Instead of a CSV, a regular expression whose one capture group finds the group in the file
            name: ``^(\\d+)_`` for ``0412_b.jpg``.
    """

    name = "image_folder"
    citation = "Own library, one folder per class"
    license = "not stated"
    classes: tuple[str, ...] = ()
    malignant: tuple[str, ...] = ()

    def __init__(
        self,
        source: Path,
        *,
        classes: Sequence[str] = (),
        malignant: Sequence[str] = (),
        groups: Path | None = None,
        group_pattern: str | None = None,
    ) -> None:
        super().__init__(source)
        if groups and group_pattern:
            raise ConfigError("Groups come either from a CSV or from a pattern, not from both.")
        self._groups_csv = groups
        self._pattern = _compiled(group_pattern) if group_pattern else None
        self._images = [path for path in self.library.files() if PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES]
        found = sorted({label for path in self._images if (label := _label(path))})
        self.classes = tuple(classes or found)
        self.malignant = tuple(malignant)
        self.manifest_name = re.sub(r"[^a-z0-9_-]+", "-", self.library.root.stem.lower()).strip("-") or self.name
        self._refuse(found)

    def how_to_get(self) -> str:
        """See :meth:`DatasetAdapter.how_to_get`."""
        return "Point SOURCE at a folder that holds one folder of images for each class."

    def provenance(self) -> str:
        """See :meth:`DatasetAdapter.provenance`."""
        if self._groups_csv:
            return f"{self.citation}; groups from {self._groups_csv.name}"
        if self._pattern:
            return f"{self.citation}; groups by the pattern {self._pattern.pattern}"
        return f"{self.citation}; no groups given, so each image is its own and a patient may lie in several folds"

    def records(self) -> Iterator[Record]:
        """See :meth:`DatasetAdapter.records`."""
        images = [path for path in self._images if _label(path) in self.classes]
        groups = self._groups(images)
        for path in images:
            yield Record(path, None, _label(path), groups[path])

    def _refuse(self, found: Sequence[str]) -> None:
        problems: list[str] = [
            f"there is no folder for the class {code!r}{_near(code, found)}"
            for code in self.classes
            if code not in found
        ]
        problems += [
            f"the malignant {code!r} is not a class{_near(code, self.classes)}"
            for code in self.malignant
            if code not in self.classes
        ]
        homeless = [path for path in self._images if not _label(path)]
        if homeless:
            problems.append(
                f"{count_of(len(homeless), 'image')} without label, outside every class folder: {some_of(homeless)}"
            )
        if len(self.classes) < 2:
            problems.append(f"two classes are the least, found {len(self.classes)}. {self.how_to_get()}")
        if problems:
            raise DataError(f"{self.name}: {self.library.root} is no library of these classes.", problems)

    def _groups(self, images: Sequence[str]) -> dict[str, str]:
        if self._groups_csv:
            return _groups_from_csv(self._groups_csv, self._images, needed=images)
        if not self._pattern:
            return {path: path for path in images}
        found = {path: self._pattern.search(PurePosixPath(path).name) for path in images}
        unmatched = [path for path, match in found.items() if not match or not match[1]]
        if unmatched:
            raise DataError(
                f"{self.name}: the group pattern {self._pattern.pattern} finds no group in "
                f"{count_of(len(unmatched), 'file name')}: {some_of(unmatched)}"
            )
        return {path: match[1] for path, match in found.items() if match}


def _label(path: str) -> str:
    """The top folder, or top archive without its suffix; empty for a file that lies in neither."""
    top, *below = PurePosixPath(path).parts
    return re.sub(r"\.zip$", "", top, flags=re.IGNORECASE) if below else ""


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"The group pattern {pattern!r} is no regular expression: {error}.") from error
    if compiled.groups != 1:
        raise ConfigError(
            f"The group pattern {pattern!r} must have one capture group, such as ^(\\d+)_, and has {compiled.groups}."
        )
    return compiled


def _groups_from_csv(path: Path, images: Sequence[str], needed: Sequence[str]) -> dict[str, str]:
    try:
        table = pd.read_csv(io.BytesIO(path.read_bytes()), dtype=str, keep_default_na=False)
    except OSError as error:
        raise DataError(f"The groups file {path} cannot be read: {error.strerror}.") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"The groups file {path} is not a CSV: {error}.") from error
    missing = [column for column in ("image", "group") if column not in table.columns]
    if missing:
        raise DataError(f"The groups file {path} lacks the column {' and '.join(missing)}; it needs image and group.")
    by_name: dict[str, list[str]] = {}
    for image in images:
        by_name.setdefault(PurePosixPath(image).name, []).append(image)
    known = set(images)
    groups: dict[str, str] = {}
    problems: list[str] = []
    for line, (name, group) in enumerate(zip(table.image, table.group, strict=True), start=2):
        candidates = [name] if name in known else by_name.get(name, [])
        if len(candidates) != 1:
            why = "no such image" if not candidates else f"{len(candidates)} images have this name, give the path"
            problems.append(f"line {line}: {name!r}: {why}")
        elif not group:
            problems.append(f"line {line}: {name!r} has no group")
        elif groups.setdefault(candidates[0], group) != group:
            problems.append(f"line {line}: {name!r} is in group {group!r} here and in {groups[candidates[0]]!r} above")
    ungrouped = set(needed) - groups.keys()
    if ungrouped:
        problems.append(f"{count_of(len(ungrouped), 'image')} without a group: {some_of(ungrouped)}")
    if problems:
        raise DataError(f"The groups file {path} does not fit the library.", problems)
    return groups


def _near(code: str, allowed: Sequence[str]) -> str:
    near = difflib.get_close_matches(code, allowed, n=1)
    return f" (did you mean {near[0]!r}?)" if near else f"; there are {', '.join(allowed)}"
