"""What it gains to keep freed memory in the process: training steps per second of two networks, with and without.

A bare loop over one batch in bfloat16, each time in a process of its own, because the setting cannot be taken back.
"""

import subprocess
import sys
import time

import numpy as np
import torch
from torch.nn import functional as F

from dermaffinity.heads import LinearHead
from dermaffinity.models import DigitNet, IdentityNeck, LesionNetwork, ResNet18
from dermaffinity.training.memory import keep_freed_memory

ROUNDS, SECONDS, CLASSES = 3, 6.0, 7
BATCHES = {"ResNet-18, 128 px": (32, 128), "digits, 28 px": (128, 28)}


def main() -> None:
    for name, (batch, size) in BATCHES.items():
        rates: dict[str, list[float]] = {"given back": [], "kept": []}
        for _ in range(ROUNDS):
            for way, measured in rates.items():
                command = [sys.executable, __file__, way, str(batch), str(size)]
                measured.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        for way, measured in rates.items():
            rounds = ", ".join(f"{rate:.0f}" for rate in measured)
            print(f"{name:18} {way:10} {np.median(measured):6.0f} images/s   (rounds: {rounds})")
        print(f"{name:18} ratio      {np.median(rates['kept']) / np.median(rates['given back']):6.2f}")


def rate(batch: int, size: int) -> float:
    backbone = DigitNet() if size == 28 else ResNet18(weights=None)
    network = LesionNetwork(backbone, IdentityNeck(backbone.num_features), LinearHead(backbone.num_features, CLASSES))
    network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch) % CLASSES

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            scores = network(images).scores
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(scores.float(), labels).backward()
        optimizer.step()

    for _ in range(3):
        step()
    steps, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        step()
        steps += 1
    return steps * batch / (time.perf_counter() - started)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        if sys.argv[1] == "kept":
            keep_freed_memory()
        print(rate(int(sys.argv[2]), int(sys.argv[3])))
