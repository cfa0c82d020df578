import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest
import yaml

from dermaffinity.config import (
    EstimatorConfig,
    NetworkConfig,
    check_arguments,
    flatten,
    import_class,
    parse_arguments,
    read_config,
    shipped_configs,
)
from dermaffinity.errors import ConfigError
from dermaffinity.heads import AffinityHead, LinearHead
from dermaffinity.losses import AffinityLoss

CONFIG = {
    "name": "trial",
    "data": {"manifest": "trial.csv", "image_size": 32},
    "augmentation": {"class": "dermaffinity.data.augmentation.NoAugmentation"},
    "backbone": {"class": "dermaffinity.models.SmallConvNet"},
    "neck": {"class": "dermaffinity.models.IdentityNeck"},
    "head": {"class": "dermaffinity.heads.AffinityHead", "sigma": 2.0},
    "loss": {"class": "dermaffinity.losses.AffinityLoss"},
    "training": {"epochs": 3},
}


@pytest.fixture
def write(tmp_path):
    """Writes a config with the given sections changed; None removes one."""

    def write_config(file: str = "trial.yaml", /, **sections) -> Path:
        values = {key: value for key, value in (CONFIG | sections).items() if value is not None}
        path = tmp_path / file
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return path

    return write_config


def problems_of(path: Path, overrides=()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_config(path, overrides)
    assert caught.value.message == f"{path}: this config does not describe an experiment"
    return list(caught.value.problems)


def test_a_config_gives_its_values_and_the_defaults_of_the_rest(write):
    config = read_config(write())
    assert config.name == "trial"
    assert config.data.manifest == Path("trial.csv")
    assert config.training.epochs == 3
    assert config.training.batch_size == 32
    assert config.plugins == ()


def test_sections_build_their_class_with_facts_and_hyper_parameters(write):
    head = read_config(write()).head.build(16, 4)
    assert isinstance(head, AffinityHead)
    assert head.centers.shape == (4, 5, 16)
    assert head.sigma == 2.0


def test_the_resolved_config_names_every_default_and_reads_back_as_the_same_config(write, tmp_path):
    config = read_config(write())
    resolved = config.resolved()
    assert resolved["head"] == {
        "class": "dermaffinity.heads.AffinityHead",
        "centers_per_class": 5,
        "sigma": 2.0,
        "distance": "l2",
        "similarity": "gaussian",
        "unit_centers": False,
        "start": "random",
    }
    assert resolved["loss"]["margin"] == 0.75
    assert resolved["training"]["learning_rate"] == 0.01
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(resolved), encoding="utf-8")
    assert read_config(again).resolved() == resolved


def test_equal_experiments_resolve_alike_however_they_are_written(write):
    short = read_config(write("short.yaml"))
    long = read_config(write("long.yaml", head=CONFIG["head"] | {"centers_per_class": 5, "distance": "l2"}))
    assert short.resolved() == long.resolved()


