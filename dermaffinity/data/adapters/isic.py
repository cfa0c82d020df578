"""Any collection of the ISIC Archive, as its own tool downloads it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from dermaffinity.data.adapters.tabled import TabledAdapter
from dermaffinity.errors import DataError, count_of

_LEVELS = tuple(f"diagnosis_{level}" for level in range(1, 6))
_KEPT = ("age_approx", "sex", "anatom_site_general", "anatom_site_1", "fitzpatrick_skin_type", "image_type")


class IsicAdapter(TabledAdapter):
    """Reads what ``isic image download`` writes: any collection or search of the ISIC Archive.

    The Archive names a diagnosis on up to five levels, from Benign, Indeterminate or Malignant down to the subtype. A
    label is the diagnosis at the level asked for, or the finest above it; ``--classes`` goes by the finest that the
    vocabulary knows. Downloads before August 2024, with one column ``diagnosis``, are read as well. Images without a
    diagnosis are left out. Malignant are the labels all of whose images the Archive calls so.

    Images share a group by patient or lesion, where either is known; an image without both is its own. Lesion ids of
    the Archive and of the challenges are different ids of the same lesions: collections overlap, and share ``isic_id``.
    The manifest keeps age, sex, site, skin type and the kind of image, and leaves out what tells the diagnosis.

    Args:
        source: The folder with the images and ``metadata.csv``.
        level: Of the labels, from 1 to 5.
        image_type: Read images of one kind alone, such as ``dermoscopic``.
        classes: The labels to read, in the order of the class indices; all by default.
        partial: Leave out lines whose image is missing.

    Examples:
        >>> from dermaffinity.data.adapters import IsicAdapter
        >>> IsicAdapter.groups
        ('patient_id', 'lesion_id')
    """

    name = "isic"
    citation = "ISIC Archive, isic-archive.com; attribution.txt names the contributors of each image"
    license = "CC0, CC BY or CC BY-NC 4.0, image by image; see the folder licenses"
    classes: tuple[str, ...] = ()
    malignant: tuple[str, ...] = ()
    groups: tuple[str, ...] = ("patient_id", "lesion_id")

    def __init__(
        self,
        source: Path,
        *,
        level: Literal["1", "2", "3", "4", "5"] = "3",
        image_type: str | None = None,
        classes: Sequence[str] = (),
        partial: bool = False,
    ) -> None:
        super().__init__(source, partial=partial)
        self._level, self._image_type, self._wanted = int(level), image_type, tuple(classes)
        self.experiment = f"level {level}" + (f", {image_type}" if image_type else "")

    def how_to_get(self) -> str:
        """See :meth:`DatasetAdapter.how_to_get`."""
        return (
            "The ISIC Archive is free: pip install isic-cli, then isic image download --collections 212 FOLDER (212 is "
            "HAM10000; isic collection list shows all). Point SOURCE at that folder."
        )

    def rows(self, problems: list[str]) -> pd.DataFrame:
        """See :meth:`TabledAdapter.rows`."""
        rows = self.table(r"(?:challenge-\d+-.*)?metadata\.csv", ("isic_id",))
        levels = [name for name in _LEVELS if name in rows] or [name for name in ("diagnosis",) if name in rows]
        if not levels:
            raise DataError(
                f"{self.name}: metadata.csv has neither diagnosis_1 nor diagnosis, but {', '.join(map(repr, rows))}. "
                f"Either no image of the selection has a diagnosis, or this is another table. {self.how_to_get()}"
            )
        if self._image_type:
            rows = self._of_type(rows)
        named = [tuple(filter(None, reversed(cells))) for cells in rows[levels].to_numpy().tolist()]
        rows = rows.assign(diagnoses=pd.Series(named, rows.index), label=[_at(names, self._level) for names in named])
        blank = rows["label"] == ""
        if blank.any():
            self.notes.append(f"left out {count_of(int(blank.sum()), 'image')} without a diagnosis")
        rows["leave_out"] = blank.map({True: "yes", False: ""})
        malignant = rows.get(levels[0] if levels[0] != "diagnosis" else "benign_malignant", rows["label"])
        benign = set(rows.loc[malignant.str.casefold() != "malignant", "label"])
        found = sorted(set(rows["label"]) - {""})
        problems += [f"no image has the label {name!r}" for name in self._wanted if name not in found]
        self.classes = self._wanted or tuple(found)
        self.malignant = tuple(name for name in self.classes if name not in benign)
        if self._wanted:
            rows = rows.assign(leave_out=(~rows["label"].isin(self._wanted)).map({True: "yes", False: ""}))
        rows = rows.rename(columns={"isic_id": "image"})
        kept = ["image", "label", "diagnoses", "leave_out", *(name for name in _KEPT if name in rows)]
        return rows[kept].assign(**{key: rows.get(key, "") for key in self.groups})

    def _of_type(self, rows: pd.DataFrame) -> pd.DataFrame:
        kinds = rows.get("image_type", pd.Series("", index=rows.index))
        if self._image_type not in set(kinds):
            found = ", ".join(sorted(set(kinds) - {""})) or "no image_type at all"
            raise DataError(f"{self.name}: no image of the type {self._image_type!r}; metadata.csv has {found}")
        return rows[kinds == self._image_type]


def _at(names: tuple[str, ...], level: int) -> str:
    """The name at a level, of names from the finest to the coarsest, or the finest above it; empty without any."""
    return names[max(0, len(names) - level)] if names else ""
