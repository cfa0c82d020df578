"""What the settings that compute less save of one training step on the CPU: processor time, one thread.

Of images that grow the mean over a training is computed from the steps at the three sizes they have, in the shares of
`GrowingImages`' defaults. ``ONEDNN_MAX_CPU_ISA=AVX2`` in the environment imitates a processor with AVX2 alone.
"""

import statistics
import time

import torch
from lightning_fabric import Fabric
from side_by_side import in_turns, result
from torch.nn import functional as F

from dermaffinity.models import ResNet18
from dermaffinity.training import has_bfloat16
from dermaffinity.training.tricks import GrowingImages

SIZE, BATCH, ROUNDS = 128, 32, 2


def main() -> None:
    torch.set_num_threads(1)
    whole, growing = torch.zeros(1, 3, SIZE, SIZE), GrowingImages()
    sizes = [growing.on_images(whole, step / 300).shape[3] for step in range(300)]
    shares = {size: sizes.count(size) / len(sizes) for size in sorted(set(sizes))}
    for precision in ("32-true", *(["bf16-mixed"] if has_bfloat16() else [])):
        cases = [(frozen, size) for frozen in (0, 1, 2) for size in shares if frozen != 1 or size == SIZE]
        steps = {case: Step(precision, *case) for case in cases}
        seconds = in_turns({case: step.make for case, step in steps.items()}, ROUNDS, time.process_time)
        median = {case: statistics.median(found) for case, found in seconds.items()}
        shipped = median[0, SIZE]
        print(f"{precision}: a step of {BATCH} images at {SIZE} px takes {shipped:.2f} s")
        for name, seconds in {
            "the stem frozen": median[1, SIZE],
            "stem and first group frozen": median[2, SIZE],
            "growing images": sum(share * median[0, size] for size, share in shares.items()),
            "both": sum(share * median[2, size] for size, share in shares.items()),
        }.items():
            print(f"  {name}: {result(f'step, {precision}, {name}', seconds / shipped):.2f}")


class Step:
    """A training step of a ResNet-18 on random images."""

    def __init__(self, precision: str, frozen: int, size: int) -> None:
        self.fabric = Fabric(accelerator="cpu", devices=1, precision=precision)  # type: ignore[arg-type]
        network = ResNet18(weights=None, frozen_stages=frozen).to(memory_format=torch.channels_last)
        learned = [weight for weight in network.parameters() if weight.requires_grad]
        self.network, self.optimizer = self.fabric.setup(network, torch.optim.SGD(learned, lr=1e-3, momentum=0.9))
        self.images = torch.randn(BATCH, 3, size, size).contiguous(memory_format=torch.channels_last)
        self.labels = torch.arange(BATCH) % 7

    def make(self) -> None:
        """Forward, backward, update."""
        loss = F.cross_entropy(self.network(self.images).flatten(1), self.labels)
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        self.optimizer.step()


if __name__ == "__main__":
    main()
