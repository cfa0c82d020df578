import pytest
import torch

from dermaffinity.heads import Head, HeadOutput, LinearHead, Predictions, ScoreKind
from dermaffinity.refit import ClassifierRetraining


def view(head: Head, embedding: torch.Tensor, labels: torch.Tensor) -> Predictions:
    with torch.inference_mode():  # as a trainer predicts
        output = head(embedding)
        return Predictions(output.scores, head.probabilities(output), embedding.clone(), output.centers, labels.clone())


def images(counts=(40, 12, 4), dim: int = 5, apart: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    means = apart * torch.randn(len(counts), dim, generator=generator)
    return means[labels] + torch.randn(len(labels), dim, generator=generator), labels


def retrained(embedding, labels, **options) -> tuple[LinearHead, dict[str, float]]:
    head = LinearHead(embedding.shape[1], int(labels.max()) + 1)
    seen = view(head, embedding, labels)
    return head, ClassifierRetraining(**options)(head, seen, seen, seed=0)


def objective_by_loops(weight, bias, embedding, labels, weight_decay):
    """The formula of the docstring, image by image."""
    total = torch.zeros(())
    for c in range(len(bias)):
        members = embedding[labels == c]
        total = total - sum((weight @ f + bias).log_softmax(dim=0)[c] for f in members) / len(members) / len(bias)
    return total + weight_decay / 2 * weight.square().sum()


def test_worked_example():
    # Three images at 1, one at -1: by symmetry w = (v, -v) and no bias, because each class counts alike. Of
    # log(1 + exp(-2v)) + λ v² the derivative -2/(1 + exp(2v)) + 2λv is zero at v = 1 for λ = 1/(1 + e²).
    embedding, labels = torch.tensor([[1.0], [1.0], [1.0], [-1.0]]), torch.tensor([0, 0, 0, 1])
    head, _ = retrained(embedding, labels, weight_decay=0.1192029220221175)
    assert head.linear.weight.flatten().tolist() == pytest.approx([1, -1], abs=1e-5)
    assert head.linear.bias.tolist() == pytest.approx([0, 0], abs=1e-5)


@pytest.mark.parametrize("apart", [1.0, 20.0])  # overlapping, separable
def test_it_ends_at_a_minimum_of_a_plain_loop_of_its_objective(apart):
    embedding, labels = images(apart=apart)
    head, numbers = retrained(embedding, labels, weight_decay=0.01)
    weight, bias = (p.detach().clone().requires_grad_() for p in head.linear.parameters())
    value = objective_by_loops(weight, bias, embedding, labels, 0.01)
    value.backward()
    assert numbers["retraining_objective"] == pytest.approx(value.item(), rel=1e-4)
    assert max(weight.grad.abs().max().item(), bias.grad.abs().max().item()) < 1e-4


def test_each_class_counts_alike_however_many_images_it_has():
    embedding, labels = images()
    often = torch.cat([embedding, embedding[labels == 0].repeat(3, 1)])
    more = torch.cat([labels, torch.zeros(120, dtype=torch.long)])
    first, _ = retrained(embedding, labels)
    second, _ = retrained(often, more)
    torch.testing.assert_close(first.linear.weight, second.linear.weight, atol=1e-3, rtol=1e-3)


def test_neither_what_the_head_was_nor_the_seed_makes_a_difference():
    embedding, labels = images()
    weights = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        head = LinearHead(5, 3)
        ClassifierRetraining()(head, view(head, embedding, labels), view(head, embedding, labels), seed=seed)
        weights.append(head.linear.weight)
    assert torch.equal(*weights)


def test_embeddings_of_the_size_of_a_resnets_are_fitted():
    embedding, labels = images(counts=(200, 60, 16), dim=512)
    embedding = 20 * embedding.relu() / embedding.relu().norm(dim=1, keepdim=True)
    head, numbers = retrained(embedding, labels)
    assert (head(embedding).scores.argmax(dim=1) == labels).all()
    assert numbers["retraining_objective"] < 0.05


class Bare(Head):
    """A head without a linear layer."""

    score_kind = ScoreKind.LOGIT

    def forward(self, embedding):
        return HeadOutput(embedding[:, : self.num_classes], embedding, embedding[: self.num_classes, None])

    def probabilities(self, output):
        return output.scores.softmax(dim=1)


def test_a_head_without_a_linear_layer_is_refused():
    with pytest.raises(
        ValueError, match=r"Bare has no nn\.Linear called 'linear'; use dermaffinity\.heads\.LinearHead"
    ):
        ClassifierRetraining().check(Bare(5, 3))


def test_it_needs_a_weight_decay():
    with pytest.raises(ValueError, match=r"weight_decay must be positive, got 0"):
        ClassifierRetraining(weight_decay=0)


def test_standardized_the_scale_of_a_dimension_makes_no_difference_and_without_it_does():
    embedding, labels = images()
    scale, shift = torch.logspace(-2, 2, 5), torch.tensor([3.0, -2.0, 0.0, 1.0, 50.0])
    for standardized in (True, False):
        options = {"weight_decay": 0.1, "standardized": standardized}
        first, _ = retrained(embedding, labels, **options)
        second, _ = retrained(embedding * scale + shift, labels, **options)
        scores = first(embedding).scores, second(embedding * scale + shift).scores
        assert torch.allclose(*scores, atol=1e-2) == standardized


def test_the_weight_decay_that_is_chosen_is_the_best_on_validation_images():
    (embedding, labels), wild = images(counts=(20, 8, 4), dim=12), torch.Generator().manual_seed(5)
    validation = embedding + torch.randn(embedding.shape, generator=wild)
    losses, chosen = {}, None
    for decay in (None, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001):
        head = LinearHead(12, 3)
        seen = view(head, embedding, labels), view(head, validation, labels)
        numbers = ClassifierRetraining(weight_decay=decay)(head, *seen, seed=0)
        chosen = chosen or numbers["weight_decay"]
        log_probability = head(validation).scores.log_softmax(dim=1)[range(len(labels)), labels].detach()
        losses[decay] = sum(-log_probability[labels == label].mean().item() for label in range(3)) / 3
    best_first = losses.pop(None)
    assert chosen == min(losses, key=losses.__getitem__)
    assert best_first == pytest.approx(losses[chosen], abs=1e-3)
