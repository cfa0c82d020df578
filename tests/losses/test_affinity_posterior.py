import math

import pytest
import torch
from torch.nn import functional as F

from dermaffinity.heads import AffinityMixtureHead, HeadOutput, Predictions
from dermaffinity.losses import AffinityPosteriorLoss

COUNTS = torch.tensor([60.0, 30.0, 10.0])


def output(scores: torch.Tensor, centers: torch.Tensor | None = None) -> HeadOutput:
    centers = torch.eye(3)[:, None] if centers is None else centers
    return HeadOutput(scores, torch.zeros(len(scores), centers.shape[2]), centers)


def plain_loop(scores, labels, prior_weight, margin):
    prior = [prior_weight * math.log(n / 100) for n in COUNTS.tolist()]
    total = 0.0
    for z, y in zip(scores.tolist(), labels.tolist(), strict=True):
        shifted = [value + prior[j] - (margin if j == y else 0) for j, value in enumerate(z)]
        total += math.log(sum(map(math.exp, shifted))) - shifted[y]
    return total / len(labels)


@pytest.mark.parametrize(("prior_weight", "margin"), [(0, 0), (1, 0), (0, 2), (1.5, 0.7)])
def test_the_posterior_term_is_that_of_a_plain_loop(prior_weight, margin):
    scores, labels = 3 * torch.randn(7, 3), torch.tensor([0, 1, 2, 2, 1, 0, 2])
    loss = AffinityPosteriorLoss(COUNTS, 3, prior_weight=prior_weight, margin=margin)
    expected = plain_loop(scores, labels, prior_weight, margin)
    assert loss(output(scores), labels)["posterior"].item() == pytest.approx(expected, rel=1e-5)


def test_worked_example():
    # Two classes, three images to one, equal densities: the rare one's posterior is 1/4, so that its loss is log 4.
    loss = AffinityPosteriorLoss(torch.tensor([3.0, 1.0]), 2, margin=0, diversity_weight=0)
    terms = loss(output(torch.zeros(1, 2), torch.eye(2)[:, None]), torch.tensor([1]))
    assert terms["posterior"].item() == pytest.approx(math.log(4))
    assert terms["diversity"].item() == 0


def test_without_prior_and_margin_it_is_cross_entropy():
    scores, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 0])
    terms = AffinityPosteriorLoss(COUNTS, 3, prior_weight=0, margin=0)(output(scores), labels)
    torch.testing.assert_close(terms["posterior"], F.cross_entropy(scores, labels))


def test_each_image_alone_equals_the_batch():
    scores, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    loss = AffinityPosteriorLoss(COUNTS, 3)
    alone = [loss(output(scores[i : i + 1]), labels[i : i + 1])["posterior"] for i in range(6)]
    torch.testing.assert_close(loss(output(scores), labels)["posterior"], torch.stack(alone).mean())


def test_equidistant_centers_have_no_diversity_term_at_any_scale_and_others_the_same_at_any_scale():
    loss, scores, labels = AffinityPosteriorLoss(COUNTS, 3, diversity_weight=1), torch.zeros(1, 3), torch.tensor([0])
    uneven = torch.randn(3, 2, 4)
    for scale in (0.01, 1, 100):
        assert loss(output(scores, scale * torch.eye(3)[:, None]), labels)["diversity"].item() == pytest.approx(0)
        scaled = loss(output(scores, scale * uneven), labels)["diversity"]
        torch.testing.assert_close(scaled, loss(output(scores, uneven), labels)["diversity"])


def test_it_watches_the_centers_in_use():
    centers = torch.tensor([[[0.0, 0.0], [9.0, 9.0]], [[5.0, 0.0], [0.0, 5.0]]])
    embedding = torch.tensor([[0.1, 0.0], [5.0, 0.1], [0.1, 5.0]])
    labels = torch.tensor([0, 1, 1])
    loss = AffinityPosteriorLoss(torch.ones(2), 2)
    predictions = Predictions(torch.zeros(3, 2), torch.full((3, 2), 0.5), embedding, centers, labels)
    watched = loss.on_epoch_end(0, predictions)
    assert watched["center_usage"] == 0.75
    assert watched["relative_diversity"] > 0


@pytest.mark.parametrize("name", ["prior_weight", "margin", "diversity_weight"])
def test_negative_weights_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 0, got -1"):
        AffinityPosteriorLoss(COUNTS, 3, **{name: -1})


def test_bayes_rule_a_mixture_head_with_the_true_centers_needs_no_prior_at_prediction():
    # Two Gaussians, nine images to one: with log-frequencies in training the best threshold without them is midway.
    torch.manual_seed(0)
    labels = (torch.arange(4000) % 10 == 0).long()
    embedding = torch.randn(4000, 1) + 2 * labels[:, None]
    head = AffinityMixtureHead(1, 2, centers_per_class=1, sigma=2.0)  # variance sigma / 2 = 1
    with torch.no_grad():
        head.centers.copy_(torch.tensor([[[-1.0]], [[1.0]]]))
    loss = AffinityPosteriorLoss(torch.bincount(labels), 1, margin=0, diversity_weight=0)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=100)

    def closure():
        optimizer.zero_grad()
        objective = sum(loss(head(embedding), labels).values())
        objective.backward()
        return objective

    optimizer.step(closure)
    crossing = head.centers.detach().mean().item()  # where both densities are equal
    assert crossing == pytest.approx(1.0, abs=0.15)
