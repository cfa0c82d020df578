"""What the scripts of this folder share: things measured in turns, so that all see the same machine, and their ratios.

A ratio is taken within each round; its median is the figure, its smallest and largest value the spread.
"""

import json
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

K = TypeVar("K", bound=Hashable)

WARM_UP = 1


def in_turns(
    functions: Mapping[K, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[K, list[float]]:
    """Seconds of each function in each round, after one round that warms up."""
    seconds: dict[K, list[float]] = {name: [] for name in functions}
    for _ in range(WARM_UP + rounds):
        for name, function in functions.items():
            started = clock()
            function()
            seconds[name].append(clock() - started)
    return {name: found[WARM_UP:] for name, found in seconds.items()}


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Of the two values of each round."""
    return [one / other for one, other in zip(over, under, strict=True)]


def result(figure: str, found: Sequence[float] | float, wanted: str = "") -> float:
    """Prints a figure for results.py, and returns it: the median of what the rounds found, and its spread."""
    values = [found] if isinstance(found, int | float) else list(found)
    line = {"figure": figure, "ratio": statistics.median(values), "wanted": wanted}
    if len(values) > 1:
        line |= {"low": min(values), "high": max(values)}
    print("result:", json.dumps(line), flush=True)
    return line["ratio"]
