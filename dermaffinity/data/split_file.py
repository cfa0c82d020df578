"""A published split: ids, labels, groups and folds, valid for any copy of the images at any resolution."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from dermaffinity.data.manifest import Manifest, by_id, csv_line, split_header
from dermaffinity.data.tables import decode_text, read_table
from dermaffinity.errors import DataError, ManifestError
from dermaffinity.files import atomic_write

_COLUMNS = ("image", "label", "group", "fold")
_KEYS = ("name", "adapter", "experiment", "protocol", "seed", "folds", "classes", "malignant", "source", "license")
_HASH = "split_hash"
_OTHERS = "others"
"""A line of the header of a split that lists its development images alone: all others are external."""


class Split(NamedTuple):
    """What a split file says; ``rows`` has the columns image (an id), label, group, fold (nullable Int64).

    Examples:
        >>> from pathlib import Path
        >>> from dermaffinity.data import read_split
        >>> split = read_split(Path("data_manifests/library.csv"))
        >>> split.header["folds"], split.others_external
        ('3', False)
    """

    header: dict[str, str]
    rows: pd.DataFrame
    others_external: bool
    path: Path


def write_split(manifest: Manifest, path: Path) -> None:
    """Writes the manifest's split without anything of the images' files; external images only as ``others: external``.

    Args:
        manifest: Of a dataset whose license and whose patients allow it.
        path: Ends in ``.csv``.

    Examples:
        >>> from pathlib import Path
        >>> from dermaffinity.data import read_manifest, read_split, write_split
        >>> write_split(read_manifest(Path("data_manifests/library.csv")), Path("split.csv"))
        >>> read_split(Path("split.csv")).rows.head(2)
           image label group  fold
        2    A34    ML   A34     2
        3   A51a    ML   A51     2
    """
    values = {key: getattr(manifest, key) for key in (*_KEYS, _HASH)}
    values |= {key: csv_line(values[key]) for key in ("classes", "malignant")}
    if len(manifest.external()):
        values[_OTHERS] = "external"
    header = [f"# {key}: {' '.join(str(value).splitlines())}".rstrip() for key, value in values.items()]
    listed = by_id(manifest.rows)[[*_COLUMNS]][manifest.rows["fold"].notna()]
    with atomic_write(path) as file:
        file.write("\n".join([*header, listed.sort_values("image").to_csv(index=False, lineterminator="\n")]))


def read_split(path: Path) -> Split:
    """Reads what `write_split` wrote, or a whole manifest, of which only the split counts.

    Raises:
        ManifestError: The file is none.

    Examples:
        >>> from pathlib import Path
        >>> from dermaffinity.data import read_split
        >>> len(read_split(Path("data_manifests/library.csv")).rows)
        37
    """
    try:
        header, text = split_header(decode_text(path.read_bytes(), str(path))[0])
        rows = read_table(text.encode(), str(path), _COLUMNS).rows[[*_COLUMNS]]
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such split") from None
    except (OSError, DataError) as error:
        raise ManifestError(f"{path}: cannot be read as a split ({error})") from error
    problems = [f"the header has no line '# {key}: …'" for key in (*_KEYS, _HASH) if key not in header]
    problems += [
        f"the fold {fold!r} is no number" for fold in set(rows["fold"]) if fold and not fold.lstrip("-").isdigit()
    ]
    problems += [f"listed twice: {image}" for image in rows.loc[rows["image"].duplicated(), "image"]]
    if problems:
        raise ManifestError(f"{path}: this split cannot be used", problems)
    rows = by_id(rows).assign(fold=pd.to_numeric(rows["fold"].where(rows["fold"] != "")).astype("Int64"))
    return Split(header, rows, header.get(_OTHERS) == "external", path)
