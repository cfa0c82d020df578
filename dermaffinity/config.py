"""One YAML config is one experiment: reading, checking, overriding.

A config names Python classes by import path; the other keys of such a section are that class's keyword-only
hyper-parameters. Facts of the run, such as the number of classes, are positional and never in a config. All problems of
a config are reported at once.
"""

import copy
import difflib
import importlib
import inspect
import json
from collections import abc
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from dermaffinity.errors import ConfigError

# What of the images' layout a grid may change; anything else would choose other images to be judged on.
_GRID_DATA = ("data.image_size", "data.lesion_crop")


class Section(BaseModel):
    """A part of a config: unknown keys are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Component(Section):
    """A class and its keyword-only arguments."""

    model_config = ConfigDict(extra="allow", frozen=True)

    class_path: str = Field(alias="class")

    def build(self, *facts: Any) -> Any:
        """An instance; ``facts`` are its positional arguments, known only at run time."""
        return import_class(self.class_path)(*facts, **(self.model_extra or {}))


class DataSettings(Section):
    """Which images, and how they are preprocessed for the network."""

    manifest: Path  # relative to the working directory
    root: Path | None = None  # the library's folder; None for the one that `prepare` noted beside the manifest
    image_size: int = Field(224, ge=16, le=2048)  # pixels; side of the square the network sees
    lesion_crop: float | None = Field(
        None, ge=0, le=4
    )  # margin around the mask, in lesion sizes; None for the whole image
    validation_fraction: float = Field(0.15, gt=0, lt=0.5)  # share of the training rows cut off for choices


class TrainingSettings(Section):
    """The optimization; the defaults are those of fine-tuning a ResNet-18."""

    epochs: int = Field(30, ge=1)
    batch_size: int = Field(32, ge=2)
    learning_rate: float = Field(0.01, gt=0)
    head_rate_factor: float = Field(1.0, gt=0)  # learning rate of neck and head, as a multiple of learning_rate
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)  # never applied to normalization, biases and centers
    warmup_epochs: float = Field(1.0, ge=0)  # linear, then one cosine to zero
    balanced_sampling: bool = False  # draw every class equally often
    # Of an exponential moving average of the weights over the steps, which then is the result; None: the last weights.
    average_decay: float | None = Field(None, gt=0, lt=1)
    sam_radius: float | None = Field(None, gt=0)  # of sharpness-aware minimization, at twice the work; None: without
    patience: int | None = Field(
        None, ge=1
    )  # epochs without a better inner-validation score before stopping; None: never
    # auto: bf16-mixed on a GPU or processor that has it in hardware, else 32-true; decided when an experiment begins.
    precision: str = Field("auto", pattern=r"^(auto|32-true|16-mixed|bf16-mixed)$")
    workers: int = Field(0, ge=0)  # processes that augment images; 0 augments in the training process


class Config(Section):
    """One experiment: what every kind of config has."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)
    plugins: tuple[str, ...] = ()  # modules outside dermaffinity that the config may take classes from
    grid: dict[
        str, tuple[Any, ...]
    ] = {}  # what `dermaffinity tune` tries: dotted key -> values; no part of the experiment
    data: DataSettings

    bases: ClassVar[dict[str, str]]  # what a section's class must be

    def resolved(self) -> dict[str, Any]:
        """The whole config as plain values, every default filled in; what two equal experiments share."""
        config = json.loads(self.model_dump_json(by_alias=True, exclude={"grid"}))
        for section in self.bases:
            component = getattr(self, section)
            if component is None:
                continue
            defaults = {
                name: parameter.default
                for name, parameter in _hyper_parameters(import_class(component.class_path)).items()
            }
            config[section] = json.loads(
                json.dumps({"class": component.class_path, **defaults, **component.model_extra})
            )
        return config

    def setting(self, key: str) -> Any:
        """A resolved value by dotted key; None where this kind of config has none."""
        return dict(flatten(self.resolved())).get(key)

    def with_setting(self, section: str, key: str, value: Any) -> "Config":
        """The config with one valid value changed."""
        return self.model_copy(update={section: getattr(self, section).model_copy(update={key: value})})

    def portable(self) -> dict[str, Any]:
        """``resolved`` without the folders of this machine: files by their names."""
        config = self.resolved()
        config["data"] |= {"manifest": self.data.manifest.name, "root": None}
        return config


