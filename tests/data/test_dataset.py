from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dermaffinity.data.augmentation import LesionAugmentation
from dermaffinity.data.dataset import Draw, ManifestDataset, RowImages, read_all
from dermaffinity.data.image_cache import MappedImages
from dermaffinity.data.library import ImageLibrary
from dermaffinity.data.transforms import EvaluationStage, FixedStage, TrainingStage
from dermaffinity.errors import DataError


def pictures(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 20, 24, 3), dtype=np.uint8))


def augmented(images: list[np.ndarray], seed: int = 0) -> ManifestDataset:
    return ManifestDataset(images, np.arange(len(images)) % 3, TrainingStage(LesionAugmentation(16)), seed=seed)


@pytest.fixture
def library(tmp_path: Path) -> ImageLibrary:
    for number, image in enumerate(pictures(3)):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    mask = np.zeros((20, 24), dtype=np.uint8)
    mask[4:12, 6:14] = 255
    Image.fromarray(mask).save(tmp_path / "0_mask.png")
    return ImageLibrary(tmp_path)


def rows_of(images: list[str], masks: list[object]) -> pd.DataFrame:
    return pd.DataFrame({"image": images, "mask": masks, "sha256": images, "width": 24, "height": 20})


def test_images_are_decoded_and_pass_the_fixed_stage(library):
    images = RowImages(library, rows_of(["0.png", "1.png"], ["0_mask.png", None]), FixedStage(20, None))
    assert len(images) == 2
    assert np.array_equal(images[1], pictures(3)[1])


def test_a_lesion_crop_uses_the_mask_of_the_row_and_none_where_there_is_none(library):
    rows = rows_of(["0.png", "1.png", "2.png"], ["0_mask.png", np.nan, ""])
    images = RowImages(library, rows, FixedStage(8, 0.0))
    assert np.array_equal(images[0], pictures(3)[0][4:12, 6:14])
    stage = FixedStage(8, None)
    assert np.array_equal(images[1], stage((pictures(3)[1], None)))
    assert np.array_equal(images[2], stage((pictures(3)[2], None)))


def test_reading_all_keeps_the_order_and_reports_progress(library):
    names = ["2.png", "0.png", "1.png", "0.png"]
    seen = []
    stage = FixedStage(20, None)
    decoded = read_all(RowImages(library, rows_of(names, [None] * 4), stage), lambda *state: seen.append(state))
    expected = [pictures(3)[int(name[0])] for name in names]
    assert all(np.array_equal(a, b) for a, b in zip(decoded, expected, strict=True))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_missing_image_stops_the_reading_and_is_named(library):
    with pytest.raises(DataError, match=r"absent\.png: no such file"):
        read_all(RowImages(library, rows_of(["0.png", "absent.png"], [None] * 2), FixedStage(20, None)))


def test_images_that_fill_a_third_of_the_memory_are_mapped_from_files(library, tmp_path, monkeypatch):
    monkeypatch.setenv("DERMAFFINITY_CACHE", str(tmp_path / "cache"))
    images = RowImages(library, rows_of(["2.png", "0.png", "1.png"], [None] * 3), FixedStage(20, None))
    assert images.size() == 3 * 20 * 24 * 3
    monkeypatch.setattr("dermaffinity.data.dataset._memory", lambda: 3 * images.size())
    assert isinstance(read_all(images), list)
    monkeypatch.setattr("dermaffinity.data.dataset._memory", lambda: 3 * images.size() - 4)
    mapped = read_all(images)
    assert isinstance(mapped, MappedImages)
    assert all(np.array_equal(a, b) for a, b in zip(mapped, [pictures(3)[row] for row in (2, 0, 1)], strict=True))
    for stage in (EvaluationStage(16), TrainingStage(LesionAugmentation(16))):
        draws = [Draw(0, position, row) for position, row in enumerate((1, 0, 2))]
        kept = ManifestDataset([image.copy() for image in mapped], np.arange(3), stage)
        assert torch.equal(
            ManifestDataset(mapped, np.arange(3), stage).__getitems__(draws)[0], kept.__getitems__(draws)[0]
        )


def test_all_that_changes_a_pixel_makes_another_cache(library):
    rows = rows_of(["0.png", "1.png"], ["0_mask.png", None])
    facts = RowImages(library, rows, FixedStage(20, None)).facts()
    assert RowImages(library, rows.assign(mask=None), FixedStage(20, None)).facts() == facts
    others = [
        RowImages(library, rows, FixedStage(24, None)),
        RowImages(library, rows, FixedStage(20, 0.2)),
        RowImages(library, rows, FixedStage(20, 0.3)),
        RowImages(library, rows.assign(mask=None), FixedStage(20, 0.2)),
        RowImages(library, rows.assign(sha256=["0.png", "other"]), FixedStage(20, None)),
        RowImages(library, rows[::-1], FixedStage(20, None)),
        RowImages(library, rows[:1], FixedStage(20, None)),
    ]
    assert len({str(facts), *(str(images.facts()) for images in others)}) == 8


def test_an_item_is_the_transformed_image_and_its_label():
    images = pictures(4)
    dataset = ManifestDataset(images, np.array([2, 0, 1, 2]), EvaluationStage(16))
    tensor, label = dataset[Draw(0, 3, 3)]
    assert len(dataset) == 4
    assert label.item() == 2
    assert label.dtype == torch.long
    assert torch.equal(tensor, EvaluationStage(16)(images[3]))


def test_an_augmented_image_depends_on_seed_epoch_and_position_and_on_nothing_else():
    images = pictures(1) * 3  # equal content, so that only the random part differs
    dataset = augmented(images)
    first = dataset[Draw(0, 1, 1)][0]
    assert not torch.equal(first, dataset[Draw(1, 1, 1)][0])
    assert not torch.equal(first, dataset[Draw(0, 2, 1)][0])
    assert not torch.equal(first, augmented(images, seed=1)[Draw(0, 1, 1)][0])
    assert torch.equal(first, dataset[Draw(0, 1, 2)][0])  # after other draws, in any order
    assert torch.equal(first, augmented(images)[Draw(0, 1, 1)][0])


@pytest.mark.parametrize("stage", [EvaluationStage(16), TrainingStage(LesionAugmentation(16))], ids=["fixed", "random"])
@pytest.mark.parametrize("alike", [True, False])
def test_a_batch_is_its_images_one_by_one(stage, alike):
    images = pictures(5)
    images = images if alike else [*images[:4], images[4][:, :20]]
    labels = np.array([2, 0, 1, 2, 1])
    dataset = ManifestDataset(images, labels, stage, seed=3)
    draws = [Draw(1, position, row) for position, row in enumerate((4, 0, 2, 2))]
    batch, targets = dataset.__getitems__(draws)
    assert batch.dtype == torch.float32
    assert torch.equal(batch, torch.stack([dataset[draw][0] for draw in draws]))
    assert targets.tolist() == [1, 2, 1, 1]
