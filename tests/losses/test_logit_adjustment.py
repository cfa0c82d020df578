import math

import pytest
import torch
from torch.nn import functional as F

from dermaffinity.heads import HeadOutput, ScoreKind
from dermaffinity.losses import LogitAdjustedLoss

TERM = "logit_adjusted_cross_entropy"


def output_of(scores: torch.Tensor) -> HeadOutput:
    return HeadOutput(scores, torch.zeros(len(scores), 2), torch.zeros(scores.shape[1], 1, 2))


def test_worked_example():
    # Equal logits, counts 3 and 1: p = 3/4 and 1/4, as in the training set.
    terms = LogitAdjustedLoss(torch.tensor([3, 1]), 2)(output_of(torch.zeros(2, 2)), torch.tensor([0, 1]))
    assert list(terms) == [TERM]
    assert terms[TERM].item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_it_equals_a_plain_loop(tau):
    torch.manual_seed(0)
    counts, scores, labels = [40, 9, 3], torch.randn(7, 3), torch.arange(7) % 3
    total = 0.0
    for z, y in zip(scores.tolist(), labels.tolist(), strict=True):
        parts = [(n / sum(counts)) ** tau * math.exp(value) for n, value in zip(counts, z, strict=True)]
        total -= math.log(parts[y] / sum(parts))
    term = LogitAdjustedLoss(torch.tensor(counts), 2, tau=tau)(output_of(scores), labels)[TERM]
    assert term.item() == pytest.approx(total / 7, rel=1e-5)


def test_with_tau_1_it_is_the_balanced_softmax():
    # Ren et al.: -log(n_y exp(z_y) / Σ n_j exp(z_j)), with the counts themselves.
    torch.manual_seed(0)
    counts, scores, labels = torch.tensor([40.0, 9.0, 3.0]), torch.randn(7, 3), torch.arange(7) % 3
    weighted = counts * scores.exp()
    balanced = -(weighted.gather(1, labels[:, None]).squeeze(1) / weighted.sum(dim=1)).log().mean()
    torch.testing.assert_close(LogitAdjustedLoss(counts, 2)(output_of(scores), labels)[TERM], balanced)


@pytest.mark.parametrize(("counts", "tau"), [([40, 9, 3], 0.0), ([7, 7, 7], 1.5)])
def test_without_tau_or_without_imbalance_it_is_cross_entropy(counts, tau):
    torch.manual_seed(0)
    scores, labels = torch.randn(7, 3), torch.arange(7) % 3
    term = LogitAdjustedLoss(torch.tensor(counts), 2, tau=tau)(output_of(scores), labels)[TERM]
    torch.testing.assert_close(term, F.cross_entropy(scores, labels))


@pytest.mark.parametrize("number", [1, 3])  # 3 is also the number of classes
def test_each_image_alone_equals_the_batch(number):
    torch.manual_seed(0)
    scores, labels, loss = torch.randn(number, 3), torch.arange(number), LogitAdjustedLoss(torch.tensor([9, 5, 2]), 2)
    alone = [loss(output_of(scores[i : i + 1]), labels[i : i + 1])[TERM] for i in range(number)]
    torch.testing.assert_close(loss(output_of(scores), labels)[TERM], torch.stack(alone).mean())


def test_it_works_on_logits_and_refuses_a_negative_tau():
    assert LogitAdjustedLoss.score_kind is ScoreKind.LOGIT
    with pytest.raises(ValueError, match=r"tau must be at least 0, got -1"):
        LogitAdjustedLoss(torch.ones(2), 2, tau=-1)
