"""DDI: 656 clinical photographs of diverse skin tones, each diagnosed by biopsy."""

from collections.abc import Mapping

import pandas as pd

from dermaffinity.data.adapters.tabled import TabledAdapter


class DdiAdapter(TabledAdapter):
    """Reads DDI, the Diverse Dermatology Images.

    The labels are benign and malignant; ``--classes`` goes by the 78 diseases, most of which have few images. The
    metadata name no patient, though the 656 images are of 570: each image is its own group, and numbers from folds are
    a little too good. Its use is to test models of other libraries. ``skin_tone`` is 12, 34 or 56: Fitzpatrick I–II,
    III–IV, V–VI (208, 241 and 207 images). Others found 6 near-duplicates.

    Args:
        source: The folder with ``ddi_metadata.csv`` and the images, beside it or in ``images``.
        partial: Accept other counts than the published ones, and leave out lines whose image is missing.

    Examples:
        >>> from dermaffinity.data.adapters import DdiAdapter
        >>> DdiAdapter.published
        {'benign': 485, 'malignant': 171}
    """

    name = "ddi"
    citation = "Daneshjou et al., Sci. Adv. 8:eabq6147 (2022), doi:10.1126/sciadv.abq6147"
    license = "Stanford AIMI research use agreement"
    published: Mapping[str, int] = {"benign": 485, "malignant": 171}
    classes: tuple[str, ...] = tuple(published)
    malignant: tuple[str, ...] = ("malignant",)

    def how_to_get(self) -> str:
        """See :meth:`DatasetAdapter.how_to_get`."""
        return (
            "DDI is free after signing its agreement: stanfordaimi.azurewebsites.net, Diverse Dermatology Images. "
            "Point SOURCE at the folder with ddi_metadata.csv and the images."
        )

    def rows(self, problems: list[str]) -> pd.DataFrame:
        """See :meth:`TabledAdapter.rows`."""
        rows = self.table(r"ddi_metadata\.csv", ("DDI_file", "skin_tone", "malignant", "disease"))
        rows["label"] = rows["malignant"].str.casefold().map({"true": "malignant", "false": "benign"})
        rows["label"] = rows["label"].where(rows["label"].notna(), rows["malignant"])
        rows["diagnoses"] = rows["disease"].map(lambda name: (name,))
        return rows.rename(columns={"DDI_file": "image"})[["image", "label", "diagnoses", "skin_tone", "disease"]]
