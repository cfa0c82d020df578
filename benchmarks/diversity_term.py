"""The diversity term R for many centers: the closed form against all pairs, in time and in value.

The pairwise form holds n(n-1)/2 distances of D-dimensional differences; the closed form a D × D matrix.
"""

import json
import time
from collections.abc import Callable

import torch
from torch import Tensor

from dermaffinity.losses.centers import spread

DIMENSIONS, ROUNDS = 512, 3


def main() -> None:
    print(f"{'centers':>8} {'closed form':>12} {'pairwise':>10} {'ratio':>7} {'relative difference':>20}")
    for count in (50, 500, 2000, 5000):
        centers = torch.nn.functional.normalize(torch.randn(count, DIMENSIONS), dim=1)
        fast, value = fastest(lambda centers=centers: spread(centers)[1])
        slow, exact = fastest(lambda centers=centers: pairwise(centers))
        difference = abs(value - exact) / exact
        print(f"{count:8d} {1e3 * fast:9.2f} ms {1e3 * slow:7.1f} ms {slow / fast:7.1f} {difference:20.1e}")
    figure = f"diversity term of {count:,} centers, time of all pairs over ours"
    print("result:", json.dumps({"figure": figure, "ratio": slow / fast, "wanted": "at least 1"}))


def pairwise(centers: Tensor) -> Tensor:
    squared_distance = torch.nn.functional.pdist(centers.double()).square()
    return squared_distance.var(correction=0)


def fastest(function: Callable[[], Tensor]) -> tuple[float, float]:
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        value = function()
        times.append(time.perf_counter() - started)
    return min(times), value.item()


if __name__ == "__main__":
    main()
