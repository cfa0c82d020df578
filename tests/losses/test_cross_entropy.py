import math

import pytest
import torch
from torch.nn import functional as F

from dermaffinity.heads import HeadOutput, ScoreKind
from dermaffinity.losses import CrossEntropyLoss


def output_of(scores: torch.Tensor) -> HeadOutput:
    return HeadOutput(scores, torch.zeros(len(scores), 2), torch.zeros(scores.shape[1], 1, 2))


def test_worked_example():
    # Odds 1:3 against the label in both images: -log(1/4) and -log(3/4).
    scores = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    terms = CrossEntropyLoss(torch.tensor([3, 1]), 2)(output_of(scores), torch.tensor([0, 1]))
    assert list(terms) == ["cross_entropy"]
    assert terms["cross_entropy"].item() == pytest.approx((math.log(4) + math.log(4 / 3)) / 2)


def test_inverse_weights_of_a_worked_example():
    # 1/3 and 1 scaled to sum to 2: 0.5 and 1.5.
    loss = CrossEntropyLoss(torch.tensor([3, 1]), 2, weighting="inverse")
    assert loss.class_weights.tolist() == pytest.approx([0.5, 1.5])
    scores = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    term = loss(output_of(scores), torch.tensor([0, 1]))["cross_entropy"]
    assert term.item() == pytest.approx((0.5 * math.log(4) + 1.5 * math.log(4 / 3)) / 2)


def test_without_weights_it_is_the_cross_entropy_of_torch():
    torch.manual_seed(0)
    scores, labels = torch.randn(7, 4), torch.tensor([0, 1, 2, 3, 3, 3, 3])
    loss = CrossEntropyLoss(torch.bincount(labels), 2)
    torch.testing.assert_close(loss(output_of(scores), labels)["cross_entropy"], F.cross_entropy(scores, labels))


def test_on_the_whole_training_set_weights_are_those_of_torch_up_to_its_scale():
    torch.manual_seed(0)
    labels = torch.tensor([0] * 20 + [1] * 5 + [2] * 2)
    scores = torch.randn(len(labels), 3)
    loss = CrossEntropyLoss(torch.bincount(labels), 2, weighting="inverse")
    ours = loss(output_of(scores), labels)["cross_entropy"]
    # torch divides by the sum of the weights of the batch, which for the whole set is the constant C * C / sum(1/n).
    theirs = F.cross_entropy(scores, labels, weight=loss.class_weights)
    torch.testing.assert_close(ours, theirs * loss.class_weights[labels].sum() / len(labels))
    # Every class then counts as much as any other.
    by_class = torch.stack([F.cross_entropy(scores[labels == c], labels[labels == c]) for c in range(3)])
    torch.testing.assert_close(theirs, by_class.mean())


def test_equal_counts_make_the_weights_one():
    assert CrossEntropyLoss(torch.full((5,), 30), 2, weighting="inverse").class_weights.tolist() == [1] * 5


@pytest.mark.parametrize("number", [1, 3])  # 3 is also the number of classes
def test_each_image_alone_equals_the_batch(number):
    torch.manual_seed(0)
    scores, labels = torch.randn(number, 3), torch.arange(number) % 3
    loss = CrossEntropyLoss(torch.tensor([5, 9, 2]), 2, weighting="inverse")
    alone = [loss(output_of(scores[i : i + 1]), labels[i : i + 1])["cross_entropy"] for i in range(number)]
    torch.testing.assert_close(loss(output_of(scores), labels)["cross_entropy"], torch.stack(alone).mean())


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    loss = CrossEntropyLoss(torch.tensor([5, 9, 2]), 2, weighting="inverse").double()
    scores = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 2])
    assert torch.autograd.gradcheck(lambda s: loss(output_of(s), labels)["cross_entropy"], scores)


def test_it_works_on_logits():
    assert CrossEntropyLoss.score_kind is ScoreKind.LOGIT


def test_an_unknown_weighting_is_refused():
    with pytest.raises(ValueError, match="weighting must be 'none' or 'inverse', got 'balanced'"):
        CrossEntropyLoss(torch.ones(2), 2, weighting="balanced")  # type: ignore[arg-type]
