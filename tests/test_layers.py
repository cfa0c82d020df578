"""Which part of the package may import which: the direction in which knowledge flows."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "dermaffinity"

# A part is a file or folder of the package. Imports within a part, and inside functions, count as well.
NOTHING: set[str] = set()
MAY_IMPORT = {
    "classic": NOTHING,
    "errors": NOTHING,
    "seeding": NOTHING,
    "metrics": NOTHING,
    "heads": NOTHING,
    "tracking": {"errors"},
    "config": {"errors"},  # classes are named in configs and imported by name
    "files": {"errors"},
    "cluster": {"errors"},
    "losses": {"heads"},
    "refit": {"heads"},
    "models": {"heads", "errors"},
    "data": {"config", "errors", "files", "seeding"},
    "report": {"files", "metrics"},
    "inference": {"cluster", "config", "data", "errors", "files", "heads", "metrics", "models", "report"},
    "export": {"inference", "data", "errors", "files", "models"},
    "training": {"config", "data", "errors", "files", "heads", "inference", "losses", "metrics", "models", "seeding"},
}
MAY_IMPORT["experiments"] = {*MAY_IMPORT} - {"export"}
MAY_IMPORT["cli"] = {*MAY_IMPORT} - {"heads", "losses", "models", "refit", "classic"}
MAY_IMPORT |= {
    "__init__": {"data", "experiments", "inference", "tracking"},
    "__main__": {"cli"},
}  # __init__: when it is asked for


def imported(file: Path) -> set[str]:
    """Dotted names below the package that a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("dermaffinity.") for name in names if name.startswith("dermaffinity.")}


@pytest.mark.parametrize(
    "part", sorted({path.stem for path in PACKAGE.iterdir() if path.name not in ("__pycache__", "py.typed")})
)
def test_a_part_imports_only_what_lies_below_it(part):
    files = [PACKAGE / f"{part}.py"] if (PACKAGE / f"{part}.py").is_file() else sorted((PACKAGE / part).rglob("*.py"))
    known = {path.stem for path in PACKAGE.iterdir()}
    found = {name.partition(".")[0] for file in files for name in imported(file)} & known - {part}
    assert found <= MAY_IMPORT[part]


@pytest.mark.parametrize("folder", ["losses", "refit"])
def test_losses_and_refits_know_of_heads_only_what_every_head_is(folder):
    found = {name for file in (PACKAGE / folder).glob("*.py") for name in imported(file)}
    assert {".".join(name.split(".")[:2]) for name in found if name.startswith("heads")} == {"heads.base"}


def test_every_head_loss_and_refit_stands_alone():
    for folder in ("heads", "losses", "refit"):
        shared = ("__init__", "base", "centers")
        files = [path for path in (PACKAGE / folder).glob("*.py") if path.stem not in shared]
        for file in files:
            others = {f"{folder}.{other.stem}" for other in files if other != file}
            assert not {".".join(name.split(".")[:2]) for name in imported(file)} & others


def test_the_direction_has_no_circle():
    def below(part: str, path: tuple[str, ...] = ()) -> None:
        assert part not in path, f"{' -> '.join(path)} -> {part}"
        for lower in MAY_IMPORT[part]:
            below(lower, (*path, part))

    for part in MAY_IMPORT:
        below(part)
