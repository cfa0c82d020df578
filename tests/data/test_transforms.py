import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import Compose
from PIL import Image
from scipy.ndimage import map_coordinates
from torchvision.transforms import functional as F

from dermaffinity.data.augmentation import (
    SQUARE,
    DigitAugmentation,
    FaceAugmentation,
    LesionAugmentation,
    NoAugmentation,
)
from dermaffinity.data.transforms import (
    CentralSquare,
    CropToLesion,
    EvaluationStage,
    FixedStage,
    Normalize,
    ResizeShortSide,
)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def disk(height: int, width: int, radius: float) -> np.ndarray:
    """A white disk in the middle of a black image."""
    y, x = np.mgrid[:height, :width]
    inside = (y - (height - 1) / 2) ** 2 + (x - (width - 1) / 2) ** 2 <= radius**2
    return np.repeat(inside[..., None].astype(np.uint8) * 255, 3, axis=2)


def extent(image: np.ndarray) -> tuple[int, int]:
    """Height and width of what is bright."""
    bright = image[..., 0] > 127
    return int(bright.any(axis=1).sum()), int(bright.any(axis=0).sum())


def boxed_mask(height: int, width: int, top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def test_the_lesion_crop_of_a_worked_example():
    # A box of 10 x 20 pixels around row 45, column 60; margin 0.25 makes the side 30.
    image, mask = picture(100, 120), boxed_mask(100, 120, 40, 50, 50, 70)
    crop = CropToLesion(0.25)((image, mask))
    assert np.array_equal(crop, image[30:60, 45:75])


def test_at_the_border_the_crop_is_moved_and_keeps_its_size():
    image, mask = picture(100, 120), boxed_mask(100, 120, 0, 10, 110, 120)
    assert np.array_equal(CropToLesion(0.5)((image, mask)), image[0:20, 100:120])


def test_a_crop_larger_than_the_image_is_cut():
    image, mask = picture(40, 120), boxed_mask(40, 120, 5, 35, 40, 100)
    assert np.array_equal(CropToLesion(0.1)((image, mask)), image[:, 34:106])


@pytest.mark.parametrize("mask", [None, np.zeros((30, 40), dtype=bool)], ids=["no mask", "empty mask"])
def test_without_a_foreground_the_image_is_returned_whole(mask):
    image = picture(30, 40)
    assert CropToLesion(0.2)((image, mask)) is image


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_the_crop_contains_the_whole_lesion_and_is_as_square_as_the_image_allows(data):
    height, width = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
    margin = data.draw(st.floats(0, 2))
    mask = boxed_mask(height, width, top, bottom, left, right)
    image = np.repeat(mask[..., None].astype(np.uint8), 3, axis=2)
    crop = CropToLesion(margin)((image, mask))
    side = round(max(bottom - top, right - left) * (1 + 2 * margin))
    assert crop[..., 0].sum() == mask.sum()
    assert crop.shape == (min(side, height), min(side, width), 3)


@pytest.mark.parametrize(("height", "width"), [(300, 400), (400, 300), (64, 64), (30, 20), (301, 555)])
def test_the_shorter_side_gets_the_asked_size_and_the_aspect_is_kept(height, width):
    resized = ResizeShortSide(64)(picture(height, width))
    assert min(resized.shape[:2]) == 64
    assert resized.shape[1] / resized.shape[0] == pytest.approx(width / height, rel=0.02)
    assert resized.dtype == np.uint8


@pytest.mark.parametrize(("height", "width"), [(300, 200), (150, 280), (120, 600)])
def test_a_circle_stays_a_circle(height, width):
    resized = ResizeShortSide(64)(disk(height, width, 50))
    tall, wide = extent(resized)
    assert abs(tall - wide) <= 1
    assert tall == pytest.approx(100 * 64 / min(height, width), abs=1.5)


@pytest.mark.parametrize(("height", "width"), [(20, 1000), (1000, 20)])
def test_of_a_strip_only_the_middle_is_kept(height, width):
    resized = ResizeShortSide(16)(picture(height, width))
    assert sorted(resized.shape[:2]) == [16, 32]


def test_an_image_of_the_right_size_is_not_changed():
    image = picture(32, 48)
    assert np.array_equal(ResizeShortSide(32)(image), image)


def test_shrinking_averages_instead_of_picking_pixels():
    checkerboard = np.indices((256, 256)).sum(axis=0) % 2 * 255
    resized = ResizeShortSide(16)(np.repeat(checkerboard[..., None].astype(np.uint8), 3, axis=2))
    assert resized.min() > 110
    assert resized.max() < 145


def test_the_fixed_stage_crops_only_when_asked_to():
    image, mask = picture(100, 120), boxed_mask(100, 120, 40, 60, 50, 70)
    whole, cropped = FixedStage(32, None), FixedStage(32, 0.1)
    assert not whole.needs_mask
    assert cropped.needs_mask
    assert np.array_equal(whole((image, mask)), ResizeShortSide(32)(image))
    assert np.array_equal(cropped((image, mask)), ResizeShortSide(32)(image[38:62, 48:72]))


def test_the_central_square_is_central():
    image = picture(32, 49)
    assert np.array_equal(CentralSquare(32)(image), image[:, 8:40])


def test_normalization_is_that_of_torchvision():
    from torchvision.transforms import functional as F

    image = picture(8, 9)
    expected = F.normalize(F.to_tensor(Image.fromarray(image)), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    normalized = Normalize()(image)
    assert normalized.dtype == torch.float32
    torch.testing.assert_close(normalized, expected)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 64), (47, 32), (33, 32)])
