import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from dermaffinity.heads import HeadOutput, Predictions, ScoreKind
from dermaffinity.losses import CoSenLoss
from dermaffinity.losses.cosen import class_separability, cost_target

TERM = "cost_sensitive_cross_entropy"


def output_of(scores: torch.Tensor) -> HeadOutput:
    return HeadOutput(scores, torch.zeros(len(scores), 2), torch.zeros(scores.shape[1], 1, 2))


def validation_of(labels, predicted, embedding=None, num_classes=3) -> Predictions:
    """Predictions that choose ``predicted``, with labels and embedding as given."""
    labels, predicted = torch.as_tensor(labels), torch.as_tensor(predicted)
    scores = F.one_hot(predicted, num_classes).float()
    if embedding is None:
        embedding = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(0))
    return Predictions(scores, scores.softmax(dim=1), embedding, torch.zeros(num_classes, 1, 4), labels)


def target_by_loops(class_counts, separability, confusion, mu, sigma):
    """T = H ∘ Gaussian(S) ∘ Gaussian(R) in plain Python."""
    num_classes, total = len(class_counts), sum(class_counts)
    target = torch.zeros(num_classes, num_classes)
    for p in range(num_classes):
        for q in range(num_classes):
            h = (class_counts[p] if p == q else max(class_counts[p], class_counts[q])) / total
            s = math.exp(-((separability[p][q] - mu) ** 2) / (2 * sigma**2))
            r = math.exp(-((confusion[p][q] - mu) ** 2) / (2 * sigma**2))
            target[p, q] = h * s * r
    return target


def separability_by_loops(embedding, labels, num_classes):
    """S in plain Python: over every draw of m images a class, the mean distance to the nearest of them."""
    points = {q: embedding[labels == q].double().tolist() for q in range(num_classes)}
    drawn = min(len(members) for members in points.values()) - 1

    def expected_nearest(f, members):
        nearest = [min(math.dist(f, g) for g in draw) for draw in itertools.combinations(members, drawn)]
        return sum(nearest) / len(nearest)

    result = torch.ones(num_classes, num_classes)
    for p, q in itertools.permutations(range(num_classes), 2):
        ratios = []
        for i, f in enumerate(points[p]):
            own = expected_nearest(f, points[p][:i] + points[p][i + 1 :])
            ratios.append(min(2.0, own / expected_nearest(f, points[q])))
        result[p, q] = sum(ratios) / len(ratios)
    return result


def confusion_by_loops(labels, predicted, num_classes):
    rows = [[0.0] * num_classes for _ in range(num_classes)]
    for label, guess in zip(labels, predicted, strict=True):
        rows[label][guess] += 1 / labels.count(label)
    return rows


def test_worked_example():
    # Row of the label: costs 1 and 1/2, equal logits: probability 1 / 1.5.
    loss = CoSenLoss(torch.tensor([3, 1]), 2)
    loss.cost.copy_(torch.tensor([[1.0, 0.5], [1.0, 1.0]]))
    terms = loss(output_of(torch.zeros(1, 2)), torch.tensor([0]))
    assert list(terms) == [TERM]
    assert terms[TERM].item() == pytest.approx(math.log(1.5))


def test_the_loss_equals_a_plain_loop_of_the_cost_sensitive_softmax():
    torch.manual_seed(0)
    scores, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    loss = CoSenLoss(torch.tensor([5, 3, 2]), 2)
    loss.cost.copy_(torch.rand(3, 3) * 0.9 + 0.1)
    total = 0.0
    for o, p in zip(scores.tolist(), labels.tolist(), strict=True):
        shares = [loss.cost[p, n].item() * math.exp(o[n]) for n in range(3)]
        total -= math.log(shares[p] / sum(shares))
    assert loss(output_of(scores), labels)[TERM].item() == pytest.approx(total / 6, rel=1e-5)


def test_huge_logits_do_not_overflow():
    loss = CoSenLoss(torch.tensor([3, 1]), 2)
    value = loss(output_of(torch.tensor([[1e4, -1e4]])), torch.tensor([1]))[TERM].item()
    assert value == pytest.approx(2e4)


