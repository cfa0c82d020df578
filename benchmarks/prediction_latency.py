"""What the classifier costs over the network it holds: LesionClassifier against the bare torchvision ResNet-18 forward.

First from a new process: loading a classifier and its first prediction, against importing torch and torchvision and one
forward; and the seconds of ``dermaffinity --help`` and ``import dermaffinity``. Then in one process, where rounds
alternate between the two, so that both see the same machine; the ratio is of the medians. The bare forward gets a
tensor that is ready; the classifier gets a file's bytes, or decoded pixels, and answers with calibrated probabilities,
novelty and p-values. Weights are random: speed does not depend on them.
"""

import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.models import resnet18

from dermaffinity.inference.classifier import LesionClassifier
from dermaffinity.inference.model_folder import Calibration, Facts, build_network, save_model

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
SIZES = (128,)
START_ROUNDS, SINGLE_ROUNDS, BATCH_ROUNDS, BATCH = 3, 15, 2, 64
FILE_SIZE = (600, 450)  # width and height of HAM10000's images, in pixels

BARE = """
import torch
from torchvision.models import resnet18
with torch.inference_mode():
    resnet18(num_classes=7).eval()(torch.zeros(1, 3, 128, 128))
"""
OURS = """
import sys
from dermaffinity import LesionClassifier
LesionClassifier.load(sys.argv[1]).predict_proba(sys.argv[2])
"""


def main() -> None:
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(colors).resize(FILE_SIZE, Image.Resampling.BICUBIC))
    opened = io.BytesIO()
    Image.fromarray(pixels).save(opened, "JPEG", quality=90)
    content = opened.getvalue()
    start_up(content)
    bare = resnet18(num_classes=len(CLASSES)).eval()
    print(f"one image, latency: classifier / bare forward; {BATCH} images, throughput: classifier / bare forward")
    print(f"{'px':>4} {'bare':>9} {'pixels':>16} {'JPEG file':>16} {'batch, pixels':>16} {'batch, JPEG':>16}")
    for size in SIZES:
        with tempfile.TemporaryDirectory() as name:
            classifier = LesionClassifier.load(write_model(Path(name), size))
        ready = torch.stack([classifier.prepare(pixels)])

        def forward(images: torch.Tensor) -> torch.Tensor:
            with torch.inference_mode():
                return bare(images)

        single = [
            lambda ready=ready: forward(ready),
            lambda classifier=classifier: classifier.predict_proba(pixels),
            lambda classifier=classifier: classifier.predict_proba(content),
        ]
        base, *own = medians(single, SINGLE_ROUNDS)
        many = ready.expand(BATCH, -1, -1, -1).contiguous()
        batches = [
            lambda many=many: forward(many),
            lambda classifier=classifier: classifier.predict_proba([pixels] * BATCH),
            lambda classifier=classifier: classifier.predict_proba([content] * BATCH),
        ]
        batch_base, *batch_own = medians(batches, BATCH_ROUNDS)
        cells = [f"{1e3 * seconds:6.1f} ms {seconds / base:5.2f} ×" for seconds in own]
        cells += [f"{BATCH / seconds:5.0f} /s {batch_base / seconds:5.2f} ×" for seconds in batch_own]
        print(f"{size:4d} {1e3 * base:6.1f} ms {' '.join(f'{cell:>16}' for cell in cells)}", flush=True)
        result(f"one JPEG at {size} px, latency over a bare forward", own[1] / base, "at most 1.15")
        result(f"{BATCH} JPEG at {size} px, images/s over a bare forward", batch_base / batch_own[1], "at least 0.95")


def start_up(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        image = Path(name, "lesion.jpg")
        image.write_bytes(content)
        words = [
            ["-c", BARE],
            ["-c", OURS, str(write_model(Path(name, "model"), SIZES[0])), str(image)],
            ["-m", "dermaffinity", "--help"],
            ["-c", "import dermaffinity"],
        ]
        runs = [
            lambda own=own: subprocess.run([sys.executable, *own], check=True, stdout=subprocess.DEVNULL)
            for own in words
        ]
        bare, ours, told, imported = medians(runs, START_ROUNDS)
    print(f"load and first prediction {ours:.2f} s, bare import and forward {bare:.2f} s: {ours / bare:.2f} ×")
    print(f"dermaffinity --help {told:.2f} s, import dermaffinity {imported:.2f} s\n", flush=True)
    result("load a classifier and first prediction, over bare import and forward", ours / bare, "at most 1.3")
    result("dermaffinity --help, over 0.4 s", told / 0.4, "at most 1")
    result("import dermaffinity with Python's start, over 0.1 s", imported / 0.1, "at most 1")


def result(figure: str, ratio: float, wanted: str) -> None:
    print("result:", json.dumps({"figure": figure, "ratio": ratio, "wanted": wanted}), flush=True)


def write_model(folder: Path, size: int) -> Path:
    parts = {
        "backbone": {"class": "dermaffinity.models.ResNet18", "weights": None},
        "neck": {"class": "dermaffinity.models.IdentityNeck"},
        "head": {"class": "dermaffinity.heads.LinearHead"},
    }
    data = {"name": "none", "split_hash": "", "images_digest": "", "class_counts": {}, "source": "", "license": ""}
    facts = Facts.model_validate(
        {
            "name": "untrained",
            "classes": CLASSES,
            "malignant": (),
            "preprocessing": {"image_size": size, "lesion_crop": None},
            **parts,
            "data": data,
        }
    )
    scores = {name: tuple(np.linspace(0, 1, 20).tolist()) for name in CLASSES}
    known = Calibration(
        temperature=1.5,
        scores=scores,
        distance_mean=0.5,
        distance_sd=0.1,
        novelty_threshold=2.0,
        log_shares=(0.0,) * len(scores),
        assumed=(0.0,) * len(scores),
    )
    network = build_network(parts, len(CLASSES), pretrained=False)
    save_model(folder, network, facts, fold=0, seed=0, calibration=known)
    return folder


def medians(functions: list[Callable[[], object]], rounds: int) -> list[float]:
    """Seconds of each, interleaved; the first round warms up."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds + 1):
        for function, own in zip(functions, times, strict=True):
            started = time.perf_counter()
            function()
            own.append(time.perf_counter() - started)
    return [statistics.median(own[1:]) for own in times]


if __name__ == "__main__":
    main()
