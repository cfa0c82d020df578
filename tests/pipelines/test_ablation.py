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
def page(tiny_page, tmp_path_factory) -> Path:
    values = yaml.safe_load(tiny_page.read_text()) | {
        "name": "tiny_plus",
        "neck": {"class": "dermaffinity.models.UnitNeck"},
        "head": {"class": "dermaffinity.heads.AffinityMixtureHead", "centers_per_class": 2},
        "loss": {"class": "dermaffinity.losses.AffinityPosteriorLoss"},
    }
    path = tmp_path_factory.mktemp("ablation") / "tiny_plus.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize("name", ["hamfit7_affinity_plus", "hamfit5_affinity_plus"])
def test_every_variant_of_the_shipped_recipe_is_a_page_that_differs_from_it(recipe, name):
    pages = recipe["variants"](name, [], list(recipe["VARIANTS"]))
    plain = pages.pop("recipe").resolved()
    assert set(pages) == set(recipe["VARIANTS"])
    for page in pages.values():
        assert {key for key, value in page.resolved().items() if value != plain[key]} > {"name"}, page.name


def test_a_variant_that_does_not_fit_is_named(recipe, tiny_page):
    with pytest.raises(ConfigError, match="some variants do not fit this page; leave them out with --only") as error:
        recipe["variants"](str(tiny_page), [], ["mixup", "margin"])
    assert error.value.problems[0].startswith("margin: loss.margin: CoSenLoss takes no such key")


@pytest.mark.slow
def test_variants_are_measured_against_the_recipe_on_inner_images(recipe, page, fresh_folder, monkeypatch, capsys):
    monkeypatch.chdir(fresh_folder("ablation"))
    words = ["ablation.py", str(page), "--only", "one-center", "mixup", "--folds", "0", "1"]
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
