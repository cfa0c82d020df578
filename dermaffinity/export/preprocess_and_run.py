"""Runs model.onnx on image files with nothing but NumPy, Pillow and onnxruntime. For research only.

python preprocess_and_run.py lesion.jpg other.png        prints one line of JSON for each image
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000")


def read_rgb(path: str) -> np.ndarray:
    """(H, W, 3) uint8: upright, 16 bits scaled to 8, alpha dropped."""
    with Image.open(path, formats=FORMATS) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode == "F":
            raise ValueError(f"{path}: floating-point gray values of unknown range")
        if image.mode.startswith("I"):
            gray = np.asarray(image)
            if gray.min() < 0 or gray.max() > 65_535:
                raise ValueError(f"{path}: gray values outside 0 to 65,535")
            image = Image.fromarray(((gray.astype(np.uint32) + 128) // 257).astype(np.uint8))
        return np.array(image.convert("RGB"))


def central(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """The central part of an image (H, W, 3)."""
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """(size, size, 3): cut to 2:1 at most, the shorter side resized to ``size``, then the central square."""
    short = min(pixels.shape[:2])
    pixels = central(pixels, min(pixels.shape[0], 2 * short), min(pixels.shape[1], 2 * short))
    height, width = (max(size, round(side * (size / short))) for side in pixels.shape[:2])
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    return central(np.asarray(resized), size, size)


def main(paths: list[str]) -> None:
    """Prints what the model says about each file."""
    session = onnxruntime.InferenceSession(Path(__file__).with_name("model.onnx"), providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    classes, size, limit = (json.loads(facts[key]) for key in ("classes", "image_size", "novelty_threshold"))
    print(facts["intended_use"], file=sys.stderr)
    if facts["lesion_crop"] != "null":
        print("Trained on squares cut around the lesion: cut your images so.", file=sys.stderr)
    names = [output.name for output in session.get_outputs()]
    for path in paths:
        outputs = dict(zip(names, session.run(names, {"image": resize(read_rgb(path), size)[None]}), strict=True))
        probabilities = dict(zip(classes, outputs["probabilities"][0].tolist(), strict=True))
        novelty = float(outputs["novelty"][0])
        likeliest = max(probabilities, key=probabilities.__getitem__)
        # Sets that hold the true class of 90 % of the images, class by class; the rest is for rounding.
        inside = [name for name, p in zip(classes, outputs["p_values"][0], strict=True) if p > 0.1 + 1e-6]
        answer = {"image": path, "predicted": likeliest, "novel": novelty > limit, "novelty": novelty, "set": inside}
        print(json.dumps({**answer, "probabilities": probabilities}))


if __name__ == "__main__":
    main(sys.argv[1:])
