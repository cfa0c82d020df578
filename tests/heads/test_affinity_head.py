import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from dermaffinity.heads import AffinityHead, Head, ScoreKind
from dermaffinity.heads import centers as module


def head_at(centers: torch.Tensor, **hyper_parameters) -> AffinityHead:
    """A head with given centers (C, M, D), in their precision."""
    num_classes, centers_per_class, dim = centers.shape
    head = AffinityHead(dim, num_classes, centers_per_class=centers_per_class, **hyper_parameters)
    head.centers.data = centers
    return head


def similarity_by_loops(embedding, centers, sigma, distance="l2", similarity="gaussian"):
    """Eq. 3 and 9 in plain Python."""
    power = 2 if distance == "l2" else 1
    scores = []
    for f in embedding.tolist():
        row = []
        for own in centers.tolist():
            best = 0.0
            for w in own:
                d = sum(abs(a - b) ** power for a, b in zip(f, w, strict=True)) / sigma
                best = max(best, math.exp(-d) if similarity == "gaussian" else 1 / (1 + d))
            row.append(best)
        scores.append(row)
    return torch.tensor(scores, dtype=embedding.dtype)


def test_worked_example():
    # Class 0 at (0,0) and (3,0), class 1 at (0,4) and (9,9); f = (0,1); sigma 2.
    # Nearest: d = 1 for class 0, d = 9 for class 1.
    centers = torch.tensor([[[0.0, 0.0], [3.0, 0.0]], [[0.0, 4.0], [9.0, 9.0]]])
    head = head_at(centers, sigma=2.0)

    output = head(torch.tensor([[0.0, 1.0]]))

    assert output.scores[0].tolist() == pytest.approx([math.exp(-0.5), math.exp(-4.5)])
    # exp(-0.5) / (exp(-0.5) + exp(-4.5)) = 1 / (1 + exp(-4))
    assert head.probabilities(output)[0, 0].item() == pytest.approx(1 / (1 + math.exp(-4)))


@pytest.mark.parametrize("distance", ["l2", "l1"])
@pytest.mark.parametrize("similarity", ["gaussian", "inverse"])
@pytest.mark.parametrize("centers_per_class", [1, 4])
def test_scores_equal_a_plain_loop_of_the_formula(distance, similarity, centers_per_class):
    torch.manual_seed(0)
    centers = torch.randn(3, centers_per_class, 5, dtype=torch.float64)
    embedding = torch.randn(6, 5, dtype=torch.float64)
    head = head_at(centers, sigma=3.0, distance=distance, similarity=similarity)
    torch.testing.assert_close(
        head(embedding).scores, similarity_by_loops(embedding, centers, 3.0, distance, similarity)
    )


@given(st.integers(0, 2**20), st.floats(0.01, 100))
@settings(deadline=None, max_examples=15)
def test_similarities_lie_in_0_to_1_and_are_1_at_a_center(seed, sigma):
    torch.manual_seed(seed)
    head = AffinityHead(4, 3, sigma=sigma)
    scores = head(torch.cat([torch.randn(5, 4), head.centers[1, 2:3].detach()])).scores
    assert ((scores >= 0) & (scores <= 1)).all()
    assert scores[5, 1] == 1


@pytest.mark.parametrize("distance", ["l2", "l1"])
@pytest.mark.parametrize("similarity", ["gaussian", "inverse"])
@pytest.mark.parametrize("unit_centers", [False, True])
def test_gradients_are_those_of_finite_differences(distance, similarity, unit_centers):
    torch.manual_seed(0)
    head = AffinityHead(3, 2, centers_per_class=2, distance=distance, similarity=similarity, unit_centers=unit_centers)
    head.double()
    embedding = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)

    def scores(embedding, centers):
        return torch.func.functional_call(head, {"centers": centers}, embedding).scores

    assert torch.autograd.gradcheck(scores, (embedding, head.centers))


def test_the_gradient_at_a_center_is_zero_and_not_nan():
    head = AffinityHead(3, 2, centers_per_class=1)
    embedding = head.centers[0].detach().clone().requires_grad_()
    head(embedding).scores[0, 0].backward()
    assert torch.equal(embedding.grad, torch.zeros(1, 3))


