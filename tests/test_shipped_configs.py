import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from dermaffinity.config import EstimatorConfig, flatten, read_config, shipped_configs
from dermaffinity.data.adapters.dermofit import PUBLISHED_COUNTS
from dermaffinity.data.adapters.ham10000 import DRAWS
from dermaffinity.inference.model_folder import build_network

CONFIGS = shipped_configs()
EXPERIMENTS = [name for name, path in CONFIGS.items() if "base" in yaml.safe_load(path.read_text(encoding="utf-8"))]
BASES = {yaml.safe_load(CONFIGS[name].read_text(encoding="utf-8"))["base"] for name in EXPERIMENTS}
AFFINITY = [name for name in EXPERIMENTS if "AffinityLoss" in CONFIGS[name].read_text(encoding="utf-8")]

# How a method learns, where that is the method: its rates, which images it draws, how it steps. Head, loss, neck,
# mixing and refit are method as well; epochs, batches, decay and precision are the same for all.
PART_OF_A_METHOD = ("learning_rate", "head_rate_factor", "balanced_sampling", "sam_radius", "average_decay")


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_describes_an_experiment_of_its_own_name(name):
    assert read_config(CONFIGS[name]).name == name


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_starts_with_its_question_and_a_base_says_that_it_is_one(name):
    first = CONFIGS[name].read_text(encoding="utf-8").splitlines()[0]
    if name in EXPERIMENTS:
        assert first.startswith("# Question: ")
        assert first.endswith("?")
    else:
        assert first.startswith("# Base of ")
        assert f"{name}.yaml" in BASES


@pytest.mark.parametrize("base", sorted(BASES))
def test_the_methods_of_a_dataset_differ_in_nothing_but_method(base):
    read = [read_config(CONFIGS[n]) for n in EXPERIMENTS if f"base: {base}\n" in CONFIGS[n].read_text()]
    assert all(config.data == read[0].data for config in read)
    configs = [config.resolved() for config in read if not isinstance(config, EstimatorConfig)]
    assert {config["head"]["class"].rpartition(".")[2] for config in configs} >= {"LinearHead", "AffinityHead"}
    for config in configs:
        for key in PART_OF_A_METHOD:
            config["training"].pop(key, None)
        config["backbone"].pop("views", None)  # of prediction
    for section in ("data", "augmentation", "backbone", "training"):
        assert all(config[section] == configs[0][section] for config in configs), section


@pytest.mark.parametrize("base", ["hamfit5.yaml", "hamfit7.yaml"])
def test_every_method_of_the_benchmark_is_tuned_with_at_most_the_same_budget(base):
    configs = [read_config(CONFIGS[n]) for n in EXPERIMENTS if f"base: {base}\n" in CONFIGS[n].read_text()]
    networks = [config for config in configs if not isinstance(config, EstimatorConfig)]
    assert len(networks) >= 20
    for config in networks:
        assert "training.learning_rate" in config.grid, config.name
        assert 2 <= math.prod(len(values) for values in config.grid.values()) <= 4, config.name
        # What ships is one of what is tried, so that tuning can only find better.
        settings = dict(flatten(config.resolved()))
        assert all(settings[key] in values for key, values in config.grid.items() if key != "training.learning_rate")


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if "hierarchical" in name])
def test_the_groups_of_a_hierarchy_are_a_datasets_classes(name):
    dermofit = {"dermofit10": set(PUBLISHED_COUNTS), "dermofit5": {"AK", "BCC", "ML", "SCC", "SK"}}
    hamfit = {"hamfit7": set(DRAWS["hamfit-7"]), "hamfit5": set(DRAWS["hamfit-5"])}
    groups = read_config(CONFIGS[name]).resolved()["estimator"]["groups"]
    named = [code for group in groups for code in group]
    assert set(named) == (dermofit | hamfit)[name.partition("_")[0]]
    assert len(set(named)) == len(named)


@pytest.mark.parametrize("name", AFFINITY)
def test_a_new_affinity_network_has_a_gradient_at_its_backbones_last_layer(name):
    config, num_classes = read_config(CONFIGS[name]), 10
    torch.manual_seed(0)
    network = build_network(config.resolved(), num_classes, pretrained=False)
    loss = config.loss.build(torch.full((num_classes,), 50), network.head.embedding_dim)
    size = config.data.image_size
    output = network(torch.randn(4, 3, size, size))
    hinge = loss(output, torch.arange(4))["max_margin"]
    hinge.backward()
    last = [p for p in network.backbone.parameters() if p.ndim == 4][-1]
    own = output.scores[torch.arange(4), torch.arange(4)]
    assert own.median() > 0.01
    # On raw features with sigma 10 it is 1e-18.
    assert last.grad.norm() > 1e-3


AS_PRINTED = [name for name in EXPERIMENTS if name.endswith("_as_printed") and name in AFFINITY]


@pytest.mark.parametrize("name", [*AS_PRINTED, "mnist_affinity"])
def test_an_affinity_config_as_printed_has_what_the_paper_prints(name):
    settings = dict(flatten(read_config(CONFIGS[name]).resolved()))
    assert 5 <= settings["head.sigma"] <= 20  # best in Figure 7
    assert settings["head.centers_per_class"] == 5  # the fewest of the best in Figure 8
    assert (settings["head.distance"], settings["head.similarity"]) == ("l2", "gaussian")  # Eq. 3
    assert (settings["head.unit_centers"], settings["head.start"]) == (False, "random")
    assert (settings["loss.diversity"], settings["loss.diversity_weight"]) == ("paper", 1)  # Eq. 7 and 10
    assert settings["training.head_rate_factor"] == 1


@pytest.mark.parametrize("neck", ["IdentityNeck", "BatchNormNeck"])
def test_as_printed_all_features_of_a_resnet_are_too_far_from_every_center(neck):
    config = read_config(CONFIGS["hamfit7_affinity_as_printed"]).resolved()
    torch.manual_seed(0)
    network = build_network({**config, "neck": {"class": f"dermaffinity.models.{neck}"}}, 7, pretrained=False)
    assert network(torch.randn(4, 3, 64, 64)).scores.max() < 1e-10


def modules_after(code: str) -> set[str]:
    program = f"{code}\nimport sys\nprint(' '.join(sys.modules), file=sys.stderr)"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return set(finished.stderr.split())


HELP = """
import sys
sys.argv = ["dermaffinity", "--help"]
from dermaffinity.cli import main
try:
    main()
except SystemExit as exit:
    assert exit.code == 0
"""


@pytest.mark.parametrize("code", ["import dermaffinity", HELP], ids=["import", "help"])
def test_importing_the_package_and_asking_for_help_load_nothing_heavy(code):
    heavy = {
        "torch",
        "monai",
        "mlflow",
        "pandas",
        "numpy",
        "matplotlib",
        "sklearn",
        "albumentations",
        "lightning_fabric",
    }
    assert not modules_after(code) & heavy


def test_configs_hold_no_path_of_a_machine():
    for path in CONFIGS.values():
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        manifest = values.get("data", {}).get("manifest", "")
        assert not Path(manifest).is_absolute()
        assert "root" not in values.get("data", {})
