"""Fitzpatrick17k: 16,577 clinical photographs of 114 skin conditions, with skin types."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pandas as pd

from dermaffinity.data.adapters.tabled import TabledAdapter
from dermaffinity.errors import count_of

_THREE = {"benign": 2234, "malignant": 2263, "non-neoplastic": 12080}
_NINE = {
    "benign dermal": 1067,
    "benign epidermal": 931,
    "benign melanocyte": 236,
    "genodermatoses": 1194,
    "inflammatory": 10886,
    "malignant cutaneous lymphoma": 182,
    "malignant dermal": 156,
    "malignant epidermal": 1352,
    "malignant melanoma": 573,
}


class Fitzpatrick17kAdapter(TabledAdapter):
    """Reads Fitzpatrick17k: ``fitzpatrick17k.csv`` and the images that its addresses still give.

    No patient is known, so each image is its own group. Others found near-duplicates among 21 % of the images and label
    errors in 22 %: look at what ``verify`` finds. 17 images that dermatologists marked as wrongly labeled are left out.
    ``skin_tone`` is Fitzpatrick's scale from 1 to 6, empty where it is unknown. Most of the addresses are gone, so give
    ``--partial``.

    Args:
        source: The folder with ``fitzpatrick17k.csv`` and the images, named ``<md5hash>.jpg``.
        experiment: The 114 labels, or the paper's partition of them into nine or three.
        partial: Accept other counts than the published ones, and leave out lines whose image is missing.

    Examples:
        >>> from dermaffinity.data.adapters import Fitzpatrick17kAdapter
        >>> Fitzpatrick17kAdapter.published
        {'benign': 2234, 'malignant': 2263, 'non-neoplastic': 12080}
    """

    name = "fitzpatrick17k"
    citation = "Groh et al., CVPR Workshops (2021), arXiv:2104.09957"
    license = "CC BY-NC-SA 3.0"
    published: Mapping[str, int] = _THREE
    classes: tuple[str, ...] = tuple(_THREE)
    malignant: tuple[str, ...] = ("malignant",)

    def __init__(
        self, source: Path, *, experiment: Literal["three", "nine", "114"] = "three", partial: bool = False
    ) -> None:
        super().__init__(source, partial=partial)
        self.experiment = experiment
        self.manifest_name = f"{self.name}-{experiment}"
        self.published = {"three": _THREE, "nine": _NINE, "114": {"all": 16577}}[experiment]
        if experiment == "nine":
            self.classes = tuple(_NINE)
            self.malignant = tuple(name for name in _NINE if name.startswith("malignant"))

    def how_to_get(self) -> str:
        """See :meth:`DatasetAdapter.how_to_get`."""
        return (
            "Fitzpatrick17k's table is free: github.com/mattgroh/fitzpatrick17k; its images are fetched from the "
            "addresses in it, or asked for with the form there. Point SOURCE at the folder of both."
        )

    def rows(self, problems: list[str]) -> pd.DataFrame:
        """See :meth:`TabledAdapter.rows`."""
        needed = ("md5hash", "label", "nine_partition_label", "three_partition_label", "qc")
        rows = self.table(r"fitzpatrick17k\.csv", needed)
        scale = next((name for name in ("fitzpatrick_scale", "fitzpatrick") if name in rows), None)
        rows["skin_tone"] = rows[scale].replace("-1", "") if scale else ""
        rows["diagnoses"] = rows["label"].map(lambda name: (name,))
        if self.experiment == "114":
            self.classes = tuple(sorted(set(rows["label"])))
            malignant = set(rows.loc[rows["three_partition_label"] == "malignant", "label"])
            self.malignant = tuple(name for name in self.classes if name in malignant)
        else:
            rows["label"] = rows[f"{self.experiment}_partition_label"]
        wrong = rows["qc"].str.startswith("3")
        if wrong.any():
            self.notes.append(f"left out {count_of(int(wrong.sum()), 'image')} marked as wrongly labeled")
        rows["leave_out"] = wrong.map({True: "yes", False: ""})
        return rows.rename(columns={"md5hash": "image"})[["image", "label", "diagnoses", "skin_tone", "leave_out"]]
