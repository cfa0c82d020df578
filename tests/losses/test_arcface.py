import math
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from dermaffinity.heads import CosineHead, HeadOutput, ScoreKind
from dermaffinity.losses import ArcFaceLoss


def output_of(scores: torch.Tensor) -> HeadOutput:
    return HeadOutput(scores, torch.zeros(len(scores), 2), torch.zeros(scores.shape[1], 1, 2))


def cosines(number: int = 7) -> torch.Tensor:
    return 2 * torch.rand(number, 3, generator=torch.Generator().manual_seed(0)) - 1


def test_worked_example():
    # Own angle 30° widened by 30° is 60°, cosine 0.5, as the others: p = 1/3.
    scores = torch.tensor([[0.5, math.sqrt(3) / 2, 0.5]])
    terms = ArcFaceLoss(torch.ones(3), 2, margin=30)(output_of(scores), torch.tensor([1]))
    assert list(terms) == ["arcface"]
    assert terms["arcface"].item() == pytest.approx(math.log(3), rel=1e-5)


@pytest.mark.parametrize("margin", [10.0, 28.6, 90.0])
def test_it_equals_a_plain_loop(margin):
    scores, labels, m = cosines(40), torch.arange(40) % 3, math.radians(margin)
    total, beyond = 0.0, 0
    for c, y in zip(scores.tolist(), labels.tolist(), strict=True):
        angle = math.acos(c[y])
        own = math.cos(angle + m) if angle <= math.pi - m else math.cos(angle) - m * math.sin(m)
        beyond += angle > math.pi - m
        z = [8 * (own if j == y else value) for j, value in enumerate(c)]
        total += math.log(sum(math.exp(value) for value in z)) - z[y]
    assert beyond or margin < 28  # both cases take part
    term = ArcFaceLoss(torch.ones(3), 2, margin=margin, scale=8.0)(output_of(scores), labels)["arcface"]
    assert term.item() == pytest.approx(total / 40, rel=1e-4)


def test_without_a_margin_it_is_cross_entropy_of_scaled_cosines():
    scores, labels = cosines(), torch.arange(7) % 3
    term = ArcFaceLoss(torch.ones(3), 2, margin=0)(output_of(scores), labels)["arcface"]
    torch.testing.assert_close(term, F.cross_entropy(16 * scores, labels))


@pytest.mark.parametrize("margin", [5.0, 28.6, 90.0])
def test_the_loss_rises_with_the_angle_all_the_way_round(margin):
    own = torch.linspace(0, math.pi, 1001).cos()
    loss = ArcFaceLoss(torch.ones(2), 2, margin=margin)
    values = [loss(output_of(torch.tensor([[c, 0.0]])), torch.tensor([0]))["arcface"].item() for c in own.tolist()]
    assert all(a <= b + 1e-6 for a, b in pairwise(values))


def test_an_embedding_along_or_against_a_center_has_a_finite_gradient():
    head = CosineHead(2, 2)
    head.centers.data = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    embedding = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 0.0]], requires_grad=True)
    term = ArcFaceLoss(torch.ones(2), 2)(head(embedding), torch.tensor([0, 0, 0]))["arcface"]
    term.backward()
    assert torch.isfinite(term)
    assert torch.isfinite(embedding.grad).all()
    assert torch.isfinite(head.centers.grad).all()


def test_gradients_are_those_of_finite_differences():
    scores = cosines(9).double().requires_grad_()
    loss, labels = ArcFaceLoss(torch.ones(3), 2), torch.arange(9) % 3
    assert torch.autograd.gradcheck(lambda s: loss(output_of(s), labels)["arcface"], scores)


@pytest.mark.parametrize("centers_per_class", [1, 3])
def test_on_several_centers_it_is_the_sub_center_loss_of_pytorch_metric_learning(centers_per_class):
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    torch.manual_seed(0)
    head = CosineHead(8, 5, centers_per_class=centers_per_class)
    embedding, labels = 3 * torch.randn(12, 8), torch.arange(12) % 5
    theirs = losses.SubCenterArcFaceLoss(
        num_classes=5, embedding_size=8, margin=28.6, scale=16, sub_centers=centers_per_class
    )
    theirs.W.data = head.centers.data.flatten(0, 1).T
    ours = ArcFaceLoss(torch.ones(5), 8)(head(embedding), labels)["arcface"]
    torch.testing.assert_close(ours, theirs(embedding, labels))


@pytest.mark.parametrize("number", [1, 3])  # 3 is also the number of classes
def test_each_image_alone_equals_the_batch(number):
    scores, labels, loss = cosines(number), torch.arange(number), ArcFaceLoss(torch.ones(3), 2)
    alone = [loss(output_of(scores[i : i + 1]), labels[i : i + 1])["arcface"] for i in range(number)]
    torch.testing.assert_close(loss(output_of(scores), labels)["arcface"], torch.stack(alone).mean())


def test_it_works_on_cosines():
    assert ArcFaceLoss.score_kind is ScoreKind.COSINE


@pytest.mark.parametrize(
    ("option", "value", "allowed"), [("margin", 91.0, r"in \[0, 90\]"), ("scale", 0.0, "positive")]
)
def test_impossible_hyper_parameters_are_refused(option, value, allowed):
    with pytest.raises(ValueError, match=f"{option} must be {allowed}.*got {value}"):
        ArcFaceLoss(torch.ones(3), 2, **{option: value})
