"""What many images cost ``dermaffinity predict`` in memory and time: a list of JPEG files into Parquet shards.

An untrained small network, so that everything around it counts most, predicts a list of paths, links to a few hundred
different JPEG photographs. A child process reports its memory as it goes: its growth from the first tenth of the images
to the last is printed. Images per second are compared, in turns, with a bare loop over the first of the files: Pillow,
the same network in batches, argmax, and one table at the end.

    python benchmarks/predict_many.py [--images 100000] [--compared 1000]
"""

import argparse
import io
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from side_by_side import in_turns, ratios, result

from dermaffinity.inference.batch import find_images
from dermaffinity.inference.classifier import LesionClassifier
from dermaffinity.inference.model_folder import Calibration, Facts, build_network, save_model
from dermaffinity.inference.shards import predict_shards

DIFFERENT, SIZE, BATCH, ROUNDS = 300, 32, 64, 3


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--compared", type=int, default=1_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model")
        listed = write_images(folder, arguments.images)
        few = folder / "few.txt"
        few.write_text("".join(listed.read_text().splitlines(keepends=True)[: arguments.compared]))
        compare(folder, few, arguments.compared)
        started = time.perf_counter()
        child = [sys.executable, __file__, str(folder / "model"), str(listed), str(folder / "out")]
        sizes = np.array([float(line) for line in subprocess.check_output(child, text=True).split()])
        seconds = time.perf_counter() - started
        tenth = max(1, len(sizes) // 10)
        first, last = sizes[:tenth].max(), sizes[-tenth:].max()
        shards = len(list((folder / "out").glob("*.parquet")))
        print(
            f"{arguments.images:,} images in {shards} shards: {arguments.images / seconds:.0f} images/s with start-up"
        )
        figure = f"memory of predicting {arguments.images:,} images, last tenth over first"
        result(figure, last / first, "at most 1.1")


def compare(folder: Path, listed: Path, count: int) -> None:
    classifier = LesionClassifier.load(folder / "model")
    folders = map(str, itertools.count())  # what a folder has already is not predicted again

    def ours() -> None:
        told = {"on_problem": sys.exit, "on_progress": lambda done, total: None}
        predict_shards(classifier, find_images([listed], sys.exit), folder / next(folders), **told)

    loops = {"ours": ours, "bare loop": lambda: bare_loop(classifier, listed, folder / "bare.parquet")}
    seconds = in_turns(loops, ROUNDS)
    print(", ".join(f"{name} {ROUNDS * count / sum(found):.0f} images/s" for name, found in seconds.items()))
    result("predicting JPEG files, images/s over a bare loop", ratios(seconds["bare loop"], seconds["ours"]))


def bare_loop(classifier: LesionClassifier, listed: Path, out: Path) -> None:
    network, names, rows = classifier.networks[0], listed.read_text().splitlines(), []
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    for start in range(0, len(names), BATCH):
        batch = []
        for name in names[start : start + BATCH]:
            image = Image.open(name).convert("RGB").resize((SIZE * 4 // 3, SIZE), Image.Resampling.BILINEAR)
            left = (image.width - SIZE) // 2
            batch.append((np.asarray(image)[:, left : left + SIZE] / np.float32(255) - mean) / std)
        with torch.inference_mode():
            scores = network(torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2)).scores
        rows += [[one.argmax().item(), *one.tolist()] for one in scores.softmax(dim=1)]
    pd.DataFrame(rows, index=names, columns=["predicted", "a", "b"]).to_parquet(out)


def child(model: Path, listed: Path, out: Path) -> None:
    """Predicts, and prints the memory in MiB after each batch."""
    files = find_images([listed], sys.exit)
    classifier = LesionClassifier.load(model)
    page = os.sysconf("SC_PAGE_SIZE") / 2**20

    def report(done: int, total: int) -> None:
        print(int(Path("/proc/self/statm").read_text().split()[1]) * page)

    predict_shards(classifier, files, out, on_problem=sys.exit, on_progress=report)


def write_images(folder: Path, number: int) -> Path:
    random, names = np.random.default_rng(0), []
    (folder / "images").mkdir()
    for index in range(number):
        path = folder / f"images/image-{index:07}.jpg"
        if index < DIFFERENT:
            content = io.BytesIO()
            coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
            coarse.resize((120, 90), Image.Resampling.BICUBIC).save(content, format="JPEG", quality=90)
            path.write_bytes(content.getvalue())
        else:
            os.link(names[index % DIFFERENT], path)
        names.append(str(path))
    listed = folder / "images.txt"
    listed.write_text("".join(f"{name}\n" for name in names))
    return listed


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
            "preprocessing": {"image_size": SIZE, "lesion_crop": None},
            "data": data,
            **sections,
        }
    )
    torch.manual_seed(0)
    calibration = Calibration(
        temperature=1,
        scores=dict.fromkeys(classes, (0.5,) * 20),
        distance_mean=0,
        distance_sd=1,
        novelty_threshold=2,
        log_shares=(0.0, 0.0),
        assumed=(0.0, 0.0),
    )
    save_model(folder, build_network(sections, 2, pretrained=False), facts, fold=0, seed=0, calibration=calibration)


if __name__ == "__main__":
    if sys.argv[1:] and not sys.argv[1].startswith("-"):
        child(*map(Path, sys.argv[1:]))
    else:
        main()
