import math

import pytest
import torch
from torch.nn import functional as F

from dermaffinity.heads import CosineHead, ScoreKind


def head_with(centers: list, **options) -> CosineHead:
    values = torch.tensor(centers)
    head = CosineHead(values.shape[2], len(values), centers_per_class=values.shape[1], **options)
    head.centers.data = values
    return head


def scores_by_loops(embedding, centers, pooling: str, width: float):
    """The formulas of the docstring, number by number."""
    rows = []
    for f in embedding.tolist():
        row = []
        for vectors in centers.tolist():
            cosines = [
                sum(a * b for a, b in zip(f, w, strict=True)) / (math.hypot(*f) * math.hypot(*w)) for w in vectors
            ]
            weights = [math.exp(c / width) for c in cosines]
            mean = sum(c * a for c, a in zip(cosines, weights, strict=True)) / sum(weights)
            row.append(max(cosines) if pooling == "max" else mean)
        rows.append(row)
    return torch.tensor(rows)


def test_worked_example():
    # (3, 4) has the cosines 0.6 and 0.8 with the axes, whatever the length of either vector.
    head = head_with([[[2.0, 0.0]], [[0.0, 0.5]]], scale=5.0)

    output = head(torch.tensor([[3.0, 4.0]]))

    assert output.scores[0].tolist() == pytest.approx([0.6, 0.8])
    assert output.centers.tolist() == [[[1, 0]], [[0, 1]]]
    # e^3 and e^4 over their sum
    assert head.probabilities(output)[0].tolist() == pytest.approx([0.268941, 0.731059], abs=1e-6)


@pytest.mark.parametrize("pooling", ["max", "soft"])
def test_scores_equal_a_plain_loop(pooling):
    torch.manual_seed(0)
    head = CosineHead(4, 3, centers_per_class=5, pooling=pooling, pooling_width=0.2)
    head.centers.data *= 7  # the length of a class vector means nothing
    embedding = 3 * torch.randn(6, 4)
    torch.testing.assert_close(head(embedding).scores, scores_by_loops(embedding, head.centers, pooling, 0.2))


def test_a_narrow_soft_pooling_is_the_maximum_and_a_wide_one_the_mean():
    torch.manual_seed(0)
    embedding = torch.randn(6, 4)

    def scores(**options):
        torch.manual_seed(1)
        return CosineHead(4, 3, centers_per_class=5, **options)(embedding).scores

    torch.testing.assert_close(scores(pooling="soft", pooling_width=1e-4), scores(pooling="max"))
    torch.manual_seed(1)
    head = CosineHead(4, 3, centers_per_class=5)
    mean = 1 - head.center_distances(head(embedding)).mean(dim=2)
    torch.testing.assert_close(scores(pooling="soft", pooling_width=1e5), mean, atol=1e-4, rtol=0)


@pytest.mark.parametrize("pooling", ["max", "soft"])
def test_gradients_are_those_of_finite_differences(pooling):
    torch.manual_seed(0)
    head = CosineHead(4, 3, centers_per_class=2, pooling=pooling).double()
    embedding = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)

    def scores(f, w):
        return torch.func.functional_call(head, {"centers": w}, f).scores

    assert torch.autograd.gradcheck(scores, (embedding, head.centers))


def test_scores_never_leave_the_range_of_a_cosine():
    torch.manual_seed(0)
    embedding = torch.randn(3000, 3)
    head = CosineHead(3, 3000)
    head.centers.data = embedding[:, None] * torch.rand(3000, 1, 1)
    assert head(embedding).scores.max() <= 1
    assert head(-embedding).scores.min() >= -1
    assert (head.distance_to(embedding, embedding) >= 0).all()


def test_an_embedding_at_the_origin_is_equally_like_every_class_and_gives_no_nan():
    head = CosineHead(4, 5)
    embedding = torch.zeros(1, 4, requires_grad=True)
    output = head(embedding)
    assert head.probabilities(output)[0].tolist() == pytest.approx([0.2] * 5)
    output.scores.sum().backward()
    assert torch.isfinite(embedding.grad).all()


def test_distances_are_one_minus_the_cosine_to_each_center():
    head = head_with([[[2.0, 0.0], [0.0, 3.0]], [[-1.0, 0.0], [0.0, -1.0]]])
    output = head(torch.tensor([[5.0, 0.0]]))
    assert head.center_distances(output)[0].flatten().tolist() == pytest.approx([0, 1, 2, 1])
    assert head.center_distance(output)[0].tolist() == pytest.approx([0, 1])


def test_the_start_is_of_unit_length_and_the_score_kind_is_cosine():
    head = CosineHead(8, 3, centers_per_class=2)
    torch.testing.assert_close(head.centers.norm(dim=2), torch.ones(3, 2))
    assert torch.equal(head(torch.randn(2, 8)).centers, F.normalize(head.centers, dim=2))
    assert CosineHead.score_kind is ScoreKind.COSINE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"centers_per_class": 0}, "centers_per_class must be at least 1, got 0"),
        ({"scale": 0.0}, "scale must be positive, got 0.0"),
        ({"pooling": "mean"}, "pooling must be 'max' or 'soft', got 'mean'"),
        ({"pooling_width": 0.0}, "pooling_width must be positive because it is a width, got 0.0"),
    ],
)
def test_impossible_hyper_parameters_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CosineHead(4, 3, **options)
