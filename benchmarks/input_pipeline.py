"""What loading and augmenting costs a training step: ResNet-18 on fresh batches, over the same on one ready batch.

The two take turns, step by step, in the precision that training takes here. Besides, the share of the processor time
that goes into making a batch, which other work on the machine changes little.
"""

import os
import time

import numpy as np
import torch
from side_by_side import in_turns, ratios, result
from torch.nn import functional as F
from torchvision.models import resnet18

from dermaffinity.data.augmentation import LesionAugmentation
from dermaffinity.data.dataset import ManifestDataset
from dermaffinity.data.loaders import EpochBatches, load
from dermaffinity.data.transforms import TrainingStage
from dermaffinity.training import has_bfloat16

IMAGES, BATCH, CLASSES = 512, 32, 7
STEPS = {128: 12, 224: 6}  # by the images' size


def main() -> None:
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    for size, steps in STEPS.items():
        random = np.random.default_rng(0)
        pictures = list(random.integers(0, 256, (IMAGES, size, size * 4 // 3, 3), dtype=np.uint8))
        dataset = ManifestDataset(pictures, np.arange(IMAGES) % CLASSES, TrainingStage(LesionAugmentation(size)))
        drawn = EpochBatches(dataset.labels, BATCH, seed=0)
        batches = iter(load(dataset, drawn, workers=0, device=torch.device("cpu")))
        model = resnet18(num_classes=CLASSES).to(memory_format=torch.channels_last)
        ready = next(batches)
        making: list[float] = []

        def fresh(batches=batches, model=model, making=making) -> None:
            started = time.process_time()
            batch = next(batches)
            making.append(time.process_time() - started)
            step(model, *batch)

        started = time.process_time()
        seconds = in_turns({"fresh": fresh, "ready": lambda model=model, ready=ready: step(model, *ready)}, steps)
        share = 2 * sum(making) / (time.process_time() - started + sum(making))
        rates = {name: BATCH * steps / sum(found) for name, found in seconds.items()}
        print(
            f"{size} px: {rates['fresh']:.1f} images/s, one ready batch {rates['ready']:.1f} images/s; {share:.1%} of "
            "the processor time makes batches",
            flush=True,
        )
        figure = f"training at {size} px, images/s over one ready batch"
        result(figure, ratios(seconds["ready"], seconds["fresh"]), "at least 0.95")


def step(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16()):
        scores = model(images)
    F.cross_entropy(scores, labels).backward()


if __name__ == "__main__":
    main()
