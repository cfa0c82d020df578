import builtins
from pickle import UnpicklingError

import pytest
import torch

from dermaffinity.errors import ConfigError
from dermaffinity.heads import AffinityHead
from dermaffinity.models import LesionNetwork, TimmBackbone, UnitNeck

timm = pytest.importorskip("timm")


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050"])  # a head_hidden_size of its own: the second
def test_features_are_those_before_the_classifier_of_weights_from_a_file(name, tmp_path):
    torch.manual_seed(0)
    whole = timm.create_model(name, pretrained=False).eval()
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    backbone = TimmBackbone(name=name, weights=str(tmp_path / "weights.pth")).eval()
    images = torch.randn(2, 3, 32, 32)
    features = backbone(images)
    assert features.shape == (2, backbone.num_features)
    torch.testing.assert_close(whole.get_classifier()(features), whole(images))


def test_the_papers_network_goes_with_the_affinity_head():
    backbone = TimmBackbone(weights=None)
    neck = UnitNeck(backbone.num_features, dim=16)
    network = LesionNetwork(backbone, neck, AffinityHead(16, 30))
    output = network(torch.randn(2, 3, 32, 32))
    assert backbone.num_features == 2048
    assert output.scores.shape == (2, 30)


def test_safetensors_are_read_as_well(tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    whole = timm.create_model("resnet10t", pretrained=False)
    save_file(whole.state_dict(), tmp_path / "weights.safetensors")
    backbone = TimmBackbone(name="resnet10t", weights=str(tmp_path / "weights.safetensors"))
    assert torch.equal(backbone.network.layer1[0].conv1.weight, whole.layer1[0].conv1.weight)


@pytest.mark.parametrize("name", ["seresnet5", "hf-hub:someone/something", "../seresnet50"])
def test_a_name_that_timm_does_not_have_is_refused_before_anything_is_downloaded(name):
    with pytest.raises(ConfigError, match=r"backbone\.name: timm \S+ has no network") as caught:
        TimmBackbone(name=name)
    assert ("did you mean" in str(caught.value)) == name.endswith(("seresnet5", "seresnet50"))


@pytest.mark.parametrize("failure", [OSError("no route to host"), EOFError("Ran out of input"), UnpicklingError("cut")])
def test_a_failed_or_cut_download_says_how_to_go_on(failure, monkeypatch):
    def fail(*arguments, **options):
        raise failure

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(ConfigError, match=rf"{failure}.*was cut, delete it from .*hub.*--set backbone\.weights=PATH"):
        TimmBackbone(name="resnet10t")


def test_weights_that_do_not_fit_or_are_missing_are_one_sentence(tmp_path):
    with pytest.raises(
        ConfigError, match=r"there is no file .*none\.pth; allowed are 'pretrained', 'hf-hub:OWNER/NAME', null"
    ):
        TimmBackbone(name="resnet10t", weights=str(tmp_path / "none.pth"))
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match=r"other\.pth is not a state_dict of resnet10t; .*Missing key"):
        TimmBackbone(name="resnet10t", weights=str(tmp_path / "other.pth"))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ConfigError, match=r"text\.pth is not a state_dict that torch can read$"):
        TimmBackbone(name="resnet10t", weights=str(tmp_path / "text.pth"))