def test_the_target_equals_a_plain_loop():
    torch.manual_seed(0)
    counts, separability, confusion = [50, 30, 5], torch.rand(3, 3) * 2, torch.rand(3, 3)
    target = cost_target(torch.tensor(counts), separability, confusion, mu=0.4, sigma=0.7)
    expected = target_by_loops(counts, separability.tolist(), confusion.tolist(), 0.4, 0.7)
    torch.testing.assert_close(target, expected)


def test_separability_of_a_worked_example():
    # On a line, class 0 at 0, 1 and class 1 at 4, 6: one image is drawn of each class.
    # Class 0: own 1 and 1, to class 1 on average 5 and 4. Class 1: own 2 and 2, to class 0 on average 3.5 and 5.5.
    embedding, labels = torch.tensor([[0.0], [1.0], [4.0], [6.0]]), torch.tensor([0, 0, 1, 1])
    separability = class_separability(embedding, labels, 2)
    expected = [1, (1 / 5 + 1 / 4) / 2, (2 / 3.5 + 2 / 5.5) / 2, 1]
    assert separability.flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("offset", [0.0, 300.0])
@pytest.mark.parametrize("counts", [(6, 6, 6), (3, 5, 8)])
def test_separability_equals_a_plain_loop_over_all_draws(offset, counts):
    torch.manual_seed(0)
    labels = torch.arange(3).repeat_interleave(torch.tensor(counts))[torch.randperm(sum(counts))]
    embedding = torch.randn(len(labels), 4) + labels[:, None] + offset
    expected = separability_by_loops(embedding, labels, 3)
    torch.testing.assert_close(class_separability(embedding, labels, 3), expected, rtol=1e-4, atol=1e-4)


def test_separability_does_not_depend_on_the_size_of_a_class():
    # Seven identical Gaussians at the validation counts of hamfit-7; nearest neighbors among all images gave 1.58 for
    # df (6 images) to nv (34), and 0.73 back.
    torch.manual_seed(0)
    counts = torch.tensor([12, 24, 26, 6, 8, 34, 12])
    labels = torch.arange(7).repeat_interleave(counts)
    draws = [class_separability(torch.randn(len(labels), 64), labels, 7) for _ in range(20)]
    assert (torch.stack(draws).mean(dim=0) - 1).abs().max() < 0.02


def test_what_cannot_be_measured_is_left_to_the_histogram():
    # Class 2 has a single image, class 3 none: their rows are constant, their columns each row's mean of the others.
    embedding = torch.tensor([[0.0], [1.0], [4.0], [6.0], [5.0]])
    separability = class_separability(embedding, torch.tensor([0, 0, 1, 1, 2]), 4)
    there, back = (1 / 5 + 1 / 4) / 2, (2 / 3.5 + 2 / 5.5) / 2
    assert separability[0].tolist() == pytest.approx([1, there, there, there])
    assert separability[1].tolist() == pytest.approx([back, 1, back, back])
    assert separability[2:].tolist() == [[1, 1, 1, 1], [1, 1, 1, 1]]


def test_one_class_alone_has_no_separability():
    assert torch.equal(class_separability(torch.randn(3, 2), torch.tensor([0, 0, 1]), 2), torch.ones(2, 2))


def test_one_duplicate_in_another_class_counts_at_most_twice():
    # Class 0 at 0 and 1; class 1 twice at 0, its images duplicates of each other and of one of class 0.
    embedding, labels = torch.tensor([[0.0], [1.0], [0.0], [0.0]]), torch.tensor([0, 0, 1, 1])
    separability = class_separability(embedding, labels, 2)
    # The image at 0 is 1 from its own class and 0 from the other: an infinite ratio, counted as 2; that at 1 has 1 / 1.
    # Of class 1 each image is 0 from its own class, and on average 0.5 from the other.
    assert separability.flatten().tolist() == pytest.approx([1, (2 + 1) / 2, 0, 1])


def test_duplicates_in_both_classes_are_as_close_in_one_as_in_the_other():
    separability = class_separability(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]), 2)
    assert separability.flatten().tolist() == [1, 1, 1, 1]


