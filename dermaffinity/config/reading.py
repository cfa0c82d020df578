"""Finding, composing, overriding and checking configs.

A config is composed of a dataset, a method, what the dataset changes for that method, and what the file itself states,
in this order; then come ``--set`` and a grid's values. A section that names a class replaces the whole section before
it; any other is merged key by key. ``backbone: NAME`` stands for a shipped backbone with its training.
"""

import copy
import fnmatch
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from dermaffinity.config.model import Config, EstimatorConfig, NetworkConfig
from dermaffinity.config.parts import FACTS, check_arguments, explain, facts_of, import_class, part_class
from dermaffinity.errors import ConfigError, did_you_mean, nearest

Half = Literal["dataset", "method"]
HALVES: tuple[Half, ...] = ("dataset", "method")
Shipped = Literal[Half, "backbone"]
SHIPPED: tuple[Shipped, ...] = (*HALVES, "backbone")

# What of the images' layout a grid may change; anything else would choose other images to be judged on.
_GRID_DATA = ("data.image_size", "data.lesion_crop")


def shipped(half: Shipped) -> dict[str, Path]:
    """The datasets, the methods, or the backbones that come with the package, by name.

    Examples:
        >>> from dermaffinity.config import shipped
        >>> list(shipped("dataset"))
        ['demo', 'dermofit10', 'dermofit5', 'faces', 'hamfit5', 'hamfit7', 'library', 'mnist', 'mnist2d']
    """
    package = Path(__file__).parents[1]
    # In a wheel the configs lie inside the package; in a checkout beside it.
    folder = package / "configs" if (package / "configs").is_dir() else package.parent / "configs"
    return {path.stem: path for path in sorted((folder / f"{half}s").glob("*.yaml"))}


def shipped_names() -> list[str]:
    """Every dataset with every method.

    Examples:
        >>> from dermaffinity.config import shipped_names
        >>> "library_affinity_plus" in shipped_names()
        True
    """
    return [f"{dataset}_{method}" for dataset in shipped("dataset") for method in shipped("method")]


def question(path: Path) -> str:
    """What a dataset or method is there to find out: its first line.

    Examples:
        >>> from dermaffinity.config import question, shipped
        >>> question(shipped("method")["cosen"])
        "What does CoSen, the paper's strongest baseline, gain over softmax?"
    """
    asked = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# Question: ")
    return asked[:1].upper() + asked[1:]


def matching(sources: Sequence[str]) -> list[str]:
    """The sources, with patterns such as ``hamfit7_*`` replaced by the shipped configs that they match.

    Raises:
        ConfigError: When a pattern matches none.

    Examples:
        >>> from dermaffinity.config import matching
        >>> matching(["hamfit7_cosen*"])
        ['hamfit7_cosen', 'hamfit7_cosen_as_printed', 'hamfit7_cosen_plus']
    """
    found = []
    for source in sources:
        if Path(source).is_file() or not any(sign in source for sign in "*?["):
            found.append(source)
        elif matches := fnmatch.filter(shipped_names(), source):
            found += matches
        else:
            raise ConfigError(f"no shipped config matches {source}; `dermaffinity configs` lists datasets and methods")
    return found


