import pytest
import torch
from torch import nn

from dermaffinity.training.tricks import SharpnessAware
from dermaffinity.training.tricks.sharpness import unchanged_statistics, uphill


def test_parameters_move_the_radius_up_their_gradient_and_exactly_back():
    weights, bias = torch.tensor([0.1, 0.2], requires_grad=True), torch.tensor([0.3], requires_grad=True)
    (3 * weights[0] + 4 * bias[0]).backward()  # the joint gradient (3, 0, 4) is 5 long
    before = [weights.detach().clone(), bias.detach().clone()]
    with uphill([weights, bias], radius=0.5):
        torch.testing.assert_close(weights.detach(), torch.tensor([0.4, 0.2]))
        torch.testing.assert_close(bias.detach(), torch.tensor([0.7]))
    assert torch.equal(weights, before[0])
    assert torch.equal(bias, before[1])


def test_the_gradient_at_the_worst_point_nearby_is_that_of_the_formula():
    # For f(w) = w², gradient 2w: at w = 1 the worst point within 0.1 is 1.1, whose gradient is 2.2.
    weight = torch.tensor([1.0], requires_grad=True)
    weight.square().sum().backward()
    with uphill([weight], radius=0.1):
        weight.grad = None
        weight.square().sum().backward()
    assert weight.grad.item() == pytest.approx(2.2)
    assert weight.item() == 1.0


def test_parameters_without_a_gradient_stay_and_a_zero_gradient_moves_nothing():
    used, unused = torch.tensor([2.0], requires_grad=True), torch.tensor([5.0], requires_grad=True)
    (0 * used).sum().backward()
    with uphill([used, unused], radius=1.0):
        assert (used.item(), unused.item()) == (2.0, 5.0)


def test_an_error_inside_moves_parameters_back_as_well():
    weight = torch.tensor([1.0], requires_grad=True)
    weight.sum().backward()
    with pytest.raises(KeyError), uphill([weight], radius=1.0):
        raise KeyError
    assert weight.item() == 1.0


def test_a_second_pass_leaves_the_statistics_of_batch_normalization():
    network = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, momentum=0.5))
    batch = torch.randn(8, 2) + 3
    network(batch)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with unchanged_statistics(network):
        network(2 * batch)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [layer.momentum for layer in network] == [0.1, 0.5]
    network(2 * batch)
    assert not torch.equal(network[0].running_mean, before["0.running_mean"])


def test_a_radius_that_is_no_length_is_refused():
    with pytest.raises(ValueError, match="radius must be positive because it is a length, got 0"):
        SharpnessAware(radius=0)
