"""What 100,000 images cost ``dermaffinity predict`` in memory: its peak after many images over that after 1,000.

An untrained small network predicts a zip archive, and a folder, of small JPEG photographs. Each number of images is
predicted in a process of its own, which prints its peak: listing the files and writing the table are part of it.

    python benchmarks/predict_memory.py [IMAGES]
"""

import io
import os
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dermaffinity.inference.model_folder import Calibration, Facts, build_network, save_model

FEW, MANY, DIFFERENT = 1_000, 100_000, 50


def main(many: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model")
        for write in (write_archive, write_folder):
            peaks = []
            for number in (FEW, many):
                peak, seconds = measured(folder / "model", write(folder / f"{number}", number), folder / "out.csv")
                peaks.append(peak)
                kind = write.__name__.removeprefix("write_")
                print(
                    f"{kind:8} {number:8,} images  peak {peak:7.1f} MiB  {number / seconds:6.0f} images/s", flush=True
                )
            print(f"ratio    {peaks[1] / peaks[0]:.3f}", flush=True)


def measured(model: Path, images: Path, out: Path) -> tuple[float, float]:
    """Peak in MiB, and seconds with start-up."""
    started = time.perf_counter()
    command = [sys.executable, __file__, "--child", str(model), str(images), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout), time.perf_counter() - started


def child(model: Path, images: Path, out: Path) -> None:
    """What the predict verb does."""
    from dermaffinity.inference.batch import find_images, predict_files
    from dermaffinity.inference.classifier import LesionClassifier

    files = find_images([images], sys.exit)
    classifier = LesionClassifier.load(model)
    predict_files(classifier, files, out, on_problem=sys.exit, on_progress=lambda done, total: None)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)  # KiB on Linux


def pictures() -> list[bytes]:
    random, contents = np.random.default_rng(0), []
    for _ in range(DIFFERENT):
        content = io.BytesIO()
        coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize((80, 60)).save(content, format="JPEG")
        contents.append(content.getvalue())
    return contents


def write_archive(path: Path, number: int) -> Path:
    contents, archive = pictures(), path.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as opened:
        for index in range(number):
            opened.writestr(f"patient-{index // 10:05}/image-{index:06}.jpg", contents[index % DIFFERENT])
    return archive


def write_folder(path: Path, number: int) -> Path:
    path.mkdir()
    for index, content in enumerate(pictures()):
        (path / f"image-{index:06}.jpg").write_bytes(content)
    for index in range(DIFFERENT, number):
        os.link(path / f"image-{index % DIFFERENT:06}.jpg", path / f"image-{index:06}.jpg")
    return path


def write_model(folder: Path) -> None:
    sections = {
        "backbone": {"class": "dermaffinity.models.SmallConvNet"},
        "neck": {"class": "dermaffinity.models.IdentityNeck"},
        "head": {"class": "dermaffinity.heads.LinearHead"},
    }
    data = {"name": "", "split_hash": "", "images_digest": "", "class_counts": {}, "source": "", "license": "none"}
    classes = ("a", "b")
    facts = Facts.model_validate(
        {
            "name": "untrained",
            "classes": classes,
            "malignant": [],
            "preprocessing": {"image_size": 32, "lesion_crop": None},
            "data": data,
            **sections,
        }
    )
    torch.manual_seed(0)
    calibration = Calibration(
        temperature=1, scores=dict.fromkeys(classes, (0.5,) * 20), distance_mean=0, distance_sd=1, novelty_threshold=2
    )
    save_model(folder, build_network(sections, 2, pretrained=False), facts, fold=0, seed=0, calibration=calibration)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*map(Path, sys.argv[2:]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else MANY)
