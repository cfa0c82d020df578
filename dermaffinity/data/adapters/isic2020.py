"""ISIC 2020: 33,126 dermatoscopic images of 2,056 patients, 584 of them malignant."""

from collections.abc import Mapping

import pandas as pd

from dermaffinity.data.adapters.tabled import TabledAdapter


class Isic2020Adapter(TabledAdapter):
    """Reads the training set of the SIIM-ISIC 2020 challenge.

    The group is the patient. 425 pairs of images are duplicates by the challenge's own list; each pair is of one
    patient, so none crosses a fold. The labels are benign and malignant; ``--classes`` goes by the diagnosis, which is
    unknown for 27,124 images. No image has the ``isic_id`` of one in the training sets of ISIC 2019 or MILK10k, but
    near duplicates of other years' images are known.

    Args:
        source: The folder with the images (``train``, or the zip of JPEGs) and ``ISIC_2020_Training_GroundTruth.csv``,
            ``…_v2.csv`` or ``train.csv``.
        partial: Accept other counts than the published ones, and leave out lines whose image is missing.

    Examples:
        >>> from dermaffinity.data.adapters import Isic2020Adapter
        >>> sum(Isic2020Adapter.published.values())
        33126
    """

    name = "isic2020"
    citation = "Rotemberg et al., Sci. Data 8:34 (2021), doi:10.34970/2020-ds01"
    license = "CC BY-NC 4.0"
    published: Mapping[str, int] = {"benign": 32542, "malignant": 584}
    classes: tuple[str, ...] = tuple(published)
    malignant: tuple[str, ...] = ("malignant",)
    groups: tuple[str, ...] = ("patient_id",)

    def how_to_get(self) -> str:
        """See :meth:`DatasetAdapter.how_to_get`."""
        return (
            "ISIC 2020 is free for research: challenge.isic-archive.com/data, section 2020. Point SOURCE at the folder "
            "with the zip of the training JPEGs and ISIC_2020_Training_GroundTruth.csv."
        )

    def rows(self, problems: list[str]) -> pd.DataFrame:
        """See :meth:`TabledAdapter.rows`."""
        site = "anatom_site_general_challenge"
        needed = ("image_name", "benign_malignant", "diagnosis", "patient_id", "sex", "age_approx", site)
        rows = self.table(r"(?:ISIC_2020_Training_GroundTruth(?:_v2)?|train)\.csv", needed)[[*needed]]
        rows["diagnoses"] = rows.pop("diagnosis").map(lambda name: (name,))
        return rows.rename(columns={"image_name": "image", "benign_malignant": "label"})
