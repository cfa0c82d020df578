"""Small untrained classifiers of any parts, and image files of every kind that a prototype meets."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dermaffinity.inference.model_folder import Calibration, Facts, build_network, join_models, save_model

CLASSES = ("AK", "BCC", "ML")


@pytest.fixture(scope="session")
def make_model():
    """Writes the model folder of an untrained classifier: make_model(folder, sections, fold_models)."""

    def make(folder: Path, sections: dict, fold_models: int = 1) -> Path:
        data = {
            "name": "toy",
            "split_hash": "",
            "images_digest": "",
            "class_counts": {},
            "source": "",
            "license": "none",
        }
        facts = Facts.model_validate(
            {
                "name": "toy",
                "classes": CLASSES,
                "malignant": ["BCC"],
                "preprocessing": {"image_size": 32, "lesion_crop": None},
                "data": data,
                **sections,
            }
        )
        scores = {"AK": tuple(np.linspace(0.2, 0.9, 19)), "BCC": (0.5, 0.6), "ML": ()}
        for seed in range(fold_models):
            torch.manual_seed(seed)
            network = build_network(sections, len(CLASSES), pretrained=False)
            network.train()
            for _ in range(20):  # moves the statistics of batch normalization
                network(torch.randn(16, 3, 32, 32))
            if getattr(network.head, "whitening", None) is not None:
                # As a refit leaves it: of distances in the thousands, float32 leaves no fourth digit of a probability.
                network.head.whitening.data.mul_(0.1)
            calibration = Calibration(
                temperature=0.5 + seed,
                scores=scores,
                distance_mean=0.5 + seed,
                distance_sd=0.25,
                novelty_threshold=1.0,
                log_shares=tuple(np.log([0.2, 0.1, 0.7])),
                assumed=(0.0, 0.3, 0.1 * seed),
            )
            save_model(folder / f"{seed}", network, facts, fold=seed, seed=0, calibration=calibration)
        join_models([folder / f"{seed}" for seed in range(fold_models)], folder / "classifier", temperature=1.5)
        return folder / "classifier"

    return make


@pytest.fixture(scope="session")
def picture_files(tmp_path_factory) -> list[Path]:
    """Files of several sizes, modes and orientations."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)

    def smooth(height: int, width: int, channels: int = 3) -> np.ndarray:
        coarse = Image.fromarray(random.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize((width, height))
        extra = random.integers(0, 256, (height, width, 1), dtype=np.uint8)
        return np.concatenate([np.asarray(coarse), extra], axis=2)[:, :, :channels]

    def save(name: str, image: Image.Image, **options) -> None:
        image.save(folder / name, **options)

    save("landscape.jpg", Image.fromarray(smooth(300, 450)))
    save("portrait.png", Image.fromarray(smooth(77, 41)))
    save("strip.png", Image.fromarray(smooth(20, 190)))
    save("tower.png", Image.fromarray(smooth(101, 33)))
    save("exact.png", Image.fromarray(smooth(32, 32)))
    save("odd.bmp", Image.fromarray(smooth(63, 65)))
    save("pixel.png", Image.fromarray(smooth(1, 1)))
    save("line.png", Image.fromarray(smooth(1, 40)))
    save("gray.png", Image.fromarray(smooth(50, 60)).convert("L"))
    save("bilevel.tif", Image.fromarray(smooth(50, 60)).convert("1"))
    save("palette.gif", Image.fromarray(smooth(50, 60)).convert("P"))
    save("alpha.png", Image.fromarray(smooth(50, 60, 4)))
    save("cmyk.jpg", Image.fromarray(smooth(50, 60)).convert("CMYK"))
    save("sixteen.png", Image.fromarray(random.integers(0, 65_536, (45, 70), dtype=np.uint16)))
    for orientation in (3, 6, 7):
        exif = Image.Exif()
        exif[0x0112] = orientation
        save(f"turned{orientation}.jpg", Image.fromarray(smooth(60, 90)), exif=exif)
    return sorted(folder.iterdir())
