"""Shards of predictions over Ray Data: on a cluster, or on all cores of this machine."""

import json
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dermaffinity.cluster import connected
from dermaffinity.errors import DataError, DermaffinityError
from dermaffinity.inference.batch import ImageFile
from dermaffinity.inference.classifier import LesionClassifier
from dermaffinity.inference.shards import finished, own_shards, predict_shard

# The process of a machine that was lost may still hold a shard.
_PATIENCE = 30.0


def predict_on_ray(
    classifier: LesionClassifier,
    files: Sequence[ImageFile],
    out: Path,
    *,
    address: str | None = None,
    part: str = "1/1",
    coverage: float = 0.9,
    on_problem: Callable[[str, str], None],
    on_progress: Callable[[int, int], None],
) -> int:
    """`predict_shards` by a worker for each core, or GPU where the classifier is on one; the same files come out.

    Every machine needs this package, the images and the classifier at the same paths, and the folder. The shards of a
    machine that is lost are predicted by another one.

    Args:
        classifier: See `LesionClassifier`; each worker has a copy.
        files: What `find_images` returns.
        out: The folder.
        address: See `dermaffinity.cluster.connected`.
        part: See `predict_shards`.
        coverage: Of the sets.
        on_problem: Told the name and the fault of each image that cannot be used.
        on_progress: Told (images done, images in all), shard by shard.

    Returns:
        Number of images that are predicted.

    Raises:
        DataError: As for `predict_shards`, and when a worker has failed; finished shards are kept.
        ConfigError: When there is no cluster.
    """
    shards = own_shards(classifier, files, out.resolve(), part, coverage)
    total = sum(len(shard) for shard in shards.values())
    kept = [path for path in shards if path.exists()]
    rows, done = sum(finished(path, on_problem) for path in kept), sum(len(shards[path]) for path in kept)
    on_progress(done, total)
    items = [{"shard": pickle.dumps((path, shard))} for path, shard in shards.items() if path not in kept]
    if not items:
        return rows
    with connected(address):
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        needed = "CPU" if str(classifier.device) == "cpu" else "GPU"
        workers = max(1, min(len(items), int(ray.cluster_resources().get(needed, 1))))
        answers = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            Predictor,
            fn_constructor_args=(ray.put(classifier), os.getcwd(), coverage),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
            num_cpus=1 if needed == "CPU" else None,
            num_gpus=1 if needed == "GPU" else None,
        )
        for answer in answers.iter_rows():
            found = json.loads(answer["found"])
            if found["error"]:
                raise DataError(found["error"])
            for problem in found["problems"]:
                on_problem(*problem)
            rows, done = rows + found["rows"], done + found["images"]
            on_progress(done, total)
    return rows


class Predictor:
    """A worker, which keeps its classifier and predicts one shard after the other."""

    def __init__(self, classifier: Any, folder: str, coverage: float) -> None:
        import ray
        import torch

        os.chdir(folder)
        torch.set_num_threads(1)
        self.classifier = ray.get(classifier) if isinstance(classifier, ray.ObjectRef) else classifier
        self.coverage = coverage

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """What became of shards."""
        return {"found": [json.dumps(self._predicted(*pickle.loads(content))) for content in batch["shard"]]}

    def _predicted(self, path: Path, files: Sequence[ImageFile]) -> dict[str, Any]:
        problems: list[tuple[str, str]] = []
        try:
            rows = predict_shard(
                self.classifier,
                files,
                path,
                coverage=self.coverage,
                on_problem=lambda *problem: problems.append(problem),
                on_progress=lambda done, total: None,
                patience=_PATIENCE,
            )
        except DermaffinityError as error:
            return {"error": str(error)}
        return {"error": "", "rows": rows, "images": len(files), "problems": problems}
