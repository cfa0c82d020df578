"""Looking at every image of a manifest before a run does, and saying how far its test images are unseen ones."""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd

from dermaffinity.data.images import decode_image, decode_mask, image_size
from dermaffinity.data.library import ImageLibrary
from dermaffinity.data.manifest import Manifest, groups_known, read_manifest
from dermaffinity.data.quality import Quality, image_quality, quality_problems
from dermaffinity.data.splits import TRAINING_ONLY, Leak, assign_folds, measure_leak
from dermaffinity.errors import ConfigError, DataError, ManifestError, count_of, some_of

# What is said of images with these `quality_problems`.
_LOOK = {
    "blurred": "blurred beside the others",
    "dark": "dark",
    "overexposed": "overexposed",
    "vignette": "with a vignette",
}

# Bits of the perceptual hash, and how many of them may differ between near duplicates. Measured on HAM10000: halving
# or doubling an image and saving it as a poor JPEG changes up to 30 bits of 256; of 50 million pairs of images of
# different lesions 5 are within 40 bits, and the eye takes 2 of those for one lesion. A 64-bit hash cannot tell: at
# the distance at which it finds as many pairs of the same lesion, it finds 200 times as many of different ones.
_HASH_SIDE = 16
_NEAR_BITS = 40


@dataclass(frozen=True, eq=False)
class Verification:
    """What `verify` found.

    Args:
        manifest: The manifest that was verified.
        findings: One row per finding: ``severity`` (``error`` for what would spoil a run, else ``warning``), ``image``,
            ``problem``.
        quality: ``image`` and ``problems`` of every image that was decoded: words of `quality_problems`, none for most.
        leak: By protocol: as frozen in the manifest, and as the other protocol would split the same images; that one is
            left out where it is impossible, and where the split is the dataset's own.

    Examples:
        >>> import dermaffinity as da
        >>> verification = da.verify("data_manifests/library.csv")
        >>> print(verification.statement().splitlines()[0])
        37 images of 33 groups (patients or lesions) in 5 classes, from 6 images (AK) to 10 (ML).
        >>> verification.findings.empty
        True
    """

    manifest: Manifest
    findings: pd.DataFrame
    quality: pd.DataFrame
    leak: dict[str, Leak]

    def ok(self) -> bool:
        """Whether nothing was found that would spoil a run."""
        return not (self.findings["severity"] == "error").any()

    def lines(self) -> list[str]:
        """Every finding as ``severity: image: problem``."""
        return [f"{severity}: {image}: {problem}" for severity, image, problem in self.findings.itertuples(index=False)]

    def quality_lines(self) -> list[str]:
        """How many images are hard to read, by problem, with the first few."""
        found = self.quality.explode("problems").dropna().groupby("problems")["image"]
        return [
            f"note: {count_of(len(images), 'image')} {_LOOK[str(problem)]}: {some_of(images, 3)}"
            for problem, images in sorted(found)
        ]

    def statement(self) -> str:
        """The size of the library, and how much either way to split it leaks, in sentences for a clinician."""
        return _statement(self.manifest, self.leak)


def leak_statement(manifest: Manifest) -> str:
    """What `Verification.statement` says, without looking at the images."""
    return _statement(manifest, _leaks(manifest))


