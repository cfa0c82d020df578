"""Dermofit Image Library: 1,300 clinical close-ups of ten lesion classes, each with a lesion mask.

Sold under license by Edinburgh Innovations; copies in the wild differ in layout, all of these are read, in any
mixture, case-insensitively, at any depth, unpacked or inside zips:

1. ``ak/<id>/<id>.png`` with ``<id>mask.png`` beside it and a ``lesionlist.txt``;
2. ``ALLBCC/<id>/<id>.png`` or ``ALLBCC/<id>.png``, masks beside them or under ``originalMasks/``;
3. ``Actinic Keratosis Images/…``;
4. ``images/<id>/<id>.png`` with masks beside them or under ``targets/``; the labels come from ``lesionlist.txt``.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

from dermaffinity.data.adapters.base import DatasetAdapter, Record, pair_by_id
from dermaffinity.data.tables import clean, decode_text
from dermaffinity.errors import DataError, count_of, some_of

PUBLISHED_COUNTS = {
    "AK": 45,
    "BCC": 239,
    "ML": 331,
    "SCC": 88,
    "SK": 257,
    "IEC": 78,
    "PYO": 24,
    "VASC": 97,
    "DF": 65,
    "MEL": 76,
}
EXPERIMENTS = {"10-class": tuple(PUBLISHED_COUNTS), "5-class": ("AK", "BCC", "ML", "SCC", "SK")}

# Near-duplicate images published by RECOD Titans (learningtitans/isbi2017-part3). The last pair carries two
# different labels, MEL and DF; a sensitivity analysis should leave it out.
SUSPECTED_DUPLICATES = (("D239b", "P103a"), ("P273d", "P277a"), ("A6", "C190b"), ("C159a", "P82b"))

_LONG_NAMES = {
    "actinickeratosis": "AK",
    "basalcellcarcinoma": "BCC",
    "melanocyticnevus": "ML",
    "melanocyticnevusmole": "ML",
    "squamouscellcarcinoma": "SCC",
    "seborrhoeickeratosis": "SK",
    "intraepithelialcarcinoma": "IEC",
    "pyogenicgranuloma": "PYO",
    "haemangioma": "VASC",
    "dermatofibroma": "DF",
    "malignantmelanoma": "MEL",
}
_CLASS_NAMES = _LONG_NAMES | {prefix + code.lower(): code for code in PUBLISHED_COUNTS for prefix in ("", "all")}
_MASK_FOLDERS = {"originalmasks", "targets", "masks"}
_FLAT_FOLDERS = {"images"}
_FILE = re.compile(r"(?P<id>(?P<case>[abcdgpt]\d+)[a-z]?)(?P<mask>mask)?\.png", re.IGNORECASE)
_LESION_ID = re.compile(r"[abcdgpt]\d+[a-z]?", re.IGNORECASE)


class DermofitAdapter(DatasetAdapter):
    """Reads the Dermofit Image Library, in ten classes or in the five of the five-class experiment.

    An id is a letter, a number and, for most, the letter of one lesion of a person (``P337a``); letter and number
    together are the group. 1,300 images make 1,073 groups, and 1,069 once the suspected duplicates are joined.

    Args:
        source: The library's folder, a folder of its per-class zips, or one zip.
        experiment: ``10-class``, or ``5-class`` (AK, BCC, ML, SCC, SK).
        partial: Accept a library that is knowingly incomplete: class counts other than the published ones, images
            without masks, masks without images, ids of ``lesionlist.txt`` without images and the reverse.

    Examples:
        >>> from pathlib import Path
        >>> from dermaffinity.data.adapters import DermofitAdapter
        >>> adapter = DermofitAdapter(Path("FOLDER"), experiment="5-class", partial=True)
        >>> adapter.classes
        ('AK', 'BCC', 'ML', 'SCC', 'SK')
    """

    name = "dermofit"
    citation = "Dermofit Image Library, University of Edinburgh; Ballerini, Fisher, Aldridge, Rees (2013)"
    license = "Dermofit license agreement (paid, no redistribution)"
    published: Mapping[str, int] = PUBLISHED_COUNTS
    groups: tuple[str, ...] = ("patient, as the ids look",)
    classes: tuple[str, ...] = EXPERIMENTS["10-class"]
    malignant: tuple[str, ...] = ("BCC", "SCC", "IEC", "MEL")

    def __init__(
        self, source: Path, *, experiment: Literal["10-class", "5-class"] = "10-class", partial: bool = False
    ) -> None:
        super().__init__(source)
        if experiment not in EXPERIMENTS:
            raise ValueError(f"experiment must be one of {', '.join(EXPERIMENTS)}, got {experiment!r}")
        self.experiment = experiment
        self.classes = EXPERIMENTS[experiment]
        self.malignant = tuple(code for code in type(self).malignant if code in self.classes)
        self.manifest_name = f"{self.name}-{len(self.classes)}"
        self.partial = partial

    def how_to_get(self) -> str:
        """See :meth:`DatasetAdapter.how_to_get`."""
        return (
            "Dermofit is licensed (academic license, for a fee) by Edinburgh Innovations: "
            "licensing.edinburgh-innovations.ed.ac.uk/product/dermofit-image-library. "
            "Point SOURCE at the folder that holds its class folders or its zips."
        )

    def records(self) -> Iterator[Record]:
        """See :meth:`DatasetAdapter.records`."""
        problems: list[str] = []
        files = self.files()
        images, masks = self._images_and_masks(files, problems)
        listed = self._lesion_list(files, problems)
        labels = self._labels(images, listed, problems)
        labels = {identifier: label for identifier, label in labels.items() if label in self.classes}
        if not self.partial:
            problems += self._gaps(images, masks, listed, labels)
            problems += self._wrong_counts(labels)
        if problems or not labels:
            raise DataError(self._refusal(images, files), problems)
        for identifier, label in labels.items():
            yield Record(images[identifier], masks.get(identifier), label, lesion_group(identifier))

    def _images_and_masks(self, files: list[str], problems: list[str]) -> tuple[dict[str, str], dict[str, str]]:
        """Paths by case-folded id."""
        images: list[tuple[str, str]] = []
        masks: list[tuple[str, str]] = []
        unnamed: list[str] = []
        for path in files:
            *folders, file = PurePosixPath(path).parts
            places = {folder.lower().removesuffix(".zip") for folder in folders}
            parsed = _FILE.fullmatch(file)
            if parsed:
                is_mask = parsed["mask"] or places & _MASK_FOLDERS
                (masks if is_mask else images).append((parsed["id"].lower(), path))
            elif file.lower().endswith(".png") and (places & _FLAT_FOLDERS or any(map(class_code, folders))):
                unnamed.append(path)
        if unnamed:
            problems.append(
                f"{count_of(len(unnamed), 'file')} named neither <lesion id>.png nor <lesion id>mask.png, such as "
                f"P337a.png: {some_of(unnamed)}"
            )
        return pair_by_id(images, "image", problems), pair_by_id(masks, "mask", problems)

    def _lesion_list(self, files: list[str], problems: list[str]) -> dict[str, str]:
        """Class codes by case-folded id, from every ``lesionlist.txt``: lines of number, id and class."""
        listed: dict[str, str] = {}
        faults: dict[str, list[str]] = {}
        for path in files:
            if PurePosixPath(path).name.lower() != "lesionlist.txt":
                continue
            text, _ = decode_text(self.library.read(path), path)
            for number, line in enumerate(text.splitlines(), start=1):
                fields = [clean(field) for field in line.split()]
                if not fields:
                    continue
                place = f"{path}, line {number}"
                if len(fields) != 3 or not _LESION_ID.fullmatch(fields[1]):
                    faults.setdefault("expected 'number id CLASS'", []).append(f"{place}: {line.strip()!r}")
                    continue
                identifier, code = fields[1].lower(), fields[2].upper()
                if code not in PUBLISHED_COUNTS:
                    unknown = f"unknown class {fields[2]!r}; known are {', '.join(PUBLISHED_COUNTS)}"
                    faults.setdefault(unknown, []).append(place)
                elif listed.setdefault(identifier, code) != code:
                    torn = f"{place}: {fields[1]} is {code} here and {listed[identifier]} above"
                    faults.setdefault("two classes of one id", []).append(torn)
        problems += [f"{count_of(len(found), 'line')}, {fault}: {some_of(found)}" for fault, found in faults.items()]
        return listed

    def _labels(self, images: dict[str, str], listed: dict[str, str], problems: list[str]) -> dict[str, str]:
        """The class of each image, from its folder, else from the list; where both speak they must agree."""
        labels: dict[str, str] = {}
        homeless: list[str] = []
        torn: list[str] = []
        for identifier, path in images.items():
            codes = {code for folder in PurePosixPath(path).parts[:-1] if (code := class_code(folder))}
            spoken = codes | ({listed[identifier]} if identifier in listed else set())
            if len(codes) > 1:
                torn.append(f"{path} lies in folders of {' and '.join(sorted(codes))}")
            elif len(spoken) > 1:
                torn.append(f"{path} lies in a folder of {codes.pop()}, lesionlist.txt says {listed[identifier]}")
            elif spoken:
                labels[identifier] = spoken.pop()
            else:
                homeless.append(path)
        if torn:
            problems.append(f"{count_of(len(torn), 'image')} of two classes: {some_of(torn)}")
        if homeless:
            problems.append(
                f"{count_of(len(homeless), 'image')} without label, outside every class folder and not in a "
                f"lesionlist.txt: {some_of(homeless)}"
            )
        return labels

    def _gaps(
        self, images: dict[str, str], masks: dict[str, str], listed: dict[str, str], labels: dict[str, str]
    ) -> Iterator[str]:
        """What a complete library does not have; classes outside the experiment may be absent altogether."""
        wanted = {identifier for identifier, code in listed.items() if code in self.classes}
        gaps = {
            "image without mask": [images[i] for i in labels.keys() - masks.keys()],
            "mask without image": [masks[i] for i in masks.keys() - images.keys()],
            "line of lesionlist.txt without image": wanted - images.keys(),
            "image without line in lesionlist.txt": [images[i] for i in labels.keys() - listed.keys()]
            if listed
            else [],
        }
        for gap, names in gaps.items():
            if names:
                noun, rest = gap.split(" ", 1)
                yield f"{count_of(len(names), noun)} {rest}: {some_of(names)}"

    def _wrong_counts(self, labels: dict[str, str]) -> Iterator[str]:
        counts = Counter(labels.values())
        for code in self.classes:
            if counts[code] != PUBLISHED_COUNTS[code]:
                yield f"{code}: {count_of(counts[code], 'image')}, published are {PUBLISHED_COUNTS[code]}"

    def _refusal(self, images: dict[str, str], files: list[str]) -> str:
        if not images and any(path.lower().endswith(".zip") for path in files):
            return f"{self.name}: {self.library.root} holds archives within an archive; unpack the outer one."
        if not images:
            return f"{self.name}: no <lesion id>.png in {self.library.root}. {self.how_to_get()}"
        advice = "" if self.partial else " If the library is knowingly incomplete, say so with --partial."
        return f"{self.name}: {self.library.root} is not the published library.{advice}"


def class_code(folder: str) -> str | None:
    """The class a folder or archive names: ``ak``, ``ALLBCC.zip``, ``Melanocytic Nevus (mole) Images``."""
    # Digits stay: the lesion folder "D12f" is not the class DF.
    letters = re.sub(r"[^a-z0-9]", "", folder.lower().removesuffix(".zip"))
    return _CLASS_NAMES.get(letters) or _CLASS_NAMES.get(letters.removesuffix("images"))


def lesion_group(identifier: str) -> str:
    """The person behind a lesion id: its letter and number, joined where two persons' images look the same."""
    case = _case(identifier)
    return _JOINED.get(case, case)


def _case(identifier: str) -> str:
    return identifier.upper().rstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


# No person occurs in two of the pairs (tested), so a pair is already a whole connected component.
_JOINED = {case: "+".join(sorted(map(_case, pair))) for pair in SUSPECTED_DUPLICATES for case in map(_case, pair)}
