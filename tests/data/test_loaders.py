from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dermaffinity.data.augmentation import LesionAugmentation, training_transform
from dermaffinity.data.dataset import Draw, ManifestDataset
from dermaffinity.data.loaders import EpochSampler, evaluation_loader, shuffled_loader, training_loader
from dermaffinity.data.transforms import EvaluationStage


def labels_of(*counts: int) -> torch.Tensor:
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def rows(sampler: EpochSampler) -> list[int]:
    return [draw.row for draw in sampler]


def dataset_of(count: int, augment: bool = True) -> ManifestDataset:
    images = list(np.random.default_rng(0).integers(0, 256, (count, 20, 24, 3), dtype=np.uint8))
    transform = training_transform(LesionAugmentation(16)) if augment else EvaluationStage(16)
    return ManifestDataset(images, np.arange(count) % 3, transform)


@given(st.integers(1, 90), st.integers(1, 40), st.integers(1, 4), st.integers(0, 1000), st.booleans())
@settings(deadline=None, max_examples=60)
def test_every_process_gets_the_same_number_of_whole_batches(count, batch_size, world_size, seed, balanced):
    samplers = [
        EpochSampler(
            torch.arange(count) % 3, batch_size, seed=seed, balanced=balanced, rank=rank, world_size=world_size
        )
        for rank in range(world_size)
    ]
    drawn = [rows(sampler) for sampler in samplers]
    share = count // world_size
    assert {len(part) for part in drawn} == {len(samplers[0])}
    assert len(samplers[0]) % batch_size == 0 or len(samplers[0]) == share < batch_size
    assert share - len(samplers[0]) < batch_size
    if not balanced:
        together = [row for part in drawn for row in part]
        assert len(set(together)) == len(together)  # at most once an epoch, and ranks are disjoint


def test_every_image_is_drawn_once_where_batches_divide_the_set():
    assert sorted(rows(EpochSampler(labels_of(6, 6), 4, seed=0))) == list(range(12))


def test_epochs_and_seeds_differ_and_repeat():
    sampler = EpochSampler(labels_of(30, 30), 10, seed=0)
    first = list(sampler)
    assert {draw.epoch for draw in first} == {0}
    assert list(sampler) == first
    sampler.epoch = 1
    second = list(sampler)
    assert {draw.epoch for draw in second} == {1}
    assert [draw.row for draw in second] != [draw.row for draw in first]
    sampler.epoch = 0
    assert list(sampler) == first
    assert rows(EpochSampler(labels_of(30, 30), 10, seed=1)) != [draw.row for draw in first]


def test_images_left_out_of_one_epoch_come_in_another():
    sampler = EpochSampler(labels_of(10, 9), 8, seed=0)
    seen = set()
    for epoch in range(12):
        sampler.epoch = epoch
        seen |= set(rows(sampler))
    assert seen == set(range(19))


def test_the_order_does_not_touch_the_global_random_state():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    list(EpochSampler(labels_of(30, 3), 4, seed=7, balanced=True))
    assert torch.equal(torch.rand(1), expected)


def test_balanced_draws_take_every_class_equally_often():
    labels = labels_of(900, 90, 10)
    drawn = Counter(labels[rows(EpochSampler(labels, 100, seed=0, balanced=True))].tolist())
    # 1,000 draws at 1/3 each: a standard deviation of 15.
    assert all(abs(drawn[label] - 1000 / 3) < 60 for label in range(3))


def test_every_image_of_a_class_can_be_drawn_in_a_balanced_epoch():
    labels = labels_of(300, 5)
    drawn = Counter(rows(EpochSampler(labels, 61, seed=0, balanced=True)))
    assert set(range(300, 305)) <= set(drawn)


def test_the_training_loader_gives_the_samplers_batches():
    dataset = dataset_of(10)
    sampler = EpochSampler(dataset.labels, 4, seed=3)
    batches = list(training_loader(dataset, sampler, 4, workers=0))
    assert [len(labels) for _, labels in batches] == [4, 4]
    order = rows(sampler)
    assert torch.cat([labels for _, labels in batches]).tolist() == [row % 3 for row in order]
    assert torch.equal(batches[1][0][2], dataset[Draw(0, order[6])][0])


def test_the_number_of_workers_changes_no_pixel_in_any_epoch():
    dataset = dataset_of(12)
    sampler = EpochSampler(dataset.labels, 4, seed=3)

    def two_epochs(workers: int) -> list[torch.Tensor]:
        loader = training_loader(dataset, sampler, 4, workers)
        images = []
        for epoch in range(2):
            sampler.epoch = epoch
            images += [images for images, _ in loader]
        return images

    alone, together = two_epochs(0), two_epochs(2)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert not torch.equal(torch.cat(alone[:3]), torch.cat(alone[3:]))


@pytest.mark.parametrize("world_size", [1, 3])
def test_evaluation_sees_every_image_once_in_order(world_size):
    dataset = dataset_of(11, augment=False)
    whole = torch.empty(11, 3, 16, 16)
    for rank in range(world_size):
        loader = evaluation_loader(dataset, 2, workers=0, rank=rank, world_size=world_size)
        whole[rank::world_size] = torch.cat([images for images, _ in loader])
    assert torch.equal(whole, torch.stack([dataset[Draw(0, row)][0] for row in range(11)]))


def test_a_shuffled_pass_sees_every_image_once_in_even_batches_and_the_same_for_the_same_seed():
    dataset = dataset_of(33, augment=False)
    dataset.labels = torch.arange(33)  # an image's label names it

    def rows_of(seed: int) -> list[list[int]]:
        return [labels.tolist() for _, labels in shuffled_loader(dataset, 8, 0, seed=seed)]

    batches = rows_of(1)
    assert [len(batch) for batch in batches] == [7, 7, 7, 6, 6]
    order = [row for batch in batches for row in batch]
    assert sorted(order) == list(range(33)) != order
    assert rows_of(1) == batches != rows_of(2)
    images, labels = next(iter(shuffled_loader(dataset, 8, 0, seed=1)))
    assert torch.equal(images[3], dataset[Draw(0, labels[3].item())][0])
