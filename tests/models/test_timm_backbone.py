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
    with pytest.raises(ConfigError, match=r"there is no file .*none\.pth; allowed are 'pretrained', null"):
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