def test_the_order_of_centers_within_a_class_is_irrelevant_and_that_of_classes_only_moves_columns():
    torch.manual_seed(0)
    head, embedding = AffinityHead(6, 4, centers_per_class=3), torch.randn(5, 6)
    scores = head(embedding).scores
    classes = torch.tensor([2, 0, 3, 1])
    shuffled = head_at(head.centers.detach()[classes][:, [1, 2, 0]])
    assert torch.equal(shuffled(embedding).scores, scores[:, classes])


@pytest.mark.parametrize("number", [1, 4])  # 4 is also the number of classes
def test_each_image_alone_equals_the_batch(number):
    torch.manual_seed(0)
    head, embedding = AffinityHead(6, 4), torch.randn(number, 6)
    output = head(embedding)
    alone = [head(row[None]) for row in embedding]
    assert torch.equal(output.scores, torch.cat([one.scores for one in alone]))
    assert torch.equal(head.probabilities(output), torch.cat([head.probabilities(one) for one in alone]))


@pytest.mark.parametrize("similarity", ["gaussian", "inverse"])
def test_far_from_every_center_probabilities_still_order_by_distance(similarity):
    head = head_at(torch.tensor([[[0.0]], [[0.1]], [[0.2]]]), sigma=1.0, similarity=similarity)
    output = head(torch.tensor([[15.0], [-15.0]]))
    probabilities = head.probabilities(output)
    if similarity == "gaussian":
        assert (output.scores == 0).all()  # otherwise this test would prove nothing
    assert probabilities[0, 0] < probabilities[0, 1] < probabilities[0, 2]
    assert probabilities[1, 0] > probabilities[1, 1] > probabilities[1, 2]
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2))


def test_underflowed_scores_leave_probabilities_their_ratio():
    # d = 200 and 201 with sigma 1: both similarities are 0 in float32, the odds are exp(1).
    head = head_at(torch.tensor([[[200.0**0.5]], [[201.0**0.5]]], dtype=torch.float32), sigma=1.0)
    output = head(torch.zeros(1, 1))
    assert output.scores.tolist() == [[0.0, 0.0]]
    assert head.probabilities(output)[0, 0].item() == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-4)


