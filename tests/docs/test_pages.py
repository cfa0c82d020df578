"""What README and the site show works as it stands."""

import contextlib
import doctest
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

from dermaffinity.cli import app

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str = "") -> list[str]:
    """The code blocks of a page in one language; "" for commands."""
    text = page.read_text(encoding="utf-8")
    return [code for kind, code in re.findall(r"^ *```(\w*)\n(.*?)^ *```$", text, re.DOTALL | re.M) if kind == language]


def test_readme_is_read_in_one_go():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 130


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_shown_exists_with_its_options(page):
    verbs = get_command(app).commands  # type: ignore[attr-defined]
    commands = "\n".join(blocks(page)).replace("\\\n", " ")
    for verb, rest in re.findall(r"^ *dermaffinity (\w+)(.*)$", commands, flags=re.MULTILINE):
        options = {name for parameter in verbs[verb].params for name in parameter.opts}
        assert set(re.findall(r"(?<= )--[a-z-]+", rest.split("#")[0])) <= options, verb


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_named_exists(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"(?:pipelines|examples|benchmarks|configs|tests)/\w[\w./]*\.(?:py|ipynb|yaml)", text)
    added = re.findall(r"`(tests/losses/test_poly1.py)`", text)  # by the reader
    assert not [path for path in {*named} - {*added} if not (ROOT / path).exists()]


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text(encoding="utf-8")))
def test_every_file_that_readme_links_to_exists(link):
    assert (ROOT / link).exists()


def test_readme_prints_what_python_does(uninterrupted, phantom_library, tmp_path, monkeypatch):
    """On a smaller library than the demo's, so that numbers and classes may differ."""

    def bare(text: str) -> list[str]:
        classless = re.sub(r"\b(AK|BCC|ML|SCC|SK)\b(, (AK|BCC|ML|SCC|SK)\b)*", "X", text)
        return sorted(re.sub(r"[\d.]+", "0", classless).split())

    (code,) = blocks(README, "python")
    (picture,) = re.findall(r"demo/library/(\S+\.png)", code)
    for method in ("affinity_plus", "cosen"):
        shutil.copytree(uninterrupted / "runs/tiny", tmp_path / f"demo/runs/demo_{method}")
    (tmp_path / "demo/library" / picture).parent.mkdir(parents=True)
    shutil.copy(min(phantom_library.rglob("*.png")), tmp_path / "demo/library" / picture)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for example in doctest.DocTestParser().get_examples(code):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(example.source, "README.md", "single"), names)
        assert bare(printed.getvalue()) == bare(example.want), example.source


@pytest.mark.parametrize("page", ["docs/classifier.md"])
def test_the_classifier_is_used_as_shown(page, toy_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = [np.full((40, 50, 3), value, np.uint8) for value in (0, 255)]
    Image.fromarray(images[0]).save("lesion.jpg")
    (code,) = [code for code in blocks(ROOT / page, "python") if "import LesionClassifier" in code]
    (loaded,) = re.findall(r'load\("(.*?)"\)', code)
    (tmp_path / loaded).parent.mkdir(parents=True)
    (tmp_path / loaded).symlink_to(toy_model)
    shown = {"images": images}
    exec(code, shown)
    assert shown["classifier"].predict("lesion.jpg")[0] in shown["classifier"].classes_
