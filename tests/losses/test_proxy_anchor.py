import math

import pytest
import torch

from dermaffinity.heads import CosineHead, HeadOutput, ScoreKind
from dermaffinity.losses import ProxyAnchorLoss


def output_of(scores: torch.Tensor) -> HeadOutput:
    return HeadOutput(scores, torch.zeros(len(scores), 2), torch.zeros(scores.shape[1], 1, 2))


def terms_by_loops(scores, labels, sharpness, margin):
    """Eq. 4, number by number."""
    rows, y = scores.tolist(), labels.tolist()
    num_classes = len(rows[0])
    pull = push = 0.0
    for j in range(num_classes):
        own = [math.exp(-sharpness * (c[j] - margin)) for c, label in zip(rows, y, strict=True) if label == j]
        others = [math.exp(sharpness * (c[j] + margin)) for c, label in zip(rows, y, strict=True) if label != j]
        pull += math.log(1 + sum(own))
        push += math.log(1 + sum(others))
    return pull / len(set(y)), push / num_classes


def test_worked_example():
    # One image of class 0 at margin from it, and at minus margin from class 1: log 2 over one class with images, and
    # log 2 over two classes.
    terms = ProxyAnchorLoss(torch.ones(2), 2)(output_of(torch.tensor([[0.1, -0.1]])), torch.tensor([0]))
    assert list(terms) == ["pull", "push"]
    assert terms["pull"].item() == pytest.approx(math.log(2))
    assert terms["push"].item() == pytest.approx(math.log(2) / 2)


@pytest.mark.parametrize(("sharpness", "margin"), [(32.0, 0.1), (4.0, 0.0)])
@pytest.mark.parametrize("number", [1, 4, 9])  # 4 is also the number of classes
def test_both_terms_equal_plain_loops(sharpness, margin, number):
    torch.manual_seed(0)
    scores, labels = 2 * torch.rand(number, 4) - 1, torch.arange(number) % 3  # class 3 has no image
    terms = ProxyAnchorLoss(torch.ones(4), 2, sharpness=sharpness, margin=margin)(output_of(scores), labels)
    expected = terms_by_loops(scores, labels, sharpness, margin)
    assert [term.item() for term in terms.values()] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("number", [1, 12])
def test_it_is_that_of_pytorch_metric_learning(number):
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    torch.manual_seed(0)
    head, embedding, labels = CosineHead(8, 5), 3 * torch.randn(number, 8), torch.arange(number) % 4
    theirs = losses.ProxyAnchorLoss(num_classes=5, embedding_size=8)
    theirs.proxies.data = head.centers.data.squeeze(1)
    ours = sum(ProxyAnchorLoss(torch.ones(5), 8)(head(embedding), labels).values())
    torch.testing.assert_close(ours, theirs(embedding, labels))


def test_a_huge_sharpness_overflows_nothing_and_leaves_the_hardest_image_of_each_class():
    scores = torch.tensor([[0.3, -0.5], [-0.2, 0.4]], requires_grad=True)
    terms = ProxyAnchorLoss(torch.ones(2), 2, sharpness=1e4, margin=0)(output_of(scores), torch.tensor([0, 0]))
    # log(1 + Σ exp(αx)) is then α max(0, x): 0.2 of the pull, 0.4 of the push over two classes.
    assert terms["pull"].item() == pytest.approx(2e3)
    assert terms["push"].item() == pytest.approx(4e3 / 2)
    sum(terms.values()).backward()
    assert torch.isfinite(scores.grad).all()
    assert (scores.grad != 0).tolist() == [[False, False], [True, True]]


def test_images_well_beyond_the_margin_cost_nothing():
    terms = ProxyAnchorLoss(torch.ones(2), 2)(output_of(torch.tensor([[1.0, -1.0], [-1.0, 1.0]])), torch.arange(2))
    assert [term.item() for term in terms.values()] == pytest.approx([0, 0], abs=1e-6)


def test_a_second_copy_of_an_image_adds_less_than_the_first():
    # The loss of a batch is not the mean of those of its images.
    loss, scores = ProxyAnchorLoss(torch.ones(2), 2), torch.tensor([[-0.5, 0.5]])
    once = sum(loss(output_of(scores), torch.tensor([0])).values())
    twice = sum(loss(output_of(scores.repeat(2, 1)), torch.tensor([0, 0])).values())
    assert (twice - once).item() == pytest.approx(1.5 * math.log(2), rel=1e-4)


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    scores = (2 * torch.rand(5, 3, dtype=torch.float64) - 1).requires_grad_()
    loss, labels = ProxyAnchorLoss(torch.ones(3), 2, sharpness=8), torch.tensor([0, 1, 1, 0, 1])
    assert torch.autograd.gradcheck(lambda s: sum(loss(output_of(s), labels).values()), scores)


def test_it_works_on_cosines():
    assert ProxyAnchorLoss.score_kind is ScoreKind.COSINE


@pytest.mark.parametrize(
    ("option", "value", "allowed"), [("sharpness", 0.0, "positive"), ("margin", 1.5, r"in \[0, 1\]")]
)
def test_impossible_hyper_parameters_are_refused(option, value, allowed):
    with pytest.raises(ValueError, match=f"{option} must be {allowed}.*got {value}"):
        ProxyAnchorLoss(torch.ones(3), 2, **{option: value})
