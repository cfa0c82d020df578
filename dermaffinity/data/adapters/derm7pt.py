"""Derm7pt: 1,011 cases of the seven-point checklist, with a dermatoscopic and a clinical image each."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from dermaffinity.data.adapters.tabled import TabledAdapter
from dermaffinity.errors import some_of

_DIAGNOSES = {
    "basal cell carcinoma": ("BCC", 42),
    "blue nevus": ("NEV", 28),
    "clark nevus": ("NEV", 399),
    "combined nevus": ("NEV", 13),
    "congenital nevus": ("NEV", 17),
    "dermal nevus": ("NEV", 33),
    "recurrent nevus": ("NEV", 6),
    "reed or spitz nevus": ("NEV", 79),
    "melanoma": ("MEL", 1),
    "melanoma (in situ)": ("MEL", 64),
    "melanoma (less than 0.76 mm)": ("MEL", 102),
    "melanoma (0.76 to 1.5 mm)": ("MEL", 53),
    "melanoma (more than 1.5 mm)": ("MEL", 28),
    "melanoma metastasis": ("MEL", 4),
    "dermatofibroma": ("MISC", 20),
    "lentigo": ("MISC", 24),
    "melanosis": ("MISC", 16),
    "miscellaneous": ("MISC", 8),
    "vascular lesion": ("MISC", 29),
    "seborrheic keratosis": ("SK", 45),
}
_CLASSES = ("BCC", "NEV", "MEL", "MISC", "SK")


class Derm7ptAdapter(TabledAdapter):
    """Reads the dermatoscopic images of Derm7pt.

    Cases share a group by ``case_id`` or by their clinical photograph, which some cases have in common; the adapter
    ``table`` reads the clinical images. The five classes are those of the paper; the twenty diagnoses are too rare for
    cross-validation. Where the authors' index files are there, the manifest keeps their ``split``, and the protocol
    ``presplit`` trains on their training and validation parts and tests on their test part.

    Args:
        source: The folder ``release_v0`` with ``meta/meta.csv`` and ``images``.
        partial: Accept other counts than the published ones, and leave out lines whose image is missing.

    Examples:
        >>> from dermaffinity.data.adapters import Derm7ptAdapter
        >>> Derm7ptAdapter.published
        {'BCC': 42, 'NEV': 575, 'MEL': 252, 'MISC': 97, 'SK': 45}
    """

    name = "derm7pt"
    citation = "Kawahara et al., IEEE J. Biomed. Health Inform. 23(2):538-546 (2019), doi:10.1109/JBHI.2018.2824327"
    license = "Research use, after registration"
    published: Mapping[str, int] = {
        code: sum(count for group, count in _DIAGNOSES.values() if group == code) for code in _CLASSES
    }
    classes: tuple[str, ...] = _CLASSES
    malignant: tuple[str, ...] = ("BCC", "MEL")
    groups: tuple[str, ...] = ("case_id", "clinic")
    prefers_folds: bool = True

    def __init__(self, source: Path, *, partial: bool = False) -> None:
        super().__init__(source, partial=partial)
        self.presplit = any(path.lower().endswith("test_indexes.csv") for path in self.files())

    def how_to_get(self) -> str:
        """See :meth:`DatasetAdapter.how_to_get`."""
        return "Derm7pt is free after registration: derm.cs.sfu.ca. Point SOURCE at the unpacked folder release_v0."

    def rows(self, problems: list[str]) -> pd.DataFrame:
        """See :meth:`TabledAdapter.rows`."""
        needed = ("derm", "diagnosis", "case_id", "clinic", "location", "sex")
        rows = self.table(r"meta\.csv", needed)[[*needed]]
        unknown = ~rows["diagnosis"].isin(_DIAGNOSES)
        labels = rows["diagnosis"].map({name: group for name, (group, _) in _DIAGNOSES.items()})
        rows["label"] = labels.where(~unknown, rows["diagnosis"])
        rows["diagnoses"] = rows["diagnosis"].map(lambda name: (name,))
        rows["clinic"] = rows["clinic"].str.casefold()
        split = [""] * len(rows)
        for part in ("train", "valid", "test"):
            indexes = self.table(rf"{part}_indexes\.csv", ("indexes",), optional=True)["indexes"]
            if strange := [index for index in indexes if not (index.isdecimal() and int(index) < len(rows))]:
                problems.append(f"{part}_indexes.csv names no lines of meta.csv from 0 on: {some_of(strange)}")
            for index in set(indexes) - set(strange):
                split[int(index)] = part  # rows from 0 on, not case_num
        rows["test"] = ["yes" if part == "test" else "" for part in split]
        return rows.assign(split=split).rename(columns={"derm": "image", "location": "site"})
