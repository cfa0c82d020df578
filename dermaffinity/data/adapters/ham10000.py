"""HAM10000: 10,015 dermatoscopic images of seven classes, several of many lesions, each with a lesion mask."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import pandas as pd

from dermaffinity.data.adapters.base import DatasetAdapter, Record, pair_by_id
from dermaffinity.data.tables import read_table
from dermaffinity.errors import DataError, ManifestError, count_of, did_you_mean, some_of

# Dermofit's class counts, taken from HAM10000: akiec for AK and IEC, bkl for SK, nv for ML, vasc for VASC and PYO.
# In the five-class experiment mel stands in for SCC, which HAM10000 lacks.
DRAWS: dict[str, dict[str, int]] = {
    "hamfit-7": {"akiec": 123, "bcc": 239, "bkl": 257, "df": 65, "mel": 76, "nv": 331, "vasc": 121},
    "hamfit-5": {"akiec": 45, "bcc": 239, "bkl": 257, "mel": 88, "nv": 331},
}

_PUBLISHED = {"akiec": 327, "bcc": 514, "bkl": 1099, "df": 115, "mel": 1113, "nv": 6705, "vasc": 142}
_IMAGE = re.compile(r"(ISIC_\d{7})\.(?:jpe?g|png)", re.IGNORECASE)
_MASK = re.compile(r"(ISIC_\d{7})_segmentation\.png", re.IGNORECASE)
_METADATA = re.compile(r"HAM10000_metadata(?:\.csv|\.tab|\.tsv)?", re.IGNORECASE)
# The challenge's test set lies in the same deposit, without lesion ids.
_CHALLENGE_TEST = "isic2018_task3_test"
_COLUMNS = ("lesion_id", "image_id", "dx", "age", "sex", "localization")


class Ham10000Adapter(DatasetAdapter):
    """Reads HAM10000 from its official archives or from unpacked folders, in any nesting.

    The classes are actinic keratoses and Bowen's disease (akiec), basal cell carcinoma (bcc), benign keratosis (bkl),
    dermatofibroma (df), melanoma (mel), nevus (nv) and vascular lesions (vasc).

    The group is the lesion. Malignant are mel, bcc and akiec: akiec holds actinic keratoses, which are premalignant,
    and intraepithelial carcinoma (Bowen's disease), which is carcinoma in situ; the dataset does not tell them apart,
    and a patient with either must not be sent home.

    Args:
        source: The folder with ``HAM10000_images_part_*.zip`` (or the images), the masks and ``HAM10000_metadata``.
        experiment: ``all``, or a draw with Dermofit's class counts, whole lesions at a time in an order that the
            split seed fixes: ``hamfit-7`` (1,212 images) or ``hamfit-5`` (960). What was not drawn is external.

    Examples:
        >>> from dermaffinity.data.adapters import Ham10000Adapter
        >>> Ham10000Adapter.classes
        ('akiec', 'bcc', 'bkl', 'df', 'mel', 'nv', 'vasc')
        >>> Ham10000Adapter.license
        'CC BY-NC 4.0'
    """

    name = "ham10000"
    citation = "Tschandl, Rosendahl, Kittler, Sci. Data 5:180161 (2018), doi:10.7910/DVN/DBW86T"
    license = "CC BY-NC 4.0"
    published: Mapping[str, int] = _PUBLISHED
    groups: tuple[str, ...] = ("lesion_id",)
    classes: tuple[str, ...] = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    malignant: tuple[str, ...] = ("akiec", "bcc", "mel")

    def __init__(self, source: Path, *, experiment: Literal["all", "hamfit-7", "hamfit-5"] = "all") -> None:
        super().__init__(source)
        if experiment not in ("all", *DRAWS):
            raise ValueError(f"experiment must be one of {', '.join(('all', *DRAWS))}, got {experiment!r}")
        if experiment in DRAWS:
            self.classes = tuple(DRAWS[experiment])
            self.manifest_name = experiment
        self.experiment = experiment

    def how_to_get(self) -> str:
        """See :meth:`DatasetAdapter.how_to_get`."""
        return (
            "HAM10000 is free for research: dataverse.harvard.edu, doi:10.7910/DVN/DBW86T. Point SOURCE at the folder "
            "with HAM10000_images_part_1.zip, HAM10000_images_part_2.zip, HAM10000_segmentations_lesion_tschandl.zip "
            "and HAM10000_metadata; unpacking is not needed."
        )

    def records(self) -> Iterator[Record]:
        """See :meth:`DatasetAdapter.records`."""
        problems: list[str] = []
        files = [path for path in self.files() if _CHALLENGE_TEST not in path.lower()]
        images = pair_by_id(_matching(_IMAGE, files), "image", problems)
        masks = pair_by_id(_matching(_MASK, files), "mask", problems)
        metadata = self._metadata(files, problems)
        problems += _contradictions(metadata, images, masks)
        if problems:
            raise DataError(f"{self.name}: images, masks and metadata do not fit together.", problems)
        for line in metadata.to_dict("records"):
            if line["dx"] in self.classes:
                yield Record(
                    images[line["image_id"]],
                    masks.get(line["image_id"]),
                    line["dx"],
                    line["lesion_id"],
                    {
                        "age": float(line["age"]) if line["age"] else None,
                        "sex": line["sex"],
                        "site": line["localization"],
                    },
                )

    def select(self, records: list[Record], seed: int) -> list[Record]:
        """Marks what the experiment does not draw as external."""
        if self.experiment == "all":
            return records
        drawn = draw_groups(records, DRAWS[self.experiment], seed)
        return [record._replace(external=record.group not in drawn) for record in records]

    def _metadata(self, files: list[str], problems: list[str]) -> pd.DataFrame:
        """The metadata as text, empty where missing."""
        paths = [path for path in files if _METADATA.fullmatch(PurePosixPath(path).name)]
        if len(paths) != 1:
            found = f"{len(paths)} metadata files ({', '.join(paths)})" if paths else "no HAM10000_metadata"
            raise DataError(f"{self.name}: {found} in {self.library.root}, one is needed. {self.how_to_get()}")
        content = self.library.read(paths[0])
        metadata, form = read_table(content, f"{self.name}: {paths[0]}", _COLUMNS)
        self.notes.append(f"{paths[0]}: read as {form}")
        # A spreadsheet of a country with decimal commas writes 45,0.
        metadata["age"] = metadata.age.str.replace(",", ".")
        no_number = pd.to_numeric(metadata.age.replace("", "0"), errors="coerce").isna()
        if no_number.any():
            ages = [f"{age!r} (line {line})" for line, age in metadata.age[no_number].items()]
            problems.append(f"{count_of(len(ages), 'age')} in {paths[0]} that is no number: {some_of(ages)}")
        metadata["image_id"] = metadata.image_id.str.upper()
        return metadata


def draw_groups(records: list[Record], counts: Mapping[str, int], seed: int) -> set[str]:
    """Draws whole groups, in a seeded order, until each class has exactly its count of images.

    A group that would overshoot its class is passed over. Each group must hold one class only.

    Raises:
        ManifestError: A class has too few images, or no way was found to hit its count with whole groups.
    """
    sizes: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        sizes[record.label][record.group] += 1
    drawn: set[str] = set()
    problems: list[str] = []
    for index, (label, count) in enumerate(counts.items()):
        groups = sorted(sizes[label])
        # Each class has its own stream, so that one class's groups do not move another's draw.
        order = np.random.default_rng([seed, index]).permutation(len(groups))
        left = count
        for group in (groups[position] for position in order):
            if sizes[label][group] <= left:
                left -= sizes[label][group]
                drawn.add(group)
        if left:
            problems.append(f"{label}: {left} of {count_of(count, 'image')} could not be drawn as whole groups")
    if problems:
        raise ManifestError("This library cannot give the class counts asked for; another seed may.", problems)
    return drawn


def _matching(pattern: re.Pattern[str], files: list[str]) -> Iterator[tuple[str, str]]:
    for path in files:
        if parsed := pattern.fullmatch(PurePosixPath(path).name):
            yield parsed[1].upper(), path


def _near(dx: str) -> str:
    return did_you_mean(dx, Ham10000Adapter.classes) or f" (known are {', '.join(Ham10000Adapter.classes)})"


def _contradictions(metadata: pd.DataFrame, images: dict[str, str], masks: dict[str, str]) -> Iterator[str]:
    unknown = metadata.image_id[~metadata.dx.isin(Ham10000Adapter.classes)].groupby(metadata.dx)
    diagnoses = metadata.groupby("lesion_id").dx.nunique()
    listed = set(metadata.image_id)
    findings: dict[str, Collection[str]] = {
        **{f"metadata line with the unknown dx {dx!r}{_near(dx)}": images for dx, images in unknown},
        "metadata line without lesion_id": metadata.image_id[metadata.lesion_id == ""],
        "image listed twice in the metadata": metadata.image_id[metadata.image_id.duplicated()],
        "lesion with several diagnoses": diagnoses[diagnoses > 1].index,
        "metadata line without image": listed - images.keys(),
        "image without metadata line": images.keys() - listed,
        "mask without image": masks.keys() - images.keys(),
        # A library without any mask is a choice, a library without some is a mistake.
        "image without mask": images.keys() - masks.keys() if masks else (),
    }
    for finding, names in findings.items():
        if len(names):
            noun, rest = re.split(r" (?=with|listed)", finding, maxsplit=1)
            yield f"{count_of(len(names), noun)} {rest}: {some_of(names)}"
