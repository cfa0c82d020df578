"""What every dataset adapter promises, and the one way from its records to a frozen manifest.

An adapter knows the folders of one dataset and nothing else; nothing else ever looks at a dataset's folders.
A new dataset is one new file beside this one: its name is the adapter's name, its one
:class:`DatasetAdapter` subclass is the adapter.
"""

import hashlib
import importlib
import inspect
import pkgutil
import shlex
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd

from dermaffinity.config import part_class
from dermaffinity.data import adapters
from dermaffinity.data.diagnoses import Vocabulary, class_in, known_classes, unmapped_note
from dermaffinity.data.images import image_size
from dermaffinity.data.library import Contents, ImageLibrary, printable
from dermaffinity.data.manifest import Manifest, by_id, codes
from dermaffinity.data.split_file import Split
from dermaffinity.data.splits import TRAINING_ONLY, Protocol, assign_folds
from dermaffinity.data.tables import clean, look_alikes
from dermaffinity.errors import ConfigError, DataError, ManifestError, count_of, did_you_mean, some_of, summed

SPLIT_PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
SPLIT_PARTS |= {"test": "test", "testing": "test"}
"""The names that folders and tables give to the parts of a split."""


class Record(NamedTuple):
    """One image of a library, before it is hashed and given a fold.

    ``group`` names the images that must share a fold: one lesion, or one patient where known.
    ``external`` rows get no fold: they are an external test set.
    ``test`` rows are those that a dataset with a split of its own (`DatasetAdapter.presplit`) gives for testing.
    ``diagnoses`` are finer names of the disease than the label, the finest first, where the library has them.
    ``image`` and ``mask`` are paths as on the disk; `DatasetAdapter.prepare` makes label and group `clean`.

    Examples:
        >>> from dermaffinity.data.adapters import Record
        >>> record = Record(image="melanoma/0001.jpg", mask=None, label="melanoma", group="P07")
        >>> record.external
        False
    """

    image: str
    mask: str | None
    label: str
    group: str
    extra: Mapping[str, str | float | None] = MappingProxyType({})
    external: bool = False
    test: bool = False
    diagnoses: tuple[str, ...] = ()


