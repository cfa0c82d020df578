"""What is saved: a training in progress, and a finished network as safetensors and JSON. Nothing is unpickled."""

import io
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from dermaffinity.config import Page, import_class
from dermaffinity.errors import DataError
from dermaffinity.files import atomic_write, write_json
from dermaffinity.models import LesionNetwork

_FORMAT = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Saves tensors and plain values so that ``load_checkpoint`` needs no pickle."""
    # Into memory first: torch hides a full disk behind an error of its own.
    content = io.BytesIO()
    torch.save(state, content)
    with atomic_write(path, "wb") as file:
        file.write(content.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A saved training state.

    Raises:
        DataError: When the file is damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes torch.load raise; its text advises to allow pickle
        raise DataError(f"{path}: not a readable checkpoint. Delete it to train this fold anew") from error


def save_network(folder: Path, network: LesionNetwork, description: dict[str, Any]) -> None:
    """Writes ``model.safetensors`` and ``model.json``.

    Args:
        folder: Where to.
        network: The trained network.
        description: ``classes`` in order, the sections ``backbone``, ``neck`` and ``head`` of the page, and whatever
            else a reader needs to know.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with atomic_write(folder / "model.safetensors", "wb") as file:
        file.write(save(state))
    write_json(folder / "model.json", {"format": _FORMAT, **description})


def load_network(folder: Path) -> tuple[LesionNetwork, dict[str, Any]]:
    """The network of a folder that ``save_network`` wrote, in evaluation mode, and its description.

    Raises:
        DataError: When a file is missing, damaged, or of another format.
    """
    try:
        description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        state = load_file(folder / "model.safetensors")
        found = description.get("format")
    except Exception as error:  # missing, not JSON, not safetensors
        raise DataError(f"{folder}: no readable model.json and model.safetensors ({error})") from error
    if found != _FORMAT:
        raise DataError(f"{folder}: model format {found!r}, this version reads {_FORMAT}")
    try:
        network = build_network(description, len(description["classes"]), pretrained=False)
        network.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{folder}: model.json and model.safetensors do not fit together ({error})") from error
    return network.eval(), description


def build_network(sections: dict[str, Any], num_classes: int, *, pretrained: bool) -> LesionNetwork:
    """A new network from the ``backbone``, ``neck`` and ``head`` sections of a page.

    Args:
        sections: Each section has the key ``class`` and that class's hyper-parameters.
        num_classes: Number of classes C.
        pretrained: Whether the backbone loads its ``weights``; not when they are about to be replaced.
    """

    def build(section: str, *facts: int) -> Any:
        arguments = {key: value for key, value in sections[section].items() if key != "class"}
        if "weights" in arguments and not pretrained:
            arguments["weights"] = None
        found = import_class(sections[section]["class"])
        # A model may come from somebody else: nothing but a part of a network is built.
        if not issubclass(found, import_class(Page.bases[section])):
            raise DataError(f"{section}: {found.__name__} is no {section} class")
        return found(*facts, **arguments)

    backbone = build("backbone")
    neck = build("neck", backbone.num_features)
    head = build("head", neck.embedding_dim, num_classes)
    return LesionNetwork(backbone, neck, head)
