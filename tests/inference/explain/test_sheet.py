"""What explain returns, and the page that shows it."""

import dataclasses
import io
import itertools
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dermaffinity import LesionClassifier
from dermaffinity.errors import DataError
from dermaffinity.inference.explain import Explanation

CLASSES = (
    "actinic_keratosis", "basal_cell_carcinoma", "melanocytic_nevus", "seborrheic_keratosis", "vascular_lesion",
    "squamous_cell_carcinoma", "intraepithelial_carcinoma", "pyogenic_granuloma", "dermatofibroma",
    "malignant_melanoma_in_situ_or_invasive",
)  # fmt: skip
PICTURE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def classifier(toy_model):
    return LesionClassifier.load(toy_model)


@pytest.fixture(scope="module")
def explanation(classifier):
    return classifier.explain(PICTURE, coverage=0.6)


@pytest.fixture
def library(tmp_path):
    folder = tmp_path / "library"
    folder.mkdir()
    for number in range(12):
        Image.new("RGB", (50, 40), (20 * number, 0, 0)).save(folder / f"{number}.png")
    return folder


def invented(**changes) -> Explanation:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([0.6] * 10)
    order = (-probabilities).argsort()
    centers = [(name, fold_model, 0, 1.0, rng.normal(3, 2)) for name in CLASSES for fold_model in range(3)]
    examples = [
        (f"a/long/folder_of_a_library/P{k}_image_of_dermofit_{k}.png", CLASSES[-k - 1], k / 7, 2) for k in range(6)
    ]
    values = {
        "name": "dermofit10_affinity_10_centers_unit_neck", "classes": CLASSES, "probabilities": probabilities,
        "intended_use": "Research use only. Not a medical device; not fit to decide about a patient.",
        "image": rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), "saliency": rng.random((64, 64)) ** 8,
        "prediction_set": tuple(CLASSES[index] for index in order[:9]), "coverage": 0.9,
        "novelty": 5.2, "novelty_threshold": 1.7, "disagreement": 1 / 3,
        "centers": pd.DataFrame(centers, columns=["class", "fold_model", "center", "distance", "novelty"]),
        "examples": pd.DataFrame(examples, columns=["image", "label", "distance", "fold_models"]),
    }  # fmt: skip
    return Explanation(**values | changes)


def texts(figure) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_an_explanation_says_what_assess_says(classifier, explanation):
    assessed = classifier.assess(PICTURE)
    assert explanation.probabilities == pytest.approx(assessed.probabilities[0])
    assert explanation.predicted == classifier.predict(PICTURE)[0]
    assert explanation.novelty == pytest.approx(assessed.novelty[0])
    assert explanation.novelty_threshold == classifier.novelty_threshold
    assert explanation.novel == (assessed.novelty[0] > classifier.novelty_threshold)
    assert explanation.prediction_set == classifier.predict_sets(PICTURE, coverage=0.6)[0]
    assert explanation.disagreement == assessed.disagreement[0]
    assert explanation.image.shape == (32, 32, 3)
    assert explanation.image.dtype == np.uint8
    assert np.array_equal(classifier.prepare(explanation.image), classifier.prepare(PICTURE))


def test_the_nearest_centers_are_those_of_a_plain_loop(classifier, explanation):
    embedding = classifier.transform(PICTURE)[0].reshape(2, 8)
    assert len(explanation.centers) == 6
    for row in explanation.centers.to_dict("records"):
        centers = classifier.networks[row["fold_model"]].head.centers.detach().numpy()
        own = centers[classifier.classes_.tolist().index(row["class"])]
        distances = np.square(own - embedding[row["fold_model"]]).sum(axis=1)
        assert row["center"] == distances.argmin()
        assert row["distance"] == pytest.approx(distances.min(), abs=1e-5)
        assert row["novelty"] == pytest.approx((distances.min() - 0.5 - row["fold_model"]) / 0.25, abs=1e-4)
    least = explanation.centers.groupby("fold_model")["novelty"].min()
    assert explanation.novelty == pytest.approx(least.mean(), abs=1e-4)