def test_no_augmentation_is_the_evaluation_stage(height, width):
    image = picture(height, width)
    augmentation, central = NoAugmentation(32), EvaluationStage(32)(image)
    assert torch.equal(Compose([augmentation, Normalize()])(image), central)
    canvas = torch.from_numpy(image).movedim(2, 0)[None]
    made = augmentation.batch(canvas, torch.tensor([[height, width]]), np.random.default_rng(0).random((1, 14)))
    torch.testing.assert_close(Normalize().of(made)[0], central)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 64), (50, 32)])
@pytest.mark.parametrize("holes", [0.0, 1.0])
def test_an_augmented_image_is_a_square_of_the_asked_size(height, width, holes):
    transform = Compose([LesionAugmentation(32, holes=holes), Normalize()]).set_random_state(seed=0)
    for _ in range(5):
        augmented = transform(picture(height, width))
        assert augmented.shape == (3, 32, 32)
        assert torch.isfinite(augmented).all()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 85), (85, 64), (64, 128)])
@pytest.mark.parametrize(
    ("augmentation", "smallest", "aspect"), [(LesionAugmentation, 0.6, 1.18), (FaceAugmentation, 0.7, 1.11)]
)
def test_a_crop_is_a_share_of_the_square_that_evaluation_sees_whatever_the_image_is_like(
    augmentation, smallest, aspect, height, width
):
    # Colors tell where in the image a pixel is from. In the middle of the result no corner is made up.
    row, column = np.mgrid[:height, :width]
    image = np.stack([row, column, row * 0], axis=2).astype(np.uint8) * 2
    y, x = np.mgrid[-16:16, -16:16].reshape(2, -1)
    position = np.stack([y, x, np.ones(len(x))], axis=1)
    transform = augmentation(64, color=0.0)
    transform.set_random_state(seed=0)
    crops = []
    for _ in range(100):
        seen = transform(image)[16:48, 16:48, :2].reshape(-1, 2) / 2
        to_image = np.linalg.lstsq(position, seen, rcond=None)[0]
        # Turned and mirrored, but a crop's height is what a way through the whole result covers of the rows.
        crops.append([*np.linalg.norm(to_image[:2], axis=0) * 64, *to_image[2]])
    crop_height, crop_width, middle_row, middle_column = np.array(crops).T
    area = crop_height * crop_width / 64**2
    assert smallest - 0.03 < area.min() < smallest + 0.1 < 0.9 < area.max() < 1.03
    assert np.abs(np.log(crop_width / crop_height)).max() < np.log(aspect) + 0.04
    assert abs(np.log(crop_width / crop_height).mean()) < 0.03  # neither way more often
    assert np.ptp(middle_row) >= 0.8 * (height - 64)
    assert np.ptp(middle_column) >= 0.8 * (width - 64)


def augmented_versions(seed: int, count: int = 4) -> torch.Tensor:
    transform = Compose([LesionAugmentation(32, holes=0.5), Normalize()]).set_random_state(seed=seed)
    return torch.stack([transform(picture(32, 40)) for _ in range(count)])


def test_augmentation_repeats_with_the_seed_and_only_with_it():
    versions = augmented_versions(1)
    assert torch.equal(versions, augmented_versions(1))
    assert not torch.equal(versions, augmented_versions(2))
    assert len({tuple(version.flatten().tolist()) for version in versions}) == len(versions)


