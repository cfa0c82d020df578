import pytest
import torch

from dermaffinity.heads import LinearHead, Predictions
from dermaffinity.refit import TauNormalization


def view(head: LinearHead, embedding: torch.Tensor, labels: torch.Tensor) -> Predictions:
    with torch.inference_mode():  # as a trainer predicts
        output = head(embedding)
        return Predictions(output.scores, head.probabilities(output), embedding.clone(), output.centers, labels.clone())


def head_with(weight: list[list[float]], bias: list[float]) -> LinearHead:
    head = LinearHead(len(weight[0]), len(weight))
    head.linear.weight.data, head.linear.bias.data = torch.tensor(weight), torch.tensor(bias)
    return head


def refitted(head: LinearHead, embedding: torch.Tensor, labels: torch.Tensor, **options) -> dict[str, float]:
    seen = view(head, embedding, labels)
    return TauNormalization(**options)(head, seen, seen, seed=0)


@pytest.mark.parametrize(("tau", "expected"), [(0.5, [[4.0, 0.0], [1.2, 1.6]]), (1.0, [[1.0, 0.0], [0.6, 0.8]])])
def test_worked_example(tau, expected):
    # Lengths 16 and 4, divided by their roots 4 and 2, or by themselves.
    head = head_with([[16.0, 0.0], [2.4, 3.2]], [1.0, -1.0])
    assert refitted(head, torch.eye(2), torch.arange(2), tau=tau) == {"tau": tau}
    torch.testing.assert_close(head.linear.weight.data, torch.tensor(expected))
    assert head.linear.bias.tolist() == [0, 0]


def test_tau_0_leaves_the_weights_as_they_are():
    head = LinearHead(4, 3)
    before = head.linear.weight.detach().clone()
    refitted(head, torch.randn(6, 4), torch.arange(6) % 3, tau=0)
    assert torch.equal(head.linear.weight, before)


def test_the_smallest_of_the_best_taus_is_chosen_by_balanced_accuracy():
    # Class 0 has the direction (1, 0) and length 10, class 1 (0, 1) and length 1. The one image of class 1 at (1, 3)
    # becomes class 1 when 10^(1 - tau) < 3, that is tau > 0.523; the four of class 0, at (1, 0.5), never change.
    head = head_with([[10.0, 0.0], [0.0, 1.0]], [0.0, 0.0])
    embedding = torch.tensor([[1.0, 0.5]] * 4 + [[1.0, 3.0]])
    assert refitted(head, embedding, torch.tensor([0, 0, 0, 0, 1])) == {"tau": 0.6}
    torch.testing.assert_close(head.linear.weight[0, 0].item(), 10**0.4)


def test_the_choice_is_that_of_a_plain_loop():
    torch.manual_seed(0)
    labels = torch.tensor([0] * 30 + [1] * 10 + [2] * 3)
    means = torch.randn(3, 4)
    embedding, head = means[labels] + torch.randn(43, 4), LinearHead(4, 3)
    head.linear.weight.data = means * torch.tensor([[8.0], [3.0], [1.0]])  # the common classes' vectors are the longer
    weight = head.linear.weight.detach().clone()
    best, chosen = -1.0, 0.0
    for step in range(21):
        scaled = torch.stack([w / w.norm() ** (step / 10) for w in weight])
        predicted = (embedding @ scaled.T).argmax(dim=1)
        recalls = [(predicted[labels == c] == c).double().mean().item() for c in range(3)]
        if sum(recalls) > best:
            best, chosen = sum(recalls), step / 10
    assert refitted(head, embedding, labels) == {"tau": chosen}
    assert chosen > 0


def test_a_class_without_weights_gives_no_nan():
    head = head_with([[0.0, 0.0], [0.0, 1.0]], [0.0, 0.0])
    refitted(head, torch.eye(2), torch.arange(2), tau=2.0)
    assert torch.isfinite(head.linear.weight).all()


def test_it_refuses_a_negative_tau():
    with pytest.raises(ValueError, match=r"tau must be at least 0, or None .*, got -1"):
        TauNormalization(tau=-1)