def test_configs_cannot_be_changed(write):
    config = read_config(write())
    with pytest.raises(ValueError, match="frozen"):
        config.training.epochs = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ({"trainig": {"epochs": 3}}, "trainig: unknown key (did you mean 'training'?)"),
        ({"training": {"epoch": 3}}, "training.epoch: unknown key (did you mean 'epochs'?)"),
        ({"training": {"epochs": "many"}}, "training.epochs: input should be a valid integer"),
        ({"training": {"epochs": 0}}, "training.epochs: input should be greater than or equal to 1, got 0"),
        ({"training": {"precision": "half"}}, "training.precision: string should match pattern"),
        ({"training": 5}, "training: input should be a valid dictionary"),
        ({"data": {"manifest": "x.csv", "image_size": 8}}, "data.image_size: input should be greater than or equal"),
        ({"data": {}}, "data.manifest: missing"),
        ({"head": None}, "head: missing"),
        ({"name": "a/b"}, "name: string should match pattern"),
        ({"plugins": 5}, "plugins: input should be a valid tuple"),
        ({"head": {"sigma": 1}}, "head.class: missing"),
        ({"head": "dermaffinity.heads.LinearHead"}, "head: input should be a valid dictionary"),
        ({"head": {"class": "dermaffinity.heads.AffinityHed"}}, "(did you mean 'AffinityHead'?)"),
        (
            {"head": {"class": "dermaffinity.head.LinearHead"}},
            "head.class 'dermaffinity.head.LinearHead': cannot import",
        ),
        (
            {"head": {"class": "dermaffinity.heads.AffinityHead", "centres_per_class": 3}},
            "head.centres_per_class: AffinityHead takes no such key (did you mean 'centers_per_class'?)",
        ),
        (
            {"backbone": {"class": "dermaffinity.models.SmallConvNet", "width": 3}},
            "backbone.width: SmallConvNet takes no such key; allowed: none",
        ),
        (
            {"head": {"class": "dermaffinity.heads.AffinityHead", "sigma": "wide"}},
            "head.sigma: input should be a valid number, unable to parse string as a number, got 'wide'",
        ),
        (
            {"head": {"class": "dermaffinity.heads.AffinityHead", "distance": "l3"}},
            "head.distance: input should be 'l2' or 'l1', got 'l3'",
        ),
        (
            {"head": {"class": "dermaffinity.heads.AffinityHead", "sigma": -1}},
            "head: sigma must be positive because it is a width, got -1",
        ),
        (
            {"neck": {"class": "dermaffinity.models.UnitNeck", "dim": 1}},
            "neck: dim must be at least 2, got 1",
        ),
        (
            {"loss": {"class": "dermaffinity.losses.AffinityLoss", "margin": 1.5}},
            "loss: margin must be in (0, 1] because similarities are, got 1.5",
        ),
        (
            {"augmentation": {"class": "dermaffinity.data.augmentation.LesionAugmentation", "color": 3}},
            "augmentation: color must be in [0, 1], got 3",
        ),
        (
            {"head": {"class": "dermaffinity.losses.AffinityLoss"}},
            "head.class: 'dermaffinity.losses.AffinityLoss' is not a Head; "
            "dermaffinity has AffinityHead, AffinityMixtureHead, CosineHead, LinearHead",
        ),
        ({"head": {"class": "dermaffinity.heads.Head"}}, "head.class: 'dermaffinity.heads.Head' is not a Head"),
        ({"backbone": {"class": "dermaffinity.models.Backbone"}}, "'dermaffinity.models.Backbone' is not a Backbone"),
        (
            {"neck": {"class": "dermaffinity.models.Neck"}},
            "dermaffinity has BatchNormNeck, IdentityNeck, LinearNeck, UnitNeck",
        ),
        (
            {"head": {"class": "torch.nn.Linear"}},
            "head.class: 'torch.nn.Linear' is outside dermaffinity; list its module under plugins: to allow it",
        ),
        (
            {"loss": {"class": "dermaffinity.losses.CoSenLoss"}},
            "loss: CoSenLoss works on logit scores, but the head AffinityHead gives similarity scores; change one",
        ),
        (
            {"refit": {"class": "dermaffinity.refit.TauNormalization"}},
            "refit: this refit changes the weights of a linear layer, and AffinityHead has no nn.Linear called",
        ),
        (
            {
                "head": {"class": "dermaffinity.heads.CosineHead", "scale": 30.0},
                "loss": {"class": "dermaffinity.losses.LDAMLoss"},
            },
            "loss.scale is 16.0 and head.scale 30.0: the probabilities would not be those that were trained",
        ),
        (
            {"mixing": {"class": "dermaffinity.data.mixing.Mixup", "alpha": 0}},
            "mixing: alpha must be at least 0.01",
        ),
    ],
)
def test_each_mistake_is_named(write, sections, problem):
    (found,) = problems_of(write(**sections))
    assert problem in found


