import math

import pytest
import torch
from torch.nn import functional as F

from dermaffinity.heads import HeadOutput, ScoreKind
from dermaffinity.losses import ClassBalancedLoss, CrossEntropyLoss

TERM = "class_balanced_cross_entropy"


def output_of(scores: torch.Tensor) -> HeadOutput:
    return HeadOutput(scores, torch.zeros(len(scores), 2), torch.zeros(scores.shape[1], 1, 2))


def loss_by_loops(scores, labels, counts, beta):
    """The formula of the docstring, number by number."""
    raw = [(1 - beta) / (1 - beta**n) for n in counts]
    weights = [len(counts) * w / sum(raw) for w in raw]
    total = 0.0
    for z, y in zip(scores.tolist(), labels.tolist(), strict=True):
        total += weights[y] * (math.log(sum(math.exp(value) for value in z)) - z[y])
    return total / len(labels)


def test_worked_example():
    # beta 1/2: effective numbers 1 for one image and 1.5 for two; weights 1 and 2/3, scaled to 6/5 and 4/5.
    loss = ClassBalancedLoss(torch.tensor([1, 2]), 2, beta=0.5)
    assert loss.class_weights.tolist() == pytest.approx([1.2, 0.8])
    # Odds 1:3 against class 0 in both images: -log(1/4) and -log(3/4).
    terms = loss(output_of(torch.tensor([[0.0, math.log(3)]] * 2)), torch.tensor([0, 1]))
    assert list(terms) == [TERM]
    assert terms[TERM].item() == pytest.approx((1.2 * math.log(4) + 0.8 * math.log(4 / 3)) / 2)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.9999])
def test_it_equals_a_plain_loop(beta):
    torch.manual_seed(0)
    counts, scores, labels = [331, 24, 1], torch.randn(8, 3), torch.arange(8) % 3
    term = ClassBalancedLoss(torch.tensor(counts), 2, beta=beta)(output_of(scores), labels)[TERM]
    assert term.item() == pytest.approx(loss_by_loops(scores, labels, counts, beta), rel=1e-5)


def test_it_lies_between_cross_entropy_and_inverse_weights():
    torch.manual_seed(0)
    counts, scores, labels = torch.tensor([331, 24, 2]), torch.randn(6, 3), torch.arange(6) % 3
    plain = ClassBalancedLoss(counts, 2, beta=0)(output_of(scores), labels)[TERM]
    torch.testing.assert_close(plain, F.cross_entropy(scores, labels))
    almost_1 = ClassBalancedLoss(counts, 2, beta=1 - 1e-9).class_weights
    torch.testing.assert_close(almost_1, CrossEntropyLoss(counts, 2, weighting="inverse").class_weights)


def test_the_weights_of_dermofit_are_those_of_the_literature():
    # Two thirds of Dermofit's ten classes; ML, of 331, is the third and PYO, of 24, the ninth.
    counts = (torch.tensor([45, 239, 331, 97, 88, 65, 76, 257, 24, 78]) * 2 / 3).round()
    common = ClassBalancedLoss(counts, 2)
    mild = ClassBalancedLoss(counts, 2, beta=0.99)
    assert [common.class_weights[i].item() for i in (8, 2)] == pytest.approx([3.02, 0.22], abs=0.01)
    assert [mild.class_weights[i].item() for i in (8, 2)] == pytest.approx([2.56, 0.43], abs=0.01)


@pytest.mark.parametrize("number", [1, 3])  # 3 is also the number of classes
def test_each_image_alone_equals_the_batch(number):
    torch.manual_seed(0)
    scores, labels, loss = torch.randn(number, 3), torch.arange(number), ClassBalancedLoss(torch.tensor([9, 5, 2]), 2)
    alone = [loss(output_of(scores[i : i + 1]), labels[i : i + 1])[TERM] for i in range(number)]
    torch.testing.assert_close(loss(output_of(scores), labels)[TERM], torch.stack(alone).mean())


def test_it_works_on_logits():
    assert ClassBalancedLoss.score_kind is ScoreKind.LOGIT


@pytest.mark.parametrize("beta", [1.0, -0.1])
def test_an_impossible_beta_is_refused(beta):
    with pytest.raises(ValueError, match=rf"beta must be in \[0, 1\), got {beta}"):
        ClassBalancedLoss(torch.ones(2), 2, beta=beta)