class DatasetAdapter(ABC):
    """Reads one dataset's own layout.

    A subclass gives the class attributes, :meth:`records` and :meth:`how_to_get`. Where an option decides the
    classes (an experiment on a subset, a library of one's own), the constructor sets ``classes``, ``malignant``,
    ``experiment``, ``presplit`` or ``manifest_name`` on the instance. What it took for granted, such as the encoding
    of a table, it adds to ``notes``, for the person who prepares.

    Args:
        source: The folder or the one zip archive the dataset lies in.

    Raises:
        DataError: ``source`` does not exist, or holds an unsafe archive.

    Examples:
        >>> from pathlib import Path
        >>> from dermaffinity.data.adapters import DatasetAdapter, ImageFolderAdapter
        >>> adapter = ImageFolderAdapter(Path("PHOTOS"))
        >>> isinstance(adapter, DatasetAdapter), adapter.classes
        (True, ('melanoma', 'nevus'))
        >>> adapter.prepare(folds=3).class_counts()
        {'melanoma': 3, 'nevus': 3}
    """

    name: ClassVar[str]
    citation: ClassVar[str]
    license: ClassVar[str]
    classes: tuple[str, ...]
    malignant: tuple[str, ...]
    published: Mapping[str, int] = MappingProxyType({})
    """Images of each class as published, or of the whole under the name ``all``; empty for libraries of one's own."""
    groups: tuple[str, ...] = ()
    """What images share a fold by; the first is the patient where there is one."""
    experiment: str = "all"
    partial: bool = False  # whether a part of the library is enough
    presplit: bool = False  # whether the dataset comes divided into training and test images
    prefers_folds: bool = False  # whether new folds are the default even so

    def __init__(self, source: Path) -> None:
        if not source.exists():
            raise DataError(f"{self.name}: no folder or archive {source}. {self.how_to_get()}")
        self.library = ImageLibrary(source)
        self.manifest_name = self.name
        self.notes: list[str] = []

    @abstractmethod
    def records(self) -> Iterator[Record]:
        """Every image of the experiment, in any order.

        Raises:
            DataError: The library is incomplete or contradicts itself; lists every problem.
        """

    @abstractmethod
    def how_to_get(self) -> str:
        """Where a user gets the dataset, and what must lie in ``source``; ends every "not found" error."""

    def files(self) -> list[str]:
        """Every file of the library; see `ImageLibrary.files`.

        Raises:
            DataError: As there; or listing the files whose names are not UTF-8, which no manifest can hold.
        """
        files = self.library.files()
        self._check_names(files)
        return files

    def contents(self) -> Contents:
        """Every file of the library, sorted by what it is; see `ImageLibrary.contents`.

        Raises:
            DataError: As `files` does.
        """
        contents = self.library.contents()
        self._check_names([*contents.images, *contents.beside, *contents.others])
        return contents

    def _check_names(self, files: Iterable[str]) -> None:
        foreign = [name for path in files if (name := printable(path)) != path]
        if foreign:
            raise DataError(
                f"{self.name}: {count_of(len(foreign), 'file name')} of {self.library.root} not in UTF-8: "
                f"{some_of(foreign)}. Rename them; where the names are in the Windows encoding cp1252, "
                f"`{shlex.join(['convmv', '-f', 'cp1252', '-t', 'utf-8', '-r', str(self.library.root)])}` shows how, "
                "and does it with --notest added."
            )

    def select(self, records: list[Record], seed: int) -> list[Record]:
        """The records of the manifest; an adapter that draws some of them for development does it here."""
        return records

    def provenance(self) -> str:
        """One line for the manifest's ``source`` field."""
        return self.citation

    def prepare(
        self,
        *,
        folds: int | None = None,
        protocol: Protocol | None = None,
        seed: int = 0,
        exact_ids: bool = False,
        vocabulary: Vocabulary | None = None,
        split: Split | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Manifest:
        """Reads, checks, hashes and splits the library.

        Args:
            folds: Number of cross-validation folds, at least 2; 3 by default. Under ``presplit`` there is one, the test
                set.
            protocol: ``group`` keeps groups whole; ``image`` splits images regardless of groups, as most papers do;
                ``presplit`` takes the dataset's own test set; with ``partial``, without the training images whose group
                it tests. By default ``presplit`` where there is one, unless the adapter prefers folds; else ``group``.
            seed: Seed of the split, and of the draw where the adapter draws.
            exact_ids: Take groups and classes for different ones even where their names are `look_alikes`.
            vocabulary: Read the library in the classes of another, see `known_classes`; images of other diseases are
                left out, and the notes name their labels.
            split: Take folds, groups and classes from this split instead of dealing them.
            on_progress: Called with (images hashed, images in all).

        Raises:
            ConfigError: The dataset cannot be split in this way.
            DataError: The library cannot be used as it is; lists every problem.
            ManifestError: The records cannot be split as asked.
        """
        if split:
            return self._adopt(split, vocabulary, exact_ids, on_progress)
        protocol = protocol or ("presplit" if self.presplit and not self.prefers_folds else "group")
        folds = folds or (1 if protocol == "presplit" else 3)
        self._check_split(protocol, folds)
        records = [_cleaned(record) for record in self.select(list(self.records()), seed)]
        records.sort(key=lambda record: record.image)
        if vocabulary:
            records = self._read_in(vocabulary, records)
        if protocol == "presplit" and self.partial:
            records = self._apart(records)
        self._check(records, exact_ids, protocol)
        development = [record for record in records if not record.external]
        if protocol == "presplit":
            assigned = [0 if record.test else TRAINING_ONLY for record in development]
        else:
            labels, groups = [record.label for record in development], [record.group for record in development]
            assigned = assign_folds(labels, groups, folds=folds, protocol=protocol, seed=seed).tolist()
        fold_of = dict(zip((record.image for record in development), assigned, strict=True))
        rows = self._rows(records, fold_of, on_progress)
        return self._manifest(rows, protocol=protocol, seed=seed, folds=folds, exact_ids=exact_ids)

    def _manifest(self, rows: list[dict[str, object]], **split: Any) -> Manifest:
        facts: dict[str, Any] = {
            "name": self.manifest_name,
            "adapter": self.name,
            "experiment": self.experiment,
            "classes": self.classes,
            "malignant": self.malignant,
            "source": self.provenance(),
            "license": self.license,
            "rows": pd.DataFrame(rows).astype({"fold": "Int64"}),
            "root": self.library.root,
        }
        return Manifest(**facts | split)

    def _adopt(
        self,
        split: Split,
        vocabulary: Vocabulary | None,
        exact_ids: bool,
        on_progress: Callable[[int, int], None] | None,
    ) -> Manifest:
        """The manifest of a published split, with the hashes of the files that lie here."""
        records = sorted((_cleaned(record) for record in self.records()), key=lambda record: record.image)
        if vocabulary:
            records = self._read_in(vocabulary, records)
        paths = pd.DataFrame({"image": [r.image for r in records], "group": [r.group for r in records]})
        ids = by_id(paths)["image"].tolist()
        lines: Iterable[Any] = split.rows.itertuples(index=False)
        listed = {line.image: line for line in lines}
        known = dict(zip(ids, records, strict=True))
        problems = []
        if lost := [name for name in listed if name not in known]:
            problems.append(f"{count_of(len(lost), 'image')} of the split not in {self.library.root}: {some_of(lost)}")
        if other := [n for n, line in listed.items() if n in known and known[n].label != line.label]:
            problems.append(f"{count_of(len(other), 'image')} with another label than in the split: {some_of(other)}")
        if problems and not self.partial:
            raise ManifestError(f"{split.path}: this split is not of this library.", problems)
        kept, fold_of = [], {}
        for name, record in known.items():
            line = listed.get(name)
            if line is not None:
                group = record.image if line.group == name else line.group
                kept.append(record._replace(group=group, external=pd.isna(line.fold)))
                if not pd.isna(line.fold):
                    fold_of[record.image] = int(line.fold)
            elif split.others_external:
                kept.append(record._replace(external=True))
        header = split.header
        self.classes = codes(header["classes"])
        self._check(kept, exact_ids, header["protocol"])  # type: ignore[arg-type]
        manifest = self._manifest(
            self._rows(kept, fold_of, on_progress),
            name=header["name"],
            experiment=header["experiment"],
            protocol=header["protocol"],
            seed=int(header["seed"]),
            folds=int(header["folds"]),
            classes=self.classes,
            malignant=codes(header["malignant"]),
            exact_ids=exact_ids,
        )
        if manifest.split_hash != header["split_hash"] and not self.partial:
            raise ManifestError(
                f"{split.path}: the split {header['split_hash'][:12]} cannot be adopted, because the images beside "
                f"those it lists are others here: they give {manifest.split_hash[:12]}. --partial accepts this"
            )
        return manifest

    def _read_in(self, vocabulary: Vocabulary, records: list[Record]) -> list[Record]:
        """The records in the classes of another library, which become those of this one as far as they occur."""
        known = known_classes(vocabulary)
        codes = [class_in(vocabulary, [*record.diagnoses, record.label], self.name) for record in records]
        read = [record._replace(label=code) for record, code in zip(records, codes, strict=True) if code]
        lost = [record.label for record, code in zip(records, codes, strict=True) if not code]
        self.notes += unmapped_note(lost, vocabulary)
        present = {record.label for record in read}
        if absent := [name for name in known.names if name not in present]:
            self.notes.append(f"classes of {vocabulary} without an image here: {', '.join(absent)}")
        self.classes = tuple(name for name in known.names if name in present)
        self.malignant = tuple(name for name in known.malignant if name in present)
        self.manifest_name = f"{self.manifest_name}-{vocabulary}"
        self.experiment = vocabulary if self.experiment == "all" else f"{self.experiment} in {vocabulary}"
        return read

    def _apart(self, records: list[Record]) -> list[Record]:
        """The records without the training images of groups that are tested."""
        tested = {record.group for record in records if record.test}
        kept = [record for record in records if record.test or record.group not in tested]
        if torn := len(records) - len(kept):
            self.notes.append(f"left out {count_of(torn, 'training image')} of groups that the test part has as well")
        return kept

    def _check_split(self, protocol: Protocol, folds: int) -> None:
        if protocol == "presplit" and not self.presplit:
            raise ConfigError(f"{self.name} brings no test set of its own; use the protocol group or image")
        if (protocol == "presplit") != (folds == 1):
            raise ConfigError(
                f"folds={folds} with the protocol {protocol}: a dataset's own split has 1 fold, its test set; "
                "cross-validation (group or image) has at least 2"
            )

    def _check(self, records: list[Record], exact_ids: bool, protocol: Protocol) -> None:
        images = Counter(record.image for record in records)
        problems = [
            f"{count_of(len(names), 'image')} listed {times} times: {some_of(names)}"
            for times, names in _by_value(images).items()
            if times > 1
        ]
        problems += [
            f"{count_of(len(names), 'image')} with the label {label!r}, which is none of the classes "
            f"{', '.join(self.classes)}: {some_of(names)}"
            for label, names in _by_value({record.image: record.label for record in records}).items()
            if label not in self.classes
        ]
        if not exact_ids:
            problems += look_alikes(self.classes, "class")
            problems += look_alikes((record.group for record in records if record.group != record.image), "group")
        if protocol == "presplit":
            sides: dict[str, set[bool]] = {}
            for record in records:
                sides.setdefault(record.group, set()).add(record.test)
            if torn := [group for group, parts in sides.items() if len(parts) > 1]:
                way = "leave those training images out with --partial, " if _takes_partial(type(self)) else ""
                problems.append(
                    f"{count_of(len(torn), 'group')} in both the training and the test part: {some_of(torn)}; give one "
                    f"part to each, {way}or deal new folds with --protocol group"
                )
        present = {record.label for record in records if not record.external}
        problems += [f"class {code} has no image" for code in self.classes if code not in present]
        if problems:
            raise ManifestError(f"{self.name}: these records make no manifest.", problems)

    def _rows(
        self, records: list[Record], fold_of: Mapping[str, int], on_progress: Callable[[int, int], None] | None
    ) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = []
        faults: list[tuple[str, str]] = []
        for done, record in enumerate(records, start=1):
            try:
                content = self.library.read(record.image)
                width, height = image_size(content, record.image)
            except DataError as error:
                faults.append((record.image, error.message.removeprefix(f"{record.image}: ")))
                continue
            rows.append(
                {
                    "image": record.image,
                    "mask": record.mask or np.nan,
                    "label": record.label,
                    "group": record.group,
                    "sha256": hashlib.sha256(content).hexdigest(),
                    "width": width,
                    "height": height,
                    "fold": fold_of.get(record.image),
                    **record.extra,
                }
            )
            if on_progress:
                on_progress(done, len(records))
        unread = f"{len(faults)} of {len(records)} images cannot be read"
        if faults and (not rows or not self.partial):
            raise DataError(f"{self.name}: {unread}.", summed(faults))
        if faults:
            self.notes += [f"left out: {unread}", *summed(faults)]
        return rows


def adapter_names() -> list[str]:
    """The adapters there are: one module of this package each.

    Examples:
        >>> from dermaffinity.data.adapters import adapter_names
        >>> {"dermofit", "ham10000", "table"} <= set(adapter_names())
        True
    """
    modules = [module.name for module in pkgutil.iter_modules(adapters.__path__)]
    return sorted(name for name in modules if name not in ("base", "tabled"))


def adapter_class(name: str) -> type[DatasetAdapter]:
    """The adapter in ``dermaffinity/data/adapters/<name>.py``, or at an import path such as ``clinic.OurAdapter``.

    Raises:
        ConfigError: There is none.

    Examples:
        >>> from dermaffinity.data.adapters import adapter_class
        >>> adapter_class("dermofit").classes
        ('AK', 'BCC', 'ML', 'SCC', 'SK', 'IEC', 'PYO', 'VASC', 'DF', 'MEL')
    """
    if "." in name:
        return part_class(name, DatasetAdapter, plugins=[name.rpartition(".")[0]])  # whoever names it trusts it
    if name not in adapter_names():
        raise ConfigError(
            f"there is no adapter {name!r}{did_you_mean(name, adapter_names())}; there are "
            f"{', '.join(adapter_names())}. One of your own is named by its import path, such as clinic.OurAdapter"
        )
    module = importlib.import_module(f"{adapters.__name__}.{name}")
    (adapter,) = (
        member
        for member in vars(module).values()
        if isinstance(member, type) and issubclass(member, DatasetAdapter) and member.__module__ == module.__name__
    )
    return adapter


def pair_by_id(paths: Iterable[tuple[str, str]], kind: str, problems: list[str]) -> dict[str, str]:
    """Maps ids to paths; ids found more than once are added to ``problems``, a line for each pair of places.

    Args:
        paths: Pairs of id and path.
        kind: What the paths are, for the message: "image" or "mask".
        problems: Extended in place.
    """
    found: dict[str, str] = {}
    doubles: dict[tuple[str, str], list[str]] = {}
    for identifier, path in paths:
        first = found.setdefault(identifier, path)
        if first != path:
            doubles.setdefault(_where_they_part(first, path), []).append(PurePosixPath(path).name)
    problems += [
        f"{count_of(len(names), kind)} found both in {first} and in {second}, keep one copy: {some_of(names)}"
        for (first, second), names in doubles.items()
    ]
    return found


def _takes_partial(adapter: type[DatasetAdapter]) -> bool:
    return "partial" in inspect.signature(adapter).parameters


def _cleaned(record: Record) -> Record:
    # The group of an image that is its own is the image's path, as it is on the disk.
    group = record.group if record.group == record.image else clean(record.group)
    return record._replace(label=clean(record.label), group=group)


def _by_value(values: Mapping[str, Any]) -> dict[Any, list[str]]:
    keys: dict[Any, list[str]] = {}
    for key, value in values.items():
        keys.setdefault(value, []).append(key)
    return keys


def _where_they_part(first: str, second: str) -> tuple[str, str]:
    """Both paths up to the first folder or file in which they differ."""
    parts, others = PurePosixPath(first).parts, PurePosixPath(second).parts
    shared = next(depth for depth, (part, other) in enumerate(zip(parts, others, strict=False)) if part != other)
    return "/".join(parts[: shared + 1]), "/".join(others[: shared + 1])
