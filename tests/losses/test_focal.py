import math

import pytest
import torch
from torch.nn import functional as F

from dermaffinity.heads import HeadOutput, ScoreKind
from dermaffinity.losses import FocalLoss


def output_of(scores: torch.Tensor) -> HeadOutput:
    return HeadOutput(scores, torch.zeros(len(scores), 2), torch.zeros(scores.shape[1], 1, 2))


def test_worked_example():
    # p = 1/4 and 3/4, gamma 2: (3/4)² log 4 and (1/4)² log(4/3).
    terms = FocalLoss(torch.ones(2), 2)(output_of(torch.tensor([[0.0, math.log(3)]] * 2)), torch.tensor([0, 1]))
    assert list(terms) == ["focal"]
    assert terms["focal"].item() == pytest.approx((9 / 16 * math.log(4) + 1 / 16 * math.log(4 / 3)) / 2)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_it_equals_a_plain_loop(gamma):
    torch.manual_seed(0)
    scores, labels = torch.randn(7, 4), torch.arange(7) % 4
    total = 0.0
    for z, y in zip(scores.tolist(), labels.tolist(), strict=True):
        p = math.exp(z[y]) / sum(math.exp(value) for value in z)
        total -= (1 - p) ** gamma * math.log(p)
    term = FocalLoss(torch.ones(4), 2, gamma=gamma)(output_of(scores), labels)["focal"]
    assert term.item() == pytest.approx(total / 7, rel=1e-5)


def test_with_gamma_0_it_is_cross_entropy():
    torch.manual_seed(0)
    scores, labels = torch.randn(7, 4), torch.arange(7) % 4
    term = FocalLoss(torch.ones(4), 2, gamma=0)(output_of(scores), labels)["focal"]
    torch.testing.assert_close(term, F.cross_entropy(scores, labels))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_a_certain_answer_right_or_wrong_gives_no_nan(gamma):
    scores = torch.tensor([[200.0, 0.0], [200.0, 0.0]], requires_grad=True)
    term = FocalLoss(torch.ones(2), 2, gamma=gamma)(output_of(scores), torch.tensor([0, 1]))["focal"]
    term.backward()
    assert term.item() == pytest.approx(100)  # the second image: 1 · 200
    assert torch.isfinite(scores.grad).all()
    assert scores.grad[1].tolist() == pytest.approx([0.5, -0.5])


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    scores = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    loss, labels = FocalLoss(torch.ones(3), 2), torch.tensor([0, 1, 2, 2])
    assert torch.autograd.gradcheck(lambda s: loss(output_of(s), labels)["focal"], scores)


@pytest.mark.parametrize("number", [1, 3])  # 3 is also the number of classes
def test_each_image_alone_equals_the_batch(number):
    torch.manual_seed(0)
    scores, labels, loss = torch.randn(number, 3), torch.arange(number), FocalLoss(torch.ones(3), 2)
    alone = [loss(output_of(scores[i : i + 1]), labels[i : i + 1])["focal"] for i in range(number)]
    torch.testing.assert_close(loss(output_of(scores), labels)["focal"], torch.stack(alone).mean())


def test_it_works_on_logits_and_refuses_a_negative_gamma():
    assert FocalLoss.score_kind is ScoreKind.LOGIT
    with pytest.raises(ValueError, match=r"gamma must be at least 0, got -1"):
        FocalLoss(torch.ones(2), 2, gamma=-1)
