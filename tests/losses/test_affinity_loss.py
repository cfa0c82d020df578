import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dermaffinity.heads import AffinityHead, HeadOutput, Predictions, ScoreKind
from dermaffinity.losses import AffinityLoss
from dermaffinity.losses import centers as module
from dermaffinity.losses.centers import relative_spread, spread


def simplex(number: int, scale: float = 1.0) -> torch.Tensor:
    """``number`` points (number, 1, number), all equally far from one another; float64."""
    return scale * torch.eye(number, dtype=torch.float64)[:, None]


def output_of(scores: torch.Tensor, centers: torch.Tensor | None = None) -> HeadOutput:
    if centers is None:
        centers = simplex(scores.shape[1]).to(scores)
    return HeadOutput(scores, torch.zeros(len(scores), centers.shape[2]), centers)


def predictions_of(scores: torch.Tensor, labels: torch.Tensor, **parts: torch.Tensor) -> Predictions:
    filled = {"embedding": torch.zeros(len(scores), 2), "centers": torch.rand(scores.shape[1], 1, 2), **parts}
    return Predictions(scores, scores.softmax(dim=1), filled["embedding"], filled["centers"], labels)


def max_margin_by_loops(scores, labels, margin):
    """Eq. 6 in plain Python."""
    total = 0.0
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        for j, score in enumerate(row):
            if j != label:
                total += max(0.0, margin + score - row[label])
    return total / len(scores)


def spread_by_loops(centers):
    """Eq. 7 and 8 in plain Python, over all pairs of the n centers (n, D)."""
    squared = [sum((a - b) ** 2 for a, b in zip(u, v, strict=True)) for u, v in combinations(centers.tolist(), 2)]
    mu = sum(squared) / len(squared)
    return mu, sum((d - mu) ** 2 for d in squared) / len(squared)


def test_worked_example():
    # own 0.9, others 0.2 and 0.5; margin 0.75: max(0, 0.05) + max(0, 0.35) = 0.40
    output = HeadOutput(torch.tensor([[0.9, 0.2, 0.5]]), torch.zeros(1, 2), torch.rand(3, 1, 2))
    terms = AffinityLoss(torch.ones(3), 2)(output, torch.tensor([0]))
    assert terms["max_margin"].item() == pytest.approx(0.40)


def test_diversity_of_a_worked_example():
    # On a line at 0, 1 and 3 the squared distances are 1, 4 and 9; mean 14/3, variance 98/9.
    centers = torch.tensor([[[0.0]], [[1.0]], [[3.0]]])
    output = output_of(torch.tensor([[1.0, 0.0, 0.0]]), centers)
    paper = AffinityLoss(torch.ones(3), 1)(output, torch.tensor([0]))
    relative = AffinityLoss(torch.ones(3), 1, diversity="relative", diversity_weight=0.1)(output, torch.tensor([0]))
    assert list(paper) == ["max_margin", "diversity"]
    assert paper["diversity"].item() == pytest.approx(98 / 9)
    assert relative["diversity"].item() == pytest.approx(0.1 * 98 / 9 / (14 / 3) ** 2)


@pytest.mark.parametrize("centers_per_class", [1, 3])
def test_both_terms_and_their_sum_equal_plain_loops_of_the_formulas(centers_per_class):
    torch.manual_seed(0)
    head = AffinityHead(4, 5, centers_per_class=centers_per_class, sigma=2.0).double()
    labels = torch.tensor([0, 1, 2, 3, 4, 0, 0])
    output = head(torch.randn(7, 4, dtype=torch.float64))
    terms = AffinityLoss(torch.ones(5), 4, margin=0.4, diversity_weight=0.3)(output, labels)
    hinge = max_margin_by_loops(output.scores, labels, 0.4)
    _, variance = spread_by_loops(output.centers.flatten(end_dim=1))
    assert terms["max_margin"].item() == pytest.approx(hinge)
    assert terms["diversity"].item() == pytest.approx(0.3 * variance)
    assert sum(terms.values()).item() == pytest.approx(hinge + 0.3 * variance)  # Eq. 10


