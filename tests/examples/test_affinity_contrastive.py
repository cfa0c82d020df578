import doctest
import math
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
import affinity_contrastive
from affinity_contrastive import AffinityContrastiveLoss

from dermaffinity.config import read_config
from dermaffinity.heads import HeadOutput
from dermaffinity.losses import AffinityPosteriorLoss

CONFIG = Path(affinity_contrastive.__file__).with_name("hamfit7_affinity_contrastive.yaml")
COUNTS = torch.tensor([60.0, 30.0, 10.0])


def plain_loop(embedding, centers, labels, temperature):
    units = [*F.normalize(embedding, dim=1), *F.normalize(centers.flatten(end_dim=1), dim=1)]
    classes = labels.tolist() + [j for j in range(len(centers)) for _ in range(centers.shape[1])]
    total = 0.0
    for i in range(len(embedding)):
        similarity = [math.exp(float(units[i] @ unit) / temperature) for unit in units]
        normalizer = 0.0
        for j in range(len(centers)):
            members = [k for k, owner in enumerate(classes) if owner == j and k != i]
            normalizer += sum(similarity[k] for k in members) / len(members)
        own = [k for k, owner in enumerate(classes) if owner == classes[i] and k != i]
        total -= sum(math.log(similarity[k] / normalizer) for k in own) / len(own)
    return total / len(embedding)


def test_the_term_is_that_of_a_plain_loop():
    embedding, centers, labels = torch.randn(6, 4), torch.randn(3, 2, 4), torch.tensor([0, 0, 1, 0, 1, 1])  # no 2
    loss = AffinityContrastiveLoss(COUNTS, 4, contrastive_weight=0.5, temperature=0.3)
    terms = loss(HeadOutput(torch.randn(6, 3), embedding, centers), labels)
    assert terms["contrastive"].item() == pytest.approx(0.5 * plain_loop(embedding, centers, labels, 0.3), rel=1e-5)


def test_it_adds_to_the_posterior_and_has_a_gradient_for_images_and_centers():
    embedding, centers = torch.randn(4, 4, requires_grad=True), torch.randn(3, 2, 4, requires_grad=True)
    output, labels = HeadOutput(torch.randn(4, 3), embedding, centers), torch.tensor([0, 1, 2, 2])
    terms = AffinityContrastiveLoss(COUNTS, 4)(output, labels)
    plain = AffinityPosteriorLoss(COUNTS, 4)(output, labels)
    assert {name: terms[name] for name in plain} == plain
    terms["contrastive"].backward()
    assert embedding.grad.isfinite().all()
    assert embedding.grad.abs().sum() > 0
    assert centers.grad.isfinite().all()
    assert centers.grad.abs().sum() > 0


def test_more_images_of_a_common_class_at_the_same_place_change_nothing():
    centers, labels = F.normalize(torch.randn(3, 1, 4), dim=2), torch.tensor([0, 1, 2])
    embedding = centers[:, 0]
    loss = AffinityContrastiveLoss(COUNTS, 4, contrastive_weight=1)
    alone = loss(HeadOutput(torch.zeros(3, 3), embedding, centers), labels)["contrastive"]
    twice = torch.cat([embedding, embedding])
    doubled = loss(HeadOutput(torch.zeros(6, 3), twice, centers), labels.repeat(2))["contrastive"]
    torch.testing.assert_close(alone, doubled)


@pytest.mark.parametrize(("name", "value"), [("contrastive_weight", -1), ("temperature", 0)])
def test_impossible_settings_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        AffinityContrastiveLoss(COUNTS, 4, **{name: value})


def test_its_config_differs_from_the_recipe_in_the_loss_alone():
    config, recipe = read_config(CONFIG), read_config("hamfit7_affinity_plus")
    changed = {key for key, value in config.resolved().items() if value != recipe.resolved()[key]}
    assert changed == {"name", "plugins", "loss"}
    assert config.resolved()["loss"] == {
        "class": "affinity_contrastive.AffinityContrastiveLoss",
        "contrastive_weight": 0.35,
        "temperature": 0.1,
        "prior_weight": 1.0,
        "margin": 0.0,
        "diversity_weight": 0.1,
    }


def test_its_example_runs():
    result = doctest.testmod(affinity_contrastive)
    assert (result.failed, result.attempted) == (0, 6)
