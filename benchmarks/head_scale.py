"""The affinity head for as many identities as VGGFace2 has, against the nearest relatives in pytorch-metric-learning.

Forward and backward of 64 embeddings in 512 dimensions with 5 centers per class; each measurement in a process of its
own, in processor time of one thread, or in seconds on the GPU if there is one. Needs the extra ``rivals``.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from pytorch_metric_learning.losses import SoftTripleLoss, SubCenterArcFaceLoss
from side_by_side import result
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18

from dermaffinity.heads import AffinityHead, AffinityMixtureHead
from dermaffinity.losses import AffinityLoss, AffinityPosteriorLoss
from dermaffinity.training import has_bfloat16

IMAGES, DIMENSIONS, CENTERS, ROUNDS = 64, 512, 5, 7
CLASSES = (10, 8_631)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CLOCK = time.perf_counter if DEVICE == "cuda" else time.process_time


def main() -> None:
    print(f"{DEVICE}, {IMAGES} images; ratios to affinity, above 1 where the rival needs more")
    print(f"{'classes':>8} {'method':<17} {'time':>11} {'ratio':>7} {'memory':>11} {'ratio':>7}")
    for num_classes in CLASSES:
        own_time, own_memory = 0.0, 0.0
        for name in METHODS:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                seconds, megabytes = pool.apply(measure, (name, num_classes))
            own_time, own_memory = own_time or seconds, own_memory or megabytes
            print(
                f"{num_classes:8,d} {name:<17} {1e3 * seconds:8.1f} ms {seconds / own_time:7.2f} "
                f"{megabytes:8.1f} MB {megabytes / own_memory:7.2f}"
            )
            if not name.startswith("affinity") and num_classes == CLASSES[-1]:
                figure = f"head and loss at {num_classes:,} x {CENTERS} centers, time of {name} over ours"
                result(figure, seconds / own_time, "at least 1")
    whole = network_step()
    for name in ("affinity", "affinity_mixture"):
        figure = f"{name} at 10 classes and a ResNet-18 step at 128 px, over that step"
        result(figure, 1 + measure(name, 10, 32)[0] / whole, "at most 1.01")


def network_step() -> float:
    """Median seconds of forward, backward and update of a ResNet-18 without a head: 32 images of 128 px, one thread."""
    torch.set_num_threads(1)
    network = resnet18().to(DEVICE, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    images = torch.randn(32, 3, 128, 128, device=DEVICE).contiguous(memory_format=torch.channels_last)
    seconds = []
    for _ in range(ROUNDS + 1):
        started = CLOCK()
        with torch.autocast(DEVICE, torch.bfloat16, enabled=has_bfloat16()):
            features = network(images)
        optimizer.zero_grad(set_to_none=True)
        features.float().mean().backward()
        optimizer.step()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        seconds.append(CLOCK() - started)
    return statistics.median(seconds[1:])


def measure(name: str, num_classes: int, images: int = IMAGES) -> tuple[float, float]:
    """Median seconds of a step, and the most memory in MB that building and stepping took."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    embedding = F.normalize(torch.randn(images, DIMENSIONS, device=DEVICE), dim=1).requires_grad_()
    labels = torch.randint(num_classes, (images,), device=DEVICE)
    # What the first multiplication sets up belongs to no method.
    (embedding @ embedding.T).sum().backward()
    before = memory()
    objective, parameters = METHODS[name](num_classes)
    seconds = []
    for _ in range(ROUNDS + 1):
        embedding.grad = None
        parameters.zero_grad()
        started = CLOCK()
        objective(embedding, labels).backward()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        seconds.append(CLOCK() - started)
    return statistics.median(seconds[1:]), memory() - before


def affinity(num_classes: int) -> tuple[Callable[[Tensor, Tensor], Tensor], nn.Module]:
    head = AffinityHead(DIMENSIONS, num_classes, centers_per_class=CENTERS, sigma=1.0, unit_centers=True).to(DEVICE)
    loss = AffinityLoss(torch.ones(num_classes), DIMENSIONS, margin=0.5, diversity="relative")
    return lambda embedding, labels: torch.stack(list(loss(head(embedding), labels).values())).sum(), head


def affinity_mixture(num_classes: int) -> tuple[Callable[[Tensor, Tensor], Tensor], nn.Module]:
    head = AffinityMixtureHead(DIMENSIONS, num_classes, centers_per_class=CENTERS, unit_centers=True).to(DEVICE)
    loss = AffinityPosteriorLoss(torch.ones(num_classes), DIMENSIONS).to(DEVICE)
    return lambda embedding, labels: torch.stack(list(loss(head(embedding), labels).values())).sum(), head


def soft_triple(num_classes: int) -> tuple[Callable[[Tensor, Tensor], Tensor], nn.Module]:
    loss = SoftTripleLoss(num_classes, DIMENSIONS, centers_per_class=CENTERS).to(DEVICE)
    return loss, loss


def sub_center_arc_face(num_classes: int) -> tuple[Callable[[Tensor, Tensor], Tensor], nn.Module]:
    loss = SubCenterArcFaceLoss(num_classes=num_classes, embedding_size=DIMENSIONS, sub_centers=CENTERS).to(DEVICE)
    return loss, loss


METHODS = {
    "affinity": affinity,
    "affinity_mixture": affinity_mixture,
    "SoftTriple": soft_triple,
    "SubCenterArcFace": sub_center_arc_face,
}


def memory() -> float:
    """Peak of this process so far, in MB."""
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (kilobytes,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return int(kilobytes) / 1e3


if __name__ == "__main__":
    main()