def test_augmentation_is_untouched_by_the_global_random_states():
    import random

    first = augmented_versions(1)
    random.seed(9)
    np.random.seed(9)
    torch.manual_seed(9)
    assert torch.equal(first, augmented_versions(1))


def test_augmentation_leaves_its_input_alone():
    image = picture(32, 40)
    before = image.copy()
    Compose([LesionAugmentation(32, holes=1.0), Normalize()]).set_random_state(seed=0)(image)
    assert np.array_equal(image, before)


def test_without_color_changes_a_plain_image_stays_plain():
    image = np.full((32, 32, 3), (200, 120, 90), dtype=np.uint8)
    augmentation = LesionAugmentation(32, color=0.0)
    augmentation.set_random_state(seed=0)
    for _ in range(10):
        assert np.abs(augmentation(image).astype(int) - image).max() <= 1  # rounding of the color conversion


def test_no_black_corner_marks_a_rotation():
    augmentation = LesionAugmentation(32, color=0.0)
    augmentation.set_random_state(seed=0)
    assert min(augmentation(np.full((32, 40, 3), 200, dtype=np.uint8)).min() for _ in range(20)) > 190


@pytest.mark.parametrize(
    ("hyper_parameters", "message"),
    [
        ({"smallest_scale": 0.0}, r"smallest_scale must be in \(0, 1\], got 0.0"),
        ({"smallest_scale": 1.5}, r"smallest_scale must be in \(0, 1\], got 1.5"),
        ({"color": -0.1}, r"color must be in \[0, 1\], got -0.1"),
        ({"holes": 2.0}, r"holes must be in \[0, 1\], got 2.0"),
    ],
)
def test_impossible_hyper_parameters_are_refused(hyper_parameters, message):
    with pytest.raises(ValueError, match=message):
        LesionAugmentation(32, **hyper_parameters)


