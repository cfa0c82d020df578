"""Looking at an image turned and mirrored, and where the networks run."""

import numpy as np
import pytest
import torch

from dermaffinity import LesionClassifier
from dermaffinity.errors import DataError
from dermaffinity.metrics.conformal import p_values, promised_coverage
from dermaffinity.metrics.reliability import with_temperature
from dermaffinity.models import VIEWS, views_of

PICTURE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
SYMMETRIES = [flip(np.rot90(PICTURE, turns)) for turns in range(4) for flip in (np.asarray, np.fliplr)]
AMONG = {
    1: [PICTURE],
    2: [PICTURE, np.fliplr(PICTURE)],
    4: [PICTURE, np.fliplr(PICTURE), np.flipud(PICTURE), np.rot90(PICTURE, 2)],
    8: SYMMETRIES,
}


@pytest.fixture(scope="module", params=VIEWS)
def classifier(request, toy_model):
    return LesionClassifier.load(toy_model, views=request.param)


def test_the_views_are_what_they_are_called():
    image = torch.arange(2 * 3 * 16).reshape(2, 3, 4, 4)
    for views, expected in AMONG.items():
        found = {tuple(view.flatten().tolist()) for view in views_of(image, views)}
        pictures = image.numpy().transpose(0, 2, 3, 1)
        assert len(found) == views == len(expected)
        again = set()
        for turns in range(4):
            for mirrored in (False, True):
                turned = np.rot90(pictures, turns, axes=(1, 2))
                turned = turned[:, :, ::-1] if mirrored else turned
                again.add(tuple(turned.transpose(0, 3, 1, 2).flatten().tolist()))
        assert found <= again
    assert torch.equal(next(views_of(image, 8)), image)


def test_a_result_is_the_same_for_all_images_among_its_views(classifier):
    expected = classifier.assess(PICTURE)
    for picture in AMONG[classifier.views]:
        found = classifier.assess(picture)
        for field in ("probabilities", "novelty", "p_values", "disagreement"):
            assert getattr(found, field) == pytest.approx(getattr(expected, field), abs=1e-5), field
    if classifier.views < 8:  # otherwise this network would not tell turned images apart
        assert classifier.predict_proba(SYMMETRIES[2]) != pytest.approx(expected.probabilities, abs=1e-5)


def test_probabilities_novelty_and_p_values_are_means_and_the_mean_is_calibrated(classifier, toy_model):
    singles = [LesionClassifier.load(toy_model / f"fold-{fold}") for fold in (0, 1)]
    pictures = AMONG[classifier.views]
    raw = np.mean([single.predict_proba(pictures, calibrated=False) for single in singles], axis=(0, 1))
    found = classifier.assess(PICTURE)
    assert found.probabilities[0] == pytest.approx(with_temperature(raw[None], 1.5)[0], abs=1e-5)
    assert found.novelty[0] == pytest.approx(np.mean([single.novelty(pictures) for single in singles]), abs=1e-4)
    usual = [
        p_values(
            [np.asarray(scores) for scores in fold_model.calibration.scores.values()], single.predict_proba(pictures)
        )
        for single in singles
        for fold_model in single.description.fold_models
    ]
    assert found.p_values[0] == pytest.approx(np.mean(usual, axis=(0, 1)), abs=1e-6)
    alone = np.hstack([single.transform(PICTURE)[0] for single in singles])
    assert found.embedding[0] == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("pictures", [3, 40])  # seen in all views at once, and one view after the other
def test_every_member_sees_every_view_of_every_image_once(classifier, monkeypatch, pictures):
    calls = []
    for network in classifier.networks:
        forward = network.forward
        monkeypatch.setattr(
            network, "forward", lambda images, forward=forward: (calls.append(len(images)), forward(images))[1]
        )
    classifier.predict([PICTURE] * pictures)
    assert sum(calls) == pictures * classifier.views * 2
    assert len(calls) == (2 if pictures == 3 else classifier.views * 2)


def test_several_views_of_one_model_promise_what_a_mean_promises(toy_model):
    one, eight = (LesionClassifier.load(toy_model / "fold-0", views=views) for views in (1, 8))
    assert one.set_guarantees(0.9).loc["AK", "coverage"] == pytest.approx(0.9)
    assert eight.set_guarantees(0.9).loc["AK", "coverage"] == pytest.approx(0.8) == promised_coverage(0.9, [19, 19])
    assert eight.set_guarantees(0.9)["images"].tolist() == one.set_guarantees(0.9)["images"].tolist()


@pytest.mark.parametrize("views", [0, 3, 16, "8", None])
def test_other_numbers_of_views_are_refused(toy_model, views):
    with pytest.raises(ValueError, match="views must be one of 1, 2, 4, 8, got"):
        LesionClassifier.load(toy_model, views=views)


def test_a_device_that_is_not_there_or_unknown_is_refused(toy_model, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DataError, match="device 'cuda': torch finds no GPU that it can use"):
        LesionClassifier.load(toy_model, device="cuda")
    with pytest.raises(ValueError, match="device must be 'cpu', 'cuda' or 'auto', got 'gpu'"):
        LesionClassifier.load(toy_model, device="gpu")
    assert LesionClassifier.load(toy_model, device="auto").device == torch.device("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_says_what_the_cpu_says(toy_model):
    cpu, gpu = (LesionClassifier.load(toy_model, device=device).assess(SYMMETRIES) for device in ("cpu", "cuda"))
    for ours, theirs in zip(cpu, gpu, strict=True):
        assert isinstance(theirs, np.ndarray)
        assert theirs == pytest.approx(ours, abs=1e-3)


def test_predict_takes_views_and_refuses_other_numbers(commands, toy_model, tmp_path):
    from PIL import Image

    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    done = commands.run("predict", str(toy_model), "a.png", "--views", "8", folder=tmp_path)
    assert done.code == 0, done.stderr
    (row,) = [line.split(",") for line in (tmp_path / "predictions.csv").read_text().splitlines()[1:]]
    expected = LesionClassifier.load(toy_model, views=8).predict_proba(PICTURE)[0]
    assert [float(cell) for cell in row[2:5]] == pytest.approx(expected, abs=1e-5)
    done = commands.run("predict", str(toy_model), "a.png", "--views", "3", folder=tmp_path)
    assert done.code == 2
    assert "'3' is not one of '1', '2', '4', '8'" in done.stderr
