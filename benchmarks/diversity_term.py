"""The diversity term R for many centers: the closed form against all pairs, in time and in value.

The pairwise form holds n(n-1)/2 distances of D-dimensional differences; the closed form a D × D matrix.
"""

import statistics

import torch
from side_by_side import in_turns, ratios, result
from torch import Tensor

from dermaffinity.losses.centers import spread

DIMENSIONS, ROUNDS = 512, 3


def main() -> None:
    print(f"{'centers':>8} {'closed form':>12} {'pairwise':>10} {'relative difference':>20}")
    for count in (50, 500, 2000):
        centers = torch.nn.functional.normalize(torch.randn(count, DIMENSIONS), dim=1)
        value, exact = spread(centers)[1].item(), pairwise(centers).item()
        forms = {
            "closed": lambda centers=centers: spread(centers),
            "pairwise": lambda centers=centers: pairwise(centers),
        }
        seconds = in_turns(forms, ROUNDS)
        fast, slow = (1e3 * statistics.median(found) for found in seconds.values())
        print(f"{count:8d} {fast:9.2f} ms {slow:7.1f} ms {abs(value - exact) / exact:20.1e}", flush=True)
    figure = f"diversity term of {count:,} centers, time of all pairs over ours"
    result(figure, ratios(seconds["pairwise"], seconds["closed"]), "at least 1")


def pairwise(centers: Tensor) -> Tensor:
    squared_distance = torch.nn.functional.pdist(centers.double()).square()
    return squared_distance.var(correction=0)


if __name__ == "__main__":
    main()
