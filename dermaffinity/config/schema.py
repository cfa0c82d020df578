"""Configs for a person's editor: a copy to change, and the JSON Schema that completes and checks it."""

import inspect
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from dermaffinity.config.model import DataSettings, EstimatorConfig, Kind, NetworkConfig, TrainingSettings
from dermaffinity.config.parts import arguments_model, import_class, shipped_parts
from dermaffinity.config.reading import HALVES, layered, shipped, shipped_halves


def copy_of(name: str, schema: str) -> str:
    """The text of a shipped config for a file of one's own: a dataset or method as it stands, or the two composed.

    Args:
        name: A dataset, a method, or the two as DATASET_METHOD.
        schema: Where the JSON Schema lies, seen from the new file.

    Raises:
        ConfigError: When there is no such config.

    Examples:
        >>> from dermaffinity.config import copy_of
        >>> print(copy_of("softmax", schema="schema.json").splitlines()[0])
        # yaml-language-server: $schema=schema.json
    """
    modeline = f"# yaml-language-server: $schema={schema}\n"
    files = shipped("dataset") | shipped("method")
    if name in files:
        return modeline + files[name].read_text(encoding="utf-8")
    halves = shipped_halves(name)
    values = layered(halves["dataset"], halves["method"], {})
    dataset, method = (values.pop(half) for half in HALVES)
    comments = _first_comment(halves["method"]) + _first_comment(halves["dataset"])
    order = [*NetworkConfig.model_fields, *EstimatorConfig.model_fields]
    text = "".join(
        yaml.safe_dump({section: values[section]}, sort_keys=False, default_flow_style=None, width=1000)
        for section in sorted(values, key=lambda section: (section == "grid", order.index(section)))
    )
    # No name, which is then the file's: a changed config is another experiment.
    return f"{modeline}{comments}# Copied from the dataset {dataset} and the method {method}.\n{text}"


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a config, and of the dataset or method that configs are composed of.

    No section is required, because it may come from the dataset or the method.

    Examples:
        >>> from dermaffinity.config import json_schema
        >>> sorted(json_schema()["properties"])[:4]
        ['augmentation', 'average', 'backbone', 'data']
    """
    sections = {"data": _settings(DataSettings), "training": _settings(TrainingSettings)}
    for config in (NetworkConfig, EstimatorConfig):
        sections |= {name: _section(kind) for name, kind in config.kinds().items()}
    sections["backbone"]["type"].append("string")  # a shipped one's name
    sections["grid"] = {"additionalProperties": {"type": "array"}, "description": "What tune tries."}
    names = {half: {"anyOf": [{"enum": list(shipped(half))}, {"pattern": r"\.ya?ml$"}]} for half in HALVES}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "dermaffinity config",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "name": {"type": "string", "description": "The experiment's name; the file's name if left out."},
            "dataset": {**names["dataset"], "description": "A shipped dataset, or the path of a file."},
            "method": {**names["method"], "description": "A shipped method, or the path of a file."},
            "plugins": {"type": "array", "items": {"type": "string"}, "description": "Modules to take classes from."},
            "methods": {
                "type": "object",
                "description": "In a dataset: what it changes for a method, and why.",
                "additionalProperties": {"properties": sections, "additionalProperties": False},
            },
            **sections,
        },
    }


def _settings(model: type[DataSettings] | type[TrainingSettings]) -> dict[str, Any]:
    schema = model.model_json_schema()
    return {key: schema[key] for key in ("type", "description", "properties", "additionalProperties")}


def _section(kind: Kind) -> dict[str, Any]:
    """A section that names a class: with a class of dermaffinity its keys are that class's hyper-parameters."""
    base = import_class(kind.base)
    classes = {f"{kind.base.rpartition('.')[0]}.{part.__name__}": part for part in shipped_parts(base)}
    arguments = {path: arguments_model(part).model_json_schema()["properties"] for path, part in classes.items()}
    return {
        "type": ["object", "null"],
        "description": _first_line(base),
        "properties": {
            "class": {
                "anyOf": [
                    *({"const": path, "description": _first_line(part)} for path, part in classes.items()),
                    {"type": "string", "pattern": r"^(?!dermaffinity\.)", "description": "A class of a plugin."},
                ]
            }
        },
        "allOf": [
            {
                "if": {"properties": {"class": {"const": path}}, "required": ["class"]},
                "then": {"properties": {"class": {}, **keys}, "additionalProperties": False},
            }
            for path, keys in arguments.items()
        ],
    }


def _first_comment(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(takewhile(lambda line: line.startswith("#"), lines))


def _first_line(found: type) -> str:
    return (inspect.getdoc(found) or "").partition("\n")[0]
