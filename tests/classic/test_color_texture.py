"""Features against plain loops, scikit-image and known textures, and what they must not depend on."""

import numpy as np
import pytest
from skimage.color import rgb2lab
from skimage.feature import graycomatrix, graycoprops

from dermaffinity.classic import ColorTexture
from dermaffinity.classic.color_texture import co_occurrence, surround_of

FEATURES = ColorTexture(levels=16, distances=(1, 3))
PAIRS = ("RR", "RG", "RB", "GG", "GB", "BB")


def lesion_image(seed: int = 0, size: int = 72) -> tuple[np.ndarray, np.ndarray]:
    """A noisy dark disk on lighter, noisy skin."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    mask = (rows - 33) ** 2 + (columns - 37) ** 2 <= 15**2
    color = np.where(mask[:, :, None], (120, 70, 60), (210, 160, 140))
    return np.clip(color + rng.normal(0, 18, (size, size, 3)), 0, 255).astype(np.uint8), mask


def named(image, mask, features=FEATURES) -> dict[str, float]:
    return dict(zip(features.names, features(image, mask), strict=True))


def test_matrices_equal_a_plain_loop_over_pairs_within_the_region():
    rng = np.random.default_rng(1)
    codes, region, levels = rng.integers(0, 5, (9, 11, 3)), rng.random((9, 11)) < 0.7, 5
    expected = np.zeros((levels, levels, 6, 2))
    for position, d in enumerate((1, 2)):
        for row, column in np.ndindex(9, 11):
            for down in (-d, 0, d):
                for right in (-d, 0, d):
                    other = row + down, column + right
                    inside = 0 <= other[0] < 9 and 0 <= other[1] < 11
                    if (down or right) and inside and region[row, column] and region[other]:
                        for pair, (a, b) in enumerate(((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))):
                            expected[codes[row, column, a], codes[other][b], pair, position] += 1
    np.testing.assert_array_equal(co_occurrence(codes, region, levels, (1, 2)), expected)


def test_within_a_channel_the_matrix_is_that_of_scikit_image():
    codes = np.random.default_rng(2).integers(0, 8, (20, 30, 3))
    ours = co_occurrence(codes, np.ones((20, 30), dtype=bool), 8, (1,))
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    for channel, pair in enumerate((0, 3, 5)):
        theirs = graycomatrix(codes[:, :, channel].astype(np.uint8), [1], angles, levels=8, symmetric=True)
        np.testing.assert_array_equal(ours[:, :, pair, 0], theirs.sum(axis=3)[:, :, 0])


def test_a_texture_is_measured_as_scikit_image_measures_the_lesions_matrix():
    image, mask = lesion_image()
    # Level 16 stands for what lies outside, and is cut off again.
    outside = np.where(mask, image[:, :, 1] // 16, 16).astype(np.uint8)
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    matrix = graycomatrix(outside, [1], angles, levels=17, symmetric=True)[:16, :16].sum(axis=3, keepdims=True)
    found = named(image, mask)
    for measure in ("contrast", "homogeneity", "energy", "correlation", "entropy"):
        assert found[f"lesion GG {measure} 1"] == pytest.approx(graycoprops(matrix, measure)[0, 0])


def test_stripes_and_even_patches_have_the_textures_they_must_have():
    image = np.full((60, 60, 3), 200, dtype=np.uint8)
    mask = np.zeros((60, 60), dtype=bool)
    mask[20:40, 20:40] = True
    even = named(image, mask)
    assert [even[f"lesion RB {measure} 3"] for measure in ("contrast", "homogeneity", "energy", "entropy")] == (
        pytest.approx([0, 1, 1, 0], abs=1e-9)
    )
    image[:, ::2] = 104  # columns of level 12 and of level 6, in turns
    striped = named(image, mask)
    # At distance 1, of 20·19 horizontal, 19·20 vertical and 2·19·19 diagonal pairs all but the vertical cross a stripe.
    assert striped["lesion RR contrast 1"] == pytest.approx(36 * (380 + 722) / (380 + 380 + 722))
    assert striped["lesion-surround RR contrast 1"] == pytest.approx(0, abs=1.5)
    assert striped["lesion L sd"] == pytest.approx(np.std(rgb2lab(image[mask])[:, 0]), rel=0.01)


def test_colors_equal_their_formulas():
    image, mask = lesion_image()
    found, surround = named(image, mask), surround_of(mask)
    inside, around = rgb2lab(image[mask]), rgb2lab(image[surround])
    assert found["lesion a mean"] == pytest.approx(inside[:, 1].mean())
    assert found["lesion-surround b mean"] == pytest.approx(inside[:, 2].mean() - around[:, 2].mean())
    assert found["lesion Lb color correlation"] == pytest.approx(
        np.corrcoef(inside[:, 0], inside[:, 2])[0, 1], abs=1e-3
    )
    assert found["lesion/surround L log sd"] == pytest.approx(np.log(inside[:, 0].std() / around[:, 0].std()), abs=2e-3)


def test_the_surround_is_a_band_off_the_lesion():
    _, mask = lesion_image()
    rows, columns = np.nonzero(surround_of(mask))
    distance = np.hypot(rows - 33, columns - 37)
    assert 16.5 < distance.min() < 18.5
    assert 15 + 2 + 7 < distance.max() + 1 < 15 + 2 + 7.5 + 2
    assert not surround_of(np.ones((5, 5), dtype=bool)).any()


@pytest.mark.parametrize("turn", [lambda a: np.rot90(a), lambda a: np.rot90(a, 2), lambda a: a[:, ::-1]])
def test_turning_or_mirroring_an_image_changes_nothing(turn):
    image, mask = lesion_image()
    np.testing.assert_allclose(FEATURES(turn(image), turn(mask)), FEATURES(image, mask), rtol=1e-9, atol=1e-9)


def test_moving_a_lesion_with_its_skin_changes_nothing():
    image, mask = lesion_image()
    moved = np.roll(image, (4, -5), axis=(0, 1)), np.roll(mask, (4, -5), axis=(0, 1))
    np.testing.assert_allclose(FEATURES(*moved), FEATURES(image, mask), rtol=1e-9, atol=1e-9)


def test_pixels_beyond_the_band_do_not_count():
    image, mask = lesion_image()
    vignette = image.copy()
    vignette[~(mask | surround_of(mask))] = 0
    np.testing.assert_array_equal(FEATURES(vignette, mask), FEATURES(image, mask))


def test_light_of_another_color_leaves_the_logarithm_of_the_ratio_alone():
    image, mask = lesion_image()
    linear = np.where(image / 255 <= 0.04045, image / 255 / 12.92, ((image / 255 + 0.055) / 1.055) ** 2.4)
    other = linear * (0.9, 0.7, 0.5)
    encoded = np.where(other <= 0.0031308, 12.92 * other, 1.055 * other ** (1 / 2.4) - 0.055)
    before, after = named(image, mask), named(np.rint(255 * encoded).astype(np.uint8), mask)
    for channel in "RGB":
        name = f"lesion/surround {channel} log mean"
        assert after[name] == pytest.approx(before[name], abs=0.02)
    assert abs(after["lesion b mean"] - before["lesion b mean"]) > 5


def test_what_cannot_be_measured_is_nan_and_the_rest_is_not():
    image, _ = lesion_image()
    covered = named(image, np.ones(image.shape[:2], dtype=bool))
    assert {name for name, value in covered.items() if np.isnan(value)} == {n for n in covered if "surround" in n}
    small = np.zeros(image.shape[:2], dtype=bool)
    small[30:33, 30:36] = True  # spans no distance of 12
    found = named(image, small, ColorTexture(distances=(1, 12)))
    lost = {name for name, value in found.items() if np.isnan(value)}
    assert lost == {name for name in found if name.endswith(" 12")}


def test_there_is_a_name_for_every_number_and_settings_are_checked():
    image, mask = lesion_image()
    assert len(set(FEATURES.names)) == len(FEATURES.names) == len(FEATURES(image, mask)) == 18 + 2 * 6 * 5 * 2
    with pytest.raises(ValueError, match="levels must be from 2 to 256, got 1"):
        ColorTexture(levels=1)
    with pytest.raises(ValueError, match="distances must be one or more numbers of at least 1 pixel"):
        ColorTexture(distances=())
