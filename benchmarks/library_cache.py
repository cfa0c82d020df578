"""What training costs on images that are mapped from files, over images in memory; and whether memory stays flat.

Synthetic images are written into a cache folder as training would, then drawn at random from all of them: once only
loaded and augmented, once trained on with a ResNet-18. The same number of steps is made, in turns, from images in
memory: a tenth of them, because the point of the cache is that memory may not hold all. Memory is what the process
itself allocated, without mapped files, which the system drops when it needs the room.

    python benchmarks/library_cache.py [--images 100000] [--steps 6]
"""

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from side_by_side import in_turns, ratios, result
from torch.nn import functional as F
from torchvision.models import resnet18

from dermaffinity.data.augmentation import LesionAugmentation
from dermaffinity.data.dataset import ManifestDataset
from dermaffinity.data.image_cache import cached
from dermaffinity.data.loaders import EpochBatches, load
from dermaffinity.data.transforms import TrainingStage

SIZE, BATCH, CLASSES, ROUNDS, DIFFERENT = 128, 32, 7, 3, 50


class Pictures(Sequence[np.ndarray]):
    """As many images as asked for, of 4:3, made when asked for."""

    def __init__(self, count: int) -> None:
        random = np.random.default_rng(0)
        self.count = count
        self.some = random.integers(0, 256, (DIFFERENT, SIZE, SIZE * 4 // 3, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> np.ndarray:
        return np.roll(self.some[row % DIFFERENT], row // DIFFERENT, axis=1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=4_000)
    parser.add_argument("--steps", type=int, default=6)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DERMAFFINITY_CACHE"] = folder
        pictures = Pictures(arguments.images)
        size = arguments.images * pictures.some[0].size
        before, started = anonymous(), time.perf_counter()
        mapped = cached(pictures, {"images": str(arguments.images)}, size)
        rate = arguments.images / (time.perf_counter() - started)
        print(f"{arguments.images:,} images, {size / 2**30:.1f} GiB: {rate:,.0f} images/s into the cache")
        kept = [pictures[row] for row in range(arguments.images // 10)]
        between = anonymous()
        datasets = {"mapped": dataset(mapped), "in memory": dataset(kept)}
        batches = {name: epochs(one) for name, one in datasets.items()}
        for what, model in (("loaded", None), ("trained on", resnet18(num_classes=CLASSES))):
            steps = arguments.steps * (1 if model else 10)
            runs = {
                name: lambda own=own, steps=steps, model=model: run(own, steps, model) for name, own in batches.items()
            }
            seconds = in_turns(runs, ROUNDS)
            rates = (f"{name} {ROUNDS * steps * BATCH / sum(found):.0f} images/s" for name, found in seconds.items())
            print(f"{what}: {', '.join(rates)}", flush=True)
            figure = f"images mapped from files, {what}, images/s over memory"
            result(figure, ratios(seconds["in memory"], seconds["mapped"]), "at least 0.95")
        own = between - before - sum(image.nbytes for image in kept) / 2**20
        print(f"own memory of the cache {own:.0f} MiB; {anonymous() - between:.0f} MiB more after training")


def dataset(images: Sequence[np.ndarray]) -> ManifestDataset:
    return ManifestDataset(images, np.arange(len(images)) % CLASSES, TrainingStage(LesionAugmentation(SIZE)))


def epochs(images: ManifestDataset) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    loader = load(images, EpochBatches(images.labels, BATCH, seed=0), workers=0, device=torch.device("cpu"))
    while True:
        yield from loader


def run(batches: Iterator[tuple[torch.Tensor, torch.Tensor]], steps: int, model: torch.nn.Module | None) -> None:
    for images, labels in itertools.islice(batches, steps):
        if model is not None:
            model.zero_grad()
            F.cross_entropy(model(images), labels).backward()


def anonymous() -> float:
    """MiB of this process that are no mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


if __name__ == "__main__":
    main()
