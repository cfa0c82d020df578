"""Pairs of faces: the published verification protocols, and all pairs of a library of one's own.

Every reader returns a table of one row per pair, in the order of the protocol:

* ``first``, ``second``: what is compared, as a path relative to the dataset's root: an image, or a folder of frames
* ``same``: whether both show the same person, as the protocol says
* ``fold``: from 0
* ``first_identity``, ``second_identity``: who is shown; missing where the protocol does not tell

No reader unpickles: ``.bin`` files of pairs, as some projects pass them around, can run any program when they are read.
"""

import itertools
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import pandas as pd

from dermaffinity.data.images import IMAGE_SUFFIXES
from dermaffinity.data.tables import clean, decode_text
from dermaffinity.errors import DataError, count_of, some_of

COLUMNS = ("first", "second", "same", "fold", "first_identity", "second_identity")
"""The columns of every table of pairs."""

# AgeDB's own file names: 3456_MariaCallas_35_f.jpg.
_AGEDB_NAME = re.compile(r"[0-9]+_(.+)_[0-9]+_[fm]", re.IGNORECASE)


def read_lfw_pairs(path: Path) -> pd.DataFrame:
    """Pairs of Labeled Faces in the Wild: ``pairs.txt``, ``pairsDevTrain.txt`` or ``pairsDevTest.txt``.

    The first line gives the number of folds and of matched pairs in each (``10 300``), or for one fold only the second
    (``500``). Each fold has as many lines ``name n1 n2`` and then as many ``name1 n1 name2 n2``; image n of a person
    is ``name/name_000n.jpg``.

    Source: Huang et al., "Labeled Faces in the Wild", University of Massachusetts TR 07-49, 2007, README section 3c.

    Raises:
        DataError: Listing every line that cannot be read, and folds with another number of pairs than announced.
    """
    (first_line, header), *lines = _lines(path)
    if not re.fullmatch(r"[1-9][0-9]*(\s+[1-9][0-9]*)?", header):
        raise _unreadable(
            path, [f"line {first_line}: expected the numbers of folds and pairs, as in '10 300', found {header!r}"]
        )
    *folds, matched = (int(number) for number in header.split())
    number_of_folds = folds[0] if folds else 1
    rows, bad = [], []
    for position, (number, text) in enumerate(lines):
        match text.split():
            case [name, n1, n2] if n1.isdecimal() and n2.isdecimal():
                one, other = (name, n1), (name, n2)
            case [name, n1, other_name, n2] if n1.isdecimal() and n2.isdecimal():
                one, other = (name, n1), (other_name, n2)
            case _:
                bad.append(f"line {number}: {text!r}")
                continue
        images = [f"{name}/{name}_{int(n):04d}.jpg" for name, n in (one, other)]
        rows.append((*images, len(text.split()) == 3, position // (2 * matched), one[0], other[0]))
    pairs = _table(rows)
    problems = _malformed(bad, "'name n1 n2' or 'name1 n1 name2 n2'")
    counts = pairs.groupby(["fold", "same"]).size()
    if not problems:
        for fold, same in itertools.product(range(max(number_of_folds, pairs["fold"].max() + 1)), (True, False)):
            found = int(counts.get((fold, same), 0))
            expected = matched if fold < number_of_folds else 0
            if found != expected:
                kind = "matched" if same else "mismatched"
                problems.append(f"fold {fold + 1} has {found} {kind} pairs, the first line announces {expected}")
    if problems:
        raise _unreadable(path, problems)
    return pairs


def read_ytf_pairs(path: Path) -> pd.DataFrame:
    """Pairs of videos of YouTube Faces: ``splits.txt``, or the authors' ``splits_corrected.txt``.

    A line of column names, then ``split, number, name/video, name/video, same``, with blanks after the commas; splits
    count from 1. A video is a folder of frames, ``name/video``, in ``frame_images_DB`` or ``aligned_images_DB``. The
    protocol's ``same`` decides: the corrected file has videos under the name of another person.

    Source: Wolf et al., "Face recognition in unconstrained videos with matched background similarity", CVPR 2011.

    Raises:
        DataError: Listing every line that cannot be read.
    """
    lines = _lines(path)
    if not lines[0][1].split(",")[0].strip().isdecimal():
        del lines[0]
    rows, bad = [], []
    for number, text in lines:
        cells = [cell.strip() for cell in text.split(",")]
        videos = [cell.replace("\\", "/").strip("/") for cell in cells[2:4]]
        if (
            len(cells) < 5
            or not re.fullmatch("[1-9][0-9]*", cells[0])
            or cells[4] not in ("0", "1")
            or any(not re.fullmatch("[^/]+/[^/]+", video) for video in videos)
        ):
            bad.append(f"line {number}: {text!r}")
            continue
        names = [video.split("/")[0] for video in videos]
        rows.append((*videos, cells[4] == "1", int(cells[0]) - 1, *names))
    problems = _malformed(bad, "'split, number, name/video, name/video, 0 or 1'")
    if not rows and not problems:
        problems.append("there is no pair in it")
    if problems:
        raise _unreadable(path, problems)
    return _table(rows)


def read_cfp_pairs(root: Path, kind: Literal["FF", "FP"]) -> pd.DataFrame:
    """Pairs of Celebrities in Frontal-Profile: frontal-frontal or frontal-profile.

    ``Protocol/Pair_list_F.txt`` and ``Pair_list_P.txt`` number the images (``1 ../Data/Images/001/frontal/01.jpg``,
    relative to ``Protocol``); each folder of ``Protocol/Split/FF`` or ``FP`` is a fold, whose ``same.txt`` and
    ``diff.txt`` hold lines ``1,12`` of two such numbers. In FP the second number is a profile's.

    Source: Sengupta et al., "Frontal to profile face verification in the wild", WACV 2016, and its Readme.txt.

    Args:
        root: The folder that holds ``Protocol`` and ``Data``.
        kind: Which protocol.

    Raises:
        DataError: Listing every line that cannot be read, and every number that stands for no image.
    """
    protocol = root / "Protocol"
    problems: list[str] = []
    frontal = _cfp_images(protocol / "Pair_list_F.txt", problems)
    other = frontal if kind == "FF" else _cfp_images(protocol / "Pair_list_P.txt", problems)
    folders = sorted(path for path in protocol.joinpath("Split", kind).glob("*") if path.is_dir())
    if not folders:
        problems.append(f"there is no fold in Protocol/Split/{kind}")
    rows, bad = [], []
    for fold, folder in enumerate(folders):
        for file, same in (("same.txt", True), ("diff.txt", False)):
            name = f"{kind}/{folder.name}/{file}"
            for number, text in _lines(folder / file):
                cells = [cell.strip() for cell in text.split(",")]
                if len(cells) != 2 or cells[0] not in frontal or cells[1] not in other:
                    bad.append(f"{name} line {number}: {text!r}")
                    continue
                images = (frontal[cells[0]], other[cells[1]])
                rows.append((*images, same, fold, *(PurePosixPath(image).parts[-3] for image in images)))
    problems += _malformed(bad, "two numbers of the lists")
    if problems:
        raise _unreadable(protocol, problems)
    return _table(rows)


def read_agedb_pairs(path: Path, *, folds: int = 10) -> pd.DataFrame:
    """Pairs of AgeDB-30 as a list of text, ``agedb_30_pair.txt``: lines ``image image 1`` (same person) or ``0``.

    The folds are equal parts of the list in its order, 600 pairs each for the 6,000 of AgeDB-30. The list is what
    projects make of the benchmark's ``agedb_30.bin``, a pickle that this package does not read. Identities are known
    where images keep AgeDB's own names, ``3456_MariaCallas_35_f.jpg``. Other lists of this form, such as
    ``cfp_fp_pair.txt``, can be read as well.

    Source: Moschoglou et al., "AgeDB: the first manually collected, in-the-wild age database", CVPR workshops 2017.

    Raises:
        DataError: Listing every line that cannot be read; or the list cannot be cut into equal folds.
    """
    rows, bad = [], []
    lines = _lines(path)
    for position, (number, text) in enumerate(lines):
        cells = text.split()
        if len(cells) != 3 or cells[2] not in ("0", "1"):
            bad.append(f"line {number}: {text!r}")
            continue
        rows.append((*cells[:2], cells[2] == "1", position * folds // len(lines), *map(_agedb_identity, cells[:2])))
    problems = _malformed(bad, "'image image 0' or 'image image 1'")
    if len(lines) % folds:
        problems.append(f"{len(lines)} pairs cannot be cut into {folds} equal folds")
    if problems:
        raise _unreadable(path, problems)
    return _table(rows)


def all_pairs(identities: Mapping[str, str], *, folds: int = 10) -> pd.DataFrame:
    """Every pair of different images, for a library without a protocol.

    All pairs of one person lie in one fold, and so do all pairs between two persons. People recur in other folds, as
    they must where there are few, so that the folds' accuracies are not independent.

    Args:
        identities: Who each image shows, by its path.
        folds: Number of folds.
    """
    people = sorted(set(identities.values()))
    fold_of = {(name, name): rank % folds for rank, name in enumerate(people)}
    fold_of |= {two: rank % folds for rank, two in enumerate(itertools.combinations(people, 2))}
    rows = []
    for one, other in itertools.combinations(sorted(identities, key=lambda image: (identities[image], image)), 2):
        people_of = identities[one], identities[other]
        rows.append((one, other, people_of[0] == people_of[1], fold_of[people_of], *people_of))
    return _table(rows)


def balanced(pairs: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """As many impostor as genuine pairs in each fold, drawn at random, so that chance has an accuracy of one half."""
    rng = np.random.default_rng(seed)
    kept: list[int] = []
    for _, part in pairs.groupby("fold"):
        genuine, impostor = (part.index[part["same"] == same].to_numpy() for same in (True, False))
        number = min(len(genuine), len(impostor))
        kept += [*rng.permutation(genuine)[:number], *rng.permutation(impostor)[:number]]
    return pairs.loc[sorted(kept)]


def template_images(pairs: pd.DataFrame, files: Sequence[str], *, frames: int | None = None) -> dict[str, list[str]]:
    """The image files behind everything that is compared: one, or the frames of a video in their order.

    An image is also found under another ending, such as ``.png`` for ``.jpg``: aligned copies change it. Names are
    compared in Unicode's normal form NFC.

    Args:
        pairs: A table of pairs.
        files: Of the library, as `ImageLibrary.files` gives them.
        frames: The most frames of a video, evenly spread; None for all.

    Raises:
        DataError: Naming what is not there.
    """
    images = [file for file in files if PurePosixPath(file).suffix.lower() in IMAGE_SUFFIXES]
    known = {clean(image): image for image in images}
    by_stem = {str(PurePosixPath(name).with_suffix("")): image for name, image in known.items()}
    by_folder: dict[str, list[str]] = {}
    for name, image in known.items():
        by_folder.setdefault(str(PurePosixPath(name).parent), []).append(image)
    found: dict[str, list[str]] = {}
    missing = []
    for name in dict.fromkeys([*pairs["first"], *pairs["second"]]):
        wanted = clean(name)
        if wanted in known:
            found[name] = [known[wanted]]
        elif wanted in by_folder:
            found[name] = _spread_out(sorted(by_folder[wanted], key=_frame_number), frames)
        elif (stem := str(PurePosixPath(wanted).with_suffix(""))) in by_stem:
            found[name] = [by_stem[stem]]
        else:
            missing.append(name)
    if missing:
        raise DataError(
            f"{len(missing)} of {len(found) + len(missing)} images or videos of the pairs are not in the library; "
            f"is its folder the one that their paths start from? Missing: {some_of(missing)}"
        )
    return found


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines that are not empty, numbered from 1."""
    try:
        text, _ = decode_text(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such list of pairs; it comes with the dataset") from None
    except (OSError, DataError) as error:
        raise DataError(f"{path}: cannot be read as a list of pairs ({error})") from error
    lines = [(number, line) for number, text in enumerate(text.splitlines(), start=1) if (line := clean(text))]
    if not lines:
        raise DataError(f"{path}: the list of pairs is empty; copy or download it again")
    return lines


def _table(rows: Iterable[tuple[object, ...]]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(COLUMNS)).astype({"same": bool, "fold": int})


def _unreadable(path: Path, problems: Sequence[str]) -> DataError:
    return DataError(f"{path}: these pairs cannot be used; compare the file with the dataset's own", problems)


def _malformed(lines: Sequence[str], expected: str) -> list[str]:
    return [f"{count_of(len(lines), 'line')}, expected {expected}, found {some_of(lines)}"] if lines else []


def _cfp_images(path: Path, problems: list[str]) -> dict[str, str]:
    """Paths from the dataset's root, by number."""
    images, bad = {}, []
    for number, text in _lines(path):
        match text.split(maxsplit=1):
            case [index, relative] if index.isdecimal():
                image = posixpath.normpath(posixpath.join("Protocol", relative))
                if len(PurePosixPath(image).parts) >= 3 and not image.startswith(("..", "/")):
                    images[index] = image
                    continue
        bad.append(f"{path.name} line {number}: {text!r}")
    problems += _malformed(bad, "'1 ../Data/Images/001/frontal/01.jpg' or the like")
    return images


def _agedb_identity(image: str) -> str | None:
    match = _AGEDB_NAME.fullmatch(PurePosixPath(image).stem)
    return match[1] if match else None


def _frame_number(image: str) -> list[int]:
    return [int(number) for number in re.findall("[0-9]+", PurePosixPath(image).name)]


def _spread_out(images: list[str], most: int | None) -> list[str]:
    if most is None or len(images) <= most:
        return images
    return [images[place] for place in np.linspace(0, len(images) - 1, most).round().astype(int)]