class NetworkConfig(Config):
    """An experiment that trains a network."""

    augmentation: Component
    backbone: Component
    neck: Component
    head: Component
    loss: Component
    mixing: Component | None = None  # of the images of a batch
    refit: Component | None = None  # of the head, when the network is trained
    training: TrainingSettings = TrainingSettings()

    bases: ClassVar[dict[str, str]] = {
        "augmentation": "dermaffinity.data.augmentation.Augmentation",
        "backbone": "dermaffinity.models.Backbone",
        "neck": "dermaffinity.models.Neck",
        "head": "dermaffinity.heads.Head",
        "loss": "dermaffinity.losses.Loss",
        "mixing": "dermaffinity.data.mixing.Mixing",
        "refit": "dermaffinity.refit.Refit",
    }

    def portable(self) -> dict[str, Any]:
        """See `Config.portable`."""
        config = super().portable()
        weights = config["backbone"].get("weights")
        if isinstance(weights, str):
            config["backbone"]["weights"] = Path(weights).name
        return config


class EstimatorConfig(Config):
    """An experiment that fits an estimator to features of the masked lesion, without a network."""

    features: Component
    estimator: Component

    bases: ClassVar[dict[str, str]] = {
        "features": "dermaffinity.classic.Features",
        "estimator": "dermaffinity.classic.Estimator",
    }


def shipped_configs() -> dict[str, Path]:
    """The configs that come with the package, by name without ``.yaml``."""
    package = Path(__file__).parent
    # In a wheel the configs lie inside the package; in a checkout beside it.
    folder = package / "configs" if (package / "configs").is_dir() else package.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_config(source: str | Path, overrides: Sequence[str] = (), settings: Mapping[str, Any] | None = None) -> Config:
    """Reads, merges and checks one config.

    Args:
        source: Path of a config, or the name of a shipped one.
        overrides: ``key=value`` texts such as ``training.epochs=5``; they go through the same checks.
        settings: The same as values by dotted key, such as a combination of a grid; they come last.

    Raises:
        ConfigError: With every problem found.
    """
    path = _find(source)
    base, own = _read_base(path), _read_yaml(path)
    kind: type[Config] = EstimatorConfig if "estimator" in base | own else NetworkConfig
    # A config of another kind than its base takes from it what both kinds have, such as the data.
    values = _merge({key: value for key, value in base.items() if key in kind.model_fields or key == "base"}, own)
    values.pop("base", None)
    if "grid" in own or kind is EstimatorConfig:
        values["grid"] = own.get("grid", {})  # a grid replaces the base's, whose keys a config of another kind has not
    for override in overrides:
        _apply(values, override)
    for key, value in (settings or {}).items():
        _assign(values, key, value, f"setting {key}")
    config, problems = _check(values, kind)
    problems += _check_grid(values, kind, problems)
    if problems or config is None:
        raise ConfigError(f"{path}: this config does not describe an experiment", problems)
    return config


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
        if section not in kind.bases and section != "training" and key not in _GRID_DATA:
            allowed = ", ".join([*kind.bases, *(["training"] if "training" in kind.model_fields else [])])
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


def import_class(path: str) -> type:
    """The class at a dotted import path.

    Raises:
        ConfigError: When there is none.
    """
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"class {path!r}: cannot import {module_name or path!r} ({error})") from error
    found = getattr(module, name, None)
    if not inspect.isclass(found):
        raise ConfigError(f"class {path!r}: {module_name} has no class {name!r}{_hint(name, _class_names(module))}")
    return found


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as dotted keys, in order."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _find(source: str | Path) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    shipped = shipped_configs()
    if str(source) in shipped:
        return shipped[str(source)]
    raise ConfigError(
        f"there is no config {source}{_hint(path.stem, shipped)}; give the path of a YAML file or the name of a "
        f"shipped config: {', '.join(shipped)}"
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a YAML config ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: a config is a mapping of sections such as data, head and loss, found {_kind(values)}"
        )
    return values


