import math

import pytest
import torch
from torch import nn

from dermaffinity.config import TrainingSettings
from dermaffinity.heads import AffinityHead, LinearHead
from dermaffinity.losses import AffinityLoss, CrossEntropyLoss
from dermaffinity.models import LesionNetwork, ResNet18, SmallConvNet, UnitNeck
from dermaffinity.training.optim import build_optimizer, set_learning_rate

CPU = torch.device("cpu")


class LossWithCenters(CrossEntropyLoss):
    """A loss that learns centers of its own."""

    def __init__(self, class_counts, embedding_dim):
        super().__init__(class_counts, embedding_dim)
        self.centers = nn.Parameter(torch.zeros(len(class_counts), embedding_dim))
        self.mixing = nn.Parameter(torch.eye(embedding_dim))


def network_of(head_class: type) -> LesionNetwork:
    neck = UnitNeck(SmallConvNet.num_features, dim=8)
    return LesionNetwork(SmallConvNet(), neck, head_class(8, 3))


def facts_by_name(network, loss, settings) -> dict[str, dict]:
    """The optimizer's group of every parameter, by the parameter's name."""
    groups = {
        id(p): group for group in build_optimizer(network, loss, settings, CPU).param_groups for p in group["params"]
    }
    named = [*network.named_parameters(), *((f"loss.{name}", p) for name, p in loss.named_parameters())]
    assert len(groups) == len(named)
    return {name: groups[id(p)] for name, p in named}


def test_matrices_and_kernels_decay_but_norms_biases_and_centers_do_not():
    settings = TrainingSettings(weight_decay=0.01)
    affinity = facts_by_name(network_of(AffinityHead), AffinityLoss(torch.ones(3), 8), settings)
    linear = facts_by_name(network_of(LinearHead), LossWithCenters(torch.ones(3), 8), settings)
    decay = {name: group["weight_decay"] for name, group in (affinity | linear).items()}
    assert decay["backbone.layers.0.weight"] == 0.01  # a kernel
    assert decay["neck.projection.weight"] == decay["head.linear.weight"] == decay["loss.mixing"] == 0.01
    assert decay["backbone.layers.1.weight"] == decay["backbone.layers.1.bias"] == 0  # batch normalization
    assert decay["head.linear.bias"] == decay["head.centers"] == decay["loss.centers"] == 0


def test_decay_leaves_centers_where_they_are_and_shrinks_kernels():
    network = network_of(AffinityHead)
    optimizer = build_optimizer(network, AffinityLoss(torch.ones(3), 8), TrainingSettings(weight_decay=0.1), CPU)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = dict(network.named_parameters())
    assert torch.equal(after["head.centers"], before["head.centers"])
    # One step of SGD on the decay alone: w - 0.01 * 0.1 * w.
    torch.testing.assert_close(after["backbone.layers.0.weight"], 0.999 * before["backbone.layers.0.weight"])


def test_neck_head_and_loss_learn_at_a_multiple_of_the_backbones_rate():
    settings = TrainingSettings(learning_rate=0.02, head_rate_factor=10)
    groups = facts_by_name(network_of(LinearHead), LossWithCenters(torch.ones(3), 8), settings)
    for name, group in groups.items():
        factor = 1 if name.startswith("backbone.") else 10
        assert group["lr"] == group["initial_lr"] == pytest.approx(0.02 * factor)


def test_each_stage_of_a_backbone_learns_at_its_share_of_the_next_ones_rate():
    network = LesionNetwork(ResNet18(weights=None, frozen_stages=1), UnitNeck(512, dim=8), LinearHead(8, 3))
    settings = TrainingSettings(learning_rate=0.02, stage_rate_decay=0.5, head_rate_factor=3)
    groups = build_optimizer(network, CrossEntropyLoss(torch.ones(3), 8), settings, CPU).param_groups
    rates = {id(parameter): group["initial_lr"] / 0.02 for group in groups for parameter in group["params"]}
    named = {name: rates.get(id(parameter)) for name, parameter in network.named_parameters()}
    found = {name: named[f"backbone.network.{name}.0.conv1.weight"] for name in ("layer1", "layer3", "layer4")}
    assert found == {"layer1": 0.125, "layer3": 0.5, "layer4": 1}
    assert named["backbone.network.conv1.weight"] is None  # frozen
    assert named["head.linear.weight"] == 3


def test_adamw_takes_a_step_of_the_learning_rate_whatever_the_gradient():
    network = network_of(AffinityHead)
    settings = TrainingSettings(optimizer="adamw", learning_rate=1e-3, weight_decay=0.1)
    optimizer = build_optimizer(network, AffinityLoss(torch.ones(3), 8), settings, CPU)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    optimizer.step()
    after = dict(network.named_parameters())
    torch.testing.assert_close(after["head.centers"], before["head.centers"] - 1e-3)
    # Decay stands beside the step, w - 0.001 * 0.1 * w - 0.001.
    kernel = "backbone.layers.0.weight"
    torch.testing.assert_close(after[kernel], (1 - 1e-4) * before[kernel] - 1e-3)


def test_frozen_parameters_are_left_out():
    network = network_of(LinearHead)
    network.backbone.requires_grad_(False)
    optimizer = build_optimizer(network, CrossEntropyLoss(torch.ones(3), 8), TrainingSettings(), CPU)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 3  # projection, weight, bias


def factors(settings: TrainingSettings, steps_per_epoch: int = 20) -> list[float]:
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": 1.0, "initial_lr": 2.0}])
    found = []
    for step in range(settings.epochs * steps_per_epoch + 1):
        factor = set_learning_rate(optimizer, step / steps_per_epoch, settings)
        assert optimizer.param_groups[0]["lr"] == 2 * factor
        found.append(factor)
    return found


def test_the_rate_rises_in_a_line_then_falls_in_one_cosine_to_zero():
    found = factors(TrainingSettings(epochs=10, warmup_epochs=2))
    assert found[0] == pytest.approx(0.01)  # not zero: the first step should not be wasted
    assert found[20] == pytest.approx(0.5)
    assert found[40] == pytest.approx(1)
    assert found[120] == pytest.approx(0.5)  # half of the eight epochs of the cosine
    assert found[80] == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert found[-1] == pytest.approx(0, abs=1e-12)
    assert found[:41] == sorted(found[:41])
    assert found[40:] == sorted(found[40:], reverse=True)


def test_without_warm_up_it_starts_at_the_full_rate():
    assert factors(TrainingSettings(epochs=3, warmup_epochs=0))[0] == 1


@pytest.mark.parametrize("warmup", [0.001, 0.5, 5, 100])
def test_the_rate_never_exceeds_the_asked_one_and_warm_up_never_takes_more_than_half(warmup):
    found = factors(TrainingSettings(epochs=4, warmup_epochs=warmup))
    assert 0 < found[0] <= 1
    assert max(found) == pytest.approx(1, abs=1e-3)
    assert found.index(max(found)) <= len(found) // 2
