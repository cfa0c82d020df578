"""Any library of one folder per class."""

import json
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from dermaffinity.data.adapters.base import SPLIT_PARTS, DatasetAdapter, Record
from dermaffinity.data.labels import ImageNames
from dermaffinity.data.library import Contents
from dermaffinity.data.tables import clean, read_table
from dermaffinity.errors import ConfigError, DataError, count_of, did_you_mean, some_of


class ImageFolderAdapter(DatasetAdapter):
    """Reads a folder (or zip, or folder of zips) whose top folders are the classes.

    Class folders may also lie in folders ``train``, ``test`` and the like: those are then the library's own split.

    Give the groups wherever they are known: images of one patient or lesion on both sides of a split make every
    number too good. Without groups each image is its own, and the manifest says so.

    Args:
        source: The folder of class folders.
        classes: The folders to read, in the order of the class indices; all of them, sorted, when empty. Name them
            where they lie together in one folder of the source.
        malignant: The classes that count as malignant.
        groups: A table with the columns ``image``, a path, file name or id, found as by the adapter ``table``, and
            ``group``; with a line for every image of the classes.
        group_pattern: Instead of a table, a regular expression whose one capture group finds the group in the file
            name: ``^(\\d+)_`` for ``0412_b.jpg``.

    Examples:
        >>> from pathlib import Path
        >>> from dermaffinity.data.adapters import ImageFolderAdapter
        >>> adapter = ImageFolderAdapter(Path("PHOTOS"), malignant=["melanoma"], group_pattern="^(P[0-9]+)_")
        >>> record = next(adapter.records())
        >>> record.image, record.label, record.group
        ('melanoma/P0_a.jpg', 'melanoma', 'P0')
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
        contents = self.contents()
        self._images = contents.images
        wanted, self.malignant = (tuple(map(clean, names)) for names in (classes, malignant))
        self._labels: dict[str, str] = {}  # empty for an image outside every class folder
        self._parts: dict[str, str] = {}  # of the library's own split, where it has one
        level = self._find_classes(wanted)
        found = sorted(set(self._labels.values()) - {""})
        self.classes = wanted or tuple(found)
        left_out = [path for path in contents.others if _at(_folders(path), level) in (*self.classes, "")]
        if left_out:
            self.notes.append(
                f"left out {count_of(len(left_out), 'file')} in no image format that is read here: {some_of(left_out)}"
            )
        self.manifest_name = re.sub(r"[^a-z0-9_-]+", "-", self.library.root.stem.lower()).strip("-") or self.name
        barren = _files_by_folder(contents, level)
        self._refuse(found, {name: barren[name] for name in wanted or barren if name in barren.keys() - {"", *found}})

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
        images = [path for path in self._images if self._labels[path] in self.classes]
        groups = self._groups(images)
        for path in images:
            yield Record(path, None, self._labels[path], groups[path], test=self._parts.get(path) == "test")

    def _find_classes(self, wanted: Sequence[str]) -> int:
        """Finds which folders are the classes, and which the parts of a split; returns how deep the classes lie."""
        folders = {path: _folders(path) for path in self._images}
        level, names = 0, {_at(above, 0) for above in folders.values()} - {""}
        while len(names) == 1:
            level += 1
            names = {_at(above, level) for above in folders.values()} - {""}
        inside = sorted(names)
        parts = {name: SPLIT_PARTS[name.casefold()] for name in inside if name.casefold() in SPLIT_PARTS}
        named = bool(wanted) and set(wanted) <= names
        split = not named and {"train"} < set(parts.values())
        if split and len(parts) < len(inside):
            others = [name for name in inside if name not in parts]
            raise DataError(
                f"{self.name}: {self.library.root}: {', '.join(parts)} look like the parts of a split, and beside them "
                f"lie {some_of(others)}. Move those away, or name the folders that are classes with --set 'classes=[…]'"
            )
        wrapper = next((above[:level] for above in folders.values() if _at(above, level)), [])
        divided = any(_at(above, level) in parts and _at(above, level + 1) for above in folders.values())
        if divided and not split and not named:
            part = self.library.root.joinpath(*wrapper, next(iter(parts)))
            raise DataError(
                f"{self.name}: {self.library.root}: {', '.join(parts)} looks like a part of a split, which needs a "
                f"folder train and a folder test or val, found {some_of(inside)}. Prepare that part alone, "
                f"{shlex.join(['dermaffinity', 'prepare', self.name, str(part)])}, or name the folders that are "
                "classes with --set 'classes=[…]'"
            )
        if split:
            self._parts = {path: parts[name] for path, above in folders.items() if (name := _at(above, level))}
            self.presplit = "test" in parts.values()
            self.notes.append(self._split_note(inside))
            level += 1
        elif level and not set(wanted) & names:
            if len(inside) > 1:
                raise DataError(self._wrapper_message("/".join(wrapper), inside))
            level = 0
        self._labels = {path: _at(above, level) for path, above in folders.items()}
        return level

    def _wrapper_message(self, wrapper: str, inside: Sequence[str]) -> str:
        found = f"{self.name}: {self.library.root} holds one folder, {wrapper}, and in it {some_of(inside)}"
        if (self.library.root / wrapper).is_dir():
            words = [self.name, str(self.library.root / wrapper)]
        else:
            words = [self.name, str(self.library.root), "--set", f"classes={json.dumps(inside, ensure_ascii=False)}"]
        return f"{found}. If those are the classes: {shlex.join(['dermaffinity', 'prepare', *words])}"

    def _split_note(self, parts: Sequence[str]) -> str:
        found = f"the folders {', '.join(parts)} are the parts of a split, with the class folders in them"
        if self.presplit:
            return (
                f"{found}. Under the protocol presplit, the default here, the images of the test folder are tested and "
                "all others trained on; --protocol group deals all images into new folds"
            )
        return f"{found}. There is no test folder, so all images are dealt into new folds"

    def _refuse(self, found: Sequence[str], barren: Mapping[str, int]) -> None:
        problems: list[str] = [
            f"there is no folder for the class {code!r}{_near(code, found)}"
            for code in self.classes
            if code not in (*found, *barren)
        ]
        problems += [
            f"no image among the {count_of(count, 'file')} of the folder {folder!r}"
            for folder, count in sorted(barren.items())
        ]
        if barren and found:
            chosen = shlex.quote(f"classes={json.dumps(found, ensure_ascii=False)}")
            problems[-1] += f"; put its images there, or read only the other folders: --set {chosen}"
        problems += [
            f"the malignant {code!r} is not a class{_near(code, self.classes)}"
            for code in self.malignant
            if code not in self.classes
        ]
        homeless = [path for path in self._images if not self._labels[path]]
        problems += [self._homeless_message(homeless)] if homeless else []
        if len(self.classes) < 2:
            problems.append(f"two classes are the least, found {len(self.classes)}. {self.how_to_get()}")
        if problems:
            raise DataError(f"{self.name}: {self.library.root} is no library of these classes.", problems)

    def _homeless_message(self, homeless: Sequence[str]) -> str:
        found = f"{count_of(len(homeless), 'image')} without label, outside every class folder: {some_of(homeless)}"
        part = next((PurePosixPath(path).parent for path in homeless if path in self._parts), None)
        if part is None:
            return f"{found}. Put each image into the folder of its class, or move it out of the library"
        return (
            f"{found}. The parts of a split hold one folder for each class, as in "
            f"{part / next((name for name in self._labels.values() if name), 'CLASS')}/; sort the images of "
            f"{part} into such folders, or move {part} out of the library if their classes are not known"
        )

    def _groups(self, images: Sequence[str]) -> dict[str, str]:
        if self._groups_csv:
            groups, form = _groups_from_csv(self._groups_csv, self._images, needed=images)
            self.notes.append(f"{self._groups_csv}: read as {form}")
            return groups
        if not self._pattern:
            return {path: path for path in images}
        found = {path: self._pattern.search(clean(PurePosixPath(path).name)) for path in images}
        unmatched = [path for path, match in found.items() if not match or not match[1]]
        if unmatched:
            raise DataError(
                f"{self.name}: the group pattern {self._pattern.pattern} finds no group in "
                f"{count_of(len(unmatched), 'file name')}: {some_of(unmatched)}"
            )
        return {path: match[1] for path, match in found.items() if match}


def _files_by_folder(contents: Contents, level: int) -> Counter[str]:
    """How many files that are no images each folder at this level holds."""
    files = Counter(_at(_folders(path), level) for path in (*contents.beside, *contents.others))
    files.update({_at(_folders(f"{path}file"), level): 0 for path in contents.empty})
    return files


def _folders(path: str) -> list[str]:
    """The clean names of the folders and archives above a file, outermost first; ``nevus.zip/nevus`` counts once."""
    names: list[str] = []
    repeated = None
    for folder in PurePosixPath(path).parts[:-1]:
        name = clean(re.sub(r"\.zip$", "", folder, flags=re.IGNORECASE))
        if name != repeated:
            names.append(name)
        repeated = name if folder.lower().endswith(".zip") else None
    return names


def _at(folders: Sequence[str], level: int) -> str:
    return folders[level] if level < len(folders) else ""


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(unicodedata.normalize("NFC", pattern))
    except re.error as error:
        raise ConfigError(f"The group pattern {pattern!r} is no regular expression: {error}.") from error
    if compiled.groups != 1:
        raise ConfigError(
            f"The group pattern {pattern!r} must have one capture group, such as ^(\\d+)_, and has {compiled.groups}."
        )
    return compiled


def _groups_from_csv(path: Path, images: Sequence[str], needed: Sequence[str]) -> tuple[dict[str, str], str]:
    """Groups by image, and how the table was read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"The groups file {path} cannot be read: {error.strerror}.") from error
    table, form = read_table(content, f"The groups file {path}", ("image", "group"))
    names = ImageNames(images)
    groups: dict[str, str] = {}
    unknown, ambiguous, empty, torn = {}, [], [], []
    for line, name, group in zip(table.index, table["image"], table["group"], strict=True):
        place = f"{name!r} (line {line})"
        candidates = names.find(name)
        if not candidates:
            unknown[place] = name
        elif len(candidates) > 1:
            ambiguous.append(place)
        elif not group:
            empty.append(place)
        elif groups.setdefault(candidates[0], group) != group:
            torn.append(f"{name!r} (line {line}: {group!r}, above: {groups[candidates[0]]!r})")
    faults = {
        "whose image is not in the library": list(unknown),
        "whose image may mean several files; give its path": ambiguous,
        "without a group": empty,
        "with another group than a line above gives the image": torn,
    }
    problems = [f"{count_of(len(lines), 'line')} {fault}: {some_of(lines)}" for fault, lines in faults.items() if lines]
    if unknown:
        near, *_ = names.near(unknown[min(unknown)])
        problems[0] += f". The library has such files as {near!r}"
    ungrouped = set(needed) - groups.keys()
    if ungrouped:
        problems.append(f"{count_of(len(ungrouped), 'image')} without a group: {some_of(ungrouped)}")
    if problems:
        raise DataError(f"The groups file {path} ({form}) does not fit the library.", problems)
    return groups, form


def _near(code: str, allowed: Sequence[str]) -> str:
    return did_you_mean(code, allowed) or f"; there are {', '.join(allowed)}"
