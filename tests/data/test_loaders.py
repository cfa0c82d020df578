from collections import Counter

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dermaffinity.data.augmentation import LesionAugmentation
from dermaffinity.data.dataset import Draw, ManifestDataset
from dermaffinity.data.loaders import EpochBatches, ResidentBatches, every_image, every_image_shuffled, fits, load
from dermaffinity.data.transforms import EvaluationStage, TrainingStage

CPU = torch.device("cpu")


def labels_of(*counts: int) -> torch.Tensor:
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def rows(batches: EpochBatches) -> list[int]:
    return [draw.row for batch in batches for draw in batch]


def dataset_of(count: int, augment: bool = True) -> ManifestDataset:
    images = list(np.random.default_rng(0).integers(0, 256, (count, 20, 24, 3), dtype=np.uint8))
    stage = TrainingStage(LesionAugmentation(16)) if augment else EvaluationStage(16)
    return ManifestDataset(images, np.arange(count) % 3, stage)


@given(st.integers(1, 90), st.integers(1, 40), st.integers(1, 4), st.integers(0, 1000), st.booleans())
@settings(deadline=None, max_examples=60)
def test_every_process_gets_the_same_number_of_whole_batches(count, batch_size, world_size, seed, balanced):
    samplers = [
        EpochBatches(
            torch.arange(count) % 3, batch_size, seed=seed, balanced=balanced, rank=rank, world_size=world_size
        )
        for rank in range(world_size)
    ]
    drawn = [rows(sampler) for sampler in samplers]
    share = count // world_size
    (length,) = {len(part) for part in drawn}
    assert {len(batch) for sampler in samplers for batch in sampler} <= {min(batch_size, share)}
    assert share - length < batch_size
    assert length > 0 or share == 0
    if not balanced:
        together = [row for part in drawn for row in part]
        assert len(set(together)) == len(together)  # at most once an epoch, and ranks are disjoint


def test_every_image_is_drawn_once_where_batches_divide_the_set():
    assert sorted(rows(EpochBatches(labels_of(6, 6), 4, seed=0))) == list(range(12))


def test_epochs_and_seeds_differ_and_repeat():
    sampler = EpochBatches(labels_of(30, 30), 10, seed=0)
    first, order = list(sampler), rows(sampler)
    assert {draw.epoch for batch in first for draw in batch} == {0}
    assert [draw.position for batch in first for draw in batch] == list(range(60))
    assert list(sampler) == first
    sampler.epoch = 1
    assert {draw.epoch for batch in sampler for draw in batch} == {1}
    assert rows(sampler) != order
    sampler.epoch = 0
    assert list(sampler) == first
    assert rows(EpochBatches(labels_of(30, 30), 10, seed=1)) != order


def test_images_left_out_of_one_epoch_come_in_another():
    sampler = EpochBatches(labels_of(10, 9), 8, seed=0)
    seen = set()
    for epoch in range(12):
        sampler.epoch = epoch
        seen |= set(rows(sampler))
    assert seen == set(range(19))


def test_the_order_does_not_touch_the_global_random_state():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    list(EpochBatches(labels_of(30, 3), 4, seed=7, balanced=True))
    assert torch.equal(torch.rand(1), expected)


def test_balanced_draws_take_every_class_equally_often():
    labels = labels_of(900, 90, 10)
    drawn = Counter(labels[rows(EpochBatches(labels, 100, seed=0, balanced=True))].tolist())
    # 1,000 draws at 1/3 each: a standard deviation of 15.
    assert all(abs(drawn[label] - 1000 / 3) < 60 for label in range(3))


def test_every_image_of_a_class_can_be_drawn_in_a_balanced_epoch():
    labels = labels_of(300, 5)
    drawn = Counter(rows(EpochBatches(labels, 61, seed=0, balanced=True)))
    assert set(range(300, 305)) <= set(drawn)