def test_the_map_is_of_the_classifier_as_a_whole_and_the_same_every_time(classifier, explanation):
    assert explanation.saliency.shape == (32, 32)
    assert 0 <= explanation.saliency.min() < explanation.saliency.max() <= explanation.probabilities.max()
    assert np.array_equal(classifier.explain(PICTURE).saliency, explanation.saliency)


def test_training_images_of_all_members_are_candidates(explanation):
    assert list(explanation.examples.columns) == ["image", "label", "distance", "fold_models"]
    assert explanation.examples["distance"].is_monotonic_increasing
    for image, label, fold_models in explanation.examples[["image", "label", "fold_models"]].itertuples(index=False):
        number = int(image.removesuffix(".png"))
        assert label == ("AK", "BCC", "ML")[number % 3]
        assert fold_models == 1 + (4 <= number < 8)


def test_a_training_image_is_nearest_to_itself(uninterrupted, phantom_library):
    classifier = LesionClassifier.load(uninterrupted / "runs/tiny")
    folds = [LesionClassifier.load(uninterrupted / f"runs/tiny/fold-{fold}_seed-0") for fold in range(3)]
    name = classifier.explain(PICTURE).examples["image"][0]
    assert (phantom_library / name).is_file()
    first = classifier.explain(phantom_library / name).examples.iloc[0]
    assert first["image"] == name
    assert first["distance"] == pytest.approx(0, abs=1e-4)
    for fold in folds:  # its own test images are not among what it learned from
        from dermaffinity.experiments.results import read_table
        from dermaffinity.inference.model_folder import load_examples

        (fold_model,) = fold.description.fold_models
        learned = load_examples(fold.folder, fold.description, fold_model)
        tables = [read_table(fold.folder / f"{part}.csv") for part in ("predictions", "validation")]
        assert not set(learned.images) & set(pd.concat(tables)["image"])
        assert len(set(learned.images)) + len(pd.concat(tables)) == sum(fold.description.data.class_counts.values())


@pytest.mark.parametrize("images", [[], [PICTURE, PICTURE]])
def test_one_image_is_explained_at_a_time(classifier, images):
    with pytest.raises(ValueError, match="explain takes one image at a time, got"):
        classifier.explain(images)


def test_bad_images_and_coverages_are_refused_as_everywhere(classifier):
    with pytest.raises(DataError, match=r"nowhere\.jpg: there is no such file"):
        classifier.explain("nowhere.jpg")
    with pytest.raises(ValueError, match=r"coverage must be in \(0, 1\), got 90"):
        classifier.explain(PICTURE, coverage=90)


@pytest.mark.parametrize(
    "changes",
    [{}, {"examples": None, "novelty": -9.0, "prediction_set": (), "disagreement": 0.0}, {"novelty": 40.0}],
    ids=["long", "bare", "far"],
)
@pytest.mark.parametrize("with_library", [False, True])
def test_no_text_overlaps_another_or_leaves_the_page(changes, with_library):
    from matplotlib.axes import Axes

    from dermaffinity.inference.explain.sheet import explanation_sheet

    shown = invented(**changes)
    pictures = [shown.image] * 6 if with_library and shown.examples is not None else []
    figure = explanation_sheet(shown, pictures)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    shown_texts = [text for part in figure.subfigs for text in part.texts]
    for axes in figure.findobj(Axes):
        # Ticks beyond the limits are never drawn, so that only those of the classes' names are looked at.
        names = [
            label for label in axes.get_yticklabels() if label.get_text() and axes.get_title(loc="left")[:3] == "How"
        ]
        shown_texts += [*axes.texts, axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, *names]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in shown_texts if text.get_text()]
    assert len(boxes) > 10
    for name, box in boxes:
        assert box.x0 >= -1, name
        assert box.y0 >= -1, name
        assert box.x1 <= figure.bbox.x1 + 1, name
        assert box.y1 <= figure.bbox.y1 + 1, name
    unique = list({(name, box.bounds): (name, box) for name, box in boxes}.values())
    for (name, box), (other, other_box) in itertools.combinations(unique, 2):
        assert not box.padded(-1).overlaps(other_box.padded(-1)), (name, other)