def test_one_epoch_moves_the_costs_as_a_plain_loop_does():
    torch.manual_seed(0)
    counts, labels, predicted = [50, 30, 5], [0, 0, 0, 1, 1, 1, 2, 2], [0, 0, 1, 1, 1, 2, 0, 2]
    embedding = torch.randn(8, 4)
    loss = CoSenLoss(torch.tensor(counts), 4, cost_rate=0.3, mu=0.4, sigma=0.6)

    watched = loss.on_epoch_end(0, validation_of(labels, predicted, embedding))

    separability = separability_by_loops(embedding, torch.tensor(labels), 3).tolist()
    target = target_by_loops(counts, separability, confusion_by_loops(labels, predicted, 3), 0.4, 0.6)
    expected = 1 + 0.3 * (target - 1)
    torch.testing.assert_close(loss.cost, expected)
    assert watched["cost_rate"] == pytest.approx(0.3)
    assert watched["largest_cost_ratio"] == pytest.approx(
        max((expected[p, q] / expected[p, p]).item() for p in range(3) for q in range(3))
    )


def test_separability_is_measured_again_only_every_so_many_epochs():
    loss = CoSenLoss(torch.tensor([5, 3, 2]), 4, separability_every=3)
    labels = [0, 0, 1, 1, 2, 2]
    seen = []
    for epoch in range(4):
        embedding = torch.randn(6, 4, generator=torch.Generator().manual_seed(epoch))
        loss.on_epoch_end(epoch, validation_of(labels, labels, embedding))
        seen.append(loss.separability.clone())
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[3])


def test_with_the_histogram_alone_it_is_a_one_sided_balanced_softmax():
    torch.manual_seed(0)
    counts = torch.tensor([331.0, 80.0, 24.0])
    loss = CoSenLoss(counts, 2)
    constant = torch.full((3, 3), 0.5)
    loss.cost.copy_(cost_target(counts, constant, constant, mu=0.5, sigma=0.5))
    scores, labels = torch.randn(8, 3), torch.tensor([0, 1, 2, 2, 1, 0, 2, 2])
    shift = (counts[None, :] / counts[labels, None]).clamp_min(1).log()
    expected = F.cross_entropy(scores + shift, labels)
    torch.testing.assert_close(loss(output_of(scores), labels)[TERM], expected)
    assert shift[2, 0].item() == pytest.approx(2.62, abs=0.01)  # the rarest true class against the most frequent


def test_a_cost_rate_of_zero_is_cross_entropy_for_ever():
    torch.manual_seed(0)
    loss = CoSenLoss(torch.tensor([50, 30, 5]), 4, cost_rate=0)
    for epoch in range(3):
        loss.on_epoch_end(epoch, validation_of([0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 0, 2]))
    scores, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    torch.testing.assert_close(loss(output_of(scores), labels)[TERM], F.cross_entropy(scores, labels))


def test_the_rate_falls_to_a_hundredth_only_when_the_validation_error_rises():
    loss, labels = CoSenLoss(torch.tensor([5, 3, 2]), 4, cost_rate=0.1), [0, 0, 1, 1, 2, 2]
    rates = []
    for wrong in (3, 2, 2, 4, 1):  # falls, falls, stays, rises, falls
        predicted = [(label + 1) % 3 if i < wrong else label for i, label in enumerate(labels)]
        rates.append(loss.on_epoch_end(len(rates), validation_of(labels, predicted))["cost_rate"])
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.001, 0.001])


def test_what_tells_whether_it_acted_is_among_its_numbers():
    loss, labels = CoSenLoss(torch.tensor([5, 3, 2]), 4), [0, 0, 1, 1, 2, 2]
    assert set(loss.acts_from) <= set(loss.on_epoch_end(0, validation_of(labels, labels)))


@pytest.mark.parametrize("fault", ["duplicates", "nan", "absent", "single"])
def test_no_validation_set_drives_the_costs_out_of_their_range(fault):
    embedding, labels = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), [i % 3 for i in range(40)]
    if fault == "duplicates":
        embedding[:] = embedding[0]
    elif fault == "nan":
        embedding[3] = torch.nan
    elif fault == "absent":
        labels = [i % 2 for i in range(40)]
    else:
        labels = [2] + [i % 2 for i in range(39)]
    loss = CoSenLoss(torch.tensor([50, 30, 5]), 4, cost_rate=1.0, sigma=0.1)
    for epoch in range(3):
        watched = loss.on_epoch_end(epoch, validation_of(labels, labels, embedding))
        assert ((loss.cost >= 1e-4) & (loss.cost <= 1)).all()
        assert all(math.isfinite(value) for value in watched.values())
    assert math.isfinite(loss(output_of(torch.randn(3, 3)), torch.arange(3))[TERM].item())


