"""What a person decided about suspicious images: a table that `prepare` applies to a library."""

import hashlib
from dataclasses import replace
from pathlib import Path

from dermaffinity.data.manifest import Manifest
from dermaffinity.data.tables import read_table
from dermaffinity.errors import DataError, did_you_mean

DECISIONS = ("keep", "relabel", "drop")


def apply_decisions(manifest: Manifest, path: Path) -> Manifest:
    """The manifest without the images to drop and with the new labels; what was done is noted in its header.

    Folds stay as they are, so that results before and after can be compared image by image.

    Args:
        manifest: As the adapter made it.
        path: A table with the columns ``image``, ``decision`` (``keep``, ``relabel`` or ``drop``; empty is ``keep``)
            and ``new_label``, which only ``relabel`` needs; others may be.

    Raises:
        DataError: Listing all images, decisions and labels that there are not.

    Examples:
        >>> from pathlib import Path
        >>> from dermaffinity.data import apply_decisions, read_manifest
        >>> manifest = read_manifest(Path("data_manifests/library.csv"))
        >>> image = manifest.rows["image"][0]
        >>> written = Path("decisions.csv").write_text(f"image,decision,new_label\\n{image},drop,\\n")
        >>> after = apply_decisions(manifest, Path("decisions.csv"))
        >>> len(manifest.rows) - len(after.rows), after.decisions.partition(",")[0]
        (1, '1 dropped')
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    columns = ["image", "decision", "new_label"]
    table = read_table(content, str(path), columns).rows[columns]
    known, new_labels, dropped, problems = set(manifest.rows["image"]), dict[str, str](), set[str](), []
    for line, name, decision, new in table.itertuples(name=None):
        where, word = f"line {line}, {name}", decision.casefold() or "keep"
        if name not in known:
            problems.append(f"{where}: no such image in {manifest.name}{did_you_mean(name, known)}")
        if word not in DECISIONS:
            problems.append(f"{where}: the decision is {word!r}; allowed are {', '.join(DECISIONS)}")
        if word == "relabel" and new not in manifest.classes:
            problems.append(f"{where}: the new label is {new!r}; the classes are {', '.join(manifest.classes)}")
        if word == "relabel":
            new_labels[name] = new
        elif word == "drop":
            dropped.add(name)
    repeated = table.loc[table["image"].duplicated(), "image"].unique()
    problems += [f"{name} is decided about more than once" for name in repeated]
    if problems:
        raise DataError(f"{path}: these decisions cannot be applied; nothing was written", problems)
    rows = manifest.rows[~manifest.rows["image"].isin(dropped)]
    labels = [new_labels.get(name, label) for name, label in zip(rows["image"], rows["label"], strict=True)]
    rows = rows.assign(label=labels).reset_index(drop=True)
    digest = hashlib.sha256(content).hexdigest()[:12]
    done = f"{len(dropped)} dropped, {len(new_labels)} relabeled by {path.name}, sha256 {digest}"
    return replace(manifest, rows=rows, decisions=done)