def test_without_a_connection_the_error_says_how_to_go_on(monkeypatch):
    def fail(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(ConfigError, match=r"no route to host.*backbone\.weights=PATH.*backbone\.weights=null"):
        TimmBackbone(name="resnet10t")


def test_without_timm_the_error_names_the_extra(monkeypatch):
    importing = builtins.__import__

    def missing(name, *arguments):
        if name == "timm":
            raise ModuleNotFoundError("No module named 'timm'")
        return importing(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=r"pip install 'dermaffinity\[faces\]'"):
        TimmBackbone()


@pytest.mark.parametrize(("name", "stages"), [("resnet10t", 5), ("test_vit", 7), ("test_convnext", 6)])
def test_frozen_stages_neither_learn_nor_count_and_the_others_do(name, stages):
    backbone = TimmBackbone(name=name, weights=None, frozen_stages=2).train()
    names = [own for stage in backbone.stages() for own in stage]
    assert len(backbone.stages()) == stages
    assert sorted(names) == sorted(own for own, _ in backbone.named_parameters())
    frozen = {own for own, parameter in backbone.named_parameters() if not parameter.requires_grad}
    assert frozen == {own for stage in backbone.stages()[:2] for own in stage}
    before = {own: tensor.clone() for own, tensor in backbone.state_dict().items()}
    backbone(torch.randn(4, 3, 64, 64))
    changed = {own for own, tensor in backbone.state_dict().items() if not torch.equal(tensor, before[own])}
    statistics = {own for own in before if own.endswith("running_mean")}
    first = {own for own in statistics if own.replace("running_mean", "weight") in frozen}
    assert changed & statistics == statistics - first
    everything = TimmBackbone(name=name, weights=None, frozen_stages=-1)
    assert not any(parameter.requires_grad for parameter in everything.parameters())


@pytest.mark.parametrize("size", [160, 64, 50])  # its own, another, and one that no patch of 16 divides
def test_a_transformer_takes_images_of_any_size_from_the_weights_of_one(size, tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    whole = timm.create_model("test_vit", pretrained=False, num_classes=0).eval()
    save_file(whole.state_dict(), tmp_path / "weights.safetensors")
    backbone = TimmBackbone(name="test_vit", weights=str(tmp_path / "weights.safetensors")).eval()
    images = torch.randn(2, 3, size, size)
    assert backbone(images).shape == (2, backbone.num_features)
    if size == 160:
        torch.testing.assert_close(backbone.network(images), whole(images))


def test_a_network_with_a_mean_and_deviation_of_its_own_sees_its_own(monkeypatch):
    monkeypatch.setattr(timm, "create_model", with_normalization(timm.create_model, (0.5, 0.5, 0.5), (0.25, 0.5, 1.0)))
    backbone = TimmBackbone(name="resnet10t", weights=None).eval()
    pixels = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    own = (pixels - 0.5) / torch.tensor([0.25, 0.5, 1.0]).view(3, 1, 1)
    torch.testing.assert_close(backbone((pixels - mean) / std), backbone.network(own), atol=1e-4, rtol=1e-4)
    # The numbers are the model's: built again for another, they come with the weights.
    monkeypatch.undo()
    loaded = TimmBackbone(name="resnet10t", weights=None).eval()
    loaded.load_state_dict(backbone.state_dict())
    torch.testing.assert_close(loaded((pixels - mean) / std), backbone.network(own), atol=1e-4, rtol=1e-4)


def with_normalization(create, mean, std):
    def made(*arguments, **options):
        network = create(*arguments, **options)
        network.pretrained_cfg = {**network.pretrained_cfg, "mean": mean, "std": std}
        return network

    return made


def test_several_views_give_the_mean_features_of_the_symmetries():
    torch.manual_seed(0)
    one, four = (TimmBackbone(name="resnet10t", weights=None, views=views).eval() for views in (1, 4))
    four.load_state_dict(one.state_dict())
    images = torch.randn(2, 3, 32, 32)
    expected = torch.stack([one(turned) for turned in (images, images.flip(3), images.flip(2), images.flip(2, 3))])
    torch.testing.assert_close(four(images), expected.mean(dim=0))


def test_weights_of_the_hub_are_its_safetensors_alone(monkeypatch, tmp_path):
    import huggingface_hub
    from safetensors.torch import save_file

    torch.manual_seed(0)
    whole, asked = timm.create_model("resnet10t", pretrained=False), []
    save_file(whole.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda *what: asked.append(what) or str(tmp_path / "model.safetensors")
    )
    backbone = TimmBackbone(name="resnet10t", weights="hf-hub:somebody/something")
    assert asked == [("somebody/something", "model.safetensors")]
    assert torch.equal(backbone.network.layer1[0].conv1.weight, whole.layer1[0].conv1.weight)


def test_a_hub_that_cannot_be_reached_says_how_to_go_on(monkeypatch):
    import huggingface_hub

    def fail(*what):
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(ConfigError, match=r"cannot get hf-hub:a/b weights of resnet10t \(no route to host\).*=PATH"):
        TimmBackbone(name="resnet10t", weights="hf-hub:a/b")


def test_what_a_network_cannot_do_is_refused():
    with pytest.raises(ValueError, match=r"frozen_stages must be from 0 to 5, got 9"):
        TimmBackbone(name="resnet10t", weights=None, frozen_stages=9)
    with pytest.raises(ValueError, match=r"views must be 1, 2, 4 or 8, got 3"):
        TimmBackbone(name="resnet10t", weights=None, views=3)
