import numpy as np
import pandas as pd
import pytest
import torch

from dermaffinity.heads import AffinityHead, Predictions
from dermaffinity.metrics.calibration import fit_temperature, with_temperature
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
    doubt = (nearest - nearest.mean()) / nearest.std()
    assert (doubt > found.doubt_limit).mean() == 0.05


@torch.no_grad()
def test_a_single_image_is_enough_and_leaves_doubt_in_the_units_of_the_distance():
    head = AffinityHead(4, 3)
    found = calibrate(seen(head, images=1), head, CLASSES)
    assert found.distance_sd == 1
    assert found.doubt_limit == 0


def test_the_mean_of_models_is_calibrated_on_the_two_that_an_image_is_new_to():
    rng = np.random.default_rng(0)
    columns = [f"p.{name}" for name in CLASSES]
    raw, other = rng.dirichlet([0.3] * 3, (2, 300))
    labels = rng.integers(3, size=300)
    facts = pd.DataFrame({"image": [f"{n}.png" for n in range(300)], "label": np.array(CLASSES)[labels]})
    validation = facts.join(pd.DataFrame(raw, columns=columns)).iloc[::-1]  # in another order, and
    scored = facts.join(pd.DataFrame(other, columns=columns))
    more = scored.assign(image=scored["image"] + "2")  # with test images that are in no validation part
    found = ensemble_temperature(pd.concat([scored, more]), validation, CLASSES)
    assert found == pytest.approx(fit_temperature(labels, (raw + other) / 2))
