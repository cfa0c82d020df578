import math

import pytest
import torch
from torch.nn import functional as F

from dermaffinity.heads import HeadOutput, ScoreKind
from dermaffinity.losses import LogitAdjustedLoss, VectorScalingLoss

TERM = "vector_scaled_cross_entropy"


def output_of(scores: torch.Tensor) -> HeadOutput:
    return HeadOutput(scores, torch.zeros(len(scores), 2), torch.zeros(scores.shape[1], 1, 2))


def test_worked_example():
    # Counts 4 and 1, gamma 1/2: the rare class's logit is halved. 2 log 3 / 2 = log 3 against log 2; with the shares
    # 4/5 and 1/5, odds 2·4 : 3·1, so p = 8/11 and 3/11.
    loss = VectorScalingLoss(torch.tensor([4, 1]), 2, gamma=0.5)
    scores = torch.tensor([[math.log(2), 2 * math.log(3)]] * 2)
    terms = loss(output_of(scores), torch.tensor([0, 1]))
    assert list(terms) == [TERM]
    assert terms[TERM].item() == pytest.approx((math.log(11 / 8) + math.log(11 / 3)) / 2)


@pytest.mark.parametrize(("gamma", "tau"), [(0.3, 1.0), (0.2, 1.2), (1.0, 0.0)])
def test_it_equals_a_plain_loop(gamma, tau):
    torch.manual_seed(0)
    counts, scores, labels = [40, 9, 3], torch.randn(7, 3), torch.arange(7) % 3
    total = 0.0
    for z, y in zip(scores.tolist(), labels.tolist(), strict=True):
        moved = [
            value / (max(counts) / n) ** gamma + tau * math.log(n / sum(counts))
            for n, value in zip(counts, z, strict=True)
        ]
        total += math.log(sum(math.exp(value) for value in moved)) - moved[y]
    term = VectorScalingLoss(torch.tensor(counts), 2, gamma=gamma, tau=tau)(output_of(scores), labels)[TERM]
    assert term.item() == pytest.approx(total / 7, rel=1e-5)


def test_with_gamma_0_it_is_logit_adjustment_and_without_tau_cross_entropy():
    torch.manual_seed(0)
    counts, scores, labels = torch.tensor([40, 9, 3]), torch.randn(7, 3), torch.arange(7) % 3
    adjusted = LogitAdjustedLoss(counts, 2, tau=0.7)(output_of(scores), labels)["logit_adjusted_cross_entropy"]
    scaled = VectorScalingLoss(counts, 2, gamma=0, tau=0.7)(output_of(scores), labels)[TERM]
    torch.testing.assert_close(scaled, adjusted)
    plain = VectorScalingLoss(counts, 2, gamma=0, tau=0)(output_of(scores), labels)[TERM]
    torch.testing.assert_close(plain, F.cross_entropy(scores, labels))


def test_only_the_most_frequent_class_keeps_its_logit():
    factor = VectorScalingLoss(torch.tensor([16, 81, 1]), 2, gamma=0.25).factor
    assert factor.tolist() == pytest.approx([2 / 3, 1, 1 / 3])


@pytest.mark.parametrize("number", [1, 3])  # 3 is also the number of classes
def test_each_image_alone_equals_the_batch(number):
    torch.manual_seed(0)
    scores, labels, loss = torch.randn(number, 3), torch.arange(number), VectorScalingLoss(torch.tensor([9, 5, 2]), 2)
    alone = [loss(output_of(scores[i : i + 1]), labels[i : i + 1])[TERM] for i in range(number)]
    torch.testing.assert_close(loss(output_of(scores), labels)[TERM], torch.stack(alone).mean())


@pytest.mark.parametrize("option", ["gamma", "tau"])
def test_it_works_on_logits_and_refuses_what_is_negative(option):
    assert VectorScalingLoss.score_kind is ScoreKind.LOGIT
    with pytest.raises(ValueError, match=f"{option} must be at least 0, got -1"):
        VectorScalingLoss(torch.ones(2), 2, **{option: -1})
