import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax

from dermaffinity import losses
from dermaffinity.heads import AffinityHead, Predictions
from dermaffinity.metrics.reliability import expected_calibration_error, fit_temperature, with_temperature
from dermaffinity.training import calibration as module
from dermaffinity.training.calibration import calibrate, ensemble_temperature, learned_prior

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
    log_shares, assumed = np.log([0.5, 0.3, 0.2]), np.array([0.0, 0.0, 1.0])
    found = calibrate(predictions, head, CLASSES, log_shares=log_shares, assumed=assumed)
    labels, raw = predictions.labels.numpy(), predictions.probabilities.numpy()
    assert found.temperature == fit_temperature(labels, raw, log_shares - assumed)
    assert (found.log_shares, found.assumed) == (tuple(log_shares), tuple(assumed))
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
    found = calibrate(seen(head, images=1), head, CLASSES, log_shares=np.zeros(3), assumed=np.zeros(3))
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


def test_a_single_model_has_the_temperature_of_all_images_that_are_new_to_it():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=300)
    (probabilities,) = spoken_of(labels, 1, rng, scale=3, shared=0.7, own=1.0)
    table = pd.DataFrame({"image": labels.astype(str), "label": np.array(CLASSES)[labels]})
    table = table.assign(image=range(300)).join(pd.DataFrame(probabilities, columns=[f"p.{name}" for name in CLASSES]))
    told = np.log([0.5, 0.3, 0.2])
    assert ensemble_temperature(table, 1, CLASSES, told) == fit_temperature(labels, probabilities, told)


def test_the_mean_of_two_is_as_much_cooler_as_on_the_images_that_are_new_to_both():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=600)
    probabilities = spoken_of(labels, 2, rng, scale=3, shared=0.7, own=1.0)
    scored, validation = prediction_tables(labels, probabilities)
    rows = validation["image"].str.removesuffix(".png").astype(int)
    of_two = fit_temperature(labels[rows], probabilities[:, rows].mean(axis=0))
    of_one = fit_temperature(np.tile(labels[rows], 2), np.concatenate(probabilities[:, rows]))
    clean = pd.concat([scored, validation])
    every = clean["image"].str.removesuffix(".png").astype(int)
    single = fit_temperature(labels[every], clean[[f"p.{name}" for name in CLASSES]].to_numpy())
    assert of_two < of_one
    assert ensemble_temperature(clean, 2, CLASSES) == pytest.approx(single * of_two / of_one)


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
            "two": ensemble_temperature(pd.concat([scored, validation]), 2, CLASSES),
            "all": ensemble_temperature(pd.concat([scored, validation]), models, CLASSES),
            "best": fit_temperature(others, mean),
        }
        for name, temperature in fitted.items():
            error = expected_calibration_error(others, with_temperature(mean, temperature))
            found[name].append((np.log(temperature), error))
    two, everything, best = (np.mean(values, axis=0) for values in found.values())
    assert abs(everything[0] - best[0]) < abs(two[0] - best[0]) / 2
    assert best[1] < everything[1] < min(two[1], best[1] + 0.02)


@pytest.mark.parametrize(("of_one", "expected"), [(2.0, 9.0), (4.5, 3.0), (9.0, 1.0)])
def test_the_step_from_the_mean_of_two_is_never_up_nor_to_nothing(monkeypatch, of_one, expected):
    labels = np.zeros(60, dtype=int)
    scored, validation = prediction_tables(labels, np.full((4, 60, 3), 1 / 3))
    clean = pd.concat([scored, validation])
    pairs = int((clean["image"].value_counts() * (clean["image"].value_counts() - 1) / 2).sum())
    temperatures = {len(clean): 6.0, 2 * pairs: of_one, pairs: 3.0}
    monkeypatch.setattr(module, "fit_temperature", lambda labels, probabilities, told: temperatures[len(probabilities)])
    # Four models are half of the way from two to endlessly many.
    assert ensemble_temperature(clean, 4, CLASSES) == pytest.approx(expected)


def test_the_temperature_is_that_of_the_network_whatever_the_mix_of_the_images_that_it_is_fitted_on():
    # Scores that assume equally frequent classes, of images nine in ten of which are of the first.
    rng = np.random.default_rng(0)
    labels = rng.choice(2, p=[0.9, 0.1], size=200_000)
    log_odds = np.where(labels == 0, 1.0, -1.0) + rng.normal(
        size=200_000
    )  # whose likelihood ratio is exp(2 · log_odds)
    own = softmax(np.stack([2 * log_odds, 0 * log_odds], axis=1), axis=1)
    too_sure = with_temperature(own, 1 / 3)
    assert fit_temperature(labels, too_sure, np.log([0.9, 0.1])) == pytest.approx(3.0, rel=0.03)


def test_what_probabilities_assume_is_what_the_loss_did_not_leave_out():
    counts, share = torch.tensor([80, 20]), np.log([0.8, 0.2])
    for loss, expected in (
        (losses.CrossEntropyLoss(counts, 2), share),
        (losses.CrossEntropyLoss(counts, 2, weighting="inverse"), np.zeros(2)),
        (losses.ClassBalancedLoss(counts, 2, beta=0.0), share),
        (losses.LogitAdjustedLoss(counts, 2, tau=0.5), share / 2),
        (losses.VectorScalingLoss(counts, 2, tau=1.0), np.zeros(2)),
        (losses.AffinityPosteriorLoss(counts, 2, prior_weight=1.5), -share / 2),
    ):
        assert np.diff(learned_prior(loss)) == pytest.approx(np.diff(expected), abs=1e-5), loss
    plain = losses.CrossEntropyLoss(counts, 2)
    assert np.ptp(learned_prior(plain, balanced_sampling=True)) == 0
    assert np.ptp(learned_prior(plain, refitted=True)) == 0
