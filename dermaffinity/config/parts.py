"""Parts of an experiment: classes that a config or a model names by import path.

This is the one place where such a path becomes a class, its hyper-parameters are checked, and it is built. A class says
in its constructor what it is built from: positional parameters are facts of the run, such as the number of classes, and
keyword-only parameters are hyper-parameters.
"""

import importlib
import inspect
import os
import sys
from collections import abc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from dermaffinity.errors import ConfigError, did_you_mean

FACTS = {
    "image_size": "side of the square images, in pixels",
    "num_features": "size of the backbone's features",
    "embedding_dim": "size of the embedding",
    "num_classes": "number of classes",
    "class_counts": "(C,), training images of each class",
    "classes": "the class codes, in order",
    "seed": "of whatever is random in learning",
}
"""What a part may be built from: the names that positional parameters of its constructor can have."""


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as dotted keys, in order.

    Examples:
        >>> from dermaffinity.config import flatten
        >>> dict(flatten({"training": {"epochs": 5, "batch_size": 32}}))
        {'training.epochs': 5, 'training.batch_size': 32}
    """
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def import_class(path: str) -> type:
    """The class at a dotted import path. A module outside dermaffinity is also looked for in the working directory.

    Raises:
        ConfigError: When there is none.

    Examples:
        >>> from dermaffinity.config import import_class
        >>> import_class("dermaffinity.heads.LinearHead").__name__
        'LinearHead'
    """
    module_name, _, name = path.rpartition(".")
    if not _within(path, ("dermaffinity",)) and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that it hides no installed module
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"class {path!r}: cannot import {module_name or path!r} ({error})") from error
    found = getattr(module, name, None)
    if not inspect.isclass(found):
        classes = [name for name, value in vars(module).items() if inspect.isclass(value)]
        raise ConfigError(f"class {path!r}: {module_name} has no class {name!r}{did_you_mean(name, classes)}")
    return found


def part_class(path: str, base: type, plugins: Sequence[str]) -> type:
    """The class at an import path, if it may be used as a part of this kind.

    Args:
        path: As a config or model states it.
        base: What the class must be.
        plugins: The modules outside dermaffinity that are trusted; no other is imported.

    Raises:
        ConfigError: When its module is not trusted, or it is no such class.

    Examples:
        >>> from dermaffinity.config import part_class
        >>> from dermaffinity.heads import Head
        >>> part_class("dermaffinity.heads.LinearHead", Head, plugins=[]).__name__
        'LinearHead'
    """
    if not _within(path, ("dermaffinity", *plugins)):
        module = path.rpartition(".")[0] or path
        raise ConfigError(
            f"class {path!r} is outside dermaffinity; if you trust it, add --plugins {module} (in a config and in "
            f"Python: plugins: [{module}])"
        )
    found = import_class(path)
    if not issubclass(found, base) or found is base or inspect.isabstract(found):
        choices = ", ".join(part.__name__ for part in shipped_parts(base))
        raise ConfigError(f"class {path!r} is not a {base.__name__}; dermaffinity has {choices}")
    return found


def shipped_parts(base: type) -> list[type]:
    """The classes of one kind that come with dermaffinity, by name."""
    package = importlib.import_module(base.__module__.rpartition(".")[0])
    named = {**vars(importlib.import_module(base.__module__)), **vars(package)}
    return [
        value
        for _, value in sorted(named.items())
        if inspect.isclass(value) and issubclass(value, base) and value is not base and not inspect.isabstract(value)
    ]


def build(found: type, facts: Mapping[str, Any], arguments: Mapping[str, Any]) -> Any:
    """An instance, from those of the facts that its constructor asks for, and its hyper-parameters.

    Examples:
        >>> from dermaffinity.config import build
        >>> from dermaffinity.heads import LinearHead
        >>> build(LinearHead, {"embedding_dim": 4, "num_classes": 3, "image_size": 128}, {}).num_classes
        3
    """
    return found(*(facts[name] for name in facts_of(found)), **arguments)


def facts_of(found: type) -> list[str]:
    """The facts that a class is built from.

    Raises:
        ConfigError: When one of them is no fact.
    """
    parameters = inspect.signature(found).parameters.values()
    asked = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    if unknown := [name for name in asked if name not in FACTS]:
        raise ConfigError(
            f"{found.__name__} asks for {', '.join(unknown)}; a part can be built from {', '.join(FACTS)}. "
            "Hyper-parameters are keyword-only: put them after a *"
        )
    return asked


def hyper_parameters(found: type) -> dict[str, inspect.Parameter]:
    """The keyword-only parameters of a class, by name."""
    parameters = inspect.signature(found).parameters
    return {name: parameter for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}


def arguments_model(found: type) -> type[BaseModel]:
    """What a class's hyper-parameters must be."""
    hints = get_type_hints(found.__init__)  # type: ignore[misc]
    fields: dict[str, Any] = {
        name: (hints.get(name, Any), ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in hyper_parameters(found).items()
    }
    return create_model(found.__name__, __config__=ConfigDict(extra="forbid", protected_namespaces=()), **fields)


def check_arguments(found: type, arguments: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Any], list[str]]:
    """Holds values against a class's keyword-only parameters.

    Returns:
        The values in the annotated types, and the problems; the values are empty when there are problems.

    Examples:
        >>> from dermaffinity.config import check_arguments
        >>> from dermaffinity.heads import AffinityHead
        >>> check_arguments(AffinityHead, {"sigma": 0.5})
        ({'sigma': 0.5}, [])
    """
    model = arguments_model(found)
    try:
        checked = model.model_validate(arguments)
    except ValidationError as error:
        return {}, explain(error, prefix, model)
    return {name: getattr(checked, name) for name in arguments}, []


