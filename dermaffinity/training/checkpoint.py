"""A training in progress, saved from time to time after an epoch. Nothing is unpickled."""

import io
from pathlib import Path
from typing import Any

import torch

from dermaffinity.errors import DataError
from dermaffinity.files import atomic_write


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
