"""A prototype to copy and change: drop an image, see its classes, how much to trust them, and why. Research use only.

    python examples/prototype_app.py runs/hamfit7_affinity
    python examples/prototype_app.py demo/runs/demo_affinity_plus --samples demo/samples --library demo/library

It needs the extra `app`. Nothing leaves this machine: the page is served to it alone and loads nothing from elsewhere,
gradio's telemetry and its history in the browser are off, and what was uploaded is deleted within minutes.
"""

import argparse
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from dermaffinity import LesionClassifier
from dermaffinity.cli import guarded
from dermaffinity.data.adapters.phantom import draw_lesion
from dermaffinity.errors import DataError
from dermaffinity.inference.explain import Explanation

NOTICE = "**Research use only. Not a medical device:** nothing here is fit to decide about a patient."
# On a phone the sheet is wider than the page and slides in its box.
STYLE = """
#why [data-testid=matplotlib] { justify-content: safe center; align-items: safe center; overflow-x: auto }
#why img { width: clamp(640px, 100%, 900px); max-width: none; max-height: none }
"""


def build_app(classifier: LesionClassifier, samples: Path | None = None, library: Path | None = None) -> gr.Blocks:
    """The page: an image on the left, what the classifier says on the right, its reasons below.

    Args:
        classifier: Of any kind.
        samples: A folder for synthetic images to try.
        library: Of the training images, to show the nearest ones.
    """

    def show(file: dict[str, Any] | None) -> tuple[str, Any, Any]:
        if file is None:
            return "Drop an image to begin.", None, None
        try:
            explanation = classifier.explain(Path(file["path"]).read_bytes())
            sheet = explanation.figure(library)
        except DataError as error:
            return f"⚠️ {error}.", None, None
        probabilities = dict(zip(explanation.classes, map(float, explanation.probabilities), strict=True))
        return verdict(explanation), gr.Label(probabilities, show_heading=not explanation.novel), sheet

    with gr.Blocks(title="dermaffinity", analytics_enabled=False, delete_cache=(60, 300)) as app:
        gr.Markdown(f"# {classifier.description.name}\n{NOTICE}")
        with gr.Row():
            with gr.Column():
                upload = gr.Image(label="Image of a lesion", sources=["upload", "clipboard"], buttons=[], height=320)
                if samples:
                    gr.Examples(sample_images(samples), upload, label="Synthetic samples")
            with gr.Column():
                words, classes = gr.Markdown(show(None)[0]), gr.Label(label="Calibrated probabilities")
        reasons = gr.Plot(show_label=False, elem_id="why")
        # Not preprocessed: the classifier reads the file as in training, and says what is wrong with it.
        upload.change(show, upload, [words, classes, reasons], preprocess=False)
    return app


def verdict(explanation: Explanation) -> str:
    """What the numbers mean, in sentences."""
    novelty = f"Novelty {explanation.novelty:.1f}, limit {explanation.novelty_threshold:.1f}: "
    if explanation.novel:
        novelty = f"⚠️ **{novelty}unlike the training images. Do not rely on the classes.**"
    else:
        novelty += "not unlike the training images."
    members = ", ".join(explanation.prediction_set) or "none, the image is unlike every class"
    return f"{novelty}\n\nClasses not ruled out, aiming to be right {explanation.coverage:.0%} of the time: {members}."


def sample_images(folder: Path) -> list[str]:
    """A synthetic lesion of each of five classes, drawn into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{code}.png" for code in ("AK", "BCC", "ML", "SCC", "SK")]
    for number, path in enumerate(paths, start=1):
        Image.fromarray(draw_lesion(path.stem, f"P{number}", image_size=224, seed=1)[0]).save(path)
    return [str(path) for path in paths]


def main() -> None:
    """Reads the command line and serves the page until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="folder of an experiment, a fold or a classifier, or models:/NAME@ALIAS")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--samples", type=Path, metavar="FOLDER", help="draw synthetic images to try into this folder")
    parser.add_argument(
        "--library", type=Path, metavar="PATH", help="the training images or their manifest, to show them"
    )
    asked = parser.parse_args()
    theme = gr.themes.Default(primary_hue="sky", font=("system-ui", "sans-serif"), font_mono=("monospace",))
    classifier = LesionClassifier.load(asked.model)
    # Shows now whether the library can be read, and imports what the first image would have to wait for.
    classifier.explain(Image.new("RGB", (64, 64))).figure(asked.library)
    try:
        build_app(classifier, asked.samples, asked.library).launch(
            server_name="127.0.0.1", server_port=asked.port, share=False, run_history=False, footer_links=[],
            max_file_size="50mb", theme=theme, css=STYLE,
        )  # fmt: skip
    except OSError:
        parser.error(f"port {asked.port} is taken; choose another with --port")


if __name__ == "__main__":
    guarded(main)
