import pytest
import torch

from dermaffinity.heads import LinearHead, ScoreKind


def set_weights(head: LinearHead, weight: list[list[float]], bias: list[float]) -> LinearHead:
    head.linear.weight.data = torch.tensor(weight)
    head.linear.bias.data = torch.tensor(bias)
    return head


def test_worked_example():
    head = set_weights(LinearHead(2, 3), [[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0]], [0.5, 0.0, 0.0])

    output = head(torch.tensor([[2.0, 3.0]]))

    assert output.scores.tolist() == [[2.5, 6.0, 1.0]]
    assert output.embedding.tolist() == [[2.0, 3.0]]
    # exp(2.5), exp(6), exp(1) over their sum
    assert head.probabilities(output)[0].tolist() == pytest.approx([0.029122, 0.964380, 0.006498], abs=1e-6)


def test_centers_are_the_class_vectors():
    head = LinearHead(4, 3)
    assert torch.equal(head(torch.randn(2, 4)).centers, head.linear.weight[:, None])  # (C, 1, D)
    assert head.score_kind is ScoreKind.LOGIT


def test_huge_logits_still_give_probabilities():
    head = set_weights(LinearHead(1, 2), [[1e4], [-1e4]], [0.0, 0.0])
    assert head.probabilities(head(torch.ones(1, 1))).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(("embedding_dim", "num_classes"), [(0, 2), (8, 1)])
def test_a_head_without_dimensions_or_a_second_class_is_refused(embedding_dim, num_classes):
    with pytest.raises(ValueError, match=f"at least 1 embedding dimension and 2 classes.*num_classes={num_classes}"):
        LinearHead(embedding_dim, num_classes)


def test_the_center_distance_is_one_minus_the_cosine_to_each_class_vector():
    head = LinearHead(2, 3)
    head.linear.weight.data = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    output = head(torch.tensor([[5.0, 0.0], [1.0, 1.0]]))
    expected = [[0.0, 1.0, 2.0], [1 - 0.5**0.5, 1 - 0.5**0.5, 1 + 0.5**0.5]]
    assert torch.allclose(head.center_distance(output), torch.tensor(expected), atol=1e-6)
