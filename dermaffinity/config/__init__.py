"""Configs: one experiment each, composed of a dataset and a method.

A config names Python classes by import path; the other keys of such a section are that class's keyword-only
hyper-parameters. Facts of the run, such as the number of classes, are positional and never in a config. All problems of
a config are reported at once.
"""

from dermaffinity.config.model import (
    Component,
    Config,
    DataSettings,
    EstimatorConfig,
    NetworkConfig,
    Section,
    TrainingSettings,
)
from dermaffinity.config.parts import (
    build,
    check_arguments,
    explain,
    flatten,
    import_class,
    parse_arguments,
    part_class,
)
from dermaffinity.config.reading import (
    HALVES,
    SHIPPED,
    compose,
    matching,
    question,
    read_config,
    shipped,
    shipped_names,
)
from dermaffinity.config.schema import copy_of, json_schema

__all__ = [
    "HALVES",
    "SHIPPED",
    "Component",
    "Config",
    "DataSettings",
    "EstimatorConfig",
    "NetworkConfig",
    "Section",
    "TrainingSettings",
    "build",
    "check_arguments",
    "compose",
    "copy_of",
    "explain",
    "flatten",
    "import_class",
    "json_schema",
    "matching",
    "parse_arguments",
    "part_class",
    "question",
    "read_config",
    "shipped",
    "shipped_names",
]
