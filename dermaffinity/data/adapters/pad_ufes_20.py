"""PAD-UFES-20: 2,298 smartphone photographs of six classes from Espírito Santo, Brazil."""

from collections.abc import Mapping

import pandas as pd

from dermaffinity.data.adapters.tabled import TabledAdapter


class PadUfes20Adapter(TabledAdapter):
    """Reads PAD-UFES-20.

    The group is the patient: 1,373, with 1,641 lesions. SCC includes Bowen's disease. Of the metadata the manifest
    keeps age, sex, site, skin tone and lesion; the rest tells the label: every cancer is biopsied, and the number of
    empty cells alone ranks cancers before other lesions with an AUC of 0.83. 56 pairs of near-duplicates were found by
    others.

    Args:
        source: The folder with ``metadata.csv`` and ``imgs_part_1`` to ``imgs_part_3``, as zips or unpacked.
        partial: Accept other counts than the published ones, and leave out lines whose image is missing.

    Examples:
        >>> from dermaffinity.data.adapters import PadUfes20Adapter
        >>> sum(PadUfes20Adapter.published.values()), PadUfes20Adapter.groups
        (2298, ('patient_id', 'lesion_id'))
    """

    name = "pad_ufes_20"
    citation = "Pacheco et al., Data in Brief 32:106221 (2020), doi:10.17632/zr7vgbcyr2"
    license = "CC BY 4.0"
    published: Mapping[str, int] = {"BCC": 845, "ACK": 730, "NEV": 244, "SEK": 235, "SCC": 192, "MEL": 52}
    classes: tuple[str, ...] = tuple(published)
    malignant: tuple[str, ...] = ("BCC", "SCC", "MEL")
    groups: tuple[str, ...] = ("patient_id", "lesion_id")

    def how_to_get(self) -> str:
        """See :meth:`DatasetAdapter.how_to_get`."""
        return (
            "PAD-UFES-20 is free: data.mendeley.com, dataset zr7vgbcyr2. Unpack the outer zip, and point SOURCE at the "
            "folder with metadata.csv and imgs_part_1.zip to imgs_part_3.zip, which may stay packed."
        )

    def rows(self, problems: list[str]) -> pd.DataFrame:
        """See :meth:`TabledAdapter.rows`."""
        needed = ("img_id", "diagnostic", *self.groups, "age", "gender", "region", "fitspatrick")
        rows = self.table(r"metadata\.csv", needed)[[*needed]]
        return rows.rename(columns={"img_id": "image", "diagnostic": "label"})
