import math
from itertools import combinations

import pytest
import torch
from torch.nn import functional as F

from dermaffinity.heads import CosineHead, HeadOutput, ScoreKind
from dermaffinity.losses import SoftTripleLoss


def output_of(scores: torch.Tensor, centers: torch.Tensor | None = None) -> HeadOutput:
    centers = torch.zeros(scores.shape[1], 1, 2) if centers is None else centers
    return HeadOutput(scores, torch.zeros(len(scores), 2), centers)


def cosines(number: int = 7) -> torch.Tensor:
    return 2 * torch.rand(number, 3, generator=torch.Generator().manual_seed(0)) - 1


def test_worked_example():
    # Own cosine 0.51 less 0.01 is 0.5, as the other: p = 1/2. Two classes of two centers each, a right angle apart in
    # one and together in the other: 0.2 · (√2 + 0) / (2 · 2 · 1).
    centers = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])
    terms = SoftTripleLoss(torch.ones(2), 2)(output_of(torch.tensor([[0.51, 0.5]]), centers), torch.tensor([0]))
    assert list(terms) == ["soft_triple", "merging"]
    assert terms["soft_triple"].item() == pytest.approx(math.log(2))
    assert terms["merging"].item() == pytest.approx(0.2 * math.sqrt(2) / 4, abs=2e-4)  # 1e-5 under each root


def test_both_terms_equal_plain_loops():
    torch.manual_seed(0)
    head = CosineHead(4, 3, centers_per_class=5, pooling="soft").double()
    output, labels = head(torch.randn(7, 4, dtype=torch.float64)), torch.arange(7) % 3
    total = 0.0
    for c, y in zip(output.scores.tolist(), labels.tolist(), strict=True):
        z = [20 * (value - 0.05 * (j == y)) for j, value in enumerate(c)]
        total += math.log(sum(math.exp(value) for value in z)) - z[y]
    apart = sum(
        math.sqrt(2 + 1e-5 - 2 * sum(a * b for a, b in zip(v, w, strict=True)))
        for vectors in output.centers.tolist()
        for v, w in combinations(vectors, 2)
    )
    terms = SoftTripleLoss(torch.ones(3), 4, margin=0.05, merging_weight=0.3, scale=20.0)(output, labels)
    assert terms["soft_triple"].item() == pytest.approx(total / 7)
    assert terms["merging"].item() == pytest.approx(0.3 * apart / (3 * 5 * 4))


def test_with_one_center_and_no_margin_it_is_cross_entropy_of_scaled_cosines():
    scores, labels = cosines(), torch.arange(7) % 3
    terms = SoftTripleLoss(torch.ones(3), 2, margin=0)(output_of(scores), labels)
    torch.testing.assert_close(terms["soft_triple"], F.cross_entropy(16 * scores, labels))
    assert terms["merging"] == 0


def test_centers_in_one_place_have_a_finite_gradient():
    head = CosineHead(4, 3, centers_per_class=2, pooling="soft")
    head.centers.data[:] = torch.ones(4)
    SoftTripleLoss(torch.ones(3), 4)(head(torch.randn(3, 4)), torch.arange(3))["merging"].backward()
    assert torch.isfinite(head.centers.grad).all()


def test_merging_draws_the_centers_of_a_class_together():
    torch.manual_seed(0)
    head, loss = CosineHead(4, 3, centers_per_class=2), SoftTripleLoss(torch.ones(3), 4, merging_weight=1.0)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.5)
    cosine = []
    for _ in range(60):
        output = head(torch.ones(1, 4))
        cosine.append((output.centers[:, 0] * output.centers[:, 1]).sum(dim=1))
        optimizer.zero_grad()
        loss(output, torch.tensor([0]))["merging"].backward()
        optimizer.step()
    assert (cosine[-1] > 0.95).all()
    assert (cosine[0] < 0.9).all()


def test_its_first_term_is_the_loss_of_pytorch_metric_learning():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    torch.manual_seed(0)
    head = CosineHead(8, 5, centers_per_class=4, pooling="soft", scale=20.0)
    embedding, labels = 3 * torch.randn(12, 8), torch.arange(12) % 5
    theirs = losses.SoftTripleLoss(num_classes=5, embedding_size=8, centers_per_class=4, la=20, gamma=0.1, margin=0.01)
    theirs.fc.data = head.centers.data.flatten(0, 1).T
    ours = SoftTripleLoss(torch.ones(5), 8, scale=20.0)(head(embedding), labels)["soft_triple"]
    torch.testing.assert_close(ours, theirs(embedding, labels))


@pytest.mark.parametrize("number", [1, 3])  # 3 is also the number of classes
def test_each_image_alone_equals_the_batch(number):
    scores, labels, loss = cosines(number), torch.arange(number), SoftTripleLoss(torch.ones(3), 2)
    alone = [loss(output_of(scores[i : i + 1]), labels[i : i + 1])["soft_triple"] for i in range(number)]
    torch.testing.assert_close(loss(output_of(scores), labels)["soft_triple"], torch.stack(alone).mean())


def test_it_works_on_cosines():
    assert SoftTripleLoss.score_kind is ScoreKind.COSINE


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [("margin", 2.5, r"in \[0, 2\]"), ("merging_weight", -0.1, "at least 0"), ("scale", 0.0, "positive")],
)
def test_impossible_hyper_parameters_are_refused(option, value, allowed):
    with pytest.raises(ValueError, match=f"{option} must be {allowed}.*got {value}"):
        SoftTripleLoss(torch.ones(3), 2, **{option: value})
