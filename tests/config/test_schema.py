from collections.abc import Iterator

import pytest
import yaml
from jsonschema import Draft7Validator

from dermaffinity.config import copy_of, json_schema, read_config, shipped, shipped_names
from dermaffinity.errors import ConfigError


@pytest.fixture(scope="module")
def validator() -> Draft7Validator:
    schema = json_schema()
    Draft7Validator.check_schema(schema)
    return Draft7Validator(schema)


def faults(validator: Draft7Validator, values: dict) -> Iterator[str]:
    return ("/".join(map(str, error.path)) + ": " + error.message for error in validator.iter_errors(values))


@pytest.mark.parametrize("half", ["dataset", "method"])
def test_every_shipped_dataset_and_method_fits_the_schema(validator, half):
    for path in shipped(half).values():
        assert list(faults(validator, yaml.safe_load(path.read_text(encoding="utf-8")))) == [], path


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"trainig": {}}, "'trainig' was unexpected"),
        ({"training": {"epochs": -1}}, "training/epochs: -1 is less than the minimum of 0"),
        ({"training": {"epoch": 1}}, "'epoch' was unexpected"),
        ({"head": {"class": "dermaffinity.heads.AffinityHead", "sigmo": 1}}, "'sigmo' was unexpected"),
        ({"head": {"class": "dermaffinity.heads.AffinityHead", "sigma": "wide"}}, "head/sigma: 'wide' is not of type"),
        ({"head": {"class": "dermaffinity.heads.AffinityHed"}}, "head/class: 'dermaffinity.heads.AffinityHed' is not"),
        ({"methods": {"cosen": {"los": {}}}}, "'los' was unexpected"),
        ({"dataset": "hamfit9"}, "dataset: 'hamfit9' is not valid"),
    ],
)
def test_the_schema_tells_what_is_wrong(validator, values, fault):
    (found,) = faults(validator, values)
    assert fault in found


@pytest.mark.parametrize(
    "values",
    [
        {"head": {"class": "clinic.OurHead", "anything": 1}, "plugins": ["clinic"]},
        {"dataset": "clinic.yaml", "method": "cosen", "head": {"sigma": 2}, "mixing": None},
    ],
)
def test_the_schema_allows_plugins_and_what_a_half_completes(validator, values):
    assert list(faults(validator, values)) == []


@pytest.mark.parametrize("name", ["hamfit7_affinity_plus", "dermofit10_hierarchical_knn", "mnist2d_affinity"])
def test_a_copy_is_the_same_experiment_under_the_name_of_its_file(validator, tmp_path, name):
    text = copy_of(name, "schema.json")
    (tmp_path / "ours.yaml").write_text(text, encoding="utf-8")
    copied, original = read_config(tmp_path / "ours.yaml"), read_config(name)
    assert copied.resolved() == original.resolved() | {"name": "ours"}
    assert copied.grid == original.grid
    modeline, question, *_ = text.splitlines()
    assert modeline == "# yaml-language-server: $schema=schema.json"
    assert question.startswith("# Question: ")
    assert list(faults(validator, yaml.safe_load(text))) == []


def test_a_dataset_is_copied_as_it_stands():
    modeline, _, rest = copy_of("hamfit7", "s.json").partition("\n")
    assert modeline.endswith("$schema=s.json")
    assert rest == shipped("dataset")["hamfit7"].read_text(encoding="utf-8")


def test_only_shipped_configs_are_copied():
    with pytest.raises(ConfigError, match="the nearest are"):
        copy_of("hamfit7_cosn", "s.json")
    assert "hamfit7_cosen" in shipped_names()
