import numpy as np
import pytest

from dermaffinity.metrics.clusters import cluster_spread


def test_worked_example():
    # Classes around (0, 0), (3, 4) and (6, 8): distances 5, 5 and 10; every image of class k is k + 1 from its mean.
    means = np.array([[0, 0], [3, 4], [6, 8]])
    offsets = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
    embedding = np.concatenate([mean + (k + 1) * offsets for k, mean in enumerate(means)])
    spread = cluster_spread(embedding, np.repeat([0, 1, 2], 4), 3)
    np.testing.assert_allclose(spread.means, means)
    np.testing.assert_allclose(spread.radii, [1, 2, 3])
    np.testing.assert_allclose(np.sort(spread.distances), [5, 5, 10])
    assert spread.spacing_ratio == pytest.approx(2)
    np.testing.assert_allclose(spread.relative_radii, np.array([1, 2, 3]) / (20 / 3))
    assert spread.radius_ratio([0]) == pytest.approx(1 / 2.5)


def test_ratios_do_not_depend_on_scale_place_or_rotation():
    random = np.random.default_rng(0)
    embedding, labels = random.normal(size=(60, 3)), np.arange(60) % 4
    turn, _ = np.linalg.qr(random.normal(size=(3, 3)))
    one, other = (cluster_spread(points, labels, 4) for points in (embedding, 7 * embedding @ turn + 100))
    assert other.spacing_ratio == pytest.approx(one.spacing_ratio)
    assert other.radius_ratio([1, 2]) == pytest.approx(one.radius_ratio([1, 2]))
    np.testing.assert_allclose(other.relative_radii, one.relative_radii)


def test_a_class_without_images_is_named():
    with pytest.raises(ValueError, match="there is none of 1"):
        cluster_spread(np.zeros((2, 2)), np.array([0, 2]), 3)
