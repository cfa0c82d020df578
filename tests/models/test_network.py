import pytest
import torch
from torch import nn

from dermaffinity.heads import AffinityHead, LinearHead
from dermaffinity.models import Backbone, IdentityNeck, LesionNetwork, SmallConvNet, UnitNeck


class Pixels(Backbone):
    """The pixels themselves: no arithmetic, so that only neck and head can lose precision."""

    num_features = 48

    def __init__(self) -> None:
        super().__init__()
        self.flatten = nn.Flatten()

    def forward(self, images):
        return self.flatten(images)


def network_of(backbone: Backbone, head_class: type, neck_class: type = UnitNeck) -> LesionNetwork:
    torch.manual_seed(0)
    neck = neck_class(backbone.num_features)
    return LesionNetwork(backbone, neck, head_class(neck.embedding_dim, 4)).eval()


@pytest.mark.parametrize("head_class", [LinearHead, AffinityHead])
def test_the_parts_follow_one_another(head_class):
    network, images = network_of(SmallConvNet(), head_class), torch.randn(2, 3, 16, 16)
    output = network(images)
    expected = network.head(network.neck(network.backbone(images)))
    assert all(torch.equal(a, b) for a, b in zip(output, expected, strict=True))
    assert output.scores.shape == (2, 4)
    assert output.embedding.shape == (2, 128)


@pytest.mark.parametrize("head_class", [LinearHead, AffinityHead])
@pytest.mark.parametrize("neck_class", [IdentityNeck, UnitNeck])
def test_in_half_precision_neck_and_head_give_what_they_give_in_float32(head_class, neck_class):
    network, images = network_of(Pixels(), head_class, neck_class), torch.randn(5, 3, 4, 4)
    plain = network(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = network(images)
    assert all(torch.equal(a, b) for a, b in zip(half, plain, strict=True))


@pytest.mark.parametrize("head_class", [LinearHead, AffinityHead])
def test_half_precision_features_reach_the_head_as_float32(head_class):
    network, images = network_of(SmallConvNet(), head_class), torch.randn(3, 3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = network.backbone(images)
        output = network(images)
    assert features.dtype == torch.bfloat16
    assert output.scores.dtype == output.embedding.dtype == torch.float32
    torch.testing.assert_close(output.scores, network.head(network.neck(features.float())).scores)


@pytest.mark.parametrize("number", [1, 4])  # 4 is also the number of classes
def test_each_image_alone_equals_the_batch(number):
    network, images = network_of(SmallConvNet(), AffinityHead), torch.randn(number, 3, 16, 16)
    alone = torch.cat([network(image[None]).scores for image in images])
    torch.testing.assert_close(network(images).scores, alone, rtol=1e-4, atol=1e-6)
