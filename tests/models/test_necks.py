import pytest
import torch

from dermaffinity.models import BatchNormNeck, IdentityNeck, LinearNeck, UnitNeck


def test_the_identity_changes_nothing():
    neck, features = IdentityNeck(6), torch.randn(3, 6)
    assert neck.embedding_dim == 6
    assert torch.equal(neck(features), features)


def test_batch_normalization_gives_every_dimension_mean_0_and_variance_1():
    torch.manual_seed(0)
    neck = BatchNormNeck(6)
    embedding = neck(50 * torch.randn(200, 6) + 30)
    assert neck.embedding_dim == 6
    torch.testing.assert_close(embedding.mean(dim=0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(embedding.var(dim=0, correction=0), torch.ones(6), atol=1e-4, rtol=0)
    assert embedding.norm(dim=1).mean().item() == pytest.approx(6**0.5, rel=0.05)
    assert list(neck.parameters()) == []


@pytest.mark.parametrize(("dim", "expected"), [(None, 8), (3, 3)])
def test_the_unit_neck_puts_every_image_on_the_unit_sphere(dim, expected):
    torch.manual_seed(0)
    neck = UnitNeck(8, dim=dim)
    embedding = neck(20 * torch.rand(100, 8))
    assert neck.embedding_dim == expected
    assert embedding.shape == (100, expected)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(100))


def test_two_images_on_the_sphere_are_about_2_apart():
    torch.manual_seed(0)
    embedding = UnitNeck(256)(torch.rand(64, 256))
    squared_distance = torch.pdist(embedding).square()
    assert squared_distance.mean().item() == pytest.approx(2, abs=0.1)


def test_the_scale_of_the_features_is_irrelevant_on_the_sphere():
    torch.manual_seed(0)
    features = torch.rand(32, 8)
    torch.testing.assert_close(UnitNeck(8)(1000 * features), UnitNeck(8)(features), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("neck_class", [BatchNormNeck, UnitNeck])
def test_in_evaluation_mode_each_image_alone_equals_the_batch(neck_class):
    torch.manual_seed(0)
    neck, features = neck_class(8), torch.rand(5, 8)
    neck(torch.rand(64, 8))
    neck.eval()
    torch.testing.assert_close(neck(features), torch.cat([neck(row[None]) for row in features]))


def test_an_embedding_of_one_dimension_is_refused():
    with pytest.raises(ValueError, match="dim must be at least 2, got 1"):
        UnitNeck(8, dim=1)


def test_a_linear_neck_is_an_affine_map_to_its_dimension():
    neck = LinearNeck(7, dim=3)
    features = torch.randn(4, 7)
    torch.testing.assert_close(neck(features), features @ neck.linear.weight.T + neck.linear.bias)
    assert neck.embedding_dim == 3
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        LinearNeck(7, dim=0)
