import math

import pytest
import torch
from torch.nn import functional as F

from dermaffinity.heads import AffinityHead, AffinityMixtureHead
from dermaffinity.heads import centers as module


def head_with(centers: torch.Tensor, **options) -> AffinityMixtureHead:
    head = AffinityMixtureHead(centers.shape[2], centers.shape[0], centers_per_class=centers.shape[1], **options)
    with torch.no_grad():
        head.centers.copy_(centers)
    return head


def test_scores_are_those_of_a_plain_loop():
    centers, embedding = torch.randn(3, 4, 2), torch.randn(5, 2)
    scores = head_with(centers, sigma=0.7)(embedding).scores
    for i, f in enumerate(embedding.tolist()):
        for j, own in enumerate(centers.tolist()):
            mean = sum(math.exp(-sum((a - b) ** 2 for a, b in zip(f, w, strict=True)) / 0.7) for w in own) / len(own)
            assert scores[i, j].item() == pytest.approx(math.log(mean), rel=1e-4, abs=1e-5)


def test_worked_example():
    # One of two centers is at the embedding, the other far away: the mean similarity is a half.
    head = head_with(torch.tensor([[[0.0], [100.0]], [[1.0], [1.0]]]), sigma=2.0)
    scores = head(torch.tensor([[0.0]])).scores[0]
    torch.testing.assert_close(scores, torch.tensor([-math.log(2), -0.5]))


def test_with_one_center_it_is_the_log_of_the_affinity_head():
    head, paper = AffinityMixtureHead(6, 3, centers_per_class=1, sigma=0.8), AffinityHead(6, 3, sigma=0.8)
    paper.centers = head.centers
    embedding = torch.randn(4, 6)
    torch.testing.assert_close(head(embedding).scores, paper(embedding).scores.log())


def test_the_order_of_a_classes_centers_does_not_matter():
    centers, embedding = torch.randn(3, 5, 4), torch.randn(6, 4)
    torch.testing.assert_close(head_with(centers)(embedding).scores, head_with(centers.flip(1))(embedding).scores)


def test_far_from_every_center_scores_and_gradient_remain():
    head, embedding = head_with(torch.randn(3, 5, 4), sigma=0.1), torch.full((1, 4), 1e3, requires_grad=True)
    scores = head(embedding).scores
    assert torch.isfinite(scores).all()
    F.cross_entropy(scores, torch.tensor([1])).backward()
    assert torch.isfinite(embedding.grad).all()
    assert embedding.grad.abs().max() > 1


def test_every_center_learns_where_under_the_maximum_only_the_nearest_does():
    centers, embedding = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1)), torch.zeros(1, 3)
    mixture, maximum = head_with(centers, sigma=2.0), AffinityHead(3, 2, sigma=2.0)
    maximum.centers = torch.nn.Parameter(centers.clone())
    F.cross_entropy(mixture(embedding).scores, torch.tensor([0])).backward()
    F.cross_entropy(maximum(embedding).scores.log(), torch.tensor([0])).backward()
    assert (mixture.centers.grad.abs().sum(dim=2) > 1e-4).all()
    assert (maximum.centers.grad.abs().sum(dim=2) > 0).sum() == 2  # one of each class


def test_on_the_unit_sphere_with_one_center_it_is_a_scaled_cosine():
    head = AffinityMixtureHead(8, 4, centers_per_class=1, sigma=0.1, unit_centers=True)
    embedding = F.normalize(torch.randn(5, 8), dim=1)
    cosine = embedding @ F.normalize(head.centers[:, 0], dim=1).T
    torch.testing.assert_close(head(embedding).scores, (2 * cosine - 2) / 0.1, rtol=1e-4, atol=1e-4)


def test_it_starts_on_images_of_each_class():
    head = AffinityMixtureHead(2, 2, centers_per_class=3)
    embedding, labels = torch.randn(5, 2), torch.tensor([0, 0, 0, 0, 1])
    head.start_from(embedding, labels)
    own = {tuple(row) for row in embedding[:4].tolist()}
    assert {tuple(row) for row in head.centers[0].tolist()} <= own
    assert len(head.centers[0].unique(dim=0)) == 3
    assert torch.equal(head.centers[1], embedding[4:].expand(3, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"centers_per_class": 0}, "centers_per_class must be at least 1, got 0"),
        ({"sigma": 0.0}, "sigma must be positive because it is a width, got 0.0"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AffinityMixtureHead(4, 2, **options)


@pytest.mark.parametrize("unit_centers", [False, True])
def test_thousands_of_classes_give_the_same_scores_and_gradients_without_their_differences(monkeypatch, unit_centers):
    head = AffinityMixtureHead(6, 40, centers_per_class=3, sigma=0.5, unit_centers=unit_centers)
    embedding = torch.randn(5, 6)

    def scores_and_gradient() -> tuple[torch.Tensor, torch.Tensor]:
        head.zero_grad()
        scores = head(embedding).scores
        scores.logsumexp(dim=1).sum().backward()
        return scores.detach(), head.centers.grad.clone()

    direct = scores_and_gradient()
    monkeypatch.setattr(module, "_DIRECT_VALUES", 0)
    for found, expected in zip(scores_and_gradient(), direct, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