def test_a_class_absent_from_validation_keeps_the_costs_of_the_histogram():
    counts = torch.tensor([50.0, 30.0, 5.0])
    loss = CoSenLoss(counts, 4, cost_rate=1.0)
    loss.on_epoch_end(0, validation_of([0, 0, 1, 1], [0, 0, 1, 0]))
    ratio = loss.cost[2] / loss.cost[2, 2]
    assert ratio.tolist() == pytest.approx([10, 6, 1], rel=1e-5)


def test_the_order_of_classes_is_irrelevant():
    torch.manual_seed(0)
    order = torch.tensor([2, 0, 1])  # new class c is the old order[c]
    counts, labels, predicted = torch.tensor([50, 30, 5]), torch.arange(12) % 3, torch.arange(12) // 2 % 3
    embedding = torch.randn(12, 4)
    loss, moved = CoSenLoss(counts, 4), CoSenLoss(counts[order], 4)
    loss.on_epoch_end(0, validation_of(labels, predicted, embedding))
    new = order.argsort()
    moved.on_epoch_end(0, validation_of(new[labels], new[predicted], embedding))
    torch.testing.assert_close(moved.cost, loss.cost[order][:, order])
    scores = torch.randn(12, 3)
    torch.testing.assert_close(moved(output_of(scores[:, order]), new[labels]), loss(output_of(scores), labels))


@pytest.mark.parametrize("number", [1, 3])  # 3 is also the number of classes
def test_each_image_alone_equals_the_batch(number):
    torch.manual_seed(0)
    loss = CoSenLoss(torch.tensor([50, 30, 5]), 4)
    loss.cost.copy_(torch.rand(3, 3) + 0.01)
    scores, labels = torch.randn(number, 3), torch.arange(number)
    alone = [loss(output_of(scores[i : i + 1]), labels[i : i + 1])[TERM] for i in range(number)]
    torch.testing.assert_close(loss(output_of(scores), labels)[TERM], torch.stack(alone).mean())


def test_the_gradient_has_the_form_of_cross_entropy():
    # ∂ℓ/∂o = y - d, with y the cost-sensitive softmax.
    scores = torch.randn(1, 3, requires_grad=True)
    loss = CoSenLoss(torch.tensor([50, 30, 5]), 4)
    loss.cost.copy_(torch.tensor([[1.0, 0.2, 0.3], [0.5, 1.0, 0.5], [0.9, 0.8, 0.1]]))
    loss(output_of(scores), torch.tensor([2]))[TERM].backward()
    y = loss.cost[2] * scores.detach().exp()
    torch.testing.assert_close(scores.grad, y / y.sum() - torch.tensor([[0.0, 0.0, 1.0]]))


def test_a_restored_loss_goes_on_exactly_where_the_first_one_was():
    def epoch(loss: CoSenLoss, number: int) -> None:
        embedding = torch.randn(9, 4, generator=torch.Generator().manual_seed(number))
        labels = [i % 3 for i in range(9)]
        predicted = [(i + (i < number % 4)) % 3 for i in range(9)]
        loss.on_epoch_end(number, validation_of(labels, predicted, embedding))

    whole, first, second = (CoSenLoss(torch.tensor([50, 30, 5]), 4, separability_every=3) for _ in range(3))
    for number in range(8):
        epoch(whole, number)
    for number in range(4):
        epoch(first, number)
    second.load_state_dict(first.state_dict())
    for number in range(4, 8):
        epoch(second, number)
    assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), second.buffers(), strict=True))
    assert whole.rate < 0.1  # the rate has fallen on the way, so that it takes part in the comparison


def test_it_works_on_logits():
    assert CoSenLoss.score_kind is ScoreKind.LOGIT


@pytest.mark.parametrize(
    ("hyper_parameters", "message"),
    [
        ({"cost_rate": 1.5}, r"cost_rate must be in \[0, 1\], got 1.5"),
        ({"cost_rate": -0.1}, r"cost_rate must be in \[0, 1\], got -0.1"),
        ({"sigma": 0.0}, "sigma must be positive because it is a width, got 0.0"),
        ({"separability_every": 0}, "separability_every must be at least 1, got 0"),
    ],
)
def test_impossible_hyper_parameters_are_refused(hyper_parameters, message):
    with pytest.raises(ValueError, match=message):
        CoSenLoss(torch.ones(3), 4, **hyper_parameters)
