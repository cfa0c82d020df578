"""From a folder of images to a manifest on the disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dermaffinity.config import check_arguments, parse_arguments
from dermaffinity.config.parts import hyper_parameters
from dermaffinity.data.adapters.base import adapter_class
from dermaffinity.data.decisions import apply_decisions
from dermaffinity.data.diagnoses import Vocabulary
from dermaffinity.data.manifest import Manifest, read_manifest, write_manifest
from dermaffinity.data.split_file import Split, read_split
from dermaffinity.data.splits import Protocol
from dermaffinity.errors import ConfigError


def prepare(
    adapter: str,
    source: str | Path,
    *,
    experiment: str | None = None,
    protocol: Protocol | None = None,
    folds: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    partial: bool = False,
    exact_ids: bool = False,
    decisions: str | Path | None = None,
    vocabulary: Vocabulary | None = None,
    split: str | Path | None = None,
    on_note: Callable[[str], None] = lambda note: None,
    on_progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Manifest:
    """Reads an image library and freezes it, with its folds, into a manifest.

    Args:
        adapter: One of `adapter_names`, such as ``table``, ``ham10000`` or ``isic``; one of your own by import path.
        source: The library's folder or zip archive.
        experiment: The task that the library is read into, such as ``5-class`` (dermofit) or ``hamfit-7`` (ham10000).
        protocol: ``group``: no patient or lesion crosses a fold; ``image``: single images; ``presplit``: the dataset's
            own test set, the default where there is one; else ``group`` is.
        folds: Number of folds; 3 by default, 1 under ``presplit``.
        seed: Of the split, and of the draw where the adapter draws.
        out: The manifest; ``data_manifests/NAME.csv`` by default.
        partial: Accept a library with missing images.
        exact_ids: Take group and class names for different ones even if they differ only in case, blanks, leading
            zeros or a trailing .0.
        decisions: Table of images to drop or relabel, see `dermaffinity.data.apply_decisions`; `verify` with a run
            writes one to fill in.
        vocabulary: Read the library in the classes of another: ``ham7``, ``isic8`` or ``dermofit10``; ``--classes`` on
            the command line.
        split: Adopt the folds of this file, which `write_split` wrote, instead of dealing new ones. Runs on
            one split can be compared, also on copies of the images at other resolutions.
        on_note: Told what a person should know about how the library was read, before anything is written.
        on_progress: Called after each image with the number done and the number of all.
        **options: Of the adapter, such as ``groups="patients.csv"`` of ``image_folder``.

    Raises:
        ConfigError: For an unknown adapter, or options that it cannot use.
        DataError: When the library is incomplete or damaged.

    Examples:
        >>> import dermaffinity as da
        >>> manifest = da.prepare("image_folder", "PHOTOS", group_pattern="^(P[0-9]+)_", out="photos.csv")
        >>> manifest.class_counts()
        {'melanoma': 3, 'nevus': 3}
    """
    found = adapter_class(adapter)
    adopted = None if split is None else read_split(Path(split))
    if adopted:
        _check_adopted(adopted, adapter, experiment, folds, protocol)
        if "experiment" in hyper_parameters(found):
            experiment = adopted.header["experiment"]
    if experiment is not None:
        options["experiment"] = experiment
    if partial:
        options["partial"] = True
    texts = {name: value for name, value in options.items() if isinstance(value, str)}
    checked, problems = parse_arguments(found, texts)
    others, refused = check_arguments(found, {name: value for name, value in options.items() if name not in texts})
    if problems or refused:
        raise ConfigError(
            f"{adapter}: these options cannot be used; `dermaffinity prepare --help` lists those of every adapter",
            [*problems, *refused],
        )
    try:
        reader = found(Path(source), **checked, **others)
    except ValueError as error:
        raise ConfigError(f"{adapter}: {error}") from error
    try:
        manifest = reader.prepare(
            folds=folds,
            protocol=protocol,
            seed=seed,
            exact_ids=exact_ids,
            vocabulary=vocabulary,
            split=adopted,
            on_progress=on_progress,
        )
    finally:  # what a table was taken for explains the errors, too
        for note in reader.notes:
            on_note(note)
    if decisions is not None:
        manifest = apply_decisions(manifest, Path(decisions))
    path = Path(out) if out else Path("data_manifests") / f"{manifest.name}.csv"
    if split is not None and path.exists() and path.samefile(split):
        raise ConfigError(f"{path} is the split itself; name another file for the manifest with --out")
    write_manifest(manifest, path)
    return read_manifest(path)


def _check_adopted(
    split: Split, adapter: str, experiment: str | None, folds: int | None, protocol: Protocol | None
) -> None:
    header = split.header
    asked = {"adapter": adapter, "experiment": experiment, "folds": folds, "protocol": protocol}
    wrong = [
        f"{name} {header[name]}, not {value}" for name, value in asked.items() if value and str(value) != header[name]
    ]
    if wrong:
        raise ConfigError(f"{split.path} is a split of another kind", wrong)
