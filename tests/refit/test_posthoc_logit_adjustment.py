import math

import pytest
import torch

from dermaffinity.heads import LinearHead, Predictions
from dermaffinity.refit import PosthocLogitAdjustment


def view(head: LinearHead, embedding: torch.Tensor, labels: torch.Tensor) -> Predictions:
    with torch.inference_mode():  # as a trainer predicts
        output = head(embedding)
        return Predictions(output.scores, head.probabilities(output), embedding.clone(), output.centers, labels.clone())


def fixed(bias: list[float]) -> LinearHead:
    """Logits (f, 0) and a bias."""
    head = LinearHead(1, 2)
    head.linear.weight.data, head.linear.bias.data = torch.tensor([[1.0], [0.0]]), torch.tensor(bias)
    return head


LABELS = torch.tensor([0, 0, 0, 1])  # shares 3/4 and 1/4


@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_worked_example(tau):
    head = fixed([0.5, -0.5])
    seen = view(head, torch.zeros(4, 1), LABELS)
    assert PosthocLogitAdjustment(tau=tau)(head, seen, seen, seed=0) == {"tau": tau}
    expected = [0.5 + tau * math.log(4 / 3), -0.5 + tau * math.log(4)]
    assert head.linear.bias.tolist() == pytest.approx(expected)
    assert head.linear.weight.flatten().tolist() == [1, 0]


def test_a_network_that_knows_only_the_frequencies_knows_nothing_afterwards():
    head = fixed([math.log(3), 0.0])
    seen = view(head, torch.zeros(4, 1), LABELS)
    PosthocLogitAdjustment()(head, seen, seen, seed=0)
    assert head.probabilities(head(torch.zeros(1, 1)))[0].tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(("tau", "labels"), [(0.0, LABELS), (1.5, torch.tensor([0, 1, 0, 1]))])
def test_without_tau_or_without_imbalance_no_probability_changes(tau, labels):
    head, embedding = fixed([0.5, -0.5]), torch.randn(4, 1)
    seen = view(head, embedding, labels)
    PosthocLogitAdjustment(tau=tau)(head, seen, seen, seed=0)
    torch.testing.assert_close(head.probabilities(head(embedding)), seen.probabilities)


def test_the_smallest_of_the_best_taus_is_chosen_on_validation_with_the_shares_of_training():
    # Shares 3/4 and 1/4 take tau log 3 from the first logit; the image of class 1 has 1.5 too much of it: tau > 1.365.
    # The images of class 0 lie at 5 and stay.
    head = fixed([0.0, 0.0])
    training = view(head, torch.zeros(4, 1), LABELS)
    validation = view(head, torch.tensor([[5.0], [5.0], [1.5]]), torch.tensor([0, 0, 1]))
    assert PosthocLogitAdjustment(tau=None)(head, training, validation, seed=0) == {"tau": 1.4}
    assert head(torch.tensor([[1.5]])).scores.argmax().item() == 1


def test_where_nothing_is_gained_nothing_is_changed():
    head = fixed([0.0, 0.0])
    seen = view(head, torch.tensor([[5.0], [5.0], [5.0], [-5.0]]), LABELS)
    assert PosthocLogitAdjustment(tau=None)(head, seen, seen, seed=0) == {"tau": 0}
    assert head.linear.bias.tolist() == [0, 0]


def test_a_class_without_training_images_gives_no_infinity():
    head = fixed([0.0, 0.0])
    seen = view(head, torch.zeros(2, 1), torch.zeros(2, dtype=torch.long))
    PosthocLogitAdjustment()(head, seen, seen, seed=0)
    assert torch.isfinite(head.linear.bias).all()


def test_it_refuses_a_negative_tau():
    with pytest.raises(ValueError, match=r"tau must be at least 0, or None .*, got -1"):
        PosthocLogitAdjustment(tau=-1)
