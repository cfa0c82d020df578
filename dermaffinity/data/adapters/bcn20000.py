"""BCN20000: 18,946 dermatoscopic images from Barcelona, of lesions hard to diagnose among them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pandas as pd

from dermaffinity.data.adapters.tabled import TabledAdapter


class Bcn20000Adapter(TabledAdapter):
    """Reads BCN20000 as its authors distribute it.

    The group is the lesion. The authors' test part shares no lesion with the rest, but their training and validation
    parts do, so new folds are dealt; the manifest keeps their ``split``. With ``images=all``, the protocol ``presplit``
    trains on both and tests on their test part. A class of other diseases occurs there alone and is left out. The
    12,413 training images are the Barcelona part of ISIC 2019 under other names: never test one of the two on the
    other.

    Args:
        source: The folder with ``BCN_20k_train``, ``bcn_20k_train.csv`` and, for ``all``, the same of ``test``.
        images: The training part, or both parts.
        partial: Accept other counts than the published ones, and leave out lines whose image is missing.

    Examples:
        >>> from dermaffinity.data.adapters import Bcn20000Adapter
        >>> Bcn20000Adapter.classes
        ('MEL', 'NV', 'BCC', 'AK', 'BKL', 'DF', 'VASC', 'SCC')
    """

    name = "bcn20000"
    citation = "Hernández-Pérez et al., Sci. Data 11:641 (2024), figshare 24140028"
    license = "CC BY or CC BY-NC 4.0: its pages differ"
    published: Mapping[str, int] = {"all": 12413}
    classes: tuple[str, ...] = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
    malignant: tuple[str, ...] = ("MEL", "BCC", "SCC")
    groups: tuple[str, ...] = ("lesion_id",)
    prefers_folds: bool = True

    def __init__(self, source: Path, *, images: Literal["train", "all"] = "train", partial: bool = False) -> None:
        super().__init__(source, partial=partial)
        self._parts = ("train", "test") if images == "all" else ("train",)
        self.presplit = images == "all"
        if self.presplit:
            self.published = {"all": 18946}

    def how_to_get(self) -> str:
        """See :meth:`DatasetAdapter.how_to_get`."""
        return (
            "BCN20000 is free for research: figshare.com, article 24140028. Point SOURCE at the folder with "
            "BCN_20k_train (or its zip) and bcn_20k_train.csv."
        )

    def rows(self, problems: list[str]) -> pd.DataFrame:
        """See :meth:`TabledAdapter.rows`."""
        needed = ("bcn_filename", "age_approx", "anatom_site_general", "diagnosis", "lesion_id", "sex", "split")
        tables = [
            self.table(rf"bcn_20k_{part}\.csv", needed)[[*needed]].assign(test="yes" if part == "test" else "")
            for part in self._parts
        ]
        rows = pd.concat(tables, ignore_index=len(tables) > 1)
        return rows.rename(columns={"bcn_filename": "image", "diagnosis": "label"})
