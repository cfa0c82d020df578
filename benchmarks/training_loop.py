"""What the training loop costs over a bare one: images per second of ``Trainer.fit`` and of ten lines of PyTorch.

Both train the same ResNet-18 from random weights on the same decoded images, batch by batch, in one run and in turns.
The bare loop has no augmentation, no validation, no checkpoint: the ratio is the price of everything around the step.
"""

import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.nn import functional as F

from dermaffinity.config import TrainingSettings
from dermaffinity.data.augmentation import LesionAugmentation
from dermaffinity.data.dataset import ManifestDataset
from dermaffinity.data.transforms import EvaluationStage, TrainingStage
from dermaffinity.heads import LinearHead
from dermaffinity.losses import CrossEntropyLoss
from dermaffinity.models import IdentityNeck, LesionNetwork, ResNet18
from dermaffinity.training.precision import has_bfloat16
from dermaffinity.training.trainer import Trainer

IMAGES, SIZE, BATCH, ROUNDS, CLASSES = 256, 128, 32, 3, 7
PRECISION = "bf16-mixed" if has_bfloat16() else "32-true"


def main() -> None:
    random = np.random.default_rng(0)
    pictures = list(random.integers(0, 256, (IMAGES, SIZE, SIZE * 4 // 3, 3), dtype=np.uint8))
    labels = random.integers(0, CLASSES, IMAGES)
    ours, bare = [], []
    for _ in range(ROUNDS):
        ours.append(trainer_rate(pictures, labels))
        bare.append(bare_rate(pictures, labels))
    print(f"Trainer.fit  {np.median(ours):6.1f} images/s   (rounds: {', '.join(f'{rate:.1f}' for rate in ours)})")
    print(f"bare loop    {np.median(bare):6.1f} images/s   (rounds: {', '.join(f'{rate:.1f}' for rate in bare)})")
    ratio = np.median(ours) / np.median(bare)
    figure = f"training at {SIZE} px, images/s over preloaded batches ({PRECISION})"
    print("result:", json.dumps({"figure": figure, "ratio": ratio, "wanted": "at least 0.95"}))


def trainer_rate(pictures: list[np.ndarray], labels: np.ndarray) -> float:
    network = LesionNetwork(ResNet18(weights=None), IdentityNeck(512), LinearHead(512, CLASSES))
    loss = CrossEntropyLoss(torch.as_tensor(np.bincount(labels, minlength=CLASSES)), 512)
    fabric = Fabric(accelerator="cpu", devices=1, precision=PRECISION)
    fabric.launch()
    settings = TrainingSettings(epochs=1, batch_size=BATCH, precision=PRECISION)
    trainer = Trainer(network, loss, settings, seed=0, fabric=fabric)
    training = ManifestDataset(pictures, labels, TrainingStage(LesionAugmentation(SIZE)))
    validation = ManifestDataset(pictures[:BATCH], labels[:BATCH], EvaluationStage(SIZE))
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        trainer.fit(training, validation, Path(folder) / "checkpoint.pt")
        return IMAGES / (time.perf_counter() - started)


def bare_rate(pictures: list[np.ndarray], labels: np.ndarray) -> float:
    network = LesionNetwork(ResNet18(weights=None), IdentityNeck(512), LinearHead(512, CLASSES))
    network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    fixed = EvaluationStage(SIZE)
    images = torch.stack([fixed(picture) for picture in pictures]).contiguous(memory_format=torch.channels_last)
    targets = torch.as_tensor(labels)
    started = time.perf_counter()
    for start in range(0, IMAGES, BATCH):
        with torch.autocast("cpu", torch.bfloat16, enabled=PRECISION == "bf16-mixed"):
            scores = network(images[start : start + BATCH]).scores
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(scores, targets[start : start + BATCH]).backward()
        optimizer.step()
    return IMAGES / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
