import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from dermaffinity.config import EstimatorConfig, flatten, question, read_config, shipped, shipped_names
from dermaffinity.data.adapters.dermofit import PUBLISHED_COUNTS
from dermaffinity.data.adapters.ham10000 import DRAWS
from dermaffinity.inference.model_folder import build_network

DATASETS, METHODS = shipped("dataset"), shipped("method")

# How a method learns, where that is the method: its rates, which images it draws. Tricks, head, loss, neck,
# mixing and refit are method as well; epochs, batches, decay and precision are the same for all.
PART_OF_A_METHOD = ("learning_rate", "head_rate_factor", "balanced_sampling")


@pytest.mark.parametrize("name", [*DATASETS, *METHODS])
def test_a_dataset_or_method_starts_with_its_question(name):
    first, *_ = (DATASETS | METHODS)[name].read_text(encoding="utf-8").splitlines()
    assert first.startswith("# Question: ")
    assert first.endswith("?")
    assert question((DATASETS | METHODS)[name])[0].isupper()


def test_no_name_means_two_experiments():
    assert len(set(shipped_names())) == len(DATASETS) * len(METHODS)
    assert not DATASETS.keys() & METHODS.keys()


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_method_of_a_dataset_is_an_experiment_and_differs_from_the_others_in_nothing_but_method(dataset):
    read = {f"{dataset}_{method}": read_config(f"{dataset}_{method}") for method in METHODS}
    assert all(config.name == name for name, config in read.items())
    first = read[f"{dataset}_softmax"]
    assert all(config.data == first.data for config in read.values())
    configs = [config.resolved() for config in read.values() if not isinstance(config, EstimatorConfig)]
    for config in [first.resolved(), *configs]:
        for key in PART_OF_A_METHOD:
            config["training"].pop(key, None)
        config["backbone"].pop("views", None)  # of prediction
        if config["training"].pop("freeze_backbone"):  # nothing is trained, on features of several stages and sizes
            config["training"]["epochs"] = first.training.epochs
        for key in ("pooled_stages", "sizes"):
            config["backbone"].pop(key, None)
    for section in ("augmentation", "backbone", "training"):
        assert all(config[section] == configs[0][section] for config in configs), section
    for method in yaml.safe_load(DATASETS[dataset].read_text(encoding="utf-8")).get("methods", ()):
        assert method in METHODS


@pytest.mark.parametrize("dataset", ["hamfit5", "hamfit7"])
def test_every_method_of_the_benchmark_is_tuned_with_at_most_the_same_budget(dataset):
    configs = [read_config(f"{dataset}_{method}") for method in METHODS]
    networks = [config for config in configs if not isinstance(config, EstimatorConfig)]
    assert len(networks) >= 20
    for config in networks:
        assert "training.learning_rate" in config.grid, config.name
        assert 2 <= math.prod(len(values) for values in config.grid.values()) <= 4, config.name
        # What ships is one of what is tried, so that tuning can only find better.
        settings = dict(flatten(config.resolved()))
        assert all(settings[key] in values for key, values in config.grid.items())


@pytest.mark.parametrize("dataset", ["dermofit10", "dermofit5", "hamfit5", "hamfit7"])
@pytest.mark.parametrize("method", ["hierarchical_bayes", "hierarchical_knn"])
def test_the_groups_of_a_hierarchy_are_a_datasets_classes(dataset, method):
    dermofit = {"dermofit10": set(PUBLISHED_COUNTS), "dermofit5": {"AK", "BCC", "ML", "SCC", "SK"}}
    hamfit = {"hamfit7": set(DRAWS["hamfit-7"]), "hamfit5": set(DRAWS["hamfit-5"])}
    groups = read_config(f"{dataset}_{method}").resolved()["estimator"]["groups"]
    named = [code for group in groups for code in group]
    assert set(named) == (dermofit | hamfit)[dataset]
    assert len(set(named)) == len(named)


# Datasets whose backbones and sizes differ; the others are preprocessed as one of them.
@pytest.mark.parametrize("dataset", ["demo", "faces", "hamfit7", "library", "mnist", "mnist2d"])
@pytest.mark.parametrize("method", ["affinity", "affinity_as_printed", "affinity_relative"])
def test_a_new_affinity_network_has_a_gradient_at_its_backbones_last_layer(dataset, method):
    config, num_classes = read_config(f"{dataset}_{method}"), 10
    torch.manual_seed(0)
    network = build_network(config.resolved(), num_classes, pretrained=False)
    counts = torch.full((num_classes,), 50)
    loss = config.loss.build(class_counts=counts, embedding_dim=network.head.embedding_dim)
    size = config.data.image_size
    output = network(torch.randn(4, 3, size, size))
    hinge = loss(output, torch.arange(4))["max_margin"]
    hinge.backward()
    last = [p for p in network.backbone.parameters() if p.ndim == 4][-1]
    own = output.scores[torch.arange(4), torch.arange(4)]
    assert own.median() > 0.01
    # On raw features with sigma 10 it is 1e-18.
    assert last.grad.norm() > 1e-3


@pytest.mark.parametrize("name", [*(f"{dataset}_affinity_as_printed" for dataset in DATASETS), "mnist_affinity"])
def test_an_affinity_config_as_printed_has_what_the_paper_prints(name):
    settings = dict(flatten(read_config(name).resolved()))
    assert 5 <= settings["head.sigma"] <= 20  # best in Figure 7
    # Five are the fewest of the best in Figure 8; the figure of two dimensions shows one cluster a class.
    assert settings["head.centers_per_class"] == (1 if name.startswith("mnist2d") else 5)
    assert (settings["head.distance"], settings["head.similarity"]) == ("l2", "gaussian")  # Eq. 3
    assert (settings["head.unit_centers"], settings["head.start"]) == (False, "random")
    assert (settings["loss.diversity"], settings["loss.diversity_weight"]) == ("paper", 1)  # Eq. 7 and 10
    assert settings["training.head_rate_factor"] == 1


@pytest.mark.parametrize("neck", ["IdentityNeck", "BatchNormNeck"])
def test_as_printed_all_features_of_a_resnet_are_too_far_from_every_center(neck):
    config = read_config("hamfit7_affinity_as_printed").resolved()
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
    for path in (*DATASETS.values(), *METHODS.values()):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        manifest = values.get("data", {}).get("manifest", "")
        assert not Path(manifest).is_absolute()
        assert "root" not in values.get("data", {})


@pytest.mark.parametrize("name", shipped("backbone"))
def test_a_shipped_backbone_is_a_network_of_timm_whose_license_leaks_and_state_are_told(name):
    timm = pytest.importorskip("timm")
    text = shipped("backbone")[name].read_text(encoding="utf-8")
    backbone = read_config("library_affinity_frozen", [f"backbone={name}"]).resolved()["backbone"]
    known = timm.get_pretrained_cfg(backbone["name"])
    assert question(shipped("backbone")[name]).endswith("?")
    comment = "".join(line for line in text.splitlines() if line.startswith("#")).lower()
    assert known.license.replace("-", " ") in comment.replace("-", " ")
    assert "leaks: " in comment
    assert "not measured here" in comment
    torch.manual_seed(0)
    config = read_config("library_affinity_frozen", [f"backbone={name}", "backbone.weights=null"])
    built = config.backbone.build().eval()
    millions = sum(parameter.numel() for parameter in built.parameters()) / 1e6
    assert f"{millions:.0f} million" in comment
    assert built(torch.zeros(1, 3, 64, 64)).shape == (1, built.num_features)
