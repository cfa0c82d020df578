import math

import pytest
import torch
from torch.nn import functional as F

from dermaffinity.heads import HeadOutput, ScoreKind
from dermaffinity.losses import ClassBalancedLoss, LDAMLoss

COUNTS = torch.tensor([81, 16, 1])


def output_of(scores: torch.Tensor) -> HeadOutput:
    return HeadOutput(scores, torch.zeros(len(scores), 2), torch.zeros(scores.shape[1], 1, 2))


def cosines(number: int = 7) -> torch.Tensor:
    return 2 * torch.rand(number, 3, generator=torch.Generator().manual_seed(0)) - 1


def test_worked_example():
    # Fourth roots of 81, 16 and 1: margins 0.5/3, 0.5/2 and 0.5.
    loss = LDAMLoss(COUNTS, 2, scale=2.0)
    assert loss.margins.tolist() == pytest.approx([1 / 6, 1 / 4, 1 / 2])
    # Class 2 at cosine 1, the others at 0.5: 2 · (1 - 0.5) = 1 for all three, so p = 1/3.
    terms = loss(output_of(torch.tensor([[0.5, 0.5, 1.0]])), torch.tensor([2]))
    assert list(terms) == ["ldam"]
    assert terms["ldam"].item() == pytest.approx(math.log(3))


def test_the_margins_of_dermofit():
    # Of ten classes: PYO 24, AK 45, ML 331.
    margins = LDAMLoss(torch.tensor([24, 45, 331]), 2).margins
    assert margins.tolist() == pytest.approx([0.50, 0.43, 0.26], abs=0.005)


@pytest.mark.parametrize("epoch", [0, 4])  # before and after the weights
def test_it_equals_a_plain_loop(epoch):
    scores, labels, counts, beta = cosines(), torch.arange(7) % 3, COUNTS.tolist(), 0.99
    loss = LDAMLoss(COUNTS, 2, largest_margin=0.4, beta=beta, scale=8.0)
    loss.on_epoch_start(epoch, 5)
    raw = [(1 - beta) / (1 - beta**n) for n in counts]
    total = 0.0
    for c, y in zip(scores.tolist(), labels.tolist(), strict=True):
        margin = 0.4 * counts[y] ** -0.25 / max(n**-0.25 for n in counts)
        z = [8 * (value - margin * (j == y)) for j, value in enumerate(c)]
        weight = 1 if epoch == 0 else 3 * raw[y] / sum(raw)
        total += weight * (math.log(sum(math.exp(value) for value in z)) - z[y])
    assert loss(output_of(scores), labels)["ldam"].item() == pytest.approx(total / 7, rel=1e-5)


def test_without_a_margin_and_before_its_weights_it_is_cross_entropy_of_scaled_cosines():
    scores, labels = cosines(), torch.arange(7) % 3
    term = LDAMLoss(COUNTS, 2, largest_margin=0)(output_of(scores), labels)["ldam"]
    torch.testing.assert_close(term, F.cross_entropy(16 * scores, labels))


def test_without_a_margin_its_late_weights_are_those_of_the_class_balanced_loss():
    scores, labels = cosines(), torch.arange(7) % 3
    loss = LDAMLoss(COUNTS, 2, largest_margin=0, deferral=0)
    loss.on_epoch_start(0, 10)
    expected = ClassBalancedLoss(COUNTS, 2)(output_of(16 * scores), labels)["class_balanced_cross_entropy"]
    torch.testing.assert_close(loss(output_of(scores), labels)["ldam"], expected)


@pytest.mark.parametrize(
    ("deferral", "epochs", "first"), [(0.8, 200, 160), (0.8, 24, 19), (0.07, 100, 7), (0.0, 5, 0), (1.0, 5, None)]
)
def test_the_weights_come_after_their_share_of_the_epochs(deferral, epochs, first):
    loss = LDAMLoss(COUNTS, 2, deferral=deferral)
    weighted = []
    for epoch in range(epochs):
        loss.on_epoch_start(epoch, epochs)
        weighted.append(not torch.equal(loss.class_weights, torch.ones(3)))
    assert weighted == [first is not None and epoch >= first for epoch in range(epochs)]


def test_a_restored_loss_has_the_weights_that_were_in_force():
    first, second = LDAMLoss(COUNTS, 2), LDAMLoss(COUNTS, 2)
    first.on_epoch_start(4, 5)
    second.load_state_dict(first.state_dict())
    output, labels = output_of(cosines()), torch.arange(7) % 3
    assert torch.equal(first(output, labels)["ldam"], second(output, labels)["ldam"])
    assert not torch.equal(second.class_weights, torch.ones(3))


@pytest.mark.parametrize("number", [1, 3])  # 3 is also the number of classes
def test_each_image_alone_equals_the_batch(number):
    scores, labels, loss = cosines(number), torch.arange(number), LDAMLoss(COUNTS, 2)
    loss.on_epoch_start(4, 5)
    alone = [loss(output_of(scores[i : i + 1]), labels[i : i + 1])["ldam"] for i in range(number)]
    torch.testing.assert_close(loss(output_of(scores), labels)["ldam"], torch.stack(alone).mean())


def test_it_works_on_cosines():
    assert LDAMLoss.score_kind is ScoreKind.COSINE


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("largest_margin", 2.5, r"in \[0, 2\]"),
        ("beta", 1.0, r"in \[0, 1\)"),
        ("deferral", 1.5, r"in \[0, 1\]"),
        ("scale", 0.0, "positive"),
    ],
)
def test_impossible_hyper_parameters_are_refused(option, value, allowed):
    with pytest.raises(ValueError, match=f"{option} must be {allowed}.*got {value}"):
        LDAMLoss(COUNTS, 2, **{option: value})
