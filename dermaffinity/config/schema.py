"""The JSON Schema by which an editor completes and checks configs."""

import inspect
from typing import Any

from dermaffinity.config.model import DataSettings, EstimatorConfig, Kind, NetworkConfig, TrainingSettings
from dermaffinity.config.parts import arguments_model, import_class, shipped_parts
from dermaffinity.config.reading import shipped


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a config, and of the dataset or method that configs are composed of.

    No section is required, because it may come from the dataset or the method.
    """
    sections = {"data": _settings(DataSettings), "training": _settings(TrainingSettings)}
    for config in (NetworkConfig, EstimatorConfig):
        sections |= {name: _section(kind) for name, kind in config.kinds().items()}
    names = {half: {"anyOf": [{"enum": list(shipped(half))}, {"pattern": r"\.ya?ml$"}]} for half in ("dataset", "method")}  # type: ignore[arg-type]
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
            "grid": {"type": "object", "additionalProperties": {"type": "array"}, "description": "What tune tries."},
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


def _first_line(found: type) -> str:
    return (inspect.getdoc(found) or "").partition("\n")[0]
