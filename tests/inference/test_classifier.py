"""What a prototype sees: the numbers of training from the files alone, and one clear sentence for every bad image."""

import copy
import io
import json
import pickle
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dermaffinity import LesionClassifier
from dermaffinity.data.images import decode_image
from dermaffinity.data.library import ImageLibrary
from dermaffinity.errors import DataError
from dermaffinity.experiments.results import read_table
from dermaffinity.inference.model_folder import Facts, load_networks, read_description, save_model
from dermaffinity.metrics.reliability import with_temperature

CLASSES = ("AK", "BCC", "ML")


@pytest.fixture(scope="module")
def folder(toy_model):
    return toy_model


@pytest.fixture(scope="module")
def classifier(folder):
    return LesionClassifier.load(folder)


def picture(height=40, width=50, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(array) -> bytes:
    content = io.BytesIO()
    Image.fromarray(array).save(content, format="PNG")
    return content.getvalue()


PICTURES = [picture(40 + seed, 50, seed) for seed in range(5)]

FRESH = """
import json, sys
from dermaffinity import LesionClassifier
light = sorted({name.partition(".")[0] for name in sys.modules} & {"numpy", "torch", "pandas", "PIL", "pydantic"})
classifier = LesionClassifier.load(sys.argv[1])
probabilities = classifier.predict_proba(sys.argv[2:])
classifier.predict_sets(sys.argv[2:])
banned = ("mlflow", "albumentations", "cv2", "monai", "pandas", "scipy", "sklearn", "matplotlib", "lightning_fabric")
banned += ("dermaffinity.losses", "dermaffinity.training", "dermaffinity.tracking")
print(json.dumps([light, [name for name in banned if name in sys.modules], probabilities.tolist()]))
"""


def test_importing_imports_nothing_heavy_and_predicting_imports_nothing_of_training(folder, classifier, tmp_path):
    (tmp_path / "a.png").write_bytes(png(PICTURES[0]))
    command = [sys.executable, "-c", FRESH, str(folder), str(tmp_path / "a.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    light, banned, probabilities = json.loads(done.stdout)
    assert light == []
    assert banned == []
    assert probabilities == pytest.approx(classifier.predict_proba([PICTURES[0]]), abs=1e-6)


def test_each_fold_gives_its_out_of_fold_probabilities_from_the_image_files(uninterrupted, phantom_library):
    for fold in range(3):
        job = uninterrupted / f"runs/tiny/fold-{fold}_seed-0"
        table = read_table(job / "predictions.csv")
        library = ImageLibrary(phantom_library)
        images = (library.read(path) for path in table["image"])
        classifier = LesionClassifier.load(job)
        found = classifier.predict_proba(images, calibrated=False)
        expected = table[[f"p.{name}" for name in classifier.classes_]].to_numpy()
        assert found == pytest.approx(expected, abs=1e-5)


def test_an_experiment_is_the_mean_of_its_folds_calibrated_as_a_whole(uninterrupted):
    together = LesionClassifier.load(uninterrupted / "runs/tiny")
    folds = [LesionClassifier.load(uninterrupted / f"runs/tiny/fold-{fold}_seed-0") for fold in range(3)]
    mean = np.mean([fold.predict_proba(PICTURES, calibrated=False) for fold in folds], axis=0)
    assert together.predict_proba(PICTURES, calibrated=False) == pytest.approx(mean, abs=1e-7)
    calibrated = with_temperature(mean, together.description.temperature)
    assert together.predict_proba(PICTURES) == pytest.approx(calibrated, abs=1e-6)
    assert together.novelty(PICTURES) == pytest.approx(np.mean([fold.novelty(PICTURES) for fold in folds], axis=0))
    fold_models = together.description.fold_models
    assert [(model.fold, model.seed) for model in fold_models] == [(0, 0), (1, 0), (2, 0)]
    for fold, fold_model in enumerate(fold_models):
        validation = read_table(uninterrupted / f"runs/tiny/fold-{fold}_seed-0/validation.csv")
        counts = {name: len(scores) for name, scores in fold_model.calibration.scores.items()}
        assert counts == {name: int((validation["label"] == name).sum()) for name in together.classes_}


def test_calibration_comes_from_inner_validation_images_alone(uninterrupted):
    from dermaffinity.metrics.classification import Classes
    from dermaffinity.metrics.reliability import fit_temperature

    job = uninterrupted / "runs/tiny/fold-1_seed-0"
    classifier = LesionClassifier.load(job)
    (fold_model,) = classifier.description.fold_models
    table = read_table(job / "validation.csv")
    labels = Classes(tuple(classifier.classes_)).indices(table["label"])
    raw = table[[f"p.{name}" for name in classifier.classes_]].to_numpy()
    assert fold_model.calibration.temperature == pytest.approx(fit_temperature(labels, raw), rel=1e-6)
    own = with_temperature(raw, fold_model.calibration.temperature)[np.arange(len(labels)), labels]
    for label, name in enumerate(classifier.classes_):
        assert fold_model.calibration.scores[name] == pytest.approx(np.sort(1 - own[labels == label]), abs=2e-6)


def test_the_summary_tells_calibration_before_and_after(uninterrupted):
    import pandas as pd

    from dermaffinity.metrics.classification import Classes
    from dermaffinity.metrics.reliability import brier_score, expected_calibration_error

    table = read_table(uninterrupted / "runs/tiny/out_of_fold.csv")
    summary = pd.read_csv(uninterrupted / "runs/tiny/out_of_fold_summary.csv", index_col="metric")["value"]
    fold_models = LesionClassifier.load(uninterrupted / "runs/tiny").description.fold_models
    classes = LesionClassifier.load(uninterrupted / "runs/tiny").classes_
    temperatures = {fold_model.fold: fold_model.calibration.temperature for fold_model in fold_models}
    calibrated = np.concatenate(
        [
            with_temperature(row[None].astype(float), temperatures[fold])
            for row, fold in zip(table[[f"p.{name}" for name in classes]].to_numpy(), table["fold"], strict=True)
        ]
    )
    labels = Classes(tuple(classes)).indices(table["label"])
    assert summary["ece.calibrated"] == pytest.approx(expected_calibration_error(labels, calibrated))
    assert summary["brier.calibrated"] == pytest.approx(brier_score(labels, calibrated))
    assert summary["brier.calibrated"] != summary["brier"]


def test_an_mlflow_alias_loads_the_same_classifier(classifier, folder, empty_store, tmp_path, monkeypatch):
    import mlflow

    shutil.copy(empty_store, tmp_path / "mlflow.db")
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    model = shutil.copytree(folder / "classifier", tmp_path / "model/artifacts/classifier").parents[1]
    client = mlflow.MlflowClient(store, store)
    client.create_registered_model("toy")
    client.create_model_version("toy", model.as_uri())
    client.set_registered_model_alias("toy", "champion", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # which the next line overwrites, and the end of the test restores
    mlflow.set_tracking_uri(store)
    try:
        loaded = LesionClassifier.load("models:/toy@champion")
        with pytest.raises(DataError, match="models:/toy@nobody: cannot be read from the MLflow store"):
            LesionClassifier.load("models:/toy@nobody")
    finally:
        mlflow.set_tracking_uri(None)
    assert np.array_equal(loaded.predict_proba(PICTURES), classifier.predict_proba(PICTURES))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path / "nowhere", "found: nothing is there"),
        (lambda path: path, "found: no classifier.json is there"),
        (lambda path: shutil.copy(__file__, path / "a.pth"), r"a\.pth: expected the folder .* found: a file"),
    ],
)
def test_what_is_no_classifier_is_named(tmp_path, make, message):
    with pytest.raises(DataError, match=message):
        LesionClassifier.load(make(tmp_path))


def test_an_unfinished_experiment_says_how_to_go_on(tmp_path):
    (tmp_path / "experiment.json").write_text("{}")
    with pytest.raises(DataError, match=r"has no classifier yet.*--resume"):
        LesionClassifier.load(tmp_path)


def test_a_classifier_of_lesion_crops_warns_that_it_gets_no_mask(folder, tmp_path):
    description = read_description(folder / "fold-0")
    values = description.model_dump(by_alias=True, include=set(Facts.model_fields))
    values["preprocessing"]["lesion_crop"] = 0.3
    (network,), (fold_model,) = load_networks(folder / "fold-0", description), description.fold_models
    save_model(tmp_path, network, Facts.model_validate(values), fold=0, seed=0, calibration=fold_model.calibration)
    with pytest.warns(UserWarning, match=r"margin of 0\.3 lesion sizes, and gets no masks here: cut your images"):
        LesionClassifier.load(tmp_path)


def test_members_are_averaged_and_their_mean_is_calibrated(classifier, folder):
    singles = [LesionClassifier.load(folder / f"fold-{fold}") for fold in (0, 1)]
    raw = [single.predict_proba(PICTURES, calibrated=False) for single in singles]
    for single, own, temperature in zip(singles, raw, (0.5, 2.0), strict=True):
        assert single.predict_proba(PICTURES) == pytest.approx(with_temperature(own, temperature))
    expected = with_temperature((raw[0] + raw[1]) / 2, 1.5)
    assert classifier.predict_proba(PICTURES) == pytest.approx(expected)
    assert classifier.predict_proba(PICTURES).sum(axis=1) == pytest.approx(np.ones(5))
    assert classifier.predict(PICTURES).tolist() == [CLASSES[c] for c in expected.argmax(axis=1)]
    assert np.array_equal(classifier.transform(PICTURES), np.hstack([single.transform(PICTURES) for single in singles]))
    assert np.linalg.norm(singles[0].transform(PICTURES), axis=1) == pytest.approx(np.ones(5), abs=1e-6)
    others = np.mean([single.predict(PICTURES) != classifier.predict(PICTURES) for single in singles], axis=0)
    assert classifier.assess(PICTURES).disagreement.tolist() == others.tolist()


def test_novelty_is_the_standardized_distance_to_the_nearest_center(folder):
    single = LesionClassifier.load(folder / "fold-0")
    embedding = single.transform(PICTURES)
    centers = single.networks[0].head.centers.detach().numpy().reshape(-1, 8)
    nearest = np.square(embedding[:, None] - centers).sum(axis=2).min(axis=1)
    assert single.novelty(PICTURES) == pytest.approx((nearest - 0.5) / 0.25, abs=1e-4)


def test_who_may_abstain_answers_none_above_the_limit_and_the_class_below(classifier):
    images = [picture(seed=seed) for seed in range(6)] + [np.zeros((40, 40, 3), np.uint8)]
    novel = classifier.novelty(images) > classifier.novelty_threshold
    assert classifier.novelty_threshold == 1.5
    classifier = copy.copy(classifier)
    limit = float(np.median(classifier.novelty(images)))
    fold_models = [
        fold_model.model_copy(
            update={"calibration": fold_model.calibration.model_copy(update={"novelty_threshold": limit})}
        )
        for fold_model in classifier.description.fold_models
    ]
    classifier.description = classifier.description.model_copy(update={"fold_models": tuple(fold_models)})
    novel = classifier.novelty(images) > limit
    assert 0 < novel.sum() < len(images)
    answers = classifier.predict(images, abstain=True)
    assert [answer is None for answer in answers] == novel.tolist()
    assert (answers[~novel] == classifier.predict(images)[~novel]).all()


def test_sets_grow_with_coverage_and_hold_classes_without_enough_images_always(classifier):
    narrow, wide = (classifier.predict_sets(PICTURES, coverage=coverage) for coverage in (0.6, 0.9))
    assert all(set(a) <= set(b) for a, b in zip(narrow, wide, strict=True))
    assert all("ML" in members for members in narrow)  # no image at all
    assert all({"BCC", "ML"} <= set(members) for members in wide)  # two images promise 2/3 at most
    guarantees = classifier.set_guarantees(0.9)
    assert guarantees["always"].tolist() == [False, True, True]
    assert guarantees["images"].tolist() == [38, 4, 0]
    assert guarantees["coverage"].tolist() == pytest.approx([0.8, 1, 1])
    probabilities = classifier.predict_proba(PICTURES)
    for members, row in zip(wide, probabilities, strict=True):
        order = [row[CLASSES.index(name)] for name in members]
        assert order == sorted(order, reverse=True)
    for coverage in (0, 1, -0.5, 90):
        with pytest.raises(ValueError, match=r"coverage must be in \(0, 1\), got"):
            classifier.predict_sets(PICTURES, coverage=coverage)


def test_every_kind_of_input_gives_what_its_pixels_give(classifier, tmp_path):
    array = PICTURES[0]
    (tmp_path / "a.png").write_bytes(png(array))
    expected = classifier.predict_proba(array)
    assert expected.shape == (1, 3)
    for image in (
        tmp_path / "a.png", str(tmp_path / "a.png"), png(array), bytearray(png(array)), Image.fromarray(array),
        array / 255, (array / 255).astype(np.float32), array.astype(np.uint16) * 257, array[:, ::-1][:, ::-1],
        np.dstack([array, np.full(array.shape[:2], 7, np.uint8)]), [array], (array,), array[None], iter([array]),
        np.array([str(tmp_path / "a.png")]), np.array([str(tmp_path / "a.png")], dtype=object),
    ):  # fmt: skip
        assert np.array_equal(classifier.predict_proba(image), expected), type(image)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK", "YCbCr", "I;16", "HSV"])
def test_pillow_images_of_every_mode_are_read_as_their_files_would_be(classifier, mode):
    if mode == "I;16":
        image = Image.fromarray(PICTURES[0][:, :, 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(PICTURES[0]).convert("RGBA" if mode == "LA" else "RGB").convert(mode)
    rgb = (PICTURES[0][:, :, :1].repeat(3, axis=2)) if mode == "I;16" else np.asarray(image.convert("RGB"))
    assert np.array_equal(classifier.predict_proba(image), classifier.predict_proba(rgb))


def test_gray_arrays_are_gray_pictures(classifier):
    gray = PICTURES[0][:, :, 0]
    expected = classifier.predict_proba(gray[:, :, None].repeat(3, axis=2))
    assert np.array_equal(classifier.predict_proba(gray), expected)
    assert np.array_equal(classifier.predict_proba(gray[:, :, None]), expected)


def test_a_picture_is_turned_upright_however_it_comes(classifier):
    content, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(40, 70)).save(content, format="PNG", exif=exif)
    upright = classifier.predict_proba(decode_image(content.getvalue(), "x"))
    assert np.array_equal(classifier.predict_proba(content.getvalue()), upright)
    assert np.array_equal(classifier.predict_proba(Image.open(content)), upright)


def test_any_size_is_predicted_down_to_one_pixel(classifier):
    for shape in ((1, 1), (1, 300), (300, 1), (31, 33), (500, 20)):
        assert np.isfinite(classifier.predict_proba(picture(*shape))).all()


def test_an_animation_is_its_first_frame(classifier):
    frames = [Image.fromarray(array[:40]).quantize(64) for array in PICTURES[:3]]
    content = io.BytesIO()
    frames[0].save(content, format="GIF", save_all=True, append_images=frames[1:])
    expected = classifier.predict_proba(np.asarray(frames[0].convert("RGB")))
    assert np.array_equal(classifier.predict_proba(content.getvalue()), expected)


def huge() -> bytes:
    content = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(content, format="PNG")
    return content.getvalue()


HUGE = np.broadcast_to(np.uint8(0), (12_000, 12_000, 3))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "the image: the file is empty"),
        (png(PICTURES[0])[:200], "the image: damaged or truncated"),
        (b"%PDF-1.7 no image", "the image: not an image in any of the formats JPEG, PNG"),
        (huge(), "the image: more than 89,478,485 pixels"),
        (HUGE, "the image: more than 89,478,485 pixels"),
        (np.zeros((0, 5, 3), np.uint8), "the image: has no pixels, it is 5 × 0"),
        (Image.new("RGB", (0, 3)), "the image: has no pixels, it is 0 × 3"),
        (Image.new("F", (4, 4)), "the image: holds floating-point gray values of unknown range"),
        (np.full((4, 4, 3), np.nan), r"the image: floats must be in \[0, 1\], found NaN"),
        (np.full((4, 4, 3), 255.0), r"floats must be in \[0, 1\], found values from 255 to 255; divide by 255"),
        (np.full((4, 4, 3), -0.1), r"floats must be in \[0, 1\], found values from -0.1"),
        (np.full((4, 4, 3), np.inf), r"floats must be in \[0, 1\], found values from inf"),
        (np.zeros((4, 4, 3), np.int64), "holds int64 values; use uint8, uint16, or floats"),
        (np.zeros((4, 4), bool), "holds bool values"),
        (np.zeros((3, 30, 40), np.uint8), r"has the shape \(3, 30, 40\), channels first; move them last"),
        (np.zeros((30, 40, 2), np.uint8), r"has the shape \(30, 40, 2\); an image is \(height, width\)"),
        (np.zeros(12, np.uint8), r"has the shape \(12,\); an image is"),
        ("nowhere.jpg", r"nowhere\.jpg: there is no such file"),
        ("a\0b.jpg", "cannot be read"),
        (".", r"\.: is a folder; give the images in it"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)  # fmt: skip
def test_a_bad_image_gives_one_clear_sentence(classifier, image, message):
    with pytest.raises(DataError, match=message) as error:
        classifier.predict(image)
    assert "\n" not in str(error.value)


def test_a_closed_pillow_image_and_one_of_a_truncated_file_are_refused(classifier, tmp_path):
    (tmp_path / "a.png").write_bytes(png(PICTURES[0]))
    with Image.open(tmp_path / "a.png") as image:
        pass
    with pytest.raises(DataError, match="the image: damaged or truncated"):
        classifier.predict(image)
    with pytest.raises(DataError, match="the image: damaged or truncated"):
        classifier.predict(Image.open(io.BytesIO(png(PICTURES[0])[:300])))


def test_the_bad_one_of_many_is_named(classifier):
    with pytest.raises(DataError, match=r"^images\[2\]: the file is empty"):
        classifier.predict([PICTURES[0], PICTURES[1], b"", PICTURES[2]])


@pytest.mark.parametrize("nothing", [[], (), iter([]), np.zeros((0, 4, 4, 3), np.uint8)])
def test_no_images_at_all_are_refused(classifier, nothing):
    with pytest.raises(ValueError, match="there are no images to predict: the list is empty"):
        classifier.predict(nothing)


@pytest.mark.parametrize("thing", [
    None, 3, [None], [3.5], [[PICTURES[0]]], torch.zeros(3, 4, 4), {"a.png": PICTURES[0]}, [{"image": "a.png"}],
    pd.DataFrame({"image": ["a.png"]}), np.array("a.png"), np.array(3.0), [np.array(3.0)], [np.array("a.png")],
], ids=lambda thing: type(thing).__name__)  # fmt: skip
def test_what_is_no_image_is_a_type_error(classifier, thing):
    with pytest.raises(TypeError, match=r"an image is a path, bytes, a file .* and several are a list of these, got"):
        classifier.predict(thing)


def test_a_table_is_told_to_give_one_of_its_columns(classifier, tmp_path):
    (tmp_path / "a.png").write_bytes(png(PICTURES[0]))
    table = pd.DataFrame({"image": [str(tmp_path / "a.png")]})
    with pytest.raises(TypeError, match="got DataFrame; give one column of it"):
        classifier.predict(table)
    assert classifier.predict(table["image"]).tolist() == classifier.predict(PICTURES[0]).tolist()


def test_open_files_are_images_from_their_beginning(classifier, tmp_path):
    (tmp_path / "a.png").write_bytes(png(PICTURES[0]))
    expected = classifier.predict_proba(PICTURES[0])
    buffer = io.BytesIO()
    Image.fromarray(PICTURES[0]).save(buffer, format="PNG")  # leaves it at its end
    with open(tmp_path / "a.png", "rb") as plain, zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.png", "a.png")
        with archive.open("a.png") as member:
            for image in (plain, buffer, member, [plain], iter([buffer])):
                assert np.array_equal(classifier.predict_proba(image), expected), type(image)
    with pytest.raises(DataError, match=r"^the image: cannot be read \(.*closed.*open the file in binary mode, 'rb'"):
        classifier.predict(plain)
    with open(tmp_path / "a.png") as text, pytest.raises(DataError, match="open the file in binary mode, 'rb'"):
        classifier.predict(text)
    with pytest.raises(TypeError, match=r"^images\[0\]: an open file gives bytes, got str; open it with mode 'rb'"):
        classifier.predict([io.StringIO("text")])


def test_scores_of_scikit_learn_need_no_scoring(classifier):
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    predicted = classifier.predict(PICTURES).tolist()
    labels = [*predicted[:3], *(next(name for name in CLASSES if name != code) for code in predicted[3:])]
    assert classifier.score(PICTURES, labels) == pytest.approx(3 / 5)
    assert classifier.score(PICTURES, labels, sample_weight=[1, 1, 1, 0, 3]) == pytest.approx(3 / 6)
    assert classifier.score(iter(PICTURES), pd.Series(labels)) == pytest.approx(3 / 5)
    flipped = make_pipeline(FunctionTransformer(lambda images: [image[::-1] for image in images]), classifier)
    assert flipped.score([image[::-1] for image in PICTURES], labels) == pytest.approx(3 / 5)
    found = cross_val_score(classifier, PICTURES, labels, cv=KFold(5))
    assert found.tolist() == [1, 1, 1, 0, 0]
    with pytest.raises(ValueError, match="labels are class codes, AK, BCC, ML; got 0, 1"):
        classifier.score(PICTURES, [0, 1, 0, 1, 0])


def test_each_image_alone_equals_the_many_and_only_a_batch_is_held(classifier, monkeypatch):
    from dermaffinity.inference import classifier as module
    from dermaffinity.inference import predict

    monkeypatch.setattr(predict, "BATCH_SIZE", 2)
    monkeypatch.setattr(module, "_AHEAD", 1)
    taken = []

    def reading():
        for index, array in enumerate(PICTURES):
            taken.append(index)
            yield array

    seen = []
    assess = LesionClassifier.assess_prepared
    monkeypatch.setattr(
        LesionClassifier,
        "assess_prepared",
        lambda self, tensors, **options: (seen.append((len(tensors), len(taken))), assess(self, tensors, **options))[1],
    )
    together = classifier.predict_proba(reading())
    assert seen == [(2, 3), (2, 5), (1, 5)]
    alone = np.concatenate([classifier.predict_proba(array) for array in PICTURES])
    assert together == pytest.approx(alone, abs=1e-6)


def test_copies_clones_and_pickles_say_the_same(classifier):
    from sklearn.base import clone

    expected = classifier.predict_proba(PICTURES)
    for other in (copy.deepcopy(classifier), pickle.loads(pickle.dumps(classifier)), clone(classifier)):
        assert np.array_equal(other.predict_proba(PICTURES), expected)
        assert other.classes_.tolist() == list(CLASSES)
    assert repr(classifier) == "<LesionClassifier toy: AK, BCC, ML; 2 fold models>"
    with pytest.raises(ValueError, match="has no parameters to set, got sigma"):
        classifier.set_params(sigma=2)


def test_it_works_at_either_end_of_a_scikit_learn_pipeline(classifier):
    from sklearn.base import is_classifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline, make_pipeline
    from sklearn.preprocessing import FunctionTransformer
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(classifier)
    assert is_classifier(classifier)
    last = Pipeline([("flip", FunctionTransformer(lambda images: [i[::-1] for i in images])), ("lesion", classifier)])
    assert np.array_equal(last.predict_proba(PICTURES), classifier.predict_proba([i[::-1] for i in PICTURES]))
    labels = ["a", "b", "a", "b", "a"]
    first = make_pipeline(classifier, LogisticRegression()).fit(PICTURES, labels)
    direct = LogisticRegression().fit(classifier.transform(PICTURES), labels)
    assert first.predict_proba(PICTURES) == pytest.approx(direct.predict_proba(classifier.transform(PICTURES)))


def test_the_package_offers_the_classifier_and_refuses_what_it_has_not():
    import dermaffinity

    assert "LesionClassifier" in dir(dermaffinity)
    with pytest.raises(AttributeError, match="has no attribute 'Classifier'"):
        dermaffinity.Classifier  # noqa: B018


def test_an_open_file_and_a_pillow_image_may_come_twice_though_several_threads_decode(classifier):
    image = Image.open(io.BytesIO(png(PICTURES[0])))
    opened = io.BytesIO(png(PICTURES[0]))
    expected = np.repeat(classifier.predict_proba(PICTURES[0]), 16, axis=0)
    assert classifier.predict_proba([image, opened] * 8) == pytest.approx(expected, abs=1e-6)
