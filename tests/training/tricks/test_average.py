import pytest

from dermaffinity.heads import LinearHead
from dermaffinity.models import IdentityNeck, LesionNetwork, SmallConvNet
from dermaffinity.training.tricks import MovingAverage


def test_weights_and_statistics_are_averaged_from_the_first_step_on():
    network, trick = LesionNetwork(SmallConvNet(), IdentityNeck(128), LinearHead(128, 2)), MovingAverage(decay=0.75)
    trick.on_start(network)
    weight, mean = network.head.linear.weight.data, network.backbone.layers[1].running_mean
    for value in (4.0, 8.0):
        weight.fill_(value)
        mean.fill_(10 * value)
        trick.on_step(network)
    averaged = trick.result(network)
    assert averaged.head.linear.weight.unique().item() == 5  # 0.75 x 4 + 0.25 x 8
    assert averaged.backbone.layers[1].running_mean.unique().item() == pytest.approx(50)
    assert not any(parameter.requires_grad for parameter in averaged.parameters())


@pytest.mark.parametrize("decay", [0, 1, -0.5])
def test_a_decay_outside_its_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"decay must be within \(0, 1\), got"):
        MovingAverage(decay=decay)
