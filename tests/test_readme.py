"""What README shows works as it stands."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.nn import functional as F
from typer.main import get_command

from dermaffinity.cli import app
from dermaffinity.config import read_config
from dermaffinity.heads import HeadOutput

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, word: str) -> str:
    """The one code block of a language that has the word in it."""
    (found,) = [text for text in re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL) if word in text]
    return found


def test_the_loss_shown_is_one_file_and_its_config_another(tmp_path, monkeypatch):
    (tmp_path / "poly1.py").write_text(block("python", "Poly1Loss"))
    config = yaml.safe_load(block("yaml", "Poly1Loss"))
    assert config["loss"] == {"class": "dermaffinity.losses.poly1.Poly1Loss", "epsilon": 2}
    config["loss"]["class"] = "poly1.Poly1Loss"
    (tmp_path / "poly1.yaml").write_text(yaml.safe_dump({**config, "plugins": ["poly1"]}))
    monkeypatch.syspath_prepend(tmp_path)

    loss = read_config(tmp_path / "poly1.yaml").loss.build(class_counts=torch.ones(3), embedding_dim=4)

    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    output = HeadOutput(logits, torch.zeros(5, 4), torch.zeros(3, 1, 4))
    p = logits.softmax(dim=1)[torch.arange(5), labels]
    expected = F.cross_entropy(logits, labels) + 2 * (1 - p).mean()
    torch.testing.assert_close(loss(output, labels)["poly1"], expected)
    del sys.modules["poly1"]


def test_the_classifier_is_used_as_shown(toy_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = [np.full((40, 50, 3), value, np.uint8) for value in (0, 255)]
    Image.fromarray(images[0]).save("lesion.jpg")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/hamfit7_affinity_plus").symlink_to(toy_model)
    shown = {"images": images}
    exec(block("python", "LesionClassifier"), shown)
    assert shown["classifier"].predict("lesion.jpg")[0] in shown["classifier"].classes_


def test_every_command_shown_exists_with_its_options():
    verbs = get_command(app).commands  # type: ignore[attr-defined]
    shown = re.findall(r"^dermaffinity (\w+)(.*)$", README, flags=re.MULTILINE)
    assert len(shown) >= 4
    for verb, rest in shown:
        options = {name for parameter in verbs[verb].params for name in parameter.opts}
        assert set(re.findall(r"(?<= )--[a-z-]+", rest.split("#")[0])) <= options, verb


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_every_file_that_is_linked_exists(link):
    assert (ROOT / link).exists()
