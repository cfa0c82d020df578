import sys
from pathlib import Path

import pytest
import yaml

from dermaffinity.config import EstimatorConfig, NetworkConfig, flatten, matching, read_config, shipped, shipped_names
from dermaffinity.errors import ConfigError
from dermaffinity.heads import AffinityHead, LinearHead

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
    head = read_config(write()).head.build(embedding_dim=16, num_classes=4, class_counts=None)
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
        ({"training": {"epochs": -1}}, "training.epochs: input should be greater than or equal to 0, got -1"),
        ({"training": {"precision": "half"}}, "training.precision: string should match pattern"),
        ({"training": 5}, "training: input should be a valid dictionary"),
        ({"data": {"manifest": "x.csv", "image_size": 8}}, "data.image_size: input should be greater than or equal"),
        ({"data": {}}, "data.manifest: missing"),
        ({"head": None}, "head: missing"),
        ({"name": "a/b"}, "name: string should match pattern"),
        ({"plugins": 5}, "plugins: should be a list such as [a, b], got 5"),
        ({"head": {"sigma": 1}}, "head.class: missing"),
        ({"head": "dermaffinity.heads.LinearHead"}, "head: input should be a valid dictionary"),
        ({"head": {"class": "dermaffinity.heads.AffinityHed"}}, "(did you mean 'AffinityHead'?)"),
        (
            {"head": {"class": "dermaffinity.head.LinearHead"}},
            "head: class 'dermaffinity.head.LinearHead': cannot import",
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
            "head: class 'dermaffinity.losses.AffinityLoss' is not a Head; "
            "dermaffinity has AffinityHead, AffinityMixtureHead, CosineHead, LinearHead",
        ),
        ({"head": {"class": "dermaffinity.heads.Head"}}, "head: class 'dermaffinity.heads.Head' is not a Head"),
        ({"backbone": {"class": "dermaffinity.models.Backbone"}}, "'dermaffinity.models.Backbone' is not a Backbone"),
        (
            {"neck": {"class": "dermaffinity.models.Neck"}},
            "dermaffinity has BatchNormNeck, IdentityNeck, LinearNeck, UnitNeck",
        ),
        (
            {"head": {"class": "torch.nn.Linear"}},
            "head: class 'torch.nn.Linear' is outside dermaffinity; if you trust it, add --plugins torch.nn (",
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
            {"prior_strength": -1},
            "prior_strength: input should be greater than or equal to 0, or input should be 'chosen', got -1",
        ),
        ({"metadata": ["age", "site", "age"]}, "metadata: value error, names age twice"),
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
            training={"epochs": -1, "momentum": 2},
            data=None,
            colour="red",
        )
    )
    starts = ("colour:", "data: missing", "head: class", "loss.margn:", "training.epochs:", "training.momentum:")
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
    assert type(config.head.build(embedding_dim=8, num_classes=2).sigma) is float
    assert (
        config.head.build(embedding_dim=8, num_classes=2).centers.shape[1]
        == config.resolved()["head"]["centers_per_class"]
    )


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
    assert isinstance(config.head.build(embedding_dim=8, num_classes=2), LinearHead)
    (found,) = problems_of(write(plugins=[plugin], head={"class": f"{plugin}.Unrelated"}, loss=loss))
    assert f"'{plugin}.Unrelated' is not a Head" in found


def test_an_unlisted_module_is_not_even_imported(write, plugin):
    problems_of(write(plugins=[f"{plugin}_too"], head={"class": f"{plugin}.TwinHead"}))
    assert plugin not in sys.modules


def test_plugins_add_up(write, plugin):
    loss = {"class": "dermaffinity.losses.CoSenLoss"}
    path = write(plugins=["json"], head={"class": f"{plugin}.TwinHead"}, loss=loss)
    assert read_config(path, [f"plugins=[{plugin}, json]"]).plugins == ("json", plugin)


