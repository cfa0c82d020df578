"""The training loop where a step is cheap: images per second of ``Trainer.fit`` and of a bare loop on digits.

Both train the digit network of the paper on the same 28 × 28 images, in turns, in bfloat16 where the processor has it.
The bare loop has its images as one tensor from the start; no order, no validation, no checkpoint. The work around the
step counts more here than for photographs.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from side_by_side import WARM_UP, ratios, result
from torch.nn import functional as F

from dermaffinity.config import TrainingSettings
from dermaffinity.data.dataset import ManifestDataset
from dermaffinity.data.transforms import EvaluationStage
from dermaffinity.heads import LinearHead
from dermaffinity.losses import CrossEntropyLoss
from dermaffinity.models import DigitNet, IdentityNeck, LesionNetwork
from dermaffinity.training.precision import has_bfloat16
from dermaffinity.training.trainer import Trainer

IMAGES, SIZE, BATCH, ROUNDS, CLASSES = 6_400, 28, 128, 3, 10
PRECISION = "bf16-mixed" if has_bfloat16() else "32-true"


def main() -> None:
    random = np.random.default_rng(0)
    digits = list(np.repeat(random.integers(0, 256, (IMAGES, SIZE, SIZE, 1), dtype=np.uint8), 3, axis=3))
    labels = random.integers(0, CLASSES, IMAGES)
    found = [(trainer_rate(digits, labels), bare_rate(digits, labels)) for _ in range(WARM_UP + ROUNDS)][WARM_UP:]
    ours, bare = zip(*found, strict=True)
    print(f"Trainer.fit {np.median(ours):.0f} images/s, bare loop {np.median(bare):.0f} images/s")
    result("training on digits, images/s over a bare loop", ratios(ours, bare))


def trainer_rate(digits: list[np.ndarray], labels: np.ndarray) -> float:
    loss = CrossEntropyLoss(torch.as_tensor(np.bincount(labels, minlength=CLASSES)), 128)
    fabric = Fabric(accelerator="cpu", devices=1, precision=PRECISION)
    fabric.launch()
    settings = TrainingSettings(epochs=1, batch_size=BATCH, precision=PRECISION)
    trainer = Trainer(network(), loss, settings, seed=0, fabric=fabric)
    training = ManifestDataset(digits, labels, EvaluationStage(SIZE))
    validation = ManifestDataset(digits[:BATCH], labels[:BATCH], EvaluationStage(SIZE))
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        trainer.fit(training, validation, Path(folder) / "checkpoint.pt")
        return IMAGES / (time.perf_counter() - started)


def bare_rate(digits: list[np.ndarray], labels: np.ndarray) -> float:
    trained = network().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.01, momentum=0.9)
    images = EvaluationStage(SIZE)(np.stack(digits)).contiguous(memory_format=torch.channels_last)
    targets = torch.as_tensor(labels)
    started = time.perf_counter()
    for start in range(0, IMAGES, BATCH):
        with torch.autocast("cpu", torch.bfloat16, enabled=PRECISION == "bf16-mixed"):
            scores = trained(images[start : start + BATCH]).scores
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(scores, targets[start : start + BATCH]).backward()
        optimizer.step()
    return IMAGES / (time.perf_counter() - started)


def network() -> LesionNetwork:
    return LesionNetwork(DigitNet(), IdentityNeck(128), LinearHead(128, CLASSES))


if __name__ == "__main__":
    main()