def verify(
    manifest: Manifest | str | Path,
    *,
    root: str | Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Decodes every image and mask once, compares them with the manifest, and looks for duplicates among them.

    Near duplicates are found by a perceptual hash, which sees through another size, compression or brightness, but not
    through rotation, mirroring or a crop of more than a few percent.

    Args:
        manifest: With a root, or its path.
        root: The library's folder, if it has moved.
        on_progress: Called after each image with the number done and the number of all.

    Raises:
        ConfigError: When the manifest does not say where its images lie.
        DataError: When there is nothing at the root.

    Examples:
        >>> import dermaffinity as da
        >>> da.verify("data_manifests/library.csv").ok()
        True
    """
    if not isinstance(manifest, Manifest):
        manifest = read_manifest(Path(manifest), None if root is None else Path(root))
    if manifest.root is None:
        raise ConfigError(
            f"{manifest.path or manifest.name}: the folder of its images is not known here. Say where it is with "
            "--root FOLDER"
        )
    library = ImageLibrary(manifest.root)
    rows = manifest.rows
    seen: list[_Seen] = []
    # Threads are enough: Pillow decodes without the interpreter's lock.
    executor = ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1))
    looked_at = rows[["image", "mask", "sha256", "width", "height"]].itertuples(index=False)
    try:
        for one in executor.map(lambda row: _look(library, row), looked_at):
            seen.append(one)
            if on_progress is not None:
                on_progress(len(seen), len(rows))
    finally:
        executor.shutdown(cancel_futures=True)
    repeated = rows.loc[rows["image"].duplicated(), "image"]
    findings = [
        *(finding for one in seen for finding in one.findings),
        *(_Finding("error", image, "is listed more than once") for image in repeated),
        *_exact_duplicates(rows, seen),
        *_near_duplicates(rows, seen),
    ]
    decoded = [(image, one.quality) for image, one in zip(rows["image"], seen, strict=True) if one.quality is not None]
    problems = quality_problems([measured for _, measured in decoded])
    quality = pd.DataFrame({"image": [image for image, _ in decoded], "problems": problems}, dtype=object)
    return Verification(
        manifest, pd.DataFrame(findings, columns=_Finding._fields, dtype=str), quality, _leaks(manifest)
    )


_Dealt = Literal["group", "image"]


class _Finding(NamedTuple):
    severity: str
    image: str
    problem: str


@dataclass
class _Seen:
    """What is kept of an image: its findings, the hash of its file, and the perceptual hash of its pixels."""

    findings: list[_Finding] = field(default_factory=list)
    content: str | None = None
    bits: np.ndarray | None = None  # (256,) bool
    quality: Quality | None = None


def _look(library: ImageLibrary, row: Any) -> _Seen:
    """Everything there is to find in one row, which is a named tuple of the manifest's columns."""
    import imagehash
    from PIL import Image

    seen = _Seen()

    def note(severity: str, problem: str) -> None:
        seen.findings.append(_Finding(severity, row.image, problem))

    try:
        content = library.read(row.image)
        seen.content = hashlib.sha256(content).hexdigest()
        if seen.content != row.sha256:
            note("error", "is not the file the manifest was made from: its sha256 differs")
        image = decode_image(content, row.image)
        height, width = image.shape[:2]
        if (width, height) != (row.width, row.height):
            note("error", f"is {width} x {height} pixels, but {row.width} x {row.height} in the manifest")
        seen.quality = image_quality(image)
        seen.bits = imagehash.phash(Image.fromarray(image), hash_size=_HASH_SIDE).hash.ravel()
    except DataError as error:
        note("error", str(error).removeprefix(f"{row.image}: "))
    if isinstance(row.mask, str):
        try:
            _look_at_mask(library, row, note)
        except DataError as error:
            note("error", f"its mask cannot be used: {error}")
    return seen


def _look_at_mask(library: ImageLibrary, row: Any, note: Callable[[str, str], None]) -> None:
    content = library.read(row.mask)
    width, height = image_size(content, row.mask)
    # Within the rounding of one side, for a mask that was drawn at another size.
    if abs(width * row.height - height * row.width) > max(width, height, row.width, row.height):
        size = f"{width} x {height} pixels, the image {row.width} x {row.height}"
        note("error", f"its mask {row.mask} has another aspect ratio: {size}")
    mask = decode_mask(content, row.mask, (height, width))
    if mask.all() or not mask.any():
        note("warning", f"its mask {row.mask} covers {'the whole image' if mask.all() else 'nothing'}")


def _exact_duplicates(rows: pd.DataFrame, seen: list[_Seen]) -> Iterator[_Finding]:
    images = rows["image"].tolist()
    first: dict[str, int] = {}
    for index, one in enumerate(seen):
        if one.content is None:
            continue
        other = first.setdefault(one.content, index)
        if other != index:
            places = _place(rows, index), _place(rows, other)
            problem = f"is the same file as {images[other]} ({places[1]}); this one is {places[0]}"
            yield _Finding("warning" if places[0] == places[1] else "error", images[index], problem)


def _near_duplicates(rows: pd.DataFrame, seen: list[_Seen]) -> Iterator[_Finding]:
    """Each image with its nearest later one of another label, or of another group and another fold."""
    bits_of = {index: one.bits for index, one in enumerate(seen) if one.bits is not None}
    if not bits_of:
        return
    images, decoded = rows["image"].tolist(), list(bits_of)
    signs = np.stack([np.where(bits, np.float32(1), np.float32(-1)) for bits in bits_of.values()])  # (n, 256)
    label, group, fold = (_codes(rows[key].iloc[decoded]) for key in ("label", "group", "fold"))
    content = _codes(pd.Series([seen[index].content for index in decoded]))
    step = max(1, 10_000_000 // len(decoded))  # bounds the memory of a block of all pairs
    for start in range(0, len(decoded), step):
        differing = (signs.shape[1] - signs[start : start + step] @ signs[start:].T) / 2  # (step, n - start) bits
        one, other = np.nonzero(np.triu(differing <= _NEAR_BITS, k=1))
        distance, one, other = differing[one, other], one + start, other + start
        matters = (label[one] != label[other]) | ((group[one] != group[other]) & (fold[one] != fold[other]))
        (chosen,) = np.nonzero(matters & (content[one] != content[other]))
        chosen = chosen[np.lexsort((distance[chosen], one[chosen]))]
        chosen = chosen[np.unique(one[chosen], return_index=True)[1]]
        for pair in chosen:
            index, twin = decoded[one[pair]], decoded[other[pair]]
            problem = (
                f"looks nearly the same as {images[twin]} ({_place(rows, twin)}); this one is {_place(rows, index)}"
            )
            yield _Finding("warning", images[index], problem)


def _codes(column: pd.Series) -> np.ndarray:
    """Numbers for values, one for missing too: external images count as one more fold."""
    return pd.factorize(column, use_na_sentinel=False)[0]


def _place(rows: pd.DataFrame, index: int) -> str:
    label, group, fold = rows[["label", "group", "fold"]].iloc[index]
    part = "external" if pd.isna(fold) else "training" if fold == TRAINING_ONLY else f"fold {fold}"
    return f"{label}, group {group}, {part}"


def _statement(manifest: Manifest, leaks: dict[str, Leak]) -> str:
    rows = manifest.development()
    counts = manifest.class_counts()
    rarest, *_, commonest = sorted(counts, key=counts.__getitem__)
    sizes = rows["group"].value_counts()
    shared = int(sizes[sizes > 1].sum())
    mixed = int((rows.groupby("group")["label"].nunique() > 1).sum())
    known = groups_known(rows)
    of_groups = f"of {len(sizes):,} groups (patients or lesions) " if known else ""
    sentences = [
        f"{len(rows):,} images {of_groups}in {len(counts)} classes, from {counts[rarest]:,} images ({rarest}) to "
        f"{counts[commonest]:,} ({commonest}).",
        f"{shared:,} images ({_percent(shared, len(rows))}) share their group with another image; "
        f"{mixed:,} groups hold more than one class."
        if known
        else "Which images show the same patient or lesion is not known. Those that do may lie on both sides of the "
        "split, and then the results are better than those to expect on new patients.",
    ]
    if manifest.protocol == "presplit":
        trained = len(manifest.trained_on())
        sentences.append(f"{trained:,} of them are trained on; {len(rows) - trained:,} are the dataset's test set.")
    if external := len(manifest.external()):
        sentences.append(f"{external:,} further images are set aside as an external test.")
    for protocol, leak in leaks.items() if known else ():
        used = protocol == manifest.protocol
        sentences.append(f"Protocol '{protocol}' ({'used here' if used else 'not used here'}): {leak_sentence(leak)}")
    if leaks[manifest.protocol].share > 0:
        sentences.append(
            "A network can know such test images by the person or the lesion instead of the disease, so the "
            "results are better than those to expect on new patients."
        )
    return "\n".join(sentences)


def _leaks(manifest: Manifest) -> dict[str, Leak]:
    rows = manifest.development()
    labels, groups = rows["label"].tolist(), rows["group"].tolist()
    leaks = {manifest.protocol: measure_leak(labels, groups, rows["fold"].tolist())}
    if manifest.protocol == "presplit":
        return leaks
    for protocol in get_args(_Dealt):
        if protocol != manifest.protocol:
            try:
                folds = assign_folds(labels, groups, folds=manifest.folds, protocol=protocol, seed=manifest.seed)
            except ManifestError:
                continue
            leaks[protocol] = measure_leak(labels, groups, folds.tolist())
    return leaks


def leak_sentence(leak: Leak) -> str:
    """How many test images have relatives in training, in one sentence."""
    images, mates, same = (sum(counts.values()) for counts in (leak.images, leak.group_mates, leak.same_label))
    if not mates:
        return "no test image has another image of its group in training."
    by_class = sorted(leak.images, key=lambda name: leak.same_label[name] / leak.images[name], reverse=True)
    worst = [
        f"{name} {_percent(leak.same_label[name], leak.images[name])}" for name in by_class[:3] if leak.same_label[name]
    ]
    most = f" (most: {', '.join(worst)})" if worst else ""
    return (
        f"{mates:,} of {images:,} test images ({_percent(mates, images)}) have another image of their group in "
        f"training, {same:,} ({_percent(same, images)}) one of the same class{most}."
    )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(1, whole):.1f} %"