HALF = {key: CONFIG[key] for key in ("data", "augmentation", "backbone", "training")}
METHOD = {
    "head": {"class": "dermaffinity.heads.AffinityHead", "sigma": 2.0},
    "loss": {"class": "dermaffinity.losses.AffinityLoss"},
    "training": {"learning_rate": 0.5},
    "grid": {"loss.margin": [0.5, 0.75]},
}


@pytest.fixture
def compose_of(tmp_path):
    """Writes a dataset and a method, and a config that is composed of them."""

    def write_halves(dataset: dict, method: dict, **own) -> Path:
        for name, values in (("clinic", dataset), ("hinge", method), ("ours", own)):
            halves = {"dataset": "clinic.yaml", "method": "hinge.yaml"} if name == "ours" else {}
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(halves | values), encoding="utf-8")
        return tmp_path / "ours.yaml"

    return write_halves


def test_a_config_is_composed_of_dataset_and_method_and_named_by_its_file(compose_of):
    config = read_config(compose_of(HALF, METHOD))
    assert (config.name, config.dataset, config.method) == ("ours", "clinic", "hinge")
    assert (config.training.epochs, config.training.learning_rate) == (3, 0.5)
    assert config.resolved()["head"]["sigma"] == 2.0
    assert config.resolved()["neck"] == {"class": "dermaffinity.models.IdentityNeck"}
    assert "dataset" not in config.resolved()


def test_dataset_then_method_then_the_datasets_exception_then_the_file_then_overrides(compose_of):
    def rate(dataset: dict, own: dict, *overrides: str) -> float:
        path = compose_of(HALF | {"training": {"learning_rate": 0.1}} | dataset, METHOD, training=own)
        return read_config(path, overrides).training.learning_rate

    exception = {"methods": {"hinge.yaml": {"training": {"learning_rate": 0.6}}, "cosen": {"training": {"epochs": 1}}}}
    assert rate({}, {}) == 0.5
    assert rate(exception, {}) == 0.6
    assert rate(exception, {"learning_rate": 0.7}) == 0.7
    assert rate(exception, {"learning_rate": 0.7}, "training.learning_rate=0.8") == 0.8
    assert read_config(compose_of(HALF | exception, METHOD)).training.epochs == 3


def test_a_section_that_names_a_class_replaces_the_one_before_and_any_other_is_merged(compose_of):
    head = {"class": "dermaffinity.heads.AffinityHead", "centers_per_class": 2}
    assert read_config(compose_of(HALF, METHOD, head=head)).resolved()["head"]["sigma"] == 10.0
    merged = read_config(compose_of(HALF, METHOD, head={"centers_per_class": 2})).resolved()["head"]
    assert (merged["sigma"], merged["centers_per_class"]) == (2.0, 2)


def test_the_grids_of_dataset_and_method_are_tried_together(compose_of):
    rates = {"training.learning_rate": [0.1, 0.2]}
    config = read_config(compose_of(HALF | {"grid": rates}, METHOD, grid={"loss.margin": [0.25]}))
    assert config.grid == {"training.learning_rate": (0.1, 0.2), "loss.margin": (0.25,)}


def test_a_dataset_alone_leaves_the_rest_to_the_file(write, compose_of):
    compose_of(HALF, METHOD)
    path = write(data=None, training=None, dataset="clinic.yaml")
    config = read_config(path)
    assert (config.name, config.dataset, config.method, config.training.epochs) == ("trial", "clinic", None, 3)


@pytest.mark.parametrize(
    ("dataset", "method", "message"),
    [
        ({"name": "x"}, {}, r"clinic\.yaml: the config of a dataset has no 'name'"),
        ({}, {"dataset": "hamfit7"}, r"hinge\.yaml: the config of a method has no 'dataset'"),
        ({"methods": ["cosen"]}, {}, r"clinic\.yaml: methods: is a mapping"),
        ({"methods": {"cosn": {}}}, {}, r"clinic\.yaml: there is no method 'cosn': the nearest are cosen"),
    ],
)
def test_a_half_that_cannot_be_composed_is_refused(compose_of, dataset, method, message):
    with pytest.raises(ConfigError, match=message):
        read_config(compose_of(HALF | dataset, METHOD | method))


