"""The ablation of the recipe, on a few drawn lesions."""

import runpy
import sys
from pathlib import Path

import pytest
import yaml

from dermaffinity.errors import ConfigError

PIPELINE = Path(__file__).resolve().parents[2] / "pipelines" / "ablation.py"


@pytest.fixture(scope="module")
def recipe() -> dict:
    return runpy.run_path(str(PIPELINE))


@pytest.fixture(scope="module")
def config(tiny_config, tmp_path_factory) -> Path:
    values = yaml.safe_load(tiny_config.read_text()) | {
        "name": "tiny_plus",
        "neck": {"class": "dermaffinity.models.UnitNeck"},
        "head": {"class": "dermaffinity.heads.AffinityMixtureHead", "centers_per_class": 2},
        "loss": {"class": "dermaffinity.losses.AffinityPosteriorLoss"},
    }
    path = tmp_path_factory.mktemp("ablation") / "tiny_plus.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize("name", ["hamfit7_affinity_plus", "hamfit5_affinity_plus"])
def test_every_variant_of_the_shipped_recipe_is_a_config_that_differs_from_it(recipe, name):
    configs = recipe["variants"](name, [], list(recipe["VARIANTS"]))
    plain = configs.pop("recipe").resolved()
    assert set(configs) == set(recipe["VARIANTS"])
    for config in configs.values():
        assert {key for key, value in config.resolved().items() if value != plain[key]} > {"name"}, config.name


def test_a_variant_that_does_not_fit_is_named(recipe, tiny_config):
    with pytest.raises(ConfigError, match="some variants do not fit this config; leave them out with --only") as error:
        recipe["variants"](str(tiny_config), [], ["mixup", "margin"])
    assert error.value.problems[0].startswith("margin: loss.margin: CoSenLoss takes no such key")


@pytest.mark.slow
def test_variants_are_measured_against_the_recipe_on_inner_images(recipe, config, fresh_folder, monkeypatch, capsys):
    monkeypatch.chdir(fresh_folder("ablation"))
    words = ["ablation.py", str(config), "--only", "one-center", "mixup", "--folds", "0", "1"]
    monkeypatch.setattr(sys, "argv", words)
    recipe["main"]()
    shown = capsys.readouterr().out
    written = Path("runs/ablation/ablation.md").read_text()
    assert [line.split("|")[1].strip() for line in written.splitlines()[4:]] == ["recipe", "one-center", "mixup"]
    assert "Inner validation images" in shown
    assert Path("runs/ablation/ablation.png").stat().st_size > 5_000
    # The test folds have no part in it.
    predictions = Path("runs/ablation/tiny_plus.mixup/fold-0_seed-0/predictions.csv").read_text()
    assert predictions == Path("runs/ablation/tiny_plus.mixup/fold-0_seed-0/validation.csv").read_text()
