import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax

from dermaffinity.heads import AffinityHead, Predictions
from dermaffinity.metrics.reliability import expected_calibration_error, fit_temperature, with_temperature
from dermaffinity.training import calibration as module
from dermaffinity.training.calibration import calibrate, ensemble_temperature

CLASSES = ("AK", "BCC", "ML")


def seen(head, images=40) -> Predictions:
    embedding = torch.randn(images, 4, generator=torch.Generator().manual_seed(1))
    output = head(embedding)
    labels = torch.arange(images) % 2  # no image of the third class
    return Predictions(output.scores, head.probabilities(output), embedding, output.centers, labels)


@torch.no_grad()
def test_a_network_is_calibrated_on_what_it_says_of_images_it_did_not_learn_from():
    torch.manual_seed(0)
    head = AffinityHead(4, 3, centers_per_class=2, sigma=0.5)
    predictions = seen(head)
    found = calibrate(predictions, head, CLASSES)
    labels, raw = predictions.labels.numpy(), predictions.probabilities.numpy()
    assert found.temperature == fit_temperature(labels, raw)
    own = with_temperature(raw, found.temperature)[np.arange(40), labels]
    assert found.scores["AK"] == pytest.approx(np.sort(1 - own[labels == 0]), abs=2e-6)
    assert (np.array(found.scores["BCC"]) >= np.sort(1 - own[labels == 1])).all()  # never rounded down
    assert found.scores["ML"] == ()
    centers = head.centers.reshape(-1, 4)
    nearest = np.array([min(float((e - c).square().sum()) for c in centers) for e in predictions.embedding])
    assert (found.distance_mean, found.distance_sd) == pytest.approx((nearest.mean(), nearest.std()), rel=1e-5)
    novelty = (nearest - nearest.mean()) / nearest.std()
    assert (novelty > found.novelty_threshold).mean() == 0.05


@torch.no_grad()
def test_a_single_image_is_enough_and_leaves_novelty_in_the_units_of_the_distance():
    head = AffinityHead(4, 3)
    found = calibrate(seen(head, images=1), head, CLASSES)
    assert found.distance_sd == 1
    assert found.novelty_threshold == 0


def prediction_tables(labels, probabilities, seed=0):
    """Test rows of K folds and inner validation rows, from what every model (K, N, C) says of every image."""
    rng, (models, images, _) = np.random.default_rng(seed), probabilities.shape
    columns = [f"p.{name}" for name in CLASSES]
    facts = pd.DataFrame({"image": [f"{n}.png" for n in range(images)], "label": np.array(CLASSES)[labels]})
    fold = rng.integers(models, size=images)
    scored = facts.assign(fold=fold).join(pd.DataFrame(probabilities[fold, np.arange(images)], columns=columns))
    parts = []
    for model in range(models):
        inner = np.flatnonzero((fold != model) & (rng.random(images) < 0.15))
        part = pd.DataFrame(probabilities[model, inner], columns=columns, index=inner)
        parts.append(facts.loc[inner].assign(fold=model).join(part))
    return scored.sample(frac=1, random_state=seed), pd.concat(parts)


def spoken_of(labels, models, rng, *, scale, shared, own):
    """Probabilities (K, N, C) by logits with an error that the models share and one of their own."""
    logits = 2.2 * np.eye(3)[labels] + shared * rng.normal(size=(len(labels), 3))
    return softmax(scale * (logits + own * rng.normal(size=(models, len(labels), 3))), axis=2)


def test_the_mean_of_two_models_has_the_temperature_of_the_images_that_are_new_to_both():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=600)
    probabilities = spoken_of(labels, 2, rng, scale=3, shared=0.7, own=1.0)
    scored, validation = prediction_tables(labels, probabilities)
    rows = validation["image"].str.removesuffix(".png").astype(int)
    expected = fit_temperature(labels[rows], probabilities[:, rows].mean(axis=0))
    assert ensemble_temperature(scored, validation, CLASSES) == pytest.approx(expected)


@pytest.mark.parametrize("models", [3, 5, 10])
@pytest.mark.parametrize("kind", [{"scale": 3, "shared": 0.8, "own": 0.7}, {"scale": 0.4, "shared": 0.7, "own": 0.8}])
def test_the_mean_of_all_models_is_calibrated_on_images_new_to_all_of_them(models, kind):
    rng = np.random.default_rng(models)
    found: dict[str, list[tuple[float, float]]] = {"two": [], "all": [], "best": []}
    for seed in range(4):
        labels, others = (rng.choice(3, p=[0.6, 0.3, 0.1], size=size) for size in (1500, 4000))
        scored, validation = prediction_tables(labels, spoken_of(labels, models, rng, **kind), seed)
        mean = spoken_of(others, models, rng, **kind).mean(axis=0)
        fitted = {
            "two": ensemble_temperature(scored.assign(fold=scored["fold"] % 2), validation, CLASSES),
            "all": ensemble_temperature(scored, validation, CLASSES),
            "best": fit_temperature(others, mean),
        }
        for name, temperature in fitted.items():
            error = expected_calibration_error(others, with_temperature(mean, temperature))
            found[name].append((np.log(temperature), error))
    two, everything, best = (np.mean(values, axis=0) for values in found.values())
    assert abs(everything[0] - best[0]) < abs(two[0] - best[0]) / 2
    assert best[1] < everything[1] < min(two[1], best[1] + 0.02)


@pytest.mark.parametrize(("single", "step"), [(2.0, 0.0), (4.5, 1.5), (9.0, 3.0)])
def test_the_step_from_the_mean_of_two_is_never_up_nor_to_nothing(monkeypatch, single, step):
    labels = np.zeros(60, dtype=int)
    scored, validation = prediction_tables(labels, np.full((4, 60, 3), 1 / 3))
    pairs = len(validation)
    temperatures = {2 * pairs: single, pairs: 3.0}
    monkeypatch.setattr(module, "fit_temperature", lambda labels, probabilities: temperatures[len(probabilities)])
    # Four models are half of the way from two to endlessly many.
    assert ensemble_temperature(scored, validation, CLASSES) == pytest.approx(3.0 - step / 2)
