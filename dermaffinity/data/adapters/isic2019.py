"""ISIC 2019: 25,331 dermatoscopic images of eight classes, from Barcelona, Vienna and Queensland, and New York."""

from collections.abc import Mapping

import pandas as pd

from dermaffinity.data.adapters.tabled import TabledAdapter
from dermaffinity.data.labels import joined_table, one_hot_labels


class Isic2019Adapter(TabledAdapter):
    """Reads the training set of the ISIC 2019 challenge, its ground truth and its metadata.

    The group is the lesion: 11,847 are named, none with two labels. 2,084 images have none and are their own; 1,258 of
    these end in ``_downsampled``. 10,015 images are HAM10000, whole: never test one of the two on the other. The
    challenges' sets from 2016 to 2020 share many images, so do not test on those either. BCN20000 holds the same
    photographs as the Barcelona part under other names.

    Malignant are MEL, BCC and SCC; AK is premalignant.

    Args:
        source: The folder with ``ISIC_2019_Training_Input`` (or its zip), ``ISIC_2019_Training_GroundTruth.csv`` and
            ``ISIC_2019_Training_Metadata.csv``.
        partial: Accept other counts than the published ones, and leave out lines whose image is missing.

    Examples:
        >>> from dermaffinity.data.adapters import Isic2019Adapter
        >>> sum(Isic2019Adapter.published.values()), Isic2019Adapter.malignant
        (25331, ('MEL', 'BCC', 'SCC'))
    """

    name = "isic2019"
    citation = (
        "Tschandl et al., Sci. Data 5:180161 (2018); Codella et al., arXiv:1710.05006 (2017); Hernández-Pérez et al., "
        "Sci. Data 11:641 (2024)"
    )
    license = "CC BY-NC 4.0"
    published: Mapping[str, int] = {
        "MEL": 4522,
        "NV": 12875,
        "BCC": 3323,
        "AK": 867,
        "BKL": 2624,
        "DF": 239,
        "VASC": 253,
        "SCC": 628,
    }
    classes: tuple[str, ...] = tuple(published)
    malignant: tuple[str, ...] = ("MEL", "BCC", "SCC")
    groups: tuple[str, ...] = ("lesion_id",)

    def how_to_get(self) -> str:
        """See :meth:`DatasetAdapter.how_to_get`."""
        return (
            "ISIC 2019 is free for research: challenge.isic-archive.com/data, section 2019. Point SOURCE at the folder "
            "with ISIC_2019_Training_Input.zip, ISIC_2019_Training_GroundTruth.csv and ISIC_2019_Training_Metadata.csv."
        )

    def rows(self, problems: list[str]) -> pd.DataFrame:
        """See :meth:`TabledAdapter.rows`."""
        truth = self.table(r"ISIC_2019_Training_GroundTruth\.csv", ("image", *self.classes))
        metadata = self.table(r"ISIC_2019_Training_Metadata\.csv", ("image", "age_approx", "lesion_id"))
        rows = truth[["image"]].assign(label=one_hot_labels(truth, [*self.classes], problems))
        return joined_table(rows, metadata, "image", problems)
