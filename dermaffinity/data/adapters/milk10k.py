"""MILK10k: 5,240 lesions of eleven classes, each with one clinical close-up and one dermatoscopic image."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pandas as pd

from dermaffinity.data.adapters.tabled import TabledAdapter
from dermaffinity.data.labels import joined_table, one_hot_labels

_LESIONS = {
    "AKIEC": 303,
    "BCC": 2522,
    "BEN_OTH": 44,
    "BKL": 544,
    "DF": 52,
    "INF": 50,
    "MAL_OTH": 9,
    "MEL": 450,
    "NV": 746,
    "SCCKA": 473,
    "VASC": 47,
}
_KINDS = {"dermoscopic": "dermoscopic", "clinical": "clinical: close-up"}


class Milk10kAdapter(TabledAdapter):
    """Reads the training set of the MILK10k benchmark.

    The group is the lesion; patients are not named. The labels of the test set are not public. AKIEC holds 180 Bowen's
    diseases and 123 actinic keratoses, which the supplement tells apart where it is there. ``skin_tone`` goes from 0,
    very dark, to 5, very light: it is not Fitzpatrick's scale. No image is in the training sets of ISIC 2019 or 2020.
    17.5 % of the indeterminate and 2.2 % of the malignant images are marked as altered.

    Args:
        source: The folder with ``MILK10k_Training_Input`` (or its zip), ``MILK10k_Training_GroundTruth.csv``,
            ``MILK10k_Training_Metadata.csv`` and, if wanted, ``MILK10k_Training_Supplement.csv``.
        images: Both images of each lesion, or those of one kind.
        partial: Accept other counts than the published ones, and leave out lines whose image is missing.

    Examples:
        >>> from dermaffinity.data.adapters import Milk10kAdapter
        >>> sum(Milk10kAdapter.published.values())
        10480
    """

    name = "milk10k"
    citation = "MILK study team, MILK10k (2025), doi:10.34970/648456"
    license = "CC BY-NC 4.0"
    published: Mapping[str, int] = {label: 2 * lesions for label, lesions in _LESIONS.items()}
    classes: tuple[str, ...] = tuple(published)
    malignant: tuple[str, ...] = ("AKIEC", "BCC", "MAL_OTH", "MEL", "SCCKA")
    groups: tuple[str, ...] = ("lesion_id",)

    def __init__(
        self, source: Path, *, images: Literal["both", "dermoscopic", "clinical"] = "both", partial: bool = False
    ) -> None:
        super().__init__(source, partial=partial)
        self._kind = _KINDS.get(images)
        if self._kind:
            self.published = _LESIONS
            self.experiment = images
            self.manifest_name = f"{self.name}-{images}"

    def how_to_get(self) -> str:
        """See :meth:`DatasetAdapter.how_to_get`."""
        return (
            "MILK10k is free for research: challenge.isic-archive.com/data, section MILK10k. Point SOURCE at the "
            "folder with MILK10k_Training_Input.zip and the tables MILK10k_Training_GroundTruth.csv and "
            "MILK10k_Training_Metadata.csv."
        )

    def rows(self, problems: list[str]) -> pd.DataFrame:
        """See :meth:`TabledAdapter.rows`."""
        truth = self.table(r"MILK10k_Training_GroundTruth\.csv", ("lesion_id", *self.classes))
        needed = ("lesion_id", "isic_id", "image_type", "age_approx", "sex", "skin_tone_class", "site")
        images = self.table(r"MILK10k_Training_Metadata\.csv", needed)[[*needed]]
        full = self.table(r"MILK10k_Training_Supplement\.csv", ("isic_id", "diagnosis_full"), optional=True)
        labels = truth[["lesion_id"]].assign(label=one_hot_labels(truth, [*self.classes], problems, "lesion_id"))
        rows = joined_table(images, labels, "lesion_id", problems)
        rows = joined_table(rows, full[["isic_id", "diagnosis_full"]], "isic_id", problems)
        rows["diagnoses"] = rows.pop("diagnosis_full").map(lambda text: tuple(reversed(re.split("::?", text))))
        rows = rows.rename(columns={"isic_id": "image"})
        return rows[rows["image_type"] == self._kind] if self._kind else rows
