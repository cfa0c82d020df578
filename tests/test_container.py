"""The recipes of containers copy what there is, all that the package is built from, and install from the lock."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONTAINERFILE = (ROOT / "Containerfile").read_text()
APPTAINER = (ROOT / "apptainer.def").read_text()


def copied(recipe: str) -> set[str]:
    if recipe is CONTAINERFILE:
        lines = re.findall(r"^COPY (.+) \S+$", recipe, re.MULTILINE)
    else:
        lines = re.findall(r"^    (.+) /opt/dermaffinity/$", recipe, re.MULTILINE)
    return {word.removeprefix("./") for line in lines for word in line.split()}


@pytest.mark.parametrize("recipe", [CONTAINERFILE, APPTAINER])
def test_a_recipe_copies_what_the_package_is_built_from(recipe):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"], *project["project"]["license-files"]}
    assert copied(recipe) == needed | {"pyproject.toml", project["project"]["readme"], "requirements.lock"}
    assert all((ROOT / name).exists() for name in copied(recipe))


@pytest.mark.parametrize("recipe", [CONTAINERFILE, APPTAINER])
def test_a_recipe_installs_the_lock_with_hashes_and_nothing_beside_it(recipe):
    installs = re.findall(r"uv pip install (.+?)(?: \\)?$", recipe, re.MULTILINE)
    assert [("--require-hashes" in line, "--no-deps" in line) for line in installs] == [(True, False), (False, True)]
    assert all("--compile-bytecode" in line for line in installs), "a user of the image cannot store what is compiled"
    version = re.search(r"python:(3\.\d+)", recipe)[1]
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    assert tuple(map(int, version.split("."))) >= tuple(map(int, oldest.split(".")))


def test_what_is_copied_is_not_ignored():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied(CONTAINERFILE) == kept