def test_loading_gives_the_batches_that_are_drawn():
    dataset = dataset_of(10)
    drawn = EpochBatches(dataset.labels, 4, seed=3)
    batches = list(load(dataset, drawn, workers=0, device=CPU))
    assert [len(labels) for _, labels in batches] == [4, 4]
    order = rows(drawn)
    assert torch.cat([labels for _, labels in batches]).tolist() == [row % 3 for row in order]
    assert torch.equal(batches[1][0][2], dataset[Draw(0, 6, order[6])][0])


def test_an_image_drawn_twice_in_an_epoch_comes_in_two_versions():
    dataset = dataset_of(3)
    first, second = dataset.__getitems__([Draw(0, 0, 1), Draw(0, 2, 1)])[0]
    assert not torch.equal(first, second)


def test_the_number_of_workers_changes_no_pixel_in_any_epoch():
    dataset = dataset_of(12)
    drawn = EpochBatches(dataset.labels, 4, seed=3)

    def two_epochs(workers: int) -> list[torch.Tensor]:
        loader = load(dataset, drawn, workers=workers, device=CPU)
        images = []
        for epoch in range(2):
            drawn.epoch = epoch
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
        loader = load(dataset, every_image(11, 2, rank, world_size), workers=0, device=CPU)
        whole[rank::world_size] = torch.cat([images for images, _ in loader])
    assert torch.equal(whole, torch.stack([dataset[Draw(0, row, row)][0] for row in range(11)]))


def test_a_shuffled_pass_sees_every_image_once_in_even_batches_and_the_same_for_the_same_seed():
    batches = [[draw.row for draw in batch] for batch in every_image_shuffled(33, 8, seed=1)]
    assert [len(batch) for batch in batches] == [7, 7, 7, 6, 6]
    order = [row for batch in batches for row in batch]
    assert sorted(order) == list(range(33)) != order
    assert every_image_shuffled(33, 8, seed=1) == every_image_shuffled(33, 8, seed=1)
    assert every_image_shuffled(33, 8, seed=1) != every_image_shuffled(33, 8, seed=2)


@pytest.mark.parametrize("stage", [TrainingStage(LesionAugmentation(16)), EvaluationStage(16)], ids=["random", "fixed"])
@pytest.mark.parametrize("at_a_time", [1, 9 * 16 * 30, 10**9])
def test_resident_images_are_those_that_are_loaded(monkeypatch, stage, at_a_time):
    monkeypatch.setattr("dermaffinity.data.loaders._PIXELS_AT_A_TIME", at_a_time)
    random = np.random.default_rng(0)
    # Smooth pictures of several shapes: interpolation has nothing to disagree about but its last bit.
    images = [
        cv2.resize(random.integers(0, 256, (4, 5, 3), dtype=np.uint8), size, interpolation=cv2.INTER_CUBIC)
        for size in [(16, 16), (24, 16), (16, 30), (17, 16)] * 5
    ]
    dataset = ManifestDataset(images, np.arange(20) % 3, stage, seed=2)
    drawn = EpochBatches(dataset.labels, 6, seed=3)
    for epoch in (0, 5):
        drawn.epoch = epoch
        loaded = list(load(dataset, drawn, workers=0, device=CPU))
        resident = list(ResidentBatches(dataset, drawn, CPU))
        assert len(ResidentBatches(dataset, drawn, CPU)) == len(resident) == len(loaded) == 3
        for (images_of_one, labels), (images_of_other, same) in zip(loaded, resident, strict=True):
            assert torch.equal(labels, same)
            gray_values = (images_of_one - images_of_other).abs() * 0.226 * 255
            assert gray_values.mean() < 0.6
            assert gray_values.quantile(0.99) < 2.5


def test_images_are_resident_only_where_they_fit_and_their_versions_can_be_made_there():
    dataset = dataset_of(10)
    pixels = 10 * 3 * 20 * 24
    assert fits(dataset, 10 * pixels)
    assert not fits(dataset, 10 * pixels - 10)
    holes = TrainingStage(LesionAugmentation(16, holes=0.5))
    assert not fits(ManifestDataset(dataset.images, np.zeros(10), holes), 100 * pixels)
