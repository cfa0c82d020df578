"""What loading and augmenting costs a training step: ResNet-18 on fresh batches, over the same on one ready batch.

The two take turns, step by step, so that both see the same machine; the ratio is of the medians. Besides, the share of
the processor time that goes into making a batch, which other work on the machine changes little.
"""

import os
import statistics
import time

import numpy as np
import torch
from torch.nn import functional as F
from torchvision.models import resnet18

from dermaffinity.data.augmentation import LesionAugmentation
from dermaffinity.data.dataset import ManifestDataset
from dermaffinity.data.loaders import EpochBatches, load
from dermaffinity.data.transforms import TrainingStage

IMAGES, BATCH, STEPS, CLASSES = 512, 32, 12, 7


def main() -> None:
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    for size in (128, 224):
        random = np.random.default_rng(0)
        pictures = list(random.integers(0, 256, (IMAGES, size, size * 4 // 3, 3), dtype=np.uint8))
        dataset = ManifestDataset(pictures, np.arange(IMAGES) % CLASSES, TrainingStage(LesionAugmentation(size)))
        drawn = EpochBatches(dataset.labels, BATCH, seed=0)
        batches = iter(load(dataset, drawn, workers=0, device=torch.device("cpu")))
        model = resnet18(num_classes=CLASSES).to(memory_format=torch.channels_last)
        ready = next(batches)
        fresh, pure, making, whole = [], [], [], []
        step(model, *ready)
        for _ in range(STEPS):
            started, worked = time.perf_counter(), time.process_time()
            batch = next(batches)
            making.append(time.process_time() - worked)
            step(model, *batch)
            fresh.append(time.perf_counter() - started)
            whole.append(time.process_time() - worked)
            started = time.perf_counter()
            step(model, *ready)
            pure.append(time.perf_counter() - started)
        rates = [BATCH / statistics.median(times) for times in (fresh, pure)]
        share = 100 * statistics.median(making) / statistics.median(whole)
        print(
            f"{size} px: {rates[0]:.1f} images/s, one ready batch {rates[1]:.1f} images/s: ratio "
            f"{rates[0] / rates[1]:.2f}; {share:.1f} % of the processor time makes batches",
            flush=True,
        )


def step(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    model.zero_grad()
    F.cross_entropy(model(images), labels).backward()


if __name__ == "__main__":
    main()
