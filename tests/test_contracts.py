"""What every class that a config can name must do, found by walking the package: no list by hand."""

import importlib
import inspect
import math
import pkgutil

import numpy as np
import pytest
import torch
from monai.transforms import Compose

import dermaffinity
from dermaffinity.data.augmentation import Augmentation
from dermaffinity.data.mixing import Mixing
from dermaffinity.data.transforms import EvaluationStage, Normalize
from dermaffinity.heads import Head, HeadOutput, Predictions
from dermaffinity.losses import FocalLoss, Loss
from dermaffinity.models import Backbone, Neck
from dermaffinity.refit import Refit
from dermaffinity.training.tricks import Trick

N, C, D = 6, 4, 16
COUNTS = torch.tensor([40, 20, 9, 3])
FACTS = {
    Backbone: (),
    Neck: (D,),
    Head: (D, C),
    Loss: (COUNTS, D),
    Augmentation: (24,),
    Mixing: (),
    Refit: (),
    Trick: (),
}


def concrete(base: type) -> list[type]:
    """The classes that a config can name: every subclass in the package that can be built."""
    for module in pkgutil.walk_packages(dermaffinity.__path__, "dermaffinity."):
        if module.name != "dermaffinity.__main__":
            importlib.import_module(module.name)
    found, waiting = [], [base]
    while waiting:
        waiting += (children := waiting.pop().__subclasses__())
        found += [child for child in children if child.__module__.startswith("dermaffinity.")]
    return sorted((c for c in set(found) if not inspect.isabstract(c)), key=lambda c: c.__name__)


BACKBONES, NECKS, HEADS, LOSSES, AUGMENTATIONS, MIXINGS, REFITS, TRICKS = (concrete(base) for base in FACTS)
PAIRS = [(head, loss) for head in HEADS for loss in LOSSES if head.score_kind is loss.score_kind]
named = pytest.mark.parametrize


def build(found: type):
    """An instance from its defaults; a backbone without the download."""
    base = next(base for base in FACTS if issubclass(found, base))
    without_download = {"weights": None} if "weights" in inspect.signature(found).parameters else {}
    torch.manual_seed(0)
    return found(*FACTS[base], **without_download)


def takes(refit_class: type, head_class: type) -> bool:
    try:
        build(refit_class).check(build(head_class))
    except ValueError:
        return False
    return True


REFITTED = [(head, refit) for head in HEADS for refit in REFITS if takes(refit, head)]


def labels() -> torch.Tensor:
    return torch.arange(N) % C


def embeddings() -> torch.Tensor:
    """Of about unit length, so that no similarity underflows."""
    return torch.randn(N, D, generator=torch.Generator().manual_seed(1)) * D**-0.5


def test_something_is_found_of_every_kind():
    assert all((BACKBONES, NECKS, HEADS, LOSSES, AUGMENTATIONS, MIXINGS, REFITS, TRICKS, PAIRS, REFITTED))


@named("found", [*BACKBONES, *NECKS, *HEADS, *LOSSES, *AUGMENTATIONS, *MIXINGS, *REFITS, *TRICKS])
def test_a_class_is_documented_and_its_hyper_parameters_are_keyword_only_with_defaults(found):
    assert found.__doc__
    assert len(found.__doc__.strip()) > 10
    assert "__doc__" in vars(found)
    base = next(base for base in FACTS if issubclass(found, base))
    parameters = list(inspect.signature(found).parameters.values())
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    options = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert len(positional) == len(FACTS[base])
    assert len(positional) + len(options) == len(parameters), "no *args or **kwargs"
    assert all(p.default is p.empty for p in positional)
    assert all(p.default is not p.empty and p.annotation is not p.empty for p in options)
    assert all(f"{p.name}:" in found.__doc__ for p in options), "every hyper-parameter is explained"


@named("found", [*BACKBONES, *NECKS, *HEADS, *LOSSES])
def test_a_state_dict_restores_a_module_exactly(found):
    first, second = build(found), build(found)
    with torch.no_grad():
        for tensor in first.state_dict().values():
            tensor.add_(torch.ones_like(tensor))
    second.load_state_dict(first.state_dict())
    restored = second.state_dict()
    assert all(torch.equal(tensor, restored[name]) for name, tensor in first.state_dict().items())


@named("found", [*BACKBONES, *NECKS, *HEADS, *LOSSES])
def test_building_touches_no_random_state_but_torchs(found):
    import random

    before = random.getstate(), np.random.get_state()[1].tolist()
    build(found)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


