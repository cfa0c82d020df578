"""SLICE-3D (ISIC 2024): 401,059 tiles of total-body photographs, 393 of them malignant."""

from collections.abc import Mapping

import pandas as pd

from dermaffinity.data.adapters.tabled import TabledAdapter
from dermaffinity.data.labels import joined_table


class Slice3dAdapter(TabledAdapter):
    """Reads the training set of the ISIC 2024 challenge, from folders, zips or ``train-image.hdf5``.

    The group is the patient: 1,042. Of the metadata the manifest keeps age, sex and site. The rest tells the label
    (``lesion_id``, which every malignant image has, ``iddx_*``, ``mel_*``) or is missing in the test set. The
    permissive variant, under CC BY, has 217,477 images: give ``--partial``. HDF5 is read once
    ``pip install 'dermaffinity[hdf5]'`` has installed h5py.

    Args:
        source: The folder with ``train-metadata.csv`` and ``train-image.hdf5`` (Kaggle), or with
            ``ISIC_2024_Training_Input`` and the challenge's tables of ground truth and metadata.
        partial: Accept other counts than the published ones, and leave out lines whose image is missing or broken.

    Examples:
        >>> from dermaffinity.data.adapters import Slice3dAdapter
        >>> sum(Slice3dAdapter.published.values())
        401059
    """

    name = "slice3d"
    citation = "Kurtansky et al., Sci. Data 11:884 (2024), doi:10.34970/2024-slice-3d"
    license = "CC BY-NC 4.0"
    published: Mapping[str, int] = {"benign": 400666, "malignant": 393}
    classes: tuple[str, ...] = tuple(published)
    malignant: tuple[str, ...] = ("malignant",)
    groups: tuple[str, ...] = ("patient_id",)

    def how_to_get(self) -> str:
        """See :meth:`DatasetAdapter.how_to_get`."""
        return (
            "SLICE-3D is free for research: challenge.isic-archive.com/data, section 2024, or Kaggle's competition "
            "isic-2024-challenge. Point SOURCE at the folder with train-metadata.csv and train-image.hdf5."
        )

    def rows(self, problems: list[str]) -> pd.DataFrame:
        """See :meth:`TabledAdapter.rows`."""
        kept = ["isic_id", "patient_id", "age_approx", "sex", "anatom_site_general"]
        metadata = self.table(r"train-metadata\.csv|ISIC_2024_.*Metadata\.csv|metadata\.csv", kept)
        if "target" in metadata:
            rows = metadata[[*kept, "target"]].rename(columns={"target": "label"})
        else:
            truth = self.table(r"ISIC_2024_.*GroundTruth\.csv", ("isic_id", "malignant"))
            truth = truth[["isic_id", "malignant"]].rename(columns={"malignant": "label"})
            rows = joined_table(truth, metadata[kept], "isic_id", problems)
        numbers = pd.to_numeric(rows["label"], errors="coerce").map({0: "benign", 1: "malignant"})
        rows["label"] = numbers.where(numbers.notna(), rows["label"])
        return rows.rename(columns={"isic_id": "image"})