def places(warp: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Where in an image points (N, 2) of the result come from."""
    return points @ warp[:, :2].T + warp[:, 2]


def test_a_version_is_its_single_steps_one_after_the_other():
    size, height, width = 40, 40, 53
    augmentation = LesionAugmentation(size, smallest_scale=0.5)
    random = np.random.default_rng(0)
    points = random.uniform(0, size - 1, (50, 2))
    for u in random.random((40, augmentation.draws)):
        warp = augmentation.versions(u[None], np.array([[height, width]])).warp[0]
        # Backwards from the result, in pixels from the middle of the square.
        at = points + 0.5 - size / 2
        if u[7] < 0.5:
            angle = math.radians(-45 + 90 * u[8])
            at = at @ np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).T
        at = at @ np.array(SQUARE[int(8 * u[6])]).reshape(2, 2).T
        area, aspect = 0.5 + 0.5 * u[2], math.exp(math.log(0.85) + math.log(1.18 / 0.85) * u[3])
        part = size * np.minimum([math.sqrt(area * aspect), math.sqrt(area / aspect)], 1)
        at = at * part / size + part / 2 + (size - part) * u[4:6]
        at += np.array([u[0] * (width - size), u[1] * (height - size)]) - 0.5
        np.testing.assert_allclose(places(warp, points), at, atol=1e-9)


def test_colors_are_changed_as_by_torchvision_one_step_after_the_other():
    augmentation = LesionAugmentation(16, color=0.3)
    augmentation.hue = 0.0  # torchvision turns it in another color space
    pixels = np.random.default_rng(0).uniform(90, 140, (3, 16, 16))  # nothing is cut at 0 or 255
    gray = np.array([0.299, 0.587, 0.114])
    for u in np.random.default_rng(1).random((20, augmentation.draws)):
        color = augmentation.versions(u[None], np.array([[16, 16]])).color[0]
        found = np.tensordot(color[:, :3], pixels, 1) + (color[:, 3:] @ pixels.mean(axis=(1, 2)))[:, None, None]
        expected = torch.from_numpy(pixels) / 255
        if u[9] < 0.8:
            brightness, contrast, saturation = (0.7 + 0.6 * number for number in u[10:13])
            expected = F.adjust_brightness(expected, brightness)
            expected = F.adjust_contrast(expected, contrast)
            expected = F.adjust_saturation(expected, saturation)
        np.testing.assert_allclose(found, 255 * expected.numpy(), atol=0.2)  # torchvision's weights have four digits
        assert np.allclose(gray.sum(), 1)


def test_a_hue_is_turned_without_a_change_of_the_gray_value():
    augmentation = LesionAugmentation(16, color=0.0)
    augmentation.hue = 1.0
    u = np.full(augmentation.draws, 0.5)
    u[13] = 1.0
    color = augmentation.versions(u[None], np.array([[16, 16]])).color[0, :, :3]
    gray = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(color @ np.full(3, 77.0), 77, atol=1e-9)
    reddish = np.array([200.0, 120.0, 90.0])
    assert gray @ color @ reddish == pytest.approx(gray @ reddish)
    assert np.abs(color @ reddish - reddish).max() > 20


def test_places_outside_the_image_are_its_reflection():
    augmentation = LesionAugmentation(16, color=0.0)
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image = cv2.resize(image[:5, :5], (16, 16), interpolation=cv2.INTER_CUBIC)
    u = np.random.default_rng(2).random((30, augmentation.draws))
    u[:, 7] = 0.0  # always turned
    for row in u:
        warp = augmentation.versions(row[None], np.array([[16, 16]])).warp[0]
        y, x = np.mgrid[:16, :16].reshape(2, -1)
        at = places(warp, np.stack([x, y], axis=1))
        # scipy calls a reflection about the edge of the last pixel "reflect".
        expected = [
            map_coordinates(image[..., c].astype(float), at[:, ::-1].T, order=1, mode="reflect") for c in range(3)
        ]
        found = augmentation.of([image], row[None])[0].reshape(-1, 3).T
        assert np.abs(found - expected).mean() < 1.5


def test_a_face_is_moved_and_mirrored_but_never_turned_upside_down():
    face = np.zeros((40, 40, 3), np.uint8)
    face[:12] = 255  # hair above
    face[15:20, :12] = 160  # an ear on the left
    augmentation = FaceAugmentation(32)
    versions = []
    for seed in range(20):
        augmentation.set_random_state(seed=seed)
        versions.append(augmentation(face).astype(float))
    assert {version.shape for version in versions} == {(32, 32, 3)}
    assert all(version[:16].mean() > version[16:].mean() + 20 for version in versions)
    sides = {version[8:20, :12].mean() > version[8:20, 20:].mean() for version in versions}
    assert sides == {True, False}


def test_a_face_augmentation_refuses_impossible_strengths():
    with pytest.raises(ValueError, match=r"smallest_scale must be in \(0, 1\], got 0"):
        FaceAugmentation(32, smallest_scale=0)
    with pytest.raises(ValueError, match=r"color must be in \[0, 1\], got 2"):
        FaceAugmentation(32, color=2)


def test_a_digit_is_moved_resized_and_tilted_as_asked():
    image = np.zeros((28, 28, 3), np.uint8)
    image[8:20, 12:16] = 255  # a one
    augmentation = DigitAugmentation(28, shift=2, rotation=0, scale=0.25)
    u = np.full(augmentation.draws, 0.5)
    assert np.array_equal(augmentation.of([image], u[None])[0], image)
    u[:3] = 1.0, 0.0, 0.0  # 2 pixels to one side, 2 to the other, three quarters of the size
    rows, columns = np.nonzero(augmentation.of([image], u[None])[0][..., 0] > 127)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (9, 3)
    middle = (rows.mean(), columns.mean())
    assert middle == pytest.approx((13.5 + 2 * 0.75, 13.5 - 2 * 0.75), abs=0.6)
    tilted = DigitAugmentation(28, shift=0, rotation=10, scale=0)
    u[8] = 1.0
    y, x = np.nonzero(tilted.of([image], u[None])[0][..., 0] > 127)
    slope = np.polyfit(y - 13.5, x - 13.5, 1)[0]
    assert abs(math.degrees(math.atan(slope))) == pytest.approx(10, abs=2.5)


@pytest.mark.parametrize(
    ("hyper_parameters", "message"),
    [
        ({"shift": -1}, "shift must be at least 0, got -1"),
        ({"rotation": -1}, "rotation must be at least 0, got -1"),
        ({"scale": 1.0}, r"scale must be in \[0, 1\), got 1.0"),
    ],
)
def test_a_digit_augmentation_refuses_impossible_ranges(hyper_parameters, message):
    with pytest.raises(ValueError, match=message):
        DigitAugmentation(28, **hyper_parameters)
