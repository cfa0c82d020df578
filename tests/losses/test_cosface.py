import math

import pytest
import torch
from torch.nn import functional as F

from dermaffinity.heads import CosineHead, HeadOutput, ScoreKind
from dermaffinity.losses import CosFaceLoss


def output_of(scores: torch.Tensor) -> HeadOutput:
    return HeadOutput(scores, torch.zeros(len(scores), 2), torch.zeros(scores.shape[1], 1, 2))


def cosines(number: int = 7) -> torch.Tensor:
    return 2 * torch.rand(number, 3, generator=torch.Generator().manual_seed(0)) - 1


def test_worked_example():
    # Own cosine 0.85 less 0.35 is 0.5, as the others: p = 1/3.
    terms = CosFaceLoss(torch.ones(3), 2)(output_of(torch.tensor([[0.5, 0.85, 0.5]])), torch.tensor([1]))
    assert list(terms) == ["cosface"]
    assert terms["cosface"].item() == pytest.approx(math.log(3))


def test_it_equals_a_plain_loop():
    scores, labels = cosines(), torch.arange(7) % 3
    total = 0.0
    for c, y in zip(scores.tolist(), labels.tolist(), strict=True):
        z = [8 * (value - 0.2 * (j == y)) for j, value in enumerate(c)]
        total += math.log(sum(math.exp(value) for value in z)) - z[y]
    term = CosFaceLoss(torch.ones(3), 2, margin=0.2, scale=8.0)(output_of(scores), labels)["cosface"]
    assert term.item() == pytest.approx(total / 7, rel=1e-5)


def test_without_a_margin_it_is_cross_entropy_of_scaled_cosines():
    scores, labels = cosines(), torch.arange(7) % 3
    term = CosFaceLoss(torch.ones(3), 2, margin=0)(output_of(scores), labels)["cosface"]
    torch.testing.assert_close(term, F.cross_entropy(16 * scores, labels))


def test_it_is_that_of_pytorch_metric_learning():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    torch.manual_seed(0)
    head, embedding, labels = CosineHead(8, 5), 3 * torch.randn(12, 8), torch.arange(12) % 5
    theirs = losses.CosFaceLoss(num_classes=5, embedding_size=8, margin=0.35, scale=16)
    theirs.W.data = head.centers.data.squeeze(1).T
    ours = CosFaceLoss(torch.ones(5), 8)(head(embedding), labels)["cosface"]
    torch.testing.assert_close(ours, theirs(embedding, labels))


@pytest.mark.parametrize("number", [1, 3])  # 3 is also the number of classes
def test_each_image_alone_equals_the_batch(number):
    scores, labels, loss = cosines(number), torch.arange(number), CosFaceLoss(torch.ones(3), 2)
    alone = [loss(output_of(scores[i : i + 1]), labels[i : i + 1])["cosface"] for i in range(number)]
    torch.testing.assert_close(loss(output_of(scores), labels)["cosface"], torch.stack(alone).mean())


def test_it_works_on_cosines():
    assert CosFaceLoss.score_kind is ScoreKind.COSINE


@pytest.mark.parametrize(("option", "value", "allowed"), [("margin", -0.1, r"in \[0, 2\]"), ("scale", 0.0, "positive")])
def test_impossible_hyper_parameters_are_refused(option, value, allowed):
    with pytest.raises(ValueError, match=f"{option} must be {allowed}.*got {value}"):
        CosFaceLoss(torch.ones(3), 2, **{option: value})