def test_all_problems_are_reported_at_once(write):
    found = problems_of(
        write(
            head={"class": "torch.nn.Linear"},
            loss={"class": "dermaffinity.losses.AffinityLoss", "margn": 0.5},
            training={"epochs": 0, "momentum": 2},
            data=None,
            colour="red",
        )
    )
    starts = ("colour:", "data: missing", "head.class:", "loss.margn:", "training.epochs:", "training.momentum:")
    assert len(found) == len(starts)
    assert all(sum(problem.startswith(start) for problem in found) == 1 for start in starts)


def test_all_problems_of_the_constructors_are_reported_at_once(write):
    head = {"class": "dermaffinity.heads.AffinityHead", "sigma": 0}
    found = problems_of(write(head=head, loss={"class": "dermaffinity.losses.CoSenLoss", "cost_rate": 2}))
    assert [problem.partition(":")[0] for problem in found] == ["head", "loss", "loss"]


@pytest.mark.parametrize(
    ("key", "text", "value"), [("sigma", "1e1", 10.0), ("centers_per_class", "3.0", 3), ("sigma", "'2'", 2.0)]
)
def test_numbers_that_yaml_takes_for_something_else_reach_the_class_as_numbers(write, key, text, value):
    config = read_config(write(), [f"head.{key}={text}"])
    assert config.resolved()["head"][key] == value
    assert type(config.head.build(8, 2).sigma) is float
    assert config.head.build(8, 2).centers.shape[1] == config.resolved()["head"]["centers_per_class"]


def test_no_other_spelling_of_class_reaches_a_class_unchecked(write):
    (found,) = problems_of(write(head={"class_path": "subprocess.Popen", "args": "true"}))
    assert found == "head.class: missing"


