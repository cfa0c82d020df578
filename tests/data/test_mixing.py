import pytest
import torch

from dermaffinity.data import mixing as module
from dermaffinity.data.mixing import Mixup, Remix

COUNTS = torch.tensor([30, 10, 9])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(number: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(number, 3, 4, 4, generator=generator()), torch.arange(number) % 3


def with_share(monkeypatch, share: float, order: list[int] | None = None) -> None:
    """The draws of a test: the share, and which image each one is mixed with."""
    monkeypatch.setattr(module, "_beta", lambda alpha, generator: torch.tensor(share))
    if order is not None:
        monkeypatch.setattr(torch, "randperm", lambda number, generator: torch.tensor(order))


@pytest.mark.parametrize("found", [Mixup, Remix])
def test_worked_example_of_the_images(monkeypatch, found):
    with_share(monkeypatch, 0.75, [1, 0])
    images = torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)])
    mixed = found()(images, torch.tensor([1, 2]), COUNTS, generator())
    assert mixed.images[:, 0, 0, 0].tolist() == [0.25, 0.75]
    assert mixed.labels.tolist() == [1, 2]
    assert mixed.other_labels.tolist() == [2, 1]
    assert mixed.share == 0.75


@pytest.mark.parametrize("found", [Mixup, Remix])
def test_each_image_is_mixed_with_the_one_whose_label_it_is_given(found):
    images, labels = batch()
    # An image that says its label: all its pixels are it.
    images = labels[:, None, None, None].expand(-1, 3, 4, 4).float()
    equal = torch.full((3,), 10)  # with equal counts, no label is dropped
    for seed in range(5):
        mixed = found(alpha=1.0)(images, labels, equal, generator(seed))
        expected = mixed.share * mixed.labels + (1 - mixed.share) * mixed.other_labels
        torch.testing.assert_close(mixed.images[:, 0, 0, 0], expected.float())
        assert torch.equal(mixed.labels, labels)
        assert mixed.other_labels.sort().values.tolist() == labels.sort().values.tolist()


def test_a_share_of_1_is_the_originals_and_of_0_the_others(monkeypatch):
    images, labels = batch()
    with_share(monkeypatch, 1.0)
    whole = Mixup()(images, labels, COUNTS, generator())
    torch.testing.assert_close(whole.images, images)
    with_share(monkeypatch, 0.0)
    none = Mixup()(images, labels, COUNTS, generator())
    other = torch.randperm(len(images), generator=generator())
    torch.testing.assert_close(none.images, images[other])
    assert torch.equal(none.other_labels, labels[other])


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize(("imbalance", "smallest_share"), [(3.0, 0.5), (1.0, 0.3), (3.2, 0.9), (2.0, 0.0)])
def test_the_labels_of_remix_are_those_of_a_plain_loop(monkeypatch, share, imbalance, smallest_share):
    pairs = [(i, j) for i in range(3) for j in range(3)]
    labels = torch.tensor([i for i, _ in pairs] + [j for _, j in pairs])
    order = [(k + 9) % 18 for k in range(18)]
    with_share(monkeypatch, share, order)
    mixed = Remix(imbalance=imbalance, smallest_share=smallest_share)(torch.zeros(18, 3, 2, 2), labels, COUNTS, None)
    for k in range(18):
        own, other = labels[k].item(), labels[order[k]].item()
        ratio = COUNTS[own].item() / COUNTS[other].item()
        # Eq. 6: what the label of the image itself counts.
        weight = share
        if ratio >= imbalance and share < smallest_share:
            weight = 0.0
        elif ratio <= 1 / imbalance and 1 - share < smallest_share:
            weight = 1.0
        counted = torch.zeros(3)
        counted[mixed.labels[k]] += mixed.share
        counted[mixed.other_labels[k]] += 1 - mixed.share
        expected = torch.zeros(3)
        expected[own] += weight
        expected[other] += 1 - weight
        torch.testing.assert_close(counted, expected)


def test_a_little_of_a_common_class_in_a_rare_image_leaves_it_rare(monkeypatch):
    # 30 images against 10, three times as many: of 40 % common and 60 % rare only the rare label is left.
    with_share(monkeypatch, 0.4, [1, 0])
    mixed = Remix()(torch.zeros(2, 3, 2, 2), torch.tensor([0, 1]), COUNTS, generator())
    assert (mixed.labels[0].item(), mixed.other_labels[0].item()) == (1, 1)
    # The other way round, 40 % of the rare image and 60 % of the common one, both are.
    assert (mixed.labels[1].item(), mixed.other_labels[1].item()) == (1, 0)


def test_with_equal_counts_remix_is_mixup():
    images, labels = batch()
    equal = torch.full((3,), 10)
    first, second = (found(alpha=0.5)(images, labels, equal, generator(4)) for found in (Mixup, Remix))
    assert first.share == second.share
    assert all(torch.equal(a, b) for a, b in zip(first[:3], second[:3], strict=True))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_are_drawn_from_the_beta_distribution(alpha):
    draws = generator()
    shares = torch.tensor([module._beta(alpha, draws) for _ in range(4000)])
    assert shares.mean().item() == pytest.approx(0.5, abs=0.02)
    # Of Beta(a, a): 1 / (4 (2a + 1)).
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)
    assert ((shares >= 0) & (shares <= 1)).all()


def test_a_tiny_alpha_gives_shares_of_nearly_0_or_1_and_no_nan():
    draws = generator()
    shares = torch.tensor([module._beta(0.01, draws) for _ in range(500)])
    assert torch.isfinite(shares).all()
    assert ((shares < 0.01) | (shares > 0.99)).float().mean() > 0.9


@pytest.mark.parametrize(
    ("found", "options", "message"),
    [
        (Mixup, {"alpha": 0.0}, "alpha must be at least 0.01, below which two images are never mixed, got 0.0"),
        (Remix, {"alpha": -1.0}, "alpha must be at least 0.01, below which two images are never mixed, got -1.0"),
        (Remix, {"imbalance": 0.5}, "imbalance must be at least 1, got 0.5"),
        (Remix, {"smallest_share": 1.5}, r"smallest_share must be in \[0, 1\], got 1.5"),
    ],
)
def test_impossible_hyper_parameters_are_refused(found, options, message):
    with pytest.raises(ValueError, match=message):
        found(**options)
