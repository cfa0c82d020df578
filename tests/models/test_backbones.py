import hashlib
import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dermaffinity.errors import ConfigError
from dermaffinity.models import DigitNet, ResNet18, SmallConvNet, views_of
from dermaffinity.models import backbones as module


@pytest.fixture(scope="module")
def random_state() -> dict[str, torch.Tensor]:
    """A torchvision ResNet-18 state_dict as the ImageNet file is laid out, with its last layer."""
    from torchvision.models import resnet18

    torch.manual_seed(3)
    return resnet18(weights=None).state_dict()


def test_features_of_resnet18_are_those_of_torchvision_before_its_last_layer(random_state, tmp_path):
    from torchvision.models import resnet18

    path = tmp_path / "resnet18.pth"
    torch.save(random_state, path)
    reference = resnet18(weights=None)
    reference.load_state_dict(random_state)
    backbone, images = ResNet18(weights=str(path)).eval(), torch.randn(2, 3, 48, 64)
    features = backbone(images)
    assert features.shape == (2, backbone.num_features)
    assert (features >= 0).all()
    torch.testing.assert_close(reference.fc(features), reference.eval()(images))


def test_imagenet_means_the_weights_that_torchvision_downloads(monkeypatch, random_state):
    asked = []
    monkeypatch.setattr(module, "_download", lambda weights: asked.append(weights.name) or random_state)
    backbone = ResNet18()
    assert asked == ["IMAGENET1K_V1"]
    assert torch.equal(backbone.network.conv1.weight, random_state["conv1.weight"])


# A proxy's page in the place of the file is told by its hash, which torch answers with a RuntimeError.
@pytest.mark.parametrize("failure", [OSError("no route to host"), RuntimeError("invalid hash value")])
def test_without_a_connection_the_error_says_how_to_go_on(failure, tmp_path, monkeypatch):
    from torchvision.models import ResNet18_Weights

    def fail(self, *arguments, **options):
        raise failure

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", fail)
    with pytest.raises(ConfigError, match=rf"{failure}.*backbone\.weights=PATH.*backbone\.weights=null"):
        ResNet18(weights="imagenet")


@pytest.fixture
def cached(tmp_path, monkeypatch, random_state) -> Path:
    """ImageNet weights in torch's cache, as if torchvision had published these random ones."""
    from torchvision.models import ResNet18_Weights

    content = io.BytesIO()
    torch.save(random_state, content)
    start = hashlib.sha256(content.getvalue()).hexdigest()[:8]
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "my cache"))
    weights = ResNet18_Weights.IMAGENET1K_V1
    file = tmp_path / f"my cache/hub/checkpoints/resnet18-{start}.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(content.getvalue())
    monkeypatch.setattr(weights, "_value_", replace(weights.value, url=f"https://nowhere.invalid/{file.name}"))
    return file


def test_weights_in_the_cache_are_taken_from_there(cached, random_state):
    assert torch.equal(ResNet18().network.conv1.weight, random_state["conv1.weight"])