@named("found", BACKBONES)
def test_a_backbone_gives_its_number_of_features_and_a_gradient(found):
    backbone, images = build(found), torch.randn(3, 3, 32, 32)
    features = backbone(images)
    assert features.shape == (3, backbone.num_features)
    features.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in backbone.parameters())
    backbone.eval()
    torch.testing.assert_close(backbone(images[:1]), backbone(images)[:1], rtol=1e-3, atol=1e-4)


@named("found", NECKS)
def test_a_neck_gives_its_embedding_and_in_evaluation_takes_a_batch_of_one(found):
    neck = build(found)
    features = torch.randn(N, D, requires_grad=True)
    embedding = neck(features)
    assert embedding.shape == (N, neck.embedding_dim)
    (embedding * torch.randn_like(embedding)).sum().backward()
    assert torch.isfinite(features.grad).all()
    assert features.grad.abs().max() > 1e-3
    neck.eval()
    torch.testing.assert_close(neck(features[:1]), neck(features)[:1])


@named("found", HEADS)
def test_a_head_gives_scores_centers_and_probabilities_that_sum_to_1(found):
    head = build(found).eval()
    output = head(embeddings())
    assert output.scores.shape == (N, C)
    assert torch.equal(output.embedding, embeddings())
    assert (output.centers.shape[0], output.centers.shape[2]) == (C, D)
    probabilities = head.probabilities(output)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(N))
    assert torch.equal(probabilities.argmax(dim=1), output.scores.argmax(dim=1))
    one = head(embeddings()[:1])
    torch.testing.assert_close(head.probabilities(one), probabilities[:1])


@named("found", HEADS)
def test_a_head_takes_embeddings_that_are_far_away_or_all_alike(found):
    head = build(found)
    for embedding in (1e4 * embeddings(), torch.zeros(N, D), embeddings()[:1].repeat(N, 1)):
        probabilities = head.probabilities(head(embedding))
        torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(N))


@named("found", HEADS)
@named(("embedding_dim", "num_classes"), [(0, 2), (D, 1)])
def test_a_head_needs_a_dimension_and_two_classes(found, embedding_dim, num_classes):
    with pytest.raises(ValueError, match="a head needs at least 1 embedding dimension and 2 classes"):
        found(embedding_dim, num_classes)


@named(("head_class", "loss_class"), PAIRS)
@named("number", [1, C, N])
def test_a_pair_gives_named_finite_scalars_and_a_gradient_into_the_embedding(head_class, loss_class, number):
    head, loss = build(head_class), build(loss_class)
    embedding = embeddings()[:number].requires_grad_()
    loss.on_epoch_start(0, 5)
    terms = loss(head(embedding), labels()[:number])
    assert terms
    assert all(term.shape == () and torch.isfinite(term) for term in terms.values())
    sum(terms.values()).backward()
    assert torch.isfinite(embedding.grad).all()
    # Focal loss means to let go of images that are told well.
    floor = 0 if loss_class is FocalLoss else 1e-4
    assert (embedding.grad.abs().amax(dim=1) > floor).all(), "every image must pull at its embedding"
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())


@named(("head_class", "loss_class"), PAIRS)
def test_steps_down_the_gradient_lower_the_objective(head_class, loss_class):
    head, loss = build(head_class), build(loss_class)
    optimizer = torch.optim.SGD([*head.parameters(), *loss.parameters()], lr=0.1)

    def objective() -> torch.Tensor:
        return sum(loss(head(embeddings()), labels()).values())

    first = objective().item()
    for _ in range(50):
        optimizer.zero_grad()
        objective().backward()
        optimizer.step()
    assert objective().item() < 0.98 * first


@named(("head_class", "loss_class"), PAIRS)
def test_an_epoch_end_gives_finite_numbers_and_a_restored_loss_goes_on_the_same(head_class, loss_class):
    head, first, second = build(head_class).eval(), build(loss_class), build(loss_class)
    with torch.no_grad():
        output = head(embeddings())
        # Spread over [0, 1], so that no detector of a plateau stops the test.
        scores = torch.rand(N, C, generator=torch.Generator().manual_seed(2))
        validation = Predictions(scores, head.probabilities(output), output.embedding, output.centers, labels())
    for epoch in range(2):
        watched = first.on_epoch_end(epoch, validation)
        assert all(isinstance(value, float) and math.isfinite(value) for value in watched.values())
    fresh = build(loss_class).state_dict()
    changed = any(not torch.equal(tensor, fresh[name]) for name, tensor in first.state_dict().items())
    assert changed == loss_class.learns_from_validation
    second.load_state_dict(first.state_dict())
    for epoch in range(2, 5):
        for loss in (first, second):
            loss.on_epoch_start(epoch, 5)
            loss.on_epoch_end(epoch, validation)
    again = second.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.state_dict().items())
    assert first(HeadOutput(*output), labels()) == second(HeadOutput(*output), labels())


