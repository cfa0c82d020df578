"""What one warp and one color map per image save: against the same changes as seven passes of albumentations.

Both make versions of the same pictures, in turns, in one process with one thread.
"""

import json
import time
from collections.abc import Callable
from functools import partial

import albumentations as A
import cv2
import numpy as np

from dermaffinity.data.augmentation import LesionAugmentation

IMAGES, BATCH, ROUNDS = 192, 32, 5


def main() -> None:
    cv2.setNumThreads(1)
    for size in (128, 224):
        random = np.random.default_rng(0)
        pictures = list(random.integers(0, 256, (IMAGES, size, size * 4 // 3, 3), dtype=np.uint8))
        ours, theirs = LesionAugmentation(size), passes(size)
        rates: dict[str, list[float]] = {"ours": [], "albumentations": []}
        for _ in range(ROUNDS):
            rates["ours"].append(rate(partial(of_batches, ours), pictures))
            rates["albumentations"].append(rate(partial(one_by_one, theirs), pictures))
        best = {name: max(found) for name, found in rates.items()}
        print(
            f"{size} px: ours {best['ours']:,.0f} images/s, albumentations {best['albumentations']:,.0f} images/s, "
            f"ratio {best['ours'] / best['albumentations']:.1f}"
        )
        ratio = best["ours"] / best["albumentations"]
        result = {"figure": f"augmentation at {size} px, over albumentations", "ratio": ratio}
        print("result:", json.dumps(result | {"wanted": "at least 4"} if size == 224 else result))


def passes(size: int) -> A.Compose:
    """The same kinds of changes, one pass each."""
    return A.Compose(
        [
            A.RandomCrop(size, size),
            A.RandomResizedCrop((size, size), scale=(0.6, 1.0), ratio=(0.85, 1.18)),
            A.D4(p=1.0),
            A.Affine(rotate=(-45, 45), border_mode=cv2.BORDER_REFLECT, p=0.5),
            A.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02, p=0.8),
        ]
    )


def of_batches(augmentation: LesionAugmentation, pictures: list[np.ndarray]) -> None:
    for start in range(0, len(pictures), BATCH):
        batch = pictures[start : start + BATCH]
        augmentation.of(batch, np.random.default_rng(start).random((len(batch), augmentation.draws)))


def one_by_one(compose: A.Compose, pictures: list[np.ndarray]) -> None:
    for picture in pictures:
        compose(image=picture)


def rate(make: Callable[[list[np.ndarray]], None], pictures: list[np.ndarray]) -> float:
    """Images per second."""
    started = time.perf_counter()
    make(pictures)
    return len(pictures) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
