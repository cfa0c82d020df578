import copy
import math

import pytest
import torch

from dermaffinity.heads import HeadOutput
from dermaffinity.losses import CenterLoss


def output(embedding: torch.Tensor, scores: torch.Tensor) -> HeadOutput:
    return HeadOutput(scores, embedding, torch.zeros(scores.shape[1], 1, embedding.shape[1]))


def plain_loop(batches, num_classes: int, dim: int, weight: float, rate: float):
    """Algorithm 1 of the paper, number by number: the terms of each batch, and the centers after the last."""
    centers = [[0.0] * dim for _ in range(num_classes)]
    terms = []
    for embedding, scores, labels in batches:
        entropy = distance = 0.0
        for f, z, y in zip(embedding.tolist(), scores.tolist(), labels.tolist(), strict=True):
            entropy += math.log(sum(math.exp(value) for value in z)) - z[y]
            distance += sum((a - c) ** 2 for a, c in zip(f, centers[y], strict=True))
        terms.append((entropy / len(labels), weight / 2 * distance / len(labels)))
        for j in range(num_classes):
            members = [f for f, y in zip(embedding.tolist(), labels.tolist(), strict=True) if y == j]
            step = [sum(centers[j][d] - f[d] for f in members) / (1 + len(members)) for d in range(dim)]
            centers[j] = [c - rate * s for c, s in zip(centers[j], step, strict=True)]
    return terms, centers


def batches(number: int = 4, size: int = 9, classes: int = 4, dim: int = 3):
    generator = torch.Generator().manual_seed(0)
    for _ in range(number):
        yield (
            3 * torch.randn(size, dim, generator=generator),
            torch.randn(size, classes, generator=generator),
            torch.randint(classes - 1, (size,), generator=generator),  # the last class has no image
        )


def test_terms_and_centers_are_those_of_a_plain_loop():
    loss = CenterLoss(torch.ones(4), 3, center_weight=0.1, center_rate=0.4)
    expected, centers = plain_loop(batches(), 4, 3, 0.1, 0.4)
    for (embedding, scores, labels), (entropy, distance) in zip(batches(), expected, strict=True):
        terms = loss(output(embedding, scores), labels)
        assert terms["cross_entropy"].item() == pytest.approx(entropy, rel=1e-5)
        assert terms["center"].item() == pytest.approx(distance, rel=1e-5)
    torch.testing.assert_close(loss.centers, torch.tensor(centers))
    assert (loss.centers[3] == 0).all()


def test_worked_example():
    # From the origin (3, 4) is 5 away: 0.01 / 2 * 25 = 0.125; its center moves by 0.5 * (3, 4) / 2.
    loss = CenterLoss(torch.ones(2), 2, center_weight=0.01)
    terms = loss(output(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)), torch.tensor([1]))
    assert terms["center"].item() == pytest.approx(0.125)
    assert terms["cross_entropy"].item() == pytest.approx(math.log(2))
    assert loss.centers.tolist() == [[0, 0], [0.75, 1.0]]


def test_the_gradient_is_the_weighted_mean_distance_to_the_centers_before_the_batch():
    loss = CenterLoss(torch.ones(2), 2, center_weight=0.3)
    loss.centers = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    before = loss.centers.clone()
    embedding, labels = torch.randn(5, 2, requires_grad=True), torch.tensor([0, 1, 1, 0, 1])
    loss(output(embedding, torch.zeros(5, 2)), labels)["center"].backward()
    torch.testing.assert_close(embedding.grad, 0.3 / 5 * (embedding.detach() - before[labels]))
    assert not torch.equal(loss.centers, before)


def test_without_weight_it_is_cross_entropy_and_in_evaluation_the_centers_rest():
    loss = CenterLoss(torch.ones(4), 3, center_weight=0).eval()
    embedding, scores, labels = next(batches())
    terms = loss(output(embedding, scores), labels)
    assert terms["center"] == 0
    assert terms["cross_entropy"].item() == pytest.approx(torch.nn.functional.cross_entropy(scores, labels).item())
    assert (loss.centers == 0).all()


def test_centers_come_to_the_means_of_their_classes():
    loss = CenterLoss(torch.ones(2), 2)
    embedding, labels = torch.tensor([[1.0, 2.0], [3.0, 4.0], [-5.0, 0.0]]), torch.tensor([0, 0, 1])
    for _ in range(200):
        loss(output(embedding, torch.zeros(3, 2)), labels)
    torch.testing.assert_close(loss.centers, torch.tensor([[2.0, 3.0], [-5.0, 0.0]]))


def test_a_copy_goes_on_from_the_same_centers():
    loss = CenterLoss(torch.ones(4), 3)
    first, second = list(batches(2))
    loss(output(*first[:2]), first[2])
    restored = CenterLoss(torch.ones(4), 3)
    restored.load_state_dict(copy.deepcopy(loss.state_dict()))
    assert torch.equal(
        loss(output(*second[:2]), second[2])["center"], restored(output(*second[:2]), second[2])["center"]
    )
    assert torch.equal(loss.centers, restored.centers)


@pytest.mark.parametrize(("option", "value"), [("center_weight", -0.1), ("center_rate", 1.5), ("center_rate", -0.1)])
def test_impossible_hyper_parameters_are_refused(option, value):
    with pytest.raises(ValueError, match=f"{option} must be"):
        CenterLoss(torch.ones(2), 2, **{option: value})