def test_a_notebook_shows_the_sheet():
    assert "data:image/png;base64," in invented()._repr_html_()


def test_the_page_warns_of_novelty_and_says_what_it_is_for():
    shown = " ".join(texts(invented().figure()))
    assert "Novel: this image is unlike those" in shown
    assert "do not rely on the classes above" in shown
    assert "Research use only" in shown
    assert shown.count("in the set") == 9
    calm = " ".join(texts(invented(novelty=0.3, examples=None, prediction_set=()).figure()))
    assert "Novel:" not in calm
    assert "below its limit" in calm
    assert "none, it is unlike all of them" in calm
    assert "saved without training examples" in calm
    with_one = dataclasses.replace(invented(), disagreement=0.0)
    assert "networks name another class" not in " ".join(texts(with_one.figure()))


def test_the_sheet_shows_the_nearest_images_of_a_folder_and_of_a_manifest(explanation, library, tmp_path):
    explanation.save(tmp_path / "new/sheet.png", library)
    with Image.open(tmp_path / "new/sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.width == 1080
    figure = explanation.figure(str(library))
    pictures = [axes.images[0].get_array() for axes in figure.findobj(lambda a: hasattr(a, "images")) if axes.images]
    reds = {int(picture[0, 0, 0]) for picture in pictures if picture.ndim == 3 and picture[:, :, 1:].max() == 0}
    assert reds == {20 * int(name.removesuffix(".png")) for name in explanation.examples["image"]}


def test_a_library_that_lacks_an_image_and_another_kind_of_file_are_named(explanation, library, tmp_path):
    (library / explanation.examples["image"][2]).unlink()
    with pytest.raises(DataError, match="no such file in"):
        explanation.figure(library)
    with pytest.raises(DataError, match=r"expected the folder or \.zip archive"):
        explanation.figure(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"sheet\.pdf: the sheet is a PNG image"):
        explanation.save(tmp_path / "sheet.pdf")


FRESH = """
import json, sys
from dermaffinity import LesionClassifier
classifier = LesionClassifier.load(sys.argv[1])
classifier.predict(sys.argv[2])
print(json.dumps([name for name in ("monai", "matplotlib", "dermaffinity.inference.explain") if name in sys.modules]))
"""


def test_predicting_imports_nothing_of_explanations(toy_model, tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    command = [sys.executable, "-c", FRESH, str(toy_model), str(tmp_path / "a.png")]
    assert json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout) == []


def test_the_command_writes_the_sheet_and_says_the_result(commands, toy_model, classifier, library, tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    words = ("explain", str(toy_model), "a.png", "--out", "out/sheet.png", "--library", "library")
    done = commands.run(*words, folder=tmp_path)
    assert done.code == 0, done.stderr
    assert f"out/sheet.png: {classifier.predict(PICTURE)[0]} with" in done.stdout
    assert "Research use only" in done.stdout
    assert "Warning" not in done.stderr
    assert Image.open(io.BytesIO((tmp_path / "out/sheet.png").read_bytes())).width == 1080
    for words, message in (
        (("explain", str(toy_model), "b.png"), "b.png: there is no such file"),
        (("explain", str(toy_model), "library"), "library: is a folder"),
        (("explain", str(toy_model), "a.png", "--out", "x.jpg"), "x.jpg: the sheet is a PNG image"),
    ):
        done = commands.run(*words, folder=tmp_path)
        assert done.code == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