def _read_base(path: Path) -> dict[str, Any]:
    name = _read_yaml(path).get("base")
    if name is None:
        return {}
    base = path.parent / str(name)
    if not base.is_file():
        raise ConfigError(f"{path}: its base {name!r} is not a file in {path.parent}")
    values = _read_yaml(base)
    if "base" in values:
        raise ConfigError(f"{base}: a base config has no base of its own; merge {values['base']!r} into it")
    return values


def _merge(base: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The base with the config's values over it; a section that names a class replaces the base's whole section."""
    merged = dict(base)
    for key, value in config.items():
        known = merged.get(key)
        if isinstance(known, dict) and isinstance(value, dict) and "class" not in value:
            merged[key] = _merge(known, value)
        else:
            merged[key] = value
    return merged


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: write key=value, such as --set training.epochs=5")
    try:
        value = yaml.safe_load(text)
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
    values[last] = value


def _check_components(values: Mapping[str, Any], kind: type[Config]) -> list[str]:
    """Problems of every section that names a class, whatever else is wrong; sound arguments get their annotated type.

    YAML reads ``sigma: 1e1`` as a text and ``centers_per_class: 5.0`` as no whole number.
    """
    problems = []
    plugins = values.get("plugins")
    if not isinstance(plugins, list | tuple):
        plugins = ()  # pydantic says so
    for section, base_path in kind.bases.items():
        component = values.get(section)
        if not isinstance(component, dict) or not isinstance(component.get("class"), str):
            continue  # pydantic has already said so
        path = component["class"]
        if not any(path.startswith(f"{module}.") for module in ("dermaffinity", *plugins)):
            problems.append(
                f"{section}.class: {path!r} is outside dermaffinity; list its module under plugins: to allow it"
            )
            continue
        try:
            found = import_class(path)
        except ConfigError as error:
            problems.append(f"{section}.{error.message}")
            continue
        base = import_class(base_path)
        if not issubclass(found, base) or found is base or inspect.isabstract(found):
            choices = ", ".join(_subclass_names(base))
            problems.append(f"{section}.class: {path!r} is not a {base.__name__}; dermaffinity has {choices}")
            continue
        arguments = {key: value for key, value in component.items() if key != "class"}
        checked, wrong = check_arguments(found, arguments, f"{section}.")
        component.update(checked)
        problems += wrong
    return problems


def check_arguments(found: type, arguments: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Any], list[str]]:
    """Holds values against a class's keyword-only parameters.

    Returns:
        The values in the annotated types, and the problems; the values are empty when there are problems.
    """
    hints = get_type_hints(found.__init__)  # type: ignore[misc]
    fields: dict[str, Any] = {
        name: (hints.get(name, Any), ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in _hyper_parameters(found).items()
    }
    model = create_model(found.__name__, __config__=ConfigDict(extra="forbid", protected_namespaces=()), **fields)
    try:
        checked = model.model_validate(arguments)
    except ValidationError as error:
        return {}, explain(error, prefix, model)
    return {name: getattr(checked, name) for name in arguments}, []


def parse_arguments(found: type, texts: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """As `check_arguments`, for values that a person typed: what a text means is decided by the parameter's type.

    For a sequence that is a YAML list of texts, or one text alone; any other type is made of the text as it stands.
    """
    hints = get_type_hints(found.__init__)  # type: ignore[misc]
    values: dict[str, Any] = {}
    problems = []
    for name, text in texts.items():
        if get_origin(hints.get(name)) is not abc.Sequence:
            values[name] = text
            continue
        try:
            # This loader leaves numbers, dates, yes and no the texts that they are.
            values[name] = yaml.load(text, Loader=yaml.BaseLoader) if text.lstrip().startswith("[") else [text]
        except yaml.YAMLError:
            problems.append(f"{name}: {text!r} is not a list, such as [a, b]")
    checked, refused = check_arguments(found, values)
    return ({}, problems + refused) if problems else (checked, refused)


def _check_together(config: Config) -> list[str]:
    """Problems that show only when parts are built or meet each other; sizes and counts here are stand-ins."""
    if isinstance(config, EstimatorConfig):
        return _refusals(config, {"features": ()})  # an estimator is built when the manifest's classes are known
    assert isinstance(config, NetworkConfig)
    import torch

    facts: dict[str, tuple[Any, ...]] = {
        "augmentation": (config.data.image_size,),
        "neck": (8,),
        "head": (8, 2),
        "loss": (torch.ones(2), 8),
    }
    facts |= {section: () for section in ("mixing", "refit") if getattr(config, section) is not None}
    problems = _refusals(config, facts)
    head: Any = import_class(config.head.class_path)
    loss: Any = import_class(config.loss.class_path)
    if head.score_kind != loss.score_kind:
        problems.append(
            f"loss: {loss.__name__} works on {loss.score_kind.value} scores, but the head {head.__name__} gives "
            f"{head.score_kind.value} scores; change one of the two"
        )
    if config.refit is not None and not problems:
        try:
            config.refit.build().check(config.head.build(*facts["head"]))
        except ValueError as error:
            problems.append(f"refit: {error}")
    scales = {name: config.resolved()[name].get("scale") for name in ("head", "loss")}
    if None not in scales.values() and scales["head"] != scales["loss"]:
        problems.append(
            f"loss.scale is {scales['loss']} and head.scale {scales['head']}: the probabilities would not be those "
            "that were trained; give both the same"
        )
    return problems


def _refusals(config: Config, facts: Mapping[str, tuple[Any, ...]]) -> list[str]:
    """What the classes of some sections say against their hyper-parameters when they are built with these facts."""
    problems = []
    for section, positional in facts.items():
        try:
            getattr(config, section).build(*positional)
        except ValueError as error:
            problems.append(f"{section}: {error}")
    return problems


def explain(error: ValidationError, prefix: str, model: type[BaseModel]) -> list[str]:
    """One line for each key that a model refused, with a near miss or what is allowed."""
    problems = []
    for detail in error.errors():
        key = prefix + ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "extra_forbidden":
            allowed = _allowed_keys(model, detail["loc"][:-1])
            hint = _hint(str(detail["loc"][-1]), allowed)
            refusal = f"{model.__name__} takes no such key" if prefix else "unknown key"
            problems.append(f"{key}: {refusal}{hint or '; allowed: ' + (', '.join(allowed) or 'none')}")
        elif detail["type"] == "missing":
            problems.append(f"{key}: missing")
        else:
            message = detail["msg"][0].lower() + detail["msg"][1:]
            problems.append(f"{key}: {message}, got {detail['input']!r}")
    return problems


def _allowed_keys(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    for part in location:
        if isinstance(part, int):  # within a tuple of models
            continue
        inner = model.model_fields[part].annotation
        inner = next(iter(get_args(inner)), inner)
        if not (inspect.isclass(inner) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return [field.alias or name for name, field in model.model_fields.items()]


def _hyper_parameters(found: type) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(found).parameters
    return {name: parameter for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}


def _subclass_names(base: type) -> list[str]:
    module = importlib.import_module(base.__module__.rpartition(".")[0])
    names = {**vars(importlib.import_module(base.__module__)), **vars(module)}
    return sorted(
        name
        for name, value in names.items()
        if inspect.isclass(value) and issubclass(value, base) and value is not base
    )


def _class_names(module: Any) -> list[str]:
    return [name for name, value in vars(module).items() if inspect.isclass(value)]


def _hint(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _kind(value: Any) -> str:
    return "an empty file" if value is None else f"a {type(value).__name__}"