def parse_arguments(found: type, texts: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """As `check_arguments`, for values that a person typed: what a text means is decided by the parameter's type.

    For a sequence that is a YAML list of texts, or one text alone; any other type is made of the text as it stands.

    Examples:
        >>> from dermaffinity.config import parse_arguments
        >>> from dermaffinity.data.adapters import ImageFolderAdapter
        >>> parse_arguments(ImageFolderAdapter, {"malignant": "[melanoma]"})
        ({'malignant': ['melanoma']}, [])
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


_KINDS = ("float", "int", "str", "bool")


def explain(error: ValidationError, prefix: str, model: type[BaseModel]) -> list[str]:
    """One line for each key that a model refused, with a near miss or what is allowed.

    Examples:
        >>> from pydantic import ValidationError
        >>> from dermaffinity.config import TrainingSettings, explain
        >>> try:
        ...     TrainingSettings(epoch=5)
        ... except ValidationError as error:
        ...     print(explain(error, "training.", TrainingSettings))
        ["training.epoch: TrainingSettings takes no such key (did you mean 'epochs'?)"]
    """
    problems: dict[tuple[str, str], list[str]] = {}
    for detail in error.errors():
        # The last parts of what may be one thing or another name which of them was tried.
        key = prefix + ".".join(str(part) for part in detail["loc"] if part not in _KINDS and _is_key(part))
        if detail["type"] == "extra_forbidden":
            allowed = _allowed_keys(model, detail["loc"][:-1])
            hint = did_you_mean(str(detail["loc"][-1]), allowed)
            refusal = f"{model.__name__} takes no such key" if prefix else "unknown key"
            problems[key, ""] = [f"{refusal}{hint or '; allowed: ' + (', '.join(allowed) or 'none')}"]
        elif detail["type"] == "missing":
            problems[key, ""] = ["missing"]
        else:
            message = "should be a list such as [a, b]" if detail["type"] == "tuple_type" else detail["msg"]
            got = f", got {detail['input']!r}"
            problems.setdefault((key, got), []).append(message[0].lower() + message[1:])
    return [f"{key}: {', or '.join(messages)}{got}" for (key, got), messages in problems.items()]


def _is_key(part: int | str) -> bool:
    return isinstance(part, int) or part.isidentifier()


def _within(path: str, modules: Sequence[str]) -> bool:
    return any(path.startswith(f"{module}.") for module in modules)


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
