import pytest
import torch

from dermaffinity.training.tricks import GrowingImages


@pytest.mark.parametrize(
    ("whole", "sizes"), [(128, [64, 64, 96, 96, 128, 128]), (100, [50, 50, 82, 82, 100, 100]), (16, [8] * 4 + [16] * 2)]
)
def test_images_grow_in_even_steps_to_their_whole_size(whole, sizes):
    trick, images = GrowingImages(start=0.5, until=0.8), torch.zeros(1, 3, whole, whole)
    moments = (0.0, 0.39, 0.41, 0.79, 0.8, 0.99)
    assert [trick.on_images(images, moment).shape[2:] for moment in moments] == [(size, size) for size in sizes]


def test_a_smaller_image_is_the_mean_of_its_pixels():
    # Each pixel of half the size weighs four per axis by a triangle: 1/8, 3/8, 3/8, 1/8; a ramp stays one.
    ramp = torch.arange(64.0).expand(1, 3, 64, 64)
    small = GrowingImages(start=0.5).on_images(ramp, 0.0)
    torch.testing.assert_close(small[0, 0, 0, 1:-1], torch.arange(0.5, 64, 2)[1:-1])


def test_whole_images_are_not_touched():
    images = torch.rand(1, 3, 32, 32)
    assert GrowingImages(start=0.5, until=0.5).on_images(images, 0.5) is images


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"start": 1.0}, r"start must be within \(0, 1\), got 1.0"),
        ({"until": 0}, r"until must be within \(0, 1\], got 0"),
    ],
)
def test_settings_outside_their_range_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        GrowingImages(**setting)
