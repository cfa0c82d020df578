"""What the classifier costs over the network it holds: LesionClassifier against the bare torchvision ResNet-18 forward.

First in new processes of one thread, in processor time: loading a classifier and its first prediction, against
importing torch and torchvision and one forward; and ``dermaffinity --help`` and ``import dermaffinity``. Then in one
process, in turns. The bare forward gets a tensor that is ready; the classifier gets a file's bytes, or decoded pixels,
and answers with calibrated probabilities, novelty and p-values. Weights are random: speed does not depend on them.
"""

import io
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from side_by_side import in_turns, ratios, result
from torchvision.models import resnet18

from dermaffinity.inference.classifier import LesionClassifier
from dermaffinity.inference.model_folder import Calibration, Facts, build_network, save_model

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
SIZE, BATCH = 128, 64
START_ROUNDS, SINGLE_ROUNDS, BATCH_ROUNDS = 3, 30, 7
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
    with tempfile.TemporaryDirectory() as name:
        classifier = LesionClassifier.load(write_model(Path(name)))
    bare = resnet18(num_classes=len(CLASSES)).eval()
    ready = torch.stack([classifier.prepare(pixels)])

    @torch.inference_mode()
    def forward(images: torch.Tensor) -> torch.Tensor:
        return bare(images)

    for count, rounds in ((1, SINGLE_ROUNDS), (BATCH, BATCH_ROUNDS)):
        tensors = ready.expand(count, -1, -1, -1).contiguous()
        answers = {
            "bare": lambda tensors=tensors: forward(tensors),
            "pixels": lambda count=count: classifier.predict_proba([pixels] * count),
            "JPEG": lambda count=count: classifier.predict_proba([content] * count),
        }
        seconds = in_turns(answers, rounds)
        middle = ", ".join(f"{name} {1e3 * statistics.median(found):.1f} ms" for name, found in seconds.items())
        print(f"{count} images at {SIZE} px: {middle}", flush=True)
        for kind in ("pixels", "JPEG"):
            if count == 1:
                figure = f"one image at {SIZE} px, {kind}, latency over a bare forward"
                result(figure, ratios(seconds[kind], seconds["bare"]), "at most 1.15")
            else:
                figure = f"{count} images at {SIZE} px, {kind}, images/s over a bare forward"
                result(figure, ratios(seconds["bare"], seconds[kind]), "at least 0.95")


def start_up(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        image = Path(name, "lesion.jpg")
        image.write_bytes(content)
        model = str(write_model(Path(name, "model")))
        started = {
            "bare": ["-c", BARE],
            "ours": ["-c", OURS, model, str(image)],
            "help": ["-m", "dermaffinity", "--help"],
            "import": ["-c", "import dermaffinity"],
        }
        runs = {name: lambda words=words: started_anew(words) for name, words in started.items()}
        seconds = in_turns(runs, START_ROUNDS, of_children)
    print(", ".join(f"{name} {statistics.median(found):.2f} s" for name, found in seconds.items()), flush=True)
    figure = "load a classifier and first prediction, over bare import and forward"
    result(figure, ratios(seconds["ours"], seconds["bare"]), "at most 1.3")
    result("dermaffinity --help, over 0.4 s", [found / 0.4 for found in seconds["help"]], "at most 1")
    result("import dermaffinity with Python's start, over 0.1 s", [s / 0.1 for s in seconds["import"]], "at most 1")


def started_anew(words: list[str]) -> None:
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, env=alone)


def of_children() -> float:
    """Seconds of the processor that ended children took."""
    times = os.times()
    return times.children_user + times.children_system


def write_model(folder: Path) -> Path:
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
            "preprocessing": {"image_size": SIZE, "lesion_crop": None},
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


if __name__ == "__main__":
    main()