@named("found", LOSSES)
@named("class_counts", [[3, 0, 2], [3, -1], [5], [[1, 2], [3, 4]]])
def test_a_loss_needs_a_positive_number_of_images_for_each_of_two_classes(found, class_counts):
    with pytest.raises(ValueError, match="a positive number of training images for each of at least 2 classes"):
        found(torch.tensor(class_counts), D)


@named("found", AUGMENTATIONS)
def test_an_augmentation_that_is_not_random_is_the_evaluation_stage(found):
    image = np.random.default_rng(0).integers(0, 256, (24, 37, 3), dtype=np.uint8)
    transform = Compose([build(found), Normalize()]).set_random_state(seed=5)
    assert torch.equal(transform(image), EvaluationStage(24)(image)) != found.random


@named("found", AUGMENTATIONS)
def test_an_augmentation_gives_a_square_tensor_that_repeats_with_its_seed(found):
    image = np.random.default_rng(0).integers(0, 256, (24, 37, 3), dtype=np.uint8)
    first, second = (Compose([build(found), Normalize()]).set_random_state(seed=5) for _ in range(2))
    for _ in range(3):
        augmented = first(image)
        assert augmented.shape == (3, 24, 24)
        assert augmented.dtype == torch.float32
        assert torch.equal(augmented, second(image))


@named("found", MIXINGS)
def test_a_mixing_gives_a_batch_that_repeats_with_its_generator(found):
    mixing, images, classes = build(found), torch.rand(N, 3, 8, 8), labels()
    before, state = images.clone(), torch.get_rng_state()
    first, second, other = (mixing(images, classes, COUNTS, torch.Generator().manual_seed(s)) for s in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), state), "everything random comes from the generator"
    assert torch.equal(images, before)
    assert torch.equal(classes, labels())
    assert first.images.shape == images.shape
    assert first.labels.shape == first.other_labels.shape == (N,)
    assert set(first.labels.tolist()) | set(first.other_labels.tolist()) <= set(range(C))
    assert 0 <= first.share <= 1
    assert first.share == second.share
    assert all(torch.equal(a, b) for a, b in zip(first[:3], second[:3], strict=True))
    assert first.share != other.share


@named("found", MIXINGS)
def test_a_mixing_takes_a_batch_of_one_image(found):
    mixed = build(found)(torch.rand(1, 3, 8, 8), torch.tensor([2]), COUNTS, torch.Generator().manual_seed(0))
    assert mixed.labels.tolist() == mixed.other_labels.tolist() == [2]


def refitted(head_class: type, refit_class: type, seed: int) -> tuple[Head, Predictions, dict[str, float]]:
    """A head after a refit on random predictions, the predictions, and what the refit says."""
    head, generator = build(head_class).eval(), torch.Generator().manual_seed(3)
    classes = torch.repeat_interleave(torch.arange(C), COUNTS)
    with torch.inference_mode():  # as a trainer predicts
        embedding = torch.randn(C, D, generator=generator)[classes] + torch.randn(len(classes), D, generator=generator)
        output = head(embedding)
        probabilities, centers = head.probabilities(output), output.centers.clone()
        seen = Predictions(output.scores, probabilities, output.embedding, centers, classes.clone())
    before = [tensor.clone() for tensor in seen]
    numbers = build(refit_class)(head, seen, seen, seed=seed)
    assert all(torch.equal(a, b) for a, b in zip(before, seen, strict=True)), "predictions stay as they are"
    return head, seen, numbers


@named(("head_class", "refit_class"), REFITTED)
def test_a_refit_leaves_a_head_that_gives_finite_probabilities(head_class, refit_class):
    head, seen, numbers = refitted(head_class, refit_class, seed=0)
    assert all(isinstance(value, float) and math.isfinite(value) for value in numbers.values())
    assert {name: tensor.shape for name, tensor in head.state_dict().items()} == {
        name: tensor.shape for name, tensor in build(head_class).state_dict().items()
    }
    assert all(p.is_leaf and p.requires_grad and p.dtype == torch.float32 for p in head.parameters())
    with torch.no_grad():
        probabilities = head.probabilities(head(seen.embedding))
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(len(probabilities)))
    assert not torch.equal(probabilities, seen.probabilities), "something has changed"


@named(("head_class", "refit_class"), REFITTED)
def test_a_refit_is_the_same_for_the_same_seed_and_touches_no_random_state(head_class, refit_class):
    first, seen, said = refitted(head_class, refit_class, seed=7)
    second, _, repeated = refitted(head_class, refit_class, seed=7)
    assert said == repeated
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    refit, state = build(refit_class), torch.get_rng_state()
    refit(first, seen, seen, seed=7)
    assert torch.equal(torch.get_rng_state(), state)
