import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from dermaffinity.heads import AffinityMixtureHead, LinearHead, Predictions
from dermaffinity.refit import GaussianAffinity

COUNTS = (90, 40, 15)


def gaussian(dim: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of three classes with one covariance, whose directions vary a hundredfold."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(COUNTS))
    root = torch.randn(dim, dim, generator=torch.Generator().manual_seed(7)) * torch.logspace(-1, 1, dim)
    means = 3 * torch.randn(3, dim, generator=torch.Generator().manual_seed(8))
    return (means[labels] + torch.randn(len(labels), dim, generator=generator)) @ root, labels


def view(head, embedding, labels) -> Predictions:
    with torch.inference_mode():  # as a trainer predicts
        output = head(embedding)
        seen = Predictions(output.scores, head.probabilities(output), embedding, output.centers, labels)
    return Predictions(*(part.clone() for part in seen))


def refitted(training, validation=None, *, centers=1, whitened=True, sigma=0.2, **options):
    embedding, labels = training
    head = AffinityMixtureHead(
        embedding.shape[1], int(labels.max()) + 1, centers_per_class=centers, sigma=sigma, whitened=whitened
    ).double()
    seen = view(head, embedding.double(), labels)
    chosen_on = seen if validation is None else view(head, validation[0].double(), validation[1])
    return head, GaussianAffinity(**options)(head, seen, chosen_on, seed=0)


def test_with_one_center_it_is_scikit_learns_discriminant_analysis_for_equal_priors():
    (embedding, labels), (new, _) = gaussian(), gaussian(seed=1)
    head, chosen = refitted((embedding, labels), shrinkage="auto")
    analysis = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=np.full(3, 1 / 3))
    analysis.fit(embedding.double().numpy(), labels.numpy())
    expected = torch.from_numpy(analysis.decision_function(new.double().numpy())) / chosen["temperature"]
    with torch.no_grad():
        output = head(new.double())
    torch.testing.assert_close(head.probabilities(output), expected.softmax(dim=1), atol=1e-6, rtol=0)
    assert (output.scores.argmax(dim=1).numpy() == analysis.predict(new.double().numpy())).all()


def test_neither_the_scale_of_a_dimension_nor_the_number_of_images_of_a_class_makes_a_difference():
    embedding, labels = gaussian()
    twice = torch.cat([embedding, embedding[labels == 0]]), torch.cat([labels, labels[labels == 0]])
    scale = torch.logspace(-2, 2, embedding.shape[1])
    first, second, third = (
        refitted(training, (validation, labels), shrinkage=0.5)[0](validation.double()).scores
        for training, validation in [
            ((embedding, labels), embedding),
            (twice, embedding),
            ((embedding * scale, labels), embedding * scale),
        ]
    )
    torch.testing.assert_close(second, first)
    torch.testing.assert_close(third, first, atol=1e-4, rtol=1e-4)


def test_full_shrinkage_leaves_the_variances_alone():
    embedding, labels = gaussian()
    head, _ = refitted((embedding, labels), shrinkage=1.0)
    off_diagonal = head.whitening - head.whitening.diag().diag()
    assert off_diagonal.abs().max() < 1e-6 * head.whitening.abs().max()


def test_shrinkage_and_temperature_are_those_that_the_validation_images_prefer():
    training, validation = gaussian(), gaussian(seed=1)
    head, chosen = refitted(training, validation)
    losses = {one / 10: refitted(training, validation, shrinkage=one / 10)[1] for one in range(1, 10)}
    assert chosen["shrinkage"] == min(losses, key=lambda one: losses[one]["validation_cross_entropy"])
    # Each class counts alike.
    log_probability = head(validation[0].double()).scores.log_softmax(dim=1)[range(len(validation[1])), validation[1]]
    by_class = [-log_probability[validation[1] == label].mean().item() for label in range(3)]
    assert chosen["validation_cross_entropy"] == pytest.approx(np.mean(by_class))


def test_several_centers_find_the_parts_of_a_class_that_one_center_cannot():
    # Class 0 lies on both sides of class 1.
    generator = torch.Generator().manual_seed(0)
    place = torch.tensor([-5.0, 5.0, 0.0]).repeat(20)
    embedding = torch.stack([place, torch.zeros(60)], dim=1) + torch.randn(60, 2, generator=generator)
    labels = (place == 0).long()
    right = [
        (refitted((embedding, labels), centers=m, shrinkage=0.1)[0](embedding.double()).scores.argmax(1) == labels)
        .double()
        .mean()
        for m in (1, 2)
    ]
    assert right[0] < 0.9
    assert right[1] > 0.95


def test_a_class_with_fewer_images_than_centers_has_some_centers_twice():
    embedding, labels = torch.randn(9, 3), torch.tensor([0] * 7 + [1] * 2)
    head, _ = refitted((embedding, labels), centers=4, shrinkage=0.5)
    assert head.centers[1].unique(dim=0).shape == (2, 3)
    assert torch.isfinite(head(embedding.double()).scores).all()


def test_a_head_that_is_not_whitened_keeps_its_distances_and_has_its_centers_on_the_means():
    embedding, labels = gaussian()
    head, chosen = refitted((embedding, labels), whitened=False)
    means = torch.stack([embedding[labels == label].double().mean(dim=0) for label in range(3)])
    torch.testing.assert_close(head.centers[:, 0], means)
    expected = (embedding.double()[:, None] - means).square().sum(dim=2) / -0.2
    torch.testing.assert_close(head(embedding.double()).scores, expected)
    assert chosen["centers_moved"] > 0


def test_a_dimension_in_which_nothing_varies_does_no_harm():
    embedding, labels = gaussian()
    head, _ = refitted((torch.cat([embedding, torch.ones(len(labels), 1)], dim=1), labels), shrinkage=0.5)
    expected, _ = refitted((embedding, labels), shrinkage=0.5)
    new = torch.cat([embedding, torch.ones(len(labels), 1)], dim=1).double()
    torch.testing.assert_close(head(new).scores, expected(embedding.double()).scores, atol=1e-5, rtol=1e-5)


def test_what_it_cannot_change_or_use_is_refused():
    with pytest.raises(ValueError, match=r"LinearHead has no 'whitening'; use dermaffinity\.heads\.Affinity"):
        GaussianAffinity().check(LinearHead(4, 2))
    with pytest.raises(ValueError, match=r"shrinkage must be in \(0, 1\], 'auto', or None, got 1.5"):
        GaussianAffinity(shrinkage=1.5)