@pytest.mark.parametrize("damage", ["cut", "empty", "another file", "one byte"])
def test_damaged_weights_in_the_cache_are_named_with_the_command_that_deletes_them(cached, damage):
    content = bytearray(cached.read_bytes())
    content[len(content) // 2] ^= 1
    half = content[: len(content) // 2]
    cached.write_bytes({"cut": half, "empty": b"", "another file": b"<html>", "one byte": content}[damage])
    with pytest.raises(ConfigError) as caught:
        ResNet18()
    assert str(caught.value) == (
        f"{cached}: these ImageNet weights are damaged or cut. Delete the file, and the next run downloads it again: "
        f"rm '{cached}'"
    )


@pytest.mark.parametrize("classes", [7, None])
def test_weights_with_another_last_layer_or_none_are_accepted(classes, tmp_path, random_state):
    state = {name: tensor for name, tensor in random_state.items() if not name.startswith("fc.")}
    if classes:
        state |= {"fc.weight": torch.zeros(classes, 512), "fc.bias": torch.zeros(classes)}
    torch.save(state, tmp_path / "weights.pth")
    backbone = ResNet18(weights=str(tmp_path / "weights.pth"))
    for name, tensor in backbone.network.state_dict().items():
        assert torch.equal(tensor, random_state[name]), name


def test_a_missing_weights_file_is_named():
    with pytest.raises(ConfigError, match=r"no file nowhere\.pth; allowed are 'imagenet', null, or the path"):
        ResNet18(weights="nowhere.pth")


def test_a_file_that_is_no_state_dict_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"not a tensor")
    with pytest.raises(ConfigError, match=r"weights\.pth is not a state_dict that torch can read$"):
        ResNet18(weights=str(path))


def test_a_pickled_object_is_refused_unread(tmp_path):
    torch.save({"network": Path("x")}, tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match=r"is not a state_dict that torch can read$"):
        ResNet18(weights=str(tmp_path / "weights.pth"))


def test_the_weights_of_another_network_are_refused_with_the_first_difference(tmp_path, random_state):
    other = dict(random_state) | {"conv1.weight": torch.zeros(64, 1, 7, 7)}
    del other["bn1.bias"]
    torch.save(other, tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match=r"not a torchvision ResNet-18 state_dict; 2 of its entries.*'bn1\.bias'"):
        ResNet18(weights=str(tmp_path / "weights.pth"))


def test_random_weights_differ_with_the_seed_and_agree_without():
    def first_kernel(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return ResNet18(weights=None).network.conv1.weight

    assert torch.equal(first_kernel(0), first_kernel(0))
    assert not torch.equal(first_kernel(0), first_kernel(1))


@pytest.mark.parametrize("size", [16, 64])
def test_the_small_network_gives_128_features_of_any_size(size):
    features = SmallConvNet()(torch.randn(2, 3, size, size))
    assert features.shape == (2, SmallConvNet.num_features)
    assert (features >= 0).all()


@pytest.mark.parametrize("build", [SmallConvNet, lambda: ResNet18(weights=None)], ids=["SmallConvNet", "ResNet18"])
def test_each_image_alone_equals_the_batch(build):
    torch.manual_seed(0)
    backbone, images = build().eval(), torch.randn(3, 3, 32, 32)
    alone = torch.cat([backbone(image[None]) for image in images])
    torch.testing.assert_close(backbone(images), alone, rtol=1e-4, atol=1e-5)


def test_the_digit_network_has_the_papers_layers():
    layers = DigitNet().layers
    convolutions = [layer for layer in layers if isinstance(layer, torch.nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size) for c in convolutions] == [(32, (5, 5)), (64, (5, 5)), (128, (5, 5))]
    (connected,) = (layer for layer in layers if isinstance(layer, torch.nn.Linear))
    assert connected.out_features == 128
    assert isinstance(layers[-1], torch.nn.ReLU)


def test_the_digit_network_sees_gray():
    images = torch.randn(2, 3, 28, 28)
    network = DigitNet()
    torch.testing.assert_close(network(images), network(images[:, [2, 0, 1]]))
    assert (network(images) >= 0).all()


def test_the_digit_network_refuses_images_of_another_size():
    with pytest.raises(ValueError, match=r"28 × 28 pixels, got \(64, 28\); set data\.image_size to 28"):
        DigitNet()(torch.randn(1, 3, 64, 28))


@pytest.mark.parametrize("number", [2, 5])  # seen at once, and one view after the other
def test_several_views_give_the_mean_features_of_the_symmetries_in_evaluation_only(number):
    torch.manual_seed(0)
    backbone, images = ResNet18(weights=None, views=8), torch.randn(number, 3, 32, 32)
    alone = ResNet18(weights=None)
    alone.load_state_dict(backbone.state_dict())
    backbone.eval(), alone.eval()
    expected = torch.stack([alone(view) for view in views_of(images, 8)]).mean(dim=0)
    torch.testing.assert_close(backbone(images), expected)
    # The same whatever way the image is turned.
    torch.testing.assert_close(backbone(images.rot90(1, (2, 3)).flip(2)), expected)
    backbone.train(), alone.train()
    torch.testing.assert_close(backbone(images), alone(images))


def test_frozen_stages_neither_learn_nor_count_and_the_others_do():
    torch.manual_seed(0)
    backbone = ResNet18(weights=None, frozen_stages=2).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1)
    backbone(torch.randn(4, 3, 32, 32)).square().mean().backward()
    optimizer.step()
    changed = {name for name, value in backbone.state_dict().items() if not torch.equal(value, before[name])}
    parts = {name.split(".")[1] for name in changed}
    assert parts == {"layer2", "layer3", "layer4"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frozen_stages": 6}, "frozen_stages must be from 0 to 5, got 6"),
        ({"views": 3}, "views must be 1, 2, 4 or 8, got 3"),
        ({"sizes": [16, 64]}, r"sizes must be different sides of at least 32 pixels, or null, got \[16, 64\]"),
        ({"sizes": [64, 64]}, r"sizes must be different .* got \[64, 64\]"),
        ({"sizes": []}, r"sizes must be different .* got \[\]"),
    ],
)
def test_what_a_resnet18_cannot_do_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ResNet18(weights=None, **options)


def test_several_stages_give_the_means_of_their_maps_side_by_side():
    torch.manual_seed(0)
    one, three = (ResNet18(weights=None, pooled_stages=stages).eval() for stages in (1, 3))
    three.load_state_dict(one.state_dict())
    images, maps = torch.randn(2, 3, 64, 64), {}
    for name in ("layer2", "layer3"):
        getattr(one.network, name).register_forward_hook(
            lambda module, given, found, name=name: maps.__setitem__(name, found.mean(dim=(2, 3)))
        )
    last = one(images)
    assert (one.num_features, three.num_features) == (512, 896)
    torch.testing.assert_close(three(images), torch.cat([maps["layer2"], maps["layer3"], last], dim=1))


def test_several_sizes_give_the_features_of_the_resized_images_side_by_side():
    from torchvision.transforms.v2.functional import resize

    torch.manual_seed(0)
    as_they_come = ResNet18(weights=None, pooled_stages=2).eval()
    sizes = ResNet18(weights=None, pooled_stages=2, sizes=[32, 96]).eval()
    sizes.load_state_dict(as_they_come.state_dict())
    images = torch.rand(2, 3, 64, 64)
    expected = torch.cat([as_they_come(resize(images, [size, size])) for size in (32, 96)], dim=1)
    assert sizes.num_features == 2 * as_they_come.num_features
    torch.testing.assert_close(sizes(images), expected)


def test_with_several_sizes_an_image_means_the_same_whatever_way_it_is_turned():
    torch.manual_seed(0)
    backbone = ResNet18(weights=None, sizes=[32, 80], views=8).eval()
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(backbone(images.rot90(1, (2, 3)).flip(2)), backbone(images))