def test_an_unknown_half_is_told_with_the_nearest(write):
    with pytest.raises(ConfigError, match=r"trial\.yaml: there is no dataset 'hamfit8': the nearest are hamfit"):
        read_config(write(dataset="hamfit8"))
    with pytest.raises(
        ConfigError, match="there is no method 'zzz': `dermaffinity configs` lists them; a file of your"
    ):
        read_config(write(method="zzz"))


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("demo_afinity", "the nearest are demo_affinity, [a-z0-9_]+, [a-z0-9_]+; `dermaffinity configs` lists"),
        ("hamfit7_cosn.yaml", "the nearest are hamfit7_cosen, "),
        ("hamfit7", "hamfit7 is a dataset; add a method, such as hamfit7_affinity_plus"),
        ("cosen", "cosen is a method; add a dataset, such as library_cosen"),
        ("§", "give the path of a YAML file, or DATASET_METHOD"),
    ],
)
def test_an_unknown_config_is_told_with_what_was_probably_meant(name, advice):
    with pytest.raises(ConfigError, match=f"there is no config {name}: {advice}"):
        read_config(name)


def test_a_pattern_stands_for_the_shipped_configs_that_it_matches(tmp_path):
    assert matching(["a.yaml", "hamfit?_cosen", "x"]) == ["a.yaml", "hamfit5_cosen", "hamfit7_cosen", "x"]
    assert len(matching(["*"])) == len(shipped("dataset")) * len(shipped("method")) == len(shipped_names())
    (tmp_path / "a[1].yaml").touch()
    assert matching([f"{tmp_path}/a[1].yaml"]) == [f"{tmp_path}/a[1].yaml"]
    with pytest.raises(ConfigError, match=r"no shipped config matches nowhere_\*"):
        matching(["nowhere_*"])


def test_overrides_change_the_config_and_pass_the_same_checks(write):
    config = read_config(write(training=None), ["training.epochs=5", "head.sigma=0.5", "name=other", "data.root=/data"])
    assert (config.training.epochs, config.head.build(embedding_dim=8, num_classes=2).sigma, config.name) == (
        5,
        0.5,
        "other",
    )
    assert config.data.root == Path("/data")
    found = problems_of(write(), ["training.epoch=5", "head.sigma=-1", "training.batch_size=1"])
    assert found == [
        "training.batch_size: input should be greater than or equal to 2, got 1",
        "training.epoch: unknown key (did you mean 'epochs'?)",
    ]


def test_an_override_may_put_in_another_class(write):
    overrides = ["head={class: dermaffinity.heads.LinearHead}", "loss={class: dermaffinity.losses.CrossEntropyLoss}"]
    assert isinstance(read_config(write(), overrides).head.build(embedding_dim=8, num_classes=2), LinearHead)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs", "--set training.epochs: write key=value, such as --set training.epochs=5"),
        ("=5", "--set =5: write key=value"),
        ("training.epochs=[1", r"--set training.epochs=\[1: '\[1' is not a YAML value"),
        ("name.first=x", "--set name.first=x: 'name' is not a section"),
        ("method=cosen", "--set method=cosen: name another config instead, or write method: into a file of your own"),
        ("head={sigma: 1, sigma: 2}", "is not a YAML value"),
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
        (b"name: a\nhead: {sigma: 1}\nhead: {sigma: 2}", r"not a YAML config \(line 3 states 'head' a second time\)"),
        (b"head:\n  sigma: 1\n  sigma: 2", "line 3 states 'sigma' a second time"),
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


def test_flattened_settings_have_dotted_keys_in_order():
    assert list(flatten({"a": 1, "b": {"c": 2, "d": {"e": 3}}})) == [("a", 1), ("b.c", 2), ("b.d.e", 3)]