def read_config(
    source: str | Path,
    overrides: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> Config:
    """Composes and checks one config.

    Args:
        source: Path of a YAML file, or a shipped dataset and method such as ``hamfit7_cosen``.
        overrides: ``key=value`` texts such as ``training.epochs=5``; they go through the same checks.
        settings: The same as values by dotted key, such as a combination of a grid; they come last.

    Raises:
        ConfigError: With every problem found.

    Examples:
        >>> from dermaffinity.config import read_config
        >>> config = read_config("hamfit7_affinity_plus", ["training.epochs=5", "head.sigma=0.4"])
        >>> config.training.epochs, config.resolved()["head"]["sigma"]
        (5, 0.4)
    """
    values = compose(source)
    for override in overrides:
        _apply(values, override)
    for key, value in (settings or {}).items():
        _assign(values, key, value, f"setting {key}")
    kind = _kind_of(values)
    config, problems = _check(values, kind)
    problems += _check_grid(values, kind, problems)
    if problems or config is None:
        raise ConfigError(f"{source}: this config does not describe an experiment", problems)
    return config


def compose(source: str | Path) -> dict[str, Any]:
    """What a config states, before overrides, defaults and checks; ``source`` as for `read_config`.

    Raises:
        ConfigError: When there is no such config, or a file is no config.

    Examples:
        >>> from dermaffinity.config import compose
        >>> values = compose("hamfit7_affinity_plus")
        >>> values["head"]
        {'class': 'dermaffinity.heads.AffinityMixtureHead', 'centers_per_class': 2, 'sigma': 0.2}
    """
    if Path(source).is_file():
        path = Path(source)
        own = {"name": path.stem} | read_yaml(path)
        halves = {half: _find_half(half, own[half], path) for half in HALVES if own.get(half)}
    else:
        halves, own = shipped_halves(str(source)), {"name": str(source)}
    return layered(halves.get("dataset"), halves.get("method"), own)


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections of a YAML file.

    Raises:
        ConfigError: When it is not YAML, states a key twice, or holds no sections.
    """
    try:
        values = _load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a YAML config ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        found = "an empty file" if values is None else f"a {type(values).__name__}"
        raise ConfigError(f"{path}: a config is a mapping of sections such as data, head and loss, found {found}")
    return values


def shipped_halves(name: str) -> dict[Half, Path]:
    """The dataset and method of a shipped config.

    Raises:
        ConfigError: When there is no such config.
    """
    datasets, methods = shipped("dataset"), shipped("method")
    for dataset, path in datasets.items():
        if name.startswith(f"{dataset}_") and (method := name.removeprefix(f"{dataset}_")) in methods:
            return {"dataset": path, "method": methods[method]}
    if name in datasets:
        advice = f"{name} is a dataset; add a method, such as {name}_affinity_plus"
    elif name in methods:
        advice = f"{name} is a method; add a dataset, such as library_{name}"
    else:
        near = nearest(name.removesuffix(".yaml"), shipped_names(), 3)
        advice = f"the nearest are {', '.join(near)}" if near else "give the path of a YAML file, or DATASET_METHOD"
    raise ConfigError(f"there is no config {name}: {advice}; `dermaffinity configs` lists datasets and methods")


def _find_half(half: Half, source: Any, asking: Path) -> Path:
    """The file of a dataset or method that another file names: a shipped one's name, or a path beside that file."""
    known, path = shipped(half), asking.parent / str(source)
    if source in known:
        return known[source]
    if path.is_file():
        return path
    near = nearest(str(source), known, 3)
    advice = f"the nearest are {', '.join(near)}" if near else "`dermaffinity configs` lists them"
    raise ConfigError(f"{asking}: there is no {half} {source!r}: {advice}; a file of your own is named by its path")


def _read_half(path: Path | None, half: Half) -> dict[str, Any]:
    values = {} if path is None else read_yaml(path)
    if wrong := [key for key in ("name", *HALVES) if key in values]:
        raise ConfigError(f"{path}: the config of a {half} has no {wrong[0]!r}; a config that is composed of it has")
    return values


def layered(dataset: Path | None, method: Path | None, own: dict[str, Any]) -> dict[str, Any]:
    """What the files of a dataset and a method give together, and ``own`` over them.

    Raises:
        ConfigError: When a file is no config.
    """
    base, changes = _read_half(dataset, "dataset"), _read_half(method, "method")
    exceptions = base.pop("methods", None) or {}
    if not isinstance(exceptions, dict):
        raise ConfigError(f"{dataset}: methods: is a mapping of methods to what the dataset changes for them")
    special = [
        change for name, change in exceptions.items() if dataset and _find_half("method", name, dataset) == method
    ]
    kind = _kind_of(changes | own)
    if kind is EstimatorConfig:  # takes from a dataset what both kinds have; a grid is of another kind's settings
        base = {key: value for key, value in base.items() if key in kind.model_fields and key != "grid"}
    values: dict[str, Any] = {}
    for layer in (base, changes, *special, own):
        values = _merge(values, layer)
    names = {"dataset": dataset, "method": method}
    return values | {half: path.stem for half, path in names.items() if path is not None}


def _kind_of(values: Mapping[str, Any]) -> type[Config]:
    return EstimatorConfig if "estimator" in values else NetworkConfig


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which no key hides another of the same name."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        for number, (key, _) in enumerate(node.value):
            if key.value in keys[:number]:
                raise yaml.constructor.ConstructorError(
                    problem=f"line {key.start_mark.line + 1} states {key.value!r} a second time"
                )
        return super().construct_mapping(node, deep)


def _load(text: str) -> Any:
    return yaml.load(text, Loader=_UniqueKeys)


def _merge(base: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The base with the config's values over it.

    A section that names a class replaces the base's whole section; plugins add up; a backbone may be the name of a
    shipped one.
    """
    merged = dict(base)
    for key, value in config.items():
        known = merged.get(key)
        if isinstance(known, dict) and isinstance(value, dict) and "class" not in value:
            merged[key] = _merge(known, value)
        elif key == "plugins" and isinstance(known, list) and isinstance(value, list):
            merged[key] = list(dict.fromkeys([*known, *value]))
        elif key == "backbone" and isinstance(value, str):
            merged = _on_backbone(merged, value)
        else:
            merged[key] = value
    return merged


def _on_backbone(values: dict[str, Any], name: str) -> dict[str, Any]:
    """The values with a shipped backbone and what it changes of the training; how many views are averaged stays."""
    known = shipped("backbone")
    if name not in known:
        hint = did_you_mean(name, known) or f"; allowed are {', '.join(known)}"
        raise ConfigError(f"backbone: there is no shipped backbone {name!r}{hint}, or a section with a class")
    before, merged = values.get("backbone"), _merge(values, read_yaml(known[name]))
    views = before.get("views", 1) if isinstance(before, dict) else 1
    return merged | {"backbone": {**merged["backbone"], "views": views}}


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: write key=value, such as --set training.epochs=5")
    if key in HALVES:
        raise ConfigError(f"--set {override}: name another config instead, or write {key}: into a file of your own")
    try:
        value = _load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: {text!r} is not a YAML value") from error
    _assign(values, key, value, f"--set {override}")


def _assign(values: dict[str, Any], key: str, value: Any, said: str) -> None:
    """Sets a dotted key; ``said`` is what an error calls it."""
    *sections, last = key.split(".")
    for section in sections:
        if values.get(section) is None:
            values[section] = {}
        values = values[section]
        if not isinstance(values, dict):
            raise ConfigError(f"{said}: {section!r} is not a section")
    if key in ("plugins", "backbone"):
        values.update(_merge(values, {key: value}))
    else:
        values[last] = value


def _check(values: dict[str, Any], kind: type[Config]) -> tuple[Config | None, list[str]]:
    """The config that values describe, and what is wrong with them; None where they are no config at all."""
    problems: list[str] = []
    component_problems = _check_components(values, kind)
    config: Config | None = None
    try:
        config = kind.model_validate(values)
    except ValidationError as error:
        problems += explain(error, "", kind)
    problems += component_problems
    if config is not None and not problems:
        problems += _check_together(config)
    return config, problems


def _check_grid(values: Mapping[str, Any], kind: type[Config], known: Sequence[str]) -> list[str]:
    """Problems of a config's grid besides those of the config: each value alone must give a valid config."""
    grid = values.get("grid")
    if not isinstance(grid, dict) or not all(isinstance(tried, list | tuple) for tried in grid.values()):
        return []  # no grid, or pydantic says so
    problems = []
    for key, tried in grid.items():
        section = str(key).partition(".")[0]
        if section not in kind.kinds() and section != "training" and key not in _GRID_DATA:
            allowed = ", ".join([*kind.kinds(), *(["training"] if "training" in kind.model_fields else [])])
            problems.append(f"grid.{key}: only settings within {allowed}, and {', '.join(_GRID_DATA)}, can be tried")
            continue
        if len(tried) < 1:
            problems.append(f"grid.{key}: no values; write a list such as [0.5, 1.0]")
        for value in tried:
            changed = copy.deepcopy({name: part for name, part in values.items() if name != "grid"})
            try:
                _assign(changed, key, value, f"grid.{key}")
            except ConfigError as error:
                problems.append(error.message)
                continue
            found = _check(changed, kind)[1]
            problems += [f"grid.{key} = {value!r}: {problem}" for problem in found if problem not in known]
    return problems


def _check_components(values: Mapping[str, Any], kind: type[Config]) -> list[str]:
    """Problems of every section that names a class, whatever else is wrong; sound arguments get their annotated type.

    YAML reads ``sigma: 1e1`` as a text and ``centers_per_class: 5.0`` as no whole number.
    """
    problems = []
    plugins = values.get("plugins")
    if not isinstance(plugins, list | tuple):
        plugins = ()  # pydantic says so
    for section, wanted in kind.kinds().items():
        component = values.get(section)
        if not isinstance(component, dict) or not isinstance(component.get("class"), str):
            continue  # pydantic has already said so
        try:
            found = part_class(component["class"], import_class(wanted.base), plugins)
            facts_of(found)
        except ConfigError as error:
            problems.append(f"{section}: {error.message}")
            continue
        arguments = {key: value for key, value in component.items() if key != "class"}
        checked, wrong = check_arguments(found, arguments, f"{section}.")
        component.update(checked)
        problems += wrong
    return problems


def _check_together(config: Config) -> list[str]:
    """Problems that show only when parts are built or meet each other; sizes and counts here are stand-ins."""
    import torch

    stand_ins = dict.fromkeys(FACTS) | {
        "image_size": config.data.image_size,
        "num_features": 8,
        "embedding_dim": 8,
        "num_classes": 2,
        "class_counts": torch.ones(2),
    }
    parts: dict[str, Any] = {}
    problems = []
    for section, component in config.components().items():
        if not config.kinds()[section].tried:
            continue
        try:
            parts[section] = component.build(**stand_ins)
        except ValueError as error:
            problems.append(f"{section}: {error}")
    return problems + config.contradictions(parts)