PLUGIN = """
from dermaffinity.heads import LinearHead

class TwinHead(LinearHead):
    '''A head from outside.'''

class Unrelated:
    pass
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    (tmp_path / "clinic_heads.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    yield "clinic_heads"
    sys.modules.pop("clinic_heads", None)


def test_a_listed_plugin_may_give_a_class_of_the_right_kind(write, plugin):
    loss = {"class": "dermaffinity.losses.CoSenLoss"}
    config = read_config(write(plugins=[plugin], head={"class": f"{plugin}.TwinHead"}, loss=loss))
    assert isinstance(config.head.build(8, 2), LinearHead)
    (found,) = problems_of(write(plugins=[plugin], head={"class": f"{plugin}.Unrelated"}, loss=loss))
    assert f"'{plugin}.Unrelated' is not a Head" in found


def test_an_unlisted_module_is_not_even_imported(write, plugin):
    problems_of(write(plugins=[f"{plugin}_too"], head={"class": f"{plugin}.TwinHead"}))
    assert plugin not in sys.modules


def config_with_base(tmp_path, base: dict, config: dict) -> Path:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base), encoding="utf-8")
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"base": "base.yaml"} | config), encoding="utf-8")
    return path


def test_a_config_changes_single_values_of_its_base(tmp_path):
    config = read_config(config_with_base(tmp_path, CONFIG, {"name": "long", "training": {"batch_size": 8}}))
    assert (config.name, config.training.epochs, config.training.batch_size) == ("long", 3, 8)
    assert config.data.image_size == 32


def test_a_section_that_names_a_class_replaces_that_of_the_base(tmp_path):
    head = {"class": "dermaffinity.heads.AffinityHead", "centers_per_class": 2}
    assert read_config(config_with_base(tmp_path, CONFIG, {"head": head})).resolved()["head"]["sigma"] == 10.0
    without_class = {"head": {"centers_per_class": 2}}
    merged = read_config(config_with_base(tmp_path, CONFIG, without_class)).resolved()["head"]
    assert (merged["sigma"], merged["centers_per_class"]) == (2.0, 2)


def test_a_base_has_no_base_of_its_own(tmp_path):
    with pytest.raises(ConfigError, match=r"base\.yaml: a base config has no base of its own; merge 'more\.yaml' into"):
        read_config(config_with_base(tmp_path, CONFIG | {"base": "more.yaml"}, {}))


def test_a_missing_base_is_named(write):
    with pytest.raises(ConfigError, match=r"its base 'nowhere\.yaml' is not a file in"):
        read_config(write(base="nowhere.yaml"))


def test_overrides_change_the_config_and_pass_the_same_checks(write):
    config = read_config(write(training=None), ["training.epochs=5", "head.sigma=0.5", "name=other", "data.root=/data"])
    assert (config.training.epochs, config.head.build(8, 2).sigma, config.name) == (5, 0.5, "other")
    assert config.data.root == Path("/data")
    found = problems_of(write(), ["training.epoch=5", "head.sigma=-1", "training.batch_size=1"])
    assert found == [
        "training.batch_size: input should be greater than or equal to 2, got 1",
        "training.epoch: unknown key (did you mean 'epochs'?)",
    ]


def test_an_override_may_put_in_another_class(write):
    overrides = ["head={class: dermaffinity.heads.LinearHead}", "loss={class: dermaffinity.losses.CrossEntropyLoss}"]
    assert isinstance(read_config(write(), overrides).head.build(8, 2), LinearHead)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs", "--set training.epochs: write key=value, such as --set training.epochs=5"),
        ("=5", "--set =5: write key=value"),
        ("training.epochs=[1", r"--set training.epochs=\[1: '\[1' is not a YAML value"),
        ("name.first=x", "--set name.first=x: 'name' is not a section"),
    ],
)
def test_a_malformed_override_is_refused(write, override, message):
    with pytest.raises(ConfigError, match=message):
        read_config(write(), [override])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"head: [1, 2", "not a YAML config .*line 1"),
        (b"name: a\n\thead: b", "not a YAML config"),
        (b"\xff\xfe\x00", "not a YAML config"),
        (b"", "a config is a mapping of sections such as data, head and loss, found an empty file"),
        (b"- a\n- b\n", "a config is a mapping of sections .* found a list"),
        (b"!!python/object/apply:os.getcwd []", "not a YAML config"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path, content, message):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_config(path)


def test_an_unknown_config_lists_the_shipped_ones_with_the_nearest():
    with pytest.raises(ConfigError, match=r"no config demo_afinity \(did you mean 'demo_affinity'\?\).*demo_cosen"):
        read_config("demo_afinity")


def test_a_shipped_config_is_found_by_its_name():
    assert read_config("demo_affinity").resolved() == read_config(shipped_configs()["demo_affinity"]).resolved()


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


def test_flattened_settings_have_dotted_keys_in_order():
    assert list(flatten({"a": 1, "b": {"c": 2, "d": {"e": 3}}})) == [("a", 1), ("b.c", 2), ("b.d.e", 3)]


def test_every_base_of_a_section_exists():
    assert all(import_class(path).__doc__ for kind in (NetworkConfig, EstimatorConfig) for path in kind.bases.values())


ESTIMATOR = {
    "features": {"class": "dermaffinity.classic.ColorTexture", "levels": 16},
    "estimator": {"class": "dermaffinity.classic.HierarchicalKNN", "groups": [["AK", "BCC"]]},
}


def test_a_config_with_an_estimator_takes_from_a_networks_base_only_what_both_have(write, tmp_path):
    write("base.yaml")
    path = tmp_path / "knn.yaml"
    path.write_text(yaml.safe_dump({"base": "base.yaml", "name": "knn", **ESTIMATOR}), encoding="utf-8")
    config = read_config(path, ["estimator.neighbors=5"])
    assert isinstance(config, EstimatorConfig)
    resolved = config.resolved()
    assert resolved.keys() == {"name", "plugins", "data", "features", "estimator"}
    assert resolved["data"]["image_size"] == 32
    assert resolved["estimator"] == {
        "class": "dermaffinity.classic.HierarchicalKNN",
        "groups": [["AK", "BCC"]],
        "neighbors": 5,
        "num_features": 10,
    }
    assert config.portable()["data"]["manifest"] == "trial.csv"


def test_sections_of_a_network_do_not_fit_a_config_with_an_estimator(write):
    assert problems_of(write(**ESTIMATOR), ["features.levels=1", "estimator.neigbors=3"])[:2] == [
        "augmentation: unknown key; allowed: name, plugins, grid, data, features, estimator",
        "backbone: unknown key; allowed: name, plugins, grid, data, features, estimator",
    ]
    only = dict.fromkeys(NetworkConfig.bases) | {"training": None} | ESTIMATOR
    assert problems_of(write(**only), ["features.levels=1"]) == ["features: levels must be from 2 to 256, got 1"]
    assert problems_of(write(**only), ["estimator.class=dermaffinity.heads.LinearHead"]) == [
        "estimator.class: 'dermaffinity.heads.LinearHead' is not a Estimator; dermaffinity has FlatKNN, "
        "HierarchicalBayes, HierarchicalKNN"
    ]


def test_a_grid_is_no_part_of_the_experiment(tiny_config, tmp_path):
    with_grid = tmp_path / "tiny.yaml"
    with_grid.write_text(
        tiny_config.read_text() + "grid: {training.learning_rate: [0.01, 0.02], loss.cost_rate: [1.0]}\n"
    )
    config = read_config(with_grid)
    assert config.grid == {"training.learning_rate": (0.01, 0.02), "loss.cost_rate": (1.0,)}
    assert config.resolved() == read_config(tiny_config).resolved()


def test_every_wrong_value_of_a_grid_is_reported_together_with_the_config(tiny_config, tmp_path):
    wrong = tmp_path / "tiny.yaml"
    wrong.write_text(
        tiny_config.read_text().replace("epochs: 3", "epochs: 0")
        + "grid: {training.learning_rate: [0.01, -1, fast], loss.cost_rat: [1.0], name: [a], training.momentum: []}\n"
    )
    with pytest.raises(ConfigError) as error:
        read_config(wrong)
    said = [problem.partition(", got")[0] for problem in error.value.problems]
    assert said == [
        "training.epochs: input should be greater than or equal to 1",
        "grid.training.learning_rate = -1: training.learning_rate: input should be greater than 0",
        "grid.training.learning_rate = 'fast': training.learning_rate: input should be a valid number, unable to parse "
        "string as a number",
        "grid.loss.cost_rat = 1.0: loss.cost_rat: CoSenLoss takes no such key (did you mean 'cost_rate'?)",
        "grid.name: only settings within augmentation, backbone, neck, head, loss, mixing, refit, training, and "
        "data.image_size, data.lesion_crop, can be tried",
        "grid.training.momentum: no values; write a list such as [0.5, 1.0]",
    ]


def test_a_grid_replaces_that_of_its_base_and_an_estimator_takes_none_from_it(tiny_config, tmp_path):
    (tmp_path / "base.yaml").write_text(tiny_config.read_text() + "grid: {training.learning_rate: [0.01, 0.02]}\n")
    (tmp_path / "same.yaml").write_text("base: base.yaml\nname: same\n")
    (tmp_path / "own.yaml").write_text("base: base.yaml\nname: own\ngrid: {loss.cost_rate: [0.5]}\n")
    (tmp_path / "classic.yaml").write_text(
        "base: base.yaml\nname: classic\nfeatures: {class: dermaffinity.classic.ColorTexture}\n"
        "estimator: {class: dermaffinity.classic.FlatKNN}\n"
    )
    assert read_config(tmp_path / "same.yaml").grid == {"training.learning_rate": (0.01, 0.02)}
    assert read_config(tmp_path / "own.yaml").grid == {"loss.cost_rate": (0.5,)}
    assert read_config(tmp_path / "classic.yaml").grid == {}


def test_settings_come_after_overrides_as_values(tiny_config):
    config = read_config(tiny_config, ["training.epochs=2"], {"training.epochs": 4, "name": "other"})
    assert (config.training.epochs, config.name) == (4, "other")


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
