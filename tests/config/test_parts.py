import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest

from dermaffinity.config.model import EstimatorConfig, NetworkConfig
from dermaffinity.config.parts import (
    FACTS,
    build,
    check_arguments,
    facts_of,
    import_class,
    parse_arguments,
    part_class,
    shipped_parts,
)
from dermaffinity.errors import ConfigError
from dermaffinity.losses import AffinityLoss, Loss


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("LinearHead", "class 'LinearHead': cannot import 'LinearHead'"),
        ("dermaffinity.nowhere.LinearHead", r"cannot import 'dermaffinity\.nowhere' \(No module named"),
        ("dermaffinity.heads.LinarHead", r"has no class 'LinarHead' \(did you mean 'LinearHead'\?\)"),
        ("dermaffinity.config.read_config", "dermaffinity.config has no class 'read_config'"),
    ],
)
def test_a_path_without_a_class_is_refused(path, message):
    with pytest.raises(ConfigError, match=message):
        import_class(path)


def test_arguments_get_the_annotated_type_or_a_problem_each():
    assert check_arguments(AffinityLoss, {"margin": "0.5"}) == ({"margin": 0.5}, [])
    values, problems = check_arguments(AffinityLoss, {"margin": "wide", "diversity": "none"}, "loss.")
    assert values == {}
    assert [problem.partition(":")[0] for problem in problems] == ["loss.margin", "loss.diversity"]


class _Typed:
    def __init__(
        self,
        source: str,
        *,
        names: Sequence[str] = (),
        text: str | None = None,
        file: Path | None = None,
        share: float = 0.0,
        yes: bool = False,
        kind: Literal["1", "no"] = "1",
    ) -> None: ...


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("names", "1", ["1"]),
        ("names", "mel", ["mel"]),
        ("names", "[0,1]", ["0", "1"]),
        ("names", "[yes]", ["yes"]),
        ("names", "[01, 1e3, 2020-01-01, ~, null]", ["01", "1e3", "2020-01-01", "~", "null"]),
        ("names", '["a, b", c]', ["a, b", "c"]),
        ("names", "a: b", ["a: b"]),
        ("text", r"^([A-Z]\d{3})_[ab]", r"^([A-Z]\d{3})_[ab]"),
        ("text", "[0-9]+(x)", "[0-9]+(x)"),
        ("text", "007", "007"),
        ("file", "[1].csv", Path("[1].csv")),
        ("share", "1e-1", 0.1),
        ("yes", "yes", True),
        ("kind", "no", "no"),
    ],
)
def test_the_type_of_a_parameter_decides_what_a_typed_text_means(name, text, value):
    assert parse_arguments(_Typed, {name: text}) == ({name: value}, [])


def test_texts_that_are_not_of_the_type_are_told_together():
    values, problems = parse_arguments(_Typed, {"share": "half", "yes": "so", "name": "x", "names": "[a"})
    assert values == {}
    assert [problem.split(":")[0] for problem in problems] == ["names", "share", "yes", "name"]
    assert problems[0] == "names: '[a' is not a list, such as [a, b]"
    assert problems[3] == "name: unknown key (did you mean 'names'?)"


class _Asking:
    def __init__(self, num_classes: int, class_counts: list, *, depth: int = 1) -> None:
        self.given = (num_classes, class_counts, depth)


class _Mistaken:
    def __init__(self, embedding_dim: int, epsilon: float = 1.0) -> None: ...


def test_a_class_gets_the_facts_that_it_asks_for_and_its_hyper_parameters():
    facts = dict.fromkeys(FACTS) | {"num_classes": 3, "class_counts": [5, 5, 1]}
    assert facts_of(_Asking) == ["num_classes", "class_counts"]
    assert build(_Asking, facts, {"depth": 2}).given == (3, [5, 5, 1], 2)


def test_a_positional_hyper_parameter_is_refused_with_what_to_do():
    with pytest.raises(ConfigError, match=r"_Mistaken asks for epsilon; .* keyword-only: put them after a \*"):
        facts_of(_Mistaken)


def test_every_shipped_part_asks_only_for_facts_and_has_defaults_for_the_rest():
    for kind in (*NetworkConfig.kinds().values(), *EstimatorConfig.kinds().values()):
        parts = shipped_parts(import_class(kind.base))
        assert parts
        for part in parts:
            assert facts_of(part) is not None
            assert check_arguments(part, {}) == ({}, [])


def test_a_module_in_the_working_directory_is_found_once_it_is_trusted(tmp_path, monkeypatch):
    (tmp_path / "nearby_losses.py").write_text(
        "from dermaffinity.losses import AffinityLoss\nclass OurLoss(AffinityLoss): pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(ConfigError, match=r"class 'nearby_losses.OurLoss' is outside .* add --plugins nearby_losses"):
        part_class("nearby_losses.OurLoss", Loss, [])
    assert "nearby_losses" not in sys.modules
    assert issubclass(part_class("nearby_losses.OurLoss", Loss, ["nearby_losses"]), AffinityLoss)
    del sys.modules["nearby_losses"]