ESTIMATOR = {
    "features": {"class": "dermaffinity.classic.ColorTexture", "levels": 16},
    "estimator": {"class": "dermaffinity.classic.HierarchicalKNN", "groups": [["AK", "BCC"]]},
}


def test_a_config_with_an_estimator_takes_from_a_dataset_only_what_both_kinds_have(compose_of):
    rates = {"training.learning_rate": [0.1, 0.2]}
    config = read_config(compose_of(HALF | {"grid": rates}, ESTIMATOR), ["estimator.neighbors=5"])
    assert config.grid == {}
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
        "augmentation: unknown key; allowed: name, dataset, method, plugins, grid, data, features, estimator",
        "backbone: unknown key; allowed: name, dataset, method, plugins, grid, data, features, estimator",
    ]
    only = dict.fromkeys(NetworkConfig.kinds()) | {"training": None} | ESTIMATOR
    assert problems_of(write(**only), ["features.levels=1"]) == ["features: levels must be from 2 to 256, got 1"]
    assert problems_of(write(**only), ["estimator.class=dermaffinity.heads.LinearHead"]) == [
        "estimator: class 'dermaffinity.heads.LinearHead' is not a Estimator; dermaffinity has FlatKNN, "
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
        tiny_config.read_text().replace("epochs: 3", "epochs: -1")
        + "grid: {training.learning_rate: [0.01, -1, fast], loss.cost_rat: [1.0], name: [a], training.momentum: []}\n"
    )
    with pytest.raises(ConfigError) as error:
        read_config(wrong)
    said = [problem.partition(", got")[0] for problem in error.value.problems]
    assert said == [
        "training.epochs: input should be greater than or equal to 0",
        "grid.training.learning_rate = -1: training.learning_rate: input should be greater than 0",
        "grid.training.learning_rate = 'fast': training.learning_rate: input should be a valid number, unable to parse "
        "string as a number",
        "grid.loss.cost_rat = 1.0: loss.cost_rat: CoSenLoss takes no such key (did you mean 'cost_rate'?)",
        "grid.name: only settings within augmentation, backbone, neck, head, loss, mixing, refit, growth, average, "
        "sharpness, training, and data.image_size, data.lesion_crop, can be tried",
        "grid.training.momentum: no values; write a list such as [0.5, 1.0]",
    ]


def test_settings_come_after_overrides_as_values(tiny_config):
    config = read_config(tiny_config, ["training.epochs=2"], {"training.epochs": 4, "name": "other"})
    assert (config.training.epochs, config.name) == (4, "other")


def test_a_shipped_backbone_brings_its_training_and_keeps_how_many_views_are_averaged():
    plain = read_config("hamfit7_affinity_plus")
    config = read_config("hamfit7_affinity_plus", ["backbone=dinov2_s", "backbone.frozen_stages=5"])
    assert config.resolved()["backbone"] == {
        "class": "dermaffinity.models.TimmBackbone",
        "name": "vit_small_patch14_dinov2.lvd142m",
        "weights": "pretrained",
        "frozen_stages": 5,
        "views": 8,
    }
    assert (config.training.optimizer, config.training.stage_rate_decay) == ("adamw", 0.8)
    assert (config.head, config.training.epochs) == (plain.head, plain.training.epochs)
    assert config.training.learning_rate in config.grid["training.learning_rate"]


def test_a_file_names_a_backbone_over_what_a_method_says_of_another(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("{dataset: hamfit7, method: affinity_frozen, backbone: convnext_dinov3_t}")
    backbone = read_config(path).resolved()["backbone"]
    assert (backbone["name"], backbone["views"]) == ("convnext_tiny.dinov3_lvd1689m", 8)
    with pytest.raises(ConfigError, match=r"no shipped backbone 'dinov2s' \(did you mean 'dinov2_s'\?\), or a section"):
        read_config("hamfit7_affinity_plus", ["backbone=dinov2s"])
