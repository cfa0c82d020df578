"""Predictions of any number of images, as a folder of Parquet files that an interrupted command continues."""

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dermaffinity.errors import ConfigError, DataError, some_of
from dermaffinity.files import hold, sweep_partial, write_json
from dermaffinity.inference.batch import ImageFile, predict_files
from dermaffinity.inference.classifier import LesionClassifier

SHARD_SIZE = 5_000
"""Images in a shard: what an interruption may cost."""

# Readers of Parquet folders pass over names that begin so.
_PLAN = "_predictions.json"
# Another process may be writing the same line of the plan.
_PATIENCE = 10.0


def predict_shards(
    classifier: LesionClassifier,
    files: Sequence[ImageFile],
    out: Path,
    *,
    part: str = "1/1",
    coverage: float = 0.9,
    on_problem: Callable[[str, str], None],
    on_progress: Callable[[int, int], None],
) -> int:
    """Writes ``predictions-00000.parquet`` and so on, each complete or not there; finished ones are kept.

    Several processes may share the folder, each with a part of its own. See `predict_files` for the columns.

    Args:
        classifier: See `LesionClassifier`.
        files: What `find_images` returns; the same for every part.
        out: The folder.
        part: ``"I/N"``: every N-th shard from the I-th on.
        coverage: Of the sets.
        on_problem: Told the name and the fault of each image of this part that cannot be used.
        on_progress: Told (images done, images of this part).

    Returns:
        Number of this part's images that are predicted, those of earlier commands included.

    Raises:
        ConfigError: When the part is none.
        DataError: When the folder holds the predictions of another model or of other images, or cannot be written.
        BusyError: When another process is at a shard of this part.

    Examples:
        >>> from pathlib import Path
        >>> from dermaffinity import LesionClassifier
        >>> from dermaffinity.inference import find_images, predict_shards
        >>> classifier = LesionClassifier.load("runs/library_affinity_plus")
        >>> images = find_images([Path("PHOTOS")], on_problem=print)
        >>> predict_shards(classifier, images, Path("shards"), on_problem=print, on_progress=lambda done, total: None)
        6
        >>> sorted(path.name for path in Path("shards").glob("[!.]*"))
        ['_predictions.json', 'predictions-00000.parquet']
    """
    shards = own_shards(classifier, files, out, part, coverage)
    total = sum(len(shard) for shard in shards.values())
    done = rows = 0
    for path, shard in shards.items():

        def advance(count: int, _: int, before: int = done) -> None:
            on_progress(before + count, total)

        rows += predict_shard(classifier, shard, path, coverage=coverage, on_problem=on_problem, on_progress=advance)
        done += len(shard)
        on_progress(done, total)
    return rows


def predict_shard(
    classifier: LesionClassifier,
    files: Sequence[ImageFile],
    path: Path,
    *,
    coverage: float,
    on_problem: Callable[[str, str], None],
    on_progress: Callable[[int, int], None],
    patience: float = 0,
) -> int:
    """`predict_files`, once: a shard that is there is read, and one that another process is at is left to it."""
    lock = f".{path.stem}.lock"
    with hold(path.parent, patience, lock):
        sweep_partial(path.parent, path.name)
        if path.exists():
            rows = finished(path, on_problem)
        else:
            rows = predict_files(
                classifier, files, path, coverage=coverage, on_problem=on_problem, on_progress=on_progress
            )
    (path.parent / lock).unlink(missing_ok=True)
    return rows


def own_shards(
    classifier: LesionClassifier, files: Sequence[ImageFile], out: Path, part: str, coverage: float
) -> dict[Path, Sequence[ImageFile]]:
    """The shards of a part and their images, of a folder that is for them."""
    first, step = _part(part)
    _agree(out, _plan(classifier, files, coverage))
    starts = range(0, len(files), SHARD_SIZE)[first - 1 :: step]
    return {
        out / f"predictions-{start // SHARD_SIZE:05}.parquet": files[start : start + SHARD_SIZE] for start in starts
    }


def _part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ConfigError(f"--part {text}: write I/N with I from 1 to N, such as 1/16 to 16/16 for sixteen processes")
    return int(found[1]), int(found[2])


def _plan(classifier: LesionClassifier, files: Sequence[ImageFile], coverage: float) -> dict[str, Any]:
    names = hashlib.sha256()
    for file in files:
        names.update("\0".join((file.name, file.path, *file.cells, *file.cells.values(), "")).encode())
    model = classifier.description
    return {
        "model": f"{model.name} {model.digest[:12]}",
        "views": classifier.views,
        "coverage": coverage,
        "images": f"{len(files):,}, names {names.hexdigest()[:12]}",
        "shard_size": SHARD_SIZE,
    }


def _agree(out: Path, plan: dict[str, Any]) -> None:
    """Writes down what the folder is for, or checks it."""
    path = out / _PLAN
    # In this order: another process writes the plan before its first shard. Not within `hold`, which leaves a file.
    others = sorted(file.name for file in out.glob("[!.]*"))
    if others and not path.exists():
        raise DataError(f"{out}: holds other files, {some_of(others, 3)}; give a new or an empty folder as --out")
    with hold(out, _PATIENCE):
        if not path.exists():
            write_json(path, plan)
            return
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            different = [
                f"{key}: {known.get(key)}, now {value}" for key, value in plan.items() if known.get(key) != value
            ]
        except (OSError, ValueError, AttributeError) as error:
            raise DataError(f"{path}: cannot be read ({error}); give a new folder as --out") from error
    if different:
        raise DataError(
            f"{out}: holds other predictions. Give a new folder as --out, or remove this one: "
            f"{shlex.join(['rm', '-r', str(out)])}",
            different,
        )


def finished(path: Path, on_problem: Callable[[str, str], None]) -> int:
    """Tells the problems of a shard; returns the number of its images that are predicted."""
    from pyarrow.parquet import read_table

    table = read_table(path, columns=["image", "problem"])
    bad = [row for row in table.to_pylist() if row["problem"] is not None]
    for row in bad:
        on_problem(row["image"], row["problem"])
    return len(table) - len(bad)