def test_unit_centers_have_length_1_in_scores_and_output():
    torch.manual_seed(0)
    head = AffinityHead(5, 3, unit_centers=True)
    head.centers.data *= 7
    output = head(torch.randn(2, 5))
    torch.testing.assert_close(output.centers.norm(dim=2), torch.ones(3, 5))
    torch.testing.assert_close(
        output.scores, similarity_by_loops(output.embedding, output.centers.detach(), 10.0), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("dim", [16, 512])
def test_new_centers_have_an_expected_squared_length_of_1(dim):
    torch.manual_seed(0)
    squared_length = AffinityHead(dim, 10).centers.square().sum(dim=2)
    assert squared_length.mean().item() == pytest.approx(1, abs=0.15)


def test_centers_start_on_images_of_their_class_each_once_while_there_are_enough():
    torch.manual_seed(0)
    head = AffinityHead(2, 2, centers_per_class=3, start="samples")
    embedding, labels = torch.randn(7, 2), torch.tensor([0, 1, 0, 0, 1, 0, 0])
    head.start_from(embedding, labels)
    chosen = [[embedding.tolist().index(center) for center in own] for own in head.centers.tolist()]
    assert head.starts_from_samples
    assert not AffinityHead(2, 2).starts_from_samples
    assert set(chosen[0]) < {0, 2, 3, 5, 6}
    assert len(set(chosen[0])) == 3
    assert set(chosen[1]) == {1, 4}  # two images for three centers: both are used
    assert head.centers.requires_grad


def test_it_gives_similarities():
    assert AffinityHead.score_kind is ScoreKind.SIMILARITY


@pytest.mark.parametrize(
    ("hyper_parameters", "message"),
    [
        ({"centers_per_class": 0}, "centers_per_class must be at least 1, got 0"),
        ({"sigma": 0.0}, "sigma must be positive because it is a width, got 0.0"),
        ({"sigma": math.nan}, "sigma must be positive because it is a width, got nan"),
        ({"start": "zeros"}, "start must be 'random' or 'samples', got 'zeros'"),
        ({"distance": "cosine"}, "distance must be 'l2' or 'l1', got 'cosine'"),
        ({"similarity": "linear"}, "similarity must be 'gaussian' or 'inverse', got 'linear'"),
    ],
)
def test_impossible_hyper_parameters_are_refused(hyper_parameters, message):
    with pytest.raises(ValueError, match=message):
        AffinityHead(8, 2, **hyper_parameters)


@pytest.mark.parametrize("distance", ["l2", "l1"])
def test_the_center_distance_is_that_behind_the_similarity(distance):
    head = AffinityHead(4, 3, centers_per_class=2, sigma=0.7, distance=distance)
    output = head(torch.randn(5, 4))
    assert torch.allclose((-head.center_distance(output) / 0.7).exp(), output.scores)
    assert torch.equal(head.center_distances(output).amin(dim=2), head.center_distance(output))
    for label, t in ((0, 1), (2, 0)):  # each center in its place, and measured as any other point would be
        point = head.distance_to(output.embedding, output.centers[label, t][None])
        assert torch.allclose(point[:, 0], head.center_distances(output)[:, label, t])


def test_a_head_that_says_nothing_else_measures_euclidean_distance():
    head = AffinityHead(4, 3, centers_per_class=2)
    output = head(torch.randn(5, 4))
    points = torch.randn(6, 4)
    euclidean, squared = (
        measure(head, output.embedding, points) for measure in (Head.distance_to, AffinityHead.distance_to)
    )
    assert torch.allclose(euclidean.square(), squared, rtol=1e-4)


@pytest.mark.parametrize("distance", ["l2", "l1"])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_with_many_centers_scores_and_gradients_are_those_of_the_direct_form(monkeypatch, distance, offset):
    torch.manual_seed(0)
    centers, embedding = torch.randn(40, 3, 16) + offset, torch.randn(5, 16) + offset
    embedding[0] = centers[7, 1]  # and distances that are small beside the vectors' own length
    embedding[1] = centers[8, 0] + 1e-3

    def scores_and_gradients():
        head = head_at(centers.clone(), sigma=5.0, distance=distance)
        moved = embedding.clone().requires_grad_()
        scores = head(moved).scores
        (scores * torch.arange(40)).sum().backward()
        return scores.detach(), moved.grad, head.centers.grad

    direct = scores_and_gradients()
    monkeypatch.setattr(module, "_DIRECT_VALUES", 0)
    monkeypatch.setattr(module, "_CENTERS_AT_A_TIME", 50)
    many = scores_and_gradients()
    assert many[0][0, 7] == 1
    torch.testing.assert_close(many[0], direct[0], rtol=2e-6, atol=1e-7)
    for found, expected in zip(many[1:], direct[1:], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3 if offset else 1e-5)


@pytest.mark.parametrize("distance", ["l2", "l1"])
def test_gradients_with_many_centers_are_those_of_finite_differences(monkeypatch, distance):
    monkeypatch.setattr(module, "_DIRECT_VALUES", 0)
    test_gradients_are_those_of_finite_differences(distance, "gaussian", True)


def test_thousands_of_identities_never_meet_a_batch_in_one_tensor_of_differences():
    class LargestTensor(TorchDispatchMode):
        values = 0

        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            result = function(*arguments, **(keywords or {}))
            made = result if isinstance(result, tuple | list) else [result]
            self.values = max([self.values, *(t.numel() for t in made if isinstance(t, torch.Tensor))])
            return result

    head, embedding = AffinityHead(64, 1000, unit_centers=True), torch.randn(32, 64, requires_grad=True)
    with LargestTensor() as largest:
        head(embedding).scores.sum().backward()
    assert largest.values == 1000 * 5 * 64  # the centers themselves; the differences would be 32 times as many
