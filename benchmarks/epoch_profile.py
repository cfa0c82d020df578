"""Where the time of one epoch goes on the CPU: shares of a training at 128 px, as shipped and with the work saved.

Operations of torch are grouped by name; Python between them is not counted. One thread, so that shares add up; a first
epoch warms up.
"""

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from side_by_side import result
from torch.profiler import ProfilerActivity, profile

from dermaffinity.config import TrainingSettings
from dermaffinity.data.augmentation import LesionAugmentation
from dermaffinity.data.dataset import ManifestDataset
from dermaffinity.data.transforms import EvaluationStage, TrainingStage
from dermaffinity.heads import AffinityMixtureHead
from dermaffinity.losses import AffinityPosteriorLoss
from dermaffinity.models import LesionNetwork, ResNet18, UnitNeck
from dermaffinity.training import Trainer, has_bfloat16

IMAGES, SIZE, BATCH, CLASSES = 128, 128, 32, 7
GROUPS = {
    "convolutions, backward": ("convolution_backward", "mkldnn_convolution_backward"),
    "convolutions, forward": ("mkldnn_convolution", "thnn_conv2d", "_slow_conv2d_forward"),
    "batch normalization": ("batch_norm",),
    "pooling": ("pool",),
    "ReLU, sums of branches": ("relu", "clamp_min", "threshold_backward", "aten::add_", "aten::add"),
    "copies, conversions between types": ("copy_", "aten::fill_", "aten::zero_"),
    "optimizer": ("_foreach", "Optimizer.step"),
    "loading, augmentation": ("DataLoader",),
}


def main() -> None:
    torch.set_num_threads(1)
    for frozen in (0, 2):
        for precision in ("32-true", *(["bf16-mixed"] if has_bfloat16() else [])):
            shares = epoch(precision, frozen)
            print(f"{precision}, {frozen} stages frozen: {', '.join(f'{n} {s:.0%}' for n, s in shares.most_common())}")
            for name, share in shares.most_common(3) if not frozen else ():
                result(f"{name}, share of an epoch at {SIZE} px, {precision}", share)


def epoch(precision: str, frozen: int) -> Counter[str]:
    """The share of each group in the time of an epoch."""
    random = np.random.default_rng(0)
    pictures = list(random.integers(0, 256, (IMAGES, SIZE, SIZE * 4 // 3, 3), dtype=np.uint8))
    labels = np.arange(IMAGES) % CLASSES
    head = AffinityMixtureHead(512, CLASSES, unit_centers=True)
    network = LesionNetwork(ResNet18(weights=None, frozen_stages=frozen), UnitNeck(512), head)
    loss = AffinityPosteriorLoss(torch.bincount(torch.as_tensor(labels)), 512)
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)  # type: ignore[arg-type]
    settings = TrainingSettings(epochs=2, batch_size=BATCH, validate_every=2)
    trainer = Trainer(network, loss, settings, seed=0, fabric=fabric)
    training = ManifestDataset(pictures, labels, TrainingStage(LesionAugmentation(SIZE)))
    inner = ManifestDataset(pictures[:CLASSES], labels[:CLASSES], EvaluationStage(SIZE))
    with tempfile.TemporaryDirectory() as folder, profile(activities=[ProfilerActivity.CPU]) as profiler:

        def mark(history: list[dict[str, float]]) -> None:
            if len(history) == 1:
                profiler.stop()
                profiler.start()

        trainer.fit(training, inner, Path(folder) / "checkpoint.pt", on_epoch=mark)
    total, shares = 0.0, Counter[str]()
    for event in profiler.key_averages():
        total += event.self_cpu_time_total
        group = next((name for name, parts in GROUPS.items() if any(part in event.key for part in parts)), "the rest")
        shares[group] += event.self_cpu_time_total
    return Counter({name: value / total for name, value in shares.items()})


if __name__ == "__main__":
    main()