def test_with_one_center_per_class_it_is_the_single_center_loss_of_eq_6():
    torch.manual_seed(0)
    head = AffinityHead(4, 3, centers_per_class=1, sigma=2.0).double()
    embedding, labels = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    expected = 0.0
    for f, label in zip(embedding, labels, strict=True):
        similarity = [math.exp(-(f - w).square().sum().item() / 2.0) for w in head.centers[:, 0]]
        expected += sum(max(0, 0.75 + s - similarity[label]) for j, s in enumerate(similarity) if j != label)
    term = AffinityLoss(torch.ones(3), 4)(head(embedding), labels)["max_margin"]
    assert term.item() == pytest.approx(expected / 5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("diversity", ["paper", "relative"])
@pytest.mark.parametrize("number", [5, 200])  # on either side of the closed form's threshold
def test_equidistant_centers_have_no_diversity_term_at_any_scale(scale, diversity, number):
    scores = torch.rand(2, number, dtype=torch.float64)
    loss = AffinityLoss(torch.ones(number), number, diversity=diversity)
    term = loss(output_of(scores, simplex(number, scale)), torch.tensor([0, 1]))["diversity"]
    assert term.item() == pytest.approx(0, abs=1e-12 * (scale**4 if diversity == "paper" else 1))


@pytest.mark.parametrize("number", [10, 150])
@given(seed=st.integers(0, 2**20), scale=st.floats(0.01, 100))
@settings(deadline=None, max_examples=8)
def test_diversity_grows_with_the_fourth_power_of_the_scale_and_relative_diversity_not_at_all(number, seed, scale):
    centers = torch.randn(number, 1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    scores, labels = torch.rand(1, number, dtype=torch.float64), torch.tensor([0])

    def term(centers, diversity):
        loss = AffinityLoss(torch.ones(number), 4, diversity=diversity)
        return loss(output_of(scores, centers), labels)["diversity"].item()

    assert term(scale * centers, "paper") == pytest.approx(scale**4 * term(centers, "paper"), rel=1e-9)
    assert term(scale * centers, "relative") == pytest.approx(term(centers, "relative"), rel=1e-9)


@pytest.mark.parametrize("number", [127, 128, 129, 300])
def test_the_closed_form_equals_the_pairwise_form_on_either_side_of_the_threshold(number):
    centers = torch.randn(number, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(number)) + 3
    assert [t.item() for t in spread(centers)] == pytest.approx(spread_by_loops(centers), rel=1e-6)


def test_the_closed_form_equals_the_pairwise_form_for_the_centers_of_many_identities():
    generator = torch.Generator().manual_seed(0)
    centers = torch.nn.functional.normalize(torch.randn(1500, 512, dtype=torch.float64, generator=generator), dim=1)
    squared = torch.nn.functional.pdist(centers).square()
    mean, variance = spread(centers)
    assert mean.item() == pytest.approx(squared.mean().item(), rel=1e-6)
    assert variance.item() == pytest.approx(squared.var(correction=0).item(), rel=1e-6)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_the_closed_form_equals_the_pairwise_form_for_nearly_equidistant_centers(monkeypatch, offset):
    # R is here about 1e-9 of μ²: a small difference of large sums.
    noise = torch.randn(140, 140, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    centers = simplex(140).squeeze(1) + 1e-5 * noise + offset
    closed = spread(centers)
    monkeypatch.setattr(module, "_DIRECT_CENTERS", 10**6)
    direct = spread(centers)
    assert (direct[1] / direct[0] ** 2).item() < 1e-8
    assert closed[0].item() == pytest.approx(direct[0].item(), rel=1e-6)
    assert closed[1].item() == pytest.approx(direct[1].item(), rel=1e-4 if offset else 1e-6)


def test_the_closed_form_keeps_its_precision_in_float32():
    centers = torch.randn(200, 16, generator=torch.Generator().manual_seed(0)) + 50
    mean, variance = spread(centers)
    exact = spread_by_loops(centers)
    assert mean.dtype == variance.dtype == torch.float32
    assert [mean.item(), variance.item()] == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_many_more_centers_than_dimensions_are_as_exact_though_multiplied_in_float32(offset):
    noise = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
    centers = (torch.nn.functional.normalize(noise, dim=1) + offset).requires_grad_()
    exact = centers.detach().double().requires_grad_()
    pairs = torch.nn.functional.pdist(exact).square()
    (pairs.var(correction=0) / pairs.mean().square()).backward()
    relative = relative_spread(centers)
    relative.backward()
    assert relative.item() == pytest.approx((pairs.var(correction=0) / pairs.mean().square()).item(), rel=1e-6)
    assert (centers.grad - exact.grad).norm() < 1e-5 * exact.grad.norm()


@pytest.mark.parametrize("number", [4, 200])
@pytest.mark.parametrize("diversity", ["paper", "relative"])
def test_identical_centers_give_zero_and_no_nan_gradient(number, diversity):
    centers = torch.full((number, 1, 3), 0.3, requires_grad=True)
    loss = AffinityLoss(torch.ones(number), 3, diversity=diversity)
    term = loss(output_of(torch.rand(1, number), centers), torch.tensor([0]))["diversity"]
    term.backward()
    assert term.item() == pytest.approx(0, abs=1e-12)
    assert torch.isfinite(centers.grad).all()


def test_a_single_center_has_no_spread():
    assert [t.item() for t in spread(torch.randn(1, 5))] == [0, 0]


@pytest.mark.parametrize("threshold", [128, 3])  # 6 centers: the direct form, the closed form
@pytest.mark.parametrize("diversity", ["paper", "relative"])
def test_gradients_of_the_diversity_are_those_of_finite_differences(monkeypatch, threshold, diversity):
    monkeypatch.setattr(module, "_DIRECT_CENTERS", threshold)
    monkeypatch.setattr(module, "_CENTERS_AT_A_TIME", 4)
    centers = torch.randn(6, 1, 3, dtype=torch.float64, requires_grad=True)
    scores = torch.rand(1, 6, dtype=torch.float64)
    loss = AffinityLoss(torch.ones(6), 3, diversity=diversity)
    assert torch.autograd.gradcheck(lambda c: loss(output_of(scores, c), torch.tensor([0]))["diversity"], centers)


def test_gradients_of_the_hinge_are_those_of_finite_differences():
    torch.manual_seed(0)
    scores = torch.rand(4, 3, dtype=torch.float64, requires_grad=True)
    loss, labels = AffinityLoss(torch.ones(3), 3), torch.tensor([0, 1, 2, 2])
    assert torch.autograd.gradcheck(lambda s: loss(output_of(s), labels)["max_margin"], scores)


@pytest.mark.parametrize("number", [1, 4])  # 4 is also the number of classes
def test_each_image_alone_equals_the_batch(number):
    torch.manual_seed(0)
    scores, labels, loss = torch.rand(number, 4), torch.arange(number), AffinityLoss(torch.ones(4), 4)
    terms = loss(output_of(scores), labels)
    alone = [loss(output_of(scores[i : i + 1]), labels[i : i + 1]) for i in range(number)]
    torch.testing.assert_close(terms["max_margin"], torch.stack([one["max_margin"] for one in alone]).mean())
    assert all(torch.equal(one["diversity"], terms["diversity"]) for one in alone)


def test_the_order_of_classes_and_centers_is_irrelevant():
    torch.manual_seed(0)
    head, embedding = AffinityHead(6, 4, sigma=4.0).double(), torch.randn(5, 6, dtype=torch.float64)
    labels, loss = torch.tensor([0, 1, 2, 3, 3]), AffinityLoss(torch.ones(4), 6)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = AffinityHead(6, 4, sigma=4.0).double()
    shuffled.centers.data = head.centers.detach()[order][:, [4, 1, 0, 3, 2]]
    before, after = loss(head(embedding), labels), loss(shuffled(embedding), order.argsort()[labels])
    for name in before:
        assert after[name].item() == pytest.approx(before[name].item(), rel=1e-12)


def test_a_satisfied_margin_costs_nothing_and_no_similarity_at_all_costs_the_plateau():
    loss, labels = AffinityLoss(torch.ones(4), 4, margin=0.75), torch.tensor([1])
    satisfied = torch.tensor([[0.25, 1.0, 0.1, 0.0]])
    assert loss(output_of(satisfied), labels)["max_margin"].item() == 0
    assert loss(output_of(torch.zeros(1, 4)), labels)["max_margin"].item() == pytest.approx(0.75 * 3)


def test_similarities_of_about_zero_stop_the_second_epoch_and_ask_for_a_larger_sigma():
    loss = AffinityLoss(torch.ones(4), 2, margin=0.5)
    far = predictions_of(torch.full((6, 4), 1e-9), torch.arange(6) % 4)
    assert loss.on_epoch_end(0, far)["own_similarity"] == pytest.approx(1e-9)
    with pytest.raises(
        ValueError, match=r"plateau of margin x \(C - 1\) = 1\.5.*1\.0e-09.*Raise the head's sigma.*Unit"
    ):
        loss.on_epoch_end(1, far)


def test_similarities_that_are_all_alike_stop_the_second_epoch_and_ask_for_a_smaller_sigma():
    loss = AffinityLoss(torch.ones(4), 2)
    alike = predictions_of(1 - 1e-4 * torch.rand(6, 4), torch.arange(6) % 4)
    loss.on_epoch_end(0, alike)
    with pytest.raises(ValueError, match=r"plateau.*classes differ by.*Lower the head's sigma"):
        loss.on_epoch_end(1, alike)


def test_a_training_that_learns_is_not_stopped():
    scores = torch.tensor([[0.9, 0.2], [0.3, 0.4]]).repeat(5, 1)
    AffinityLoss(torch.ones(2), 2).on_epoch_end(5, predictions_of(scores, torch.tensor([0, 1]).repeat(5)))


def test_what_is_watched_after_an_epoch():
    # Two classes with centers at 0, 4 and at 10, 20; images of class 0 at 0 and 1, of class 1 at 9, 19.
    centers = torch.tensor([[[0.0], [4.0]], [[10.0], [20.0]]])
    embedding = torch.tensor([[0.0], [1.0], [9.0], [19.0]])
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.1], [0.5, 0.6], [0.0, 0.7]])
    predictions = predictions_of(scores, torch.tensor([0, 0, 1, 1]), embedding=embedding, centers=centers)
    watched = AffinityLoss(torch.ones(2), 1, margin=0.75).on_epoch_end(3, predictions)
    mean, variance = spread_by_loops(centers.flatten(end_dim=1))
    assert watched["own_similarity"] == pytest.approx(0.7)  # lower median of 0.9, 0.8, 0.6, 0.7
    assert watched["active_hinges"] == pytest.approx(3 / 4)  # only the first image's gap of 0.8 exceeds the margin
    assert watched["center_usage"] == pytest.approx(3 / 4)  # nothing of class 0 is nearest to 4
    assert watched["relative_diversity"] == pytest.approx(variance / mean**2)


def test_it_works_on_similarities():
    assert AffinityLoss.score_kind is ScoreKind.SIMILARITY


@pytest.mark.parametrize(
    ("hyper_parameters", "message"),
    [
        ({"margin": 1.5}, r"margin must be in \(0, 1\] because similarities are, got 1.5"),
        ({"margin": 0.0}, r"margin must be in \(0, 1\] because similarities are, got 0.0"),
        ({"diversity": "none"}, "diversity must be 'paper' or 'relative', got 'none'"),
        ({"diversity_weight": -1.0}, "diversity_weight must be at least 0, got -1.0"),
        ({"diversity_weight": math.nan}, "diversity_weight must be at least 0, got nan"),
    ],
)
def test_impossible_hyper_parameters_are_refused(hyper_parameters, message):
    with pytest.raises(ValueError, match=message):
        AffinityLoss(torch.ones(3), 4, **hyper_parameters)
