import numpy as np
import pytest
from PIL import Image, ImageFilter

from dermaffinity.data.quality import image_quality, quality_problems


@pytest.fixture
def skin() -> np.ndarray:
    """Skin-colored noise with a darker spot, sharp to the pixel."""
    rng = np.random.default_rng(0)
    texture = rng.normal(0, 12, (300, 400, 1)) + np.array([205.0, 160.0, 140.0])
    y, x = np.mgrid[:300, :400]
    texture[(y - 150) ** 2 + (x - 200) ** 2 < 60**2] -= 70
    return texture.clip(0, 255).astype(np.uint8)


def found(*pictures: np.ndarray) -> list[list[str]]:
    return quality_problems([image_quality(picture) for picture in pictures])


def test_a_plain_picture_has_no_problem(skin):
    assert found(skin, skin[:, ::-1], skin.transpose(1, 0, 2), skin[:150, :200]) == [[]] * 4


def test_a_picture_of_few_pixels_can_be_measured():
    assert np.isfinite(image_quality(np.full((1, 2, 3), 90, np.uint8))).all()


def test_blur_is_told_beside_the_sharp_pictures_of_the_library(skin):
    blurred = np.array(Image.fromarray(skin).filter(ImageFilter.GaussianBlur(6)))
    assert found(*[skin] * 9, blurred)[-1] == ["blurred"]
    assert found(*[blurred] * 9) == [[]] * 9


def test_dark_overexposed_and_vignetted_pictures(skin):
    y, x = np.mgrid[-1:1:300j, -1:1:400j]
    tube = (skin * (x**2 + y**2 < 1)[..., None]).astype(np.uint8)
    assert found(skin, skin // 5, np.minimum(skin.astype(int) + 90, 255).astype(np.uint8), tube) == [
        [], ["dark"], ["overexposed"], ["vignette"],
    ]  # fmt: skip
