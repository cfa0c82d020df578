"""What the package costs over the loop that a good engineer writes in an evening, for one whole experiment.

The loop: torchvision's ImageFolder, a DataLoader with two workers, transforms.v2, ResNet-18 in float32, one fold after
the other, each with a look at the validation images after every epoch and at the test images in the end. Against it
`dermaffinity crossval` with softmax on the same images, batches and epochs, with manifest, tracking, figures, saved
models: as it is shipped, and with the settings that save work.

Each measurement is a process of its own from its start to its end, in turns: one fold of a library with the image size
and folds of hamfit-7 and a third of its images, for 1 and for 5 epochs. A quarter of the difference is an epoch, with
its share of the looks at validation images; the rest is start, reading, predictions and results. The whole experiment
is three times 3 folds of the rest and 24 epochs: too much for the starts, which do not grow with the images. Pixels are
random, because speed does not depend on them.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from side_by_side import result
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from torchvision.transforms import v2

from dermaffinity.training import has_bfloat16

COUNTS = {"akiec": 123, "bcc": 239, "bkl": 257, "df": 65, "mel": 76, "nv": 331, "vasc": 121}
FOLDS, EPOCHS, SHORT, LONG, SHARE, ROUNDS = 3, 24, 1, 5, 3, 1
SIZE, BATCH, RATE = 128, 32, 0.003
SAVING = [
    *("--set", "backbone.frozen_stages=2"),
    *("--set", "growth.class=dermaffinity.training.tricks.GrowingImages"),
]
ARMS = {
    "float32": ["--set", "training.precision=32-true"],
    "float32, stem and first group frozen, growing images": ["--set", "training.precision=32-true", *SAVING],
}
if has_bfloat16():
    ARMS["bfloat16"] = []
    ARMS["bfloat16, stem and first group frozen, growing images"] = SAVING
TARGETS = {"float32": 0.6, "bfloat16": 0.3}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        library()
        seconds: dict[tuple[str, int], list[float]] = {}
        for _ in range(ROUNDS):
            for epochs in (SHORT, LONG):
                seconds.setdefault(("plain", epochs), []).append(timed([__file__, "plain", str(epochs)]))
                for arm, settings in ARMS.items():
                    seconds.setdefault((arm, epochs), []).append(timed(crossval(epochs, settings)))
    middle = {key: statistics.median(found) for key, found in seconds.items()}
    whole = {}
    for arm in ("plain", *ARMS):
        epoch = (middle[arm, LONG] - middle[arm, SHORT]) / (LONG - SHORT)
        rest = middle[arm, SHORT] - SHORT * epoch
        whole[arm] = SHARE * FOLDS * (rest + EPOCHS * epoch)
        ratio = whole[arm] / whole["plain"]
        print(
            f"{arm:<54} epoch {epoch:6.1f} s, rest of a fold {rest:5.1f} s, experiment {whole[arm]:6.0f} s, {ratio:.2f}"
        )
        if arm != "plain":
            figure = f"hamfit-7 experiment, {arm}, over the plain loop"
            result(figure, ratio, f"at most {TARGETS[arm.partition(',')[0]]}")


def library() -> None:
    """Images as HAM10000 has them here, their manifest, and the folder tree of one fold for the plain loop."""
    random = np.random.default_rng(0)
    for label, count in COUNTS.items():
        Path("library", label).mkdir(parents=True)
        for number in range(count // SHARE):
            colors = Image.fromarray(random.integers(0, 256, (15, 20, 3), dtype=np.uint8))
            colors.resize((200, 150), Image.Resampling.BICUBIC).save(f"library/{label}/{number}.jpg", quality=90)
    subprocess.run(
        [sys.executable, "-m", "dermaffinity", "prepare", "image_folder", "library", "--out", "library.csv"],
        check=True,
        capture_output=True,
    )
    rows = pd.read_csv("library.csv", comment="#")
    test = rows["fold"] == 0
    inner = rows[~test].sample(frac=0.15, random_state=0).index
    part = np.where(test, "test", np.where(rows.index.isin(inner), "validation", "training"))
    for image, label, name in zip(rows["image"], rows["label"], part, strict=True):
        Path(name, label).mkdir(parents=True, exist_ok=True)
        Path(name, label, Path(image).name).symlink_to(Path("library", image).resolve())


def crossval(epochs: int, settings: list[str]) -> list[str]:
    return [
        *("-m", "dermaffinity", "crossval", "library_softmax", "--folds", "0", "--quiet"),
        *("--set", "data.manifest=library.csv", "--set", f"data.image_size={SIZE}", "--set", "backbone.weights=null"),
        *("--set", f"training.learning_rate={RATE}", "--set", f"training.epochs={epochs}", *settings),
    ]


def timed(arguments: list[str]) -> float:
    subprocess.run(["rm", "-rf", "runs", "mlflow.db", "mlartifacts"], check=True)
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


def plain(epochs: int) -> None:
    """The loop of an evening, one fold."""
    statistics_of_imagenet = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    to_tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(*statistics_of_imagenet)]
    augmented = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, scale=(0.6, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomRotation(45),
            v2.ColorJitter(0.2, 0.2, 0.2, 0.02),
            *to_tensor,
        ]
    )
    fixed = v2.Compose([v2.Resize(SIZE), v2.CenterCrop(SIZE), *to_tensor])
    options = {"batch_size": BATCH, "num_workers": 2}
    training = DataLoader(ImageFolder("training", augmented), shuffle=True, drop_last=True, **options)
    validation, test = (DataLoader(ImageFolder(part, fixed), **options) for part in ("validation", "test"))
    network = resnet18(num_classes=len(COUNTS))
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    for _ in range(epochs):
        network.train()
        for images, labels in training:
            loss = F.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        print(accuracy(network, validation))
    print(accuracy(network, test))
    torch.save(network.state_dict(), "network.pt")


@torch.no_grad()
def accuracy(network: torch.nn.Module, images: DataLoader) -> float:
    network.eval()
    return float(
        np.mean([value for batch, labels in images for value in (network(batch).argmax(1) == labels).tolist()])
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["plain"]:
        plain(int(sys.argv[2]))
    else:
        main()
