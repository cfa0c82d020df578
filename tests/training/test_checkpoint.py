import pytest
import torch

from dermaffinity.errors import DataError
from dermaffinity.training.checkpoint import load_checkpoint, save_checkpoint


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
