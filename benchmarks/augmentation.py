"""What one warp and one color map per image save: against the same changes as seven passes of albumentations.

Both make versions of the same pictures, in turns, in one process with one thread; counted is processor time.
"""

import time

import albumentations as A
import cv2
import numpy as np
from side_by_side import in_turns, ratios, result

from dermaffinity.data.augmentation import LesionAugmentation

IMAGES, BATCH, ROUNDS = 192, 32, 5


def main() -> None:
    cv2.setNumThreads(1)
    for size in (128, 224):
        random = np.random.default_rng(0)
        pictures = list(random.integers(0, 256, (IMAGES, size, size * 4 // 3, 3), dtype=np.uint8))
        ours, theirs = LesionAugmentation(size), passes(size)
        makers = {
            "ours": lambda ours=ours, pictures=pictures: of_batches(ours, pictures),
            "albumentations": lambda theirs=theirs, pictures=pictures: one_by_one(theirs, pictures),
        }
        seconds = in_turns(makers, ROUNDS, time.process_time)
        rates = ", ".join(f"{name} {ROUNDS * IMAGES / sum(found):,.0f} images/s" for name, found in seconds.items())
        print(f"{size} px: {rates}", flush=True)
        found = ratios(seconds["albumentations"], seconds["ours"])
        result(f"augmentation at {size} px, images/s over albumentations", found, "at least 4" if size == 224 else "")


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


if __name__ == "__main__":
    main()
