import pytest
import torch

from dermaffinity.heads import LinearHead, Predictions
from dermaffinity.refit import LearnableScaling


def view(head: LinearHead, embedding: torch.Tensor, labels: torch.Tensor) -> Predictions:
    with torch.inference_mode():  # as a trainer predicts
        output = head(embedding)
        return Predictions(output.scores, head.probabilities(output), embedding.clone(), output.centers, labels.clone())


def head_with(weight: list[list[float]], bias: list[float]) -> LinearHead:
    head = LinearHead(len(weight[0]), len(weight))
    head.linear.weight.data, head.linear.bias.data = torch.tensor(weight), torch.tensor(bias)
    return head


def trained() -> tuple[LinearHead, torch.Tensor, torch.Tensor]:
    """A head that was fitted to few images of class 2."""
    torch.manual_seed(0)
    labels = torch.tensor([0] * 40 + [1] * 12 + [2] * 4)
    embedding = torch.randn(3, 5)[labels] + torch.randn(len(labels), 5)
    head = LinearHead(5, 3)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.5)
    for _ in range(100):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head(embedding).scores, labels).backward()
        optimizer.step()
    return head, embedding, labels


def test_worked_example():
    # Logits (1, 0) for two images of class 0 and (0, 1) for one of class 1: by symmetry one factor s for both, where
    # the derivative of log(1 + exp(-s)) + λ s² is zero: s = 2 for λ = 1/(4 (1 + e²)). Weights and bias double.
    head = head_with([[0.5], [-0.5]], [0.5, 0.5])
    seen = view(head, torch.tensor([[1.0], [1.0], [-1.0]]), torch.tensor([0, 0, 1]))
    numbers = LearnableScaling(weight_decay=0.02980073050552937)(head, seen, seen, seed=0)
    assert numbers == pytest.approx({"smallest_scale": 2, "largest_scale": 2}, abs=1e-5)
    assert head.linear.weight.flatten().tolist() == pytest.approx([1, -1], abs=1e-5)
    assert head.linear.bias.tolist() == pytest.approx([1, 1], abs=1e-5)


def test_it_ends_at_a_minimum_of_a_plain_loop_of_its_objective():
    head, embedding, labels = trained()
    logits = head(embedding).scores.detach()
    weight, bias = head.linear.weight.detach().clone(), head.linear.bias.detach().clone()
    seen = view(head, embedding, labels)
    numbers = LearnableScaling(weight_decay=0.01)(head, seen, seen, seed=0)

    scale = (head.linear.bias / bias).detach().requires_grad_()
    total = 0.005 * scale.square().sum()
    for c in range(3):
        members = logits[labels == c]
        total = total - sum((scale * z).log_softmax(dim=0)[c] for z in members) / len(members) / 3
    total.backward()
    assert scale.grad.abs().max() < 1e-4
    torch.testing.assert_close(head.linear.weight, scale[:, None] * weight)
    assert numbers == pytest.approx({"smallest_scale": scale.min().item(), "largest_scale": scale.max().item()})
    assert scale.argmax() == 2  # the rare class, which answered too weakly


def test_images_that_are_told_apart_without_exception_leave_the_factors_finite():
    head = head_with([[9.0, 0.0], [0.0, 9.0]], [0.0, 0.0])
    seen = view(head, torch.eye(2), torch.arange(2))
    numbers = LearnableScaling()(head, seen, seen, seed=0)
    assert 0 < numbers["smallest_scale"] <= numbers["largest_scale"] < 3


def test_it_needs_a_weight_decay():
    with pytest.raises(ValueError, match=r"weight_decay must be positive, got 0"):
        LearnableScaling(weight_decay=0)
