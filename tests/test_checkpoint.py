import json

import pytest
import torch

from dermaffinity.checkpoint import build_network, load_checkpoint, load_network, save_checkpoint, save_network
from dermaffinity.errors import ConfigError, DataError
from dermaffinity.models import ResNet18, SmallConvNet

SECTIONS = {
    "backbone": {"class": "dermaffinity.models.SmallConvNet"},
    "neck": {"class": "dermaffinity.models.UnitNeck", "dim": 8},
    "head": {"class": "dermaffinity.heads.AffinityHead", "centers_per_class": 2, "sigma": 0.7},
}
DESCRIPTION = {"classes": ["AK", "BCC", "ML"], **SECTIONS, "fold": 1}


@pytest.fixture
def saved(tmp_path):
    """A trained-looking network, and the folder it was saved in."""
    torch.manual_seed(0)
    network = build_network(SECTIONS, 3, pretrained=False)
    network.train()(torch.randn(8, 3, 16, 16))  # moves the statistics of batch normalization
    save_network(tmp_path / "model", network, DESCRIPTION)
    return network.eval(), tmp_path / "model"


def test_a_loaded_network_gives_exactly_what_the_saved_one_gave(saved):
    network, folder = saved
    loaded, description = load_network(folder)
    images = torch.randn(4, 3, 16, 16)
    assert all(torch.equal(a, b) for a, b in zip(loaded(images), network(images), strict=True))
    assert not loaded.training
    assert loaded.head.sigma == 0.7
    assert description == {"format": 1, **DESCRIPTION}


def test_a_saved_network_is_json_and_safetensors_without_pickle(saved):
    _, folder = saved
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]
    assert json.loads((folder / "model.json").read_text())["classes"] == ["AK", "BCC", "ML"]
    header = int.from_bytes((folder / "model.safetensors").read_bytes()[:8], "little")
    assert "head.centers" in json.loads((folder / "model.safetensors").read_bytes()[8 : 8 + header])


def test_weights_in_another_memory_layout_are_saved_as_well(tmp_path):
    network = build_network(SECTIONS, 3, pretrained=False).to(memory_format=torch.channels_last)
    save_network(tmp_path, network, DESCRIPTION)
    loaded, _ = load_network(tmp_path)
    assert torch.equal(loaded.backbone.layers[4].weight, network.backbone.layers[4].weight)


def test_each_part_tells_the_next_its_size():
    network = build_network(SECTIONS, 5, pretrained=False)
    assert network.neck.projection.weight.shape == (8, SmallConvNet.num_features)
    assert network.head.centers.shape == (5, 2, 8)


def test_weights_that_are_about_to_be_replaced_are_not_read():
    sections = SECTIONS | {"backbone": {"class": "dermaffinity.models.ResNet18", "weights": "nowhere.pth"}}
    assert isinstance(build_network(sections, 3, pretrained=False).backbone, ResNet18)
    with pytest.raises(ConfigError, match=r"no file nowhere\.pth"):
        build_network(sections, 3, pretrained=True)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
def test_a_damaged_folder_is_named(saved, name, damage):
    _, folder = saved
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if damage != "missing":
        (folder / name).write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    with pytest.raises(DataError, match=r"model: no readable model\.json and model\.safetensors"):
        load_network(folder)


def rewrite(folder, **changes) -> None:
    description = json.loads((folder / "model.json").read_text()) | changes
    (folder / "model.json").write_text(json.dumps({k: v for k, v in description.items() if v is not None}))


def test_a_model_of_another_format_is_refused(saved):
    rewrite(saved[1], format=2)
    with pytest.raises(DataError, match="model format 2, this version reads 1"):
        load_network(saved[1])


@pytest.mark.parametrize(
    "changes",
    [
        {"head": None},
        {"classes": ["AK", "BCC"]},
        {"head": {"class": "dermaffinity.heads.LinearHead"}},
        {"head": SECTIONS["head"] | {"sigma": -1}},
        {"head": SECTIONS["head"] | {"centres": 2}},
    ],
)
def test_a_description_of_another_network_is_refused(saved, changes):
    rewrite(saved[1], **changes)
    with pytest.raises(DataError, match=r"model\.json and model\.safetensors do not fit together"):
        load_network(saved[1])


def test_a_model_from_elsewhere_cannot_call_what_is_no_part_of_a_network(saved, tmp_path):
    rewrite(saved[1], backbone={"class": "subprocess.Popen", "args": ["touch", str(tmp_path / "ran")]})
    with pytest.raises(DataError, match="backbone: Popen is no backbone class"):
        load_network(saved[1])
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_keeps_tensors_and_plain_values(tmp_path):
    state = {"network": {"w": torch.randn(3)}, "history": [{"loss": 0.5}], "best": {"score": -1.0, "network": None}}
    save_checkpoint(tmp_path / "checkpoint.pt", state)
    loaded = load_checkpoint(tmp_path / "checkpoint.pt")
    assert torch.equal(loaded["network"].pop("w"), state["network"].pop("w"))
    assert loaded == state


class Malicious:
    """Would run a function of its choice when unpickled."""

    def __reduce__(self):
        return print, ("unpickled",)


@pytest.mark.parametrize("content", ["truncated", "text", "pickle"])
def test_a_checkpoint_that_is_damaged_or_would_run_code_is_refused(tmp_path, capsys, content):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"w": torch.randn(100)})
    if content == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    elif content == "text":
        path.write_text("not a checkpoint")
    else:
        torch.save({"w": Malicious()}, path)
    with pytest.raises(
        DataError, match=r"checkpoint\.pt: not a readable checkpoint\. Delete it to train this fold anew"
    ):
        load_checkpoint(path)
    assert "unpickled" not in capsys.readouterr().out
