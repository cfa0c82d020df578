"""What a config may add to the training of a network arrives there."""

from io import StringIO

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console

from dermaffinity import LesionClassifier
from dermaffinity.config import read_config
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.run import Plan, run_experiments
from dermaffinity.heads import LinearHead
from dermaffinity.training.trainer import Trainer

REFIT = {"class": "dermaffinity.refit.PosthocLogitAdjustment", "tau": 1.0}


@pytest.fixture(scope="module")
def results(tiny_config, tmp_path_factory):
    """Fold 0 of the tiny config with cross-entropy: as it is, with a refit, with mixing, with an average."""
    folder = tmp_path_factory.mktemp("options")
    options = {
        "plain": {},
        "refit": {"refit": REFIT},
        "mixing": {"mixing": {"class": "dermaffinity.data.mixing.Mixup", "alpha": 1.0}},
        "average": {"average": {"class": "dermaffinity.training.tricks.MovingAverage", "decay": 0.8}},
    }
    values = yaml.safe_load(tiny_config.read_text()) | {"loss": {"class": "dermaffinity.losses.CrossEntropyLoss"}}
    configs = []
    for name, option in options.items():
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values | option | {"name": name}))
        configs.append(read_config(path))
    run_experiments(configs, Plan(runs=folder, folds=[0], console=Console(file=StringIO())))
    return {name: Experiment(folder / name) for name in options}


def probabilities(folder: Experiment) -> pd.DataFrame:
    return folder.predictions().set_index("image").filter(like="p.")


def test_a_refit_changes_what_the_finished_network_answers_by_its_formula(results, phantom_manifest):
    plain, refitted = probabilities(results["plain"]), probabilities(results["refit"])
    # Bayes' rule by hand: the posterior over the class's share of the images that were fitted.
    rows = pd.read_csv(phantom_manifest, comment="#")
    held_out = set(results["plain"].predictions("validation")["image"])
    fitted = rows[(rows["fold"] != 0) & ~rows["image"].isin(held_out)]["label"].value_counts()
    shares = np.array([fitted[column.removeprefix("p.")] for column in plain.columns])
    expected = plain / shares
    expected = expected.div(expected.sum(axis=1), axis=0)
    np.testing.assert_allclose(refitted, expected.loc[refitted.index], rtol=1e-3, atol=1e-6)


def test_a_refitted_model_that_is_loaded_gives_the_numbers_of_the_run(results, phantom_library):
    classifier = LesionClassifier.load(results["refit"].job(0, 0).path)
    table = probabilities(results["refit"]).iloc[:3]
    found = classifier.predict_proba([phantom_library / name for name in table.index], calibrated=False)
    np.testing.assert_allclose(found, table, atol=1e-5)


def test_a_network_never_predicts_while_its_head_is_away_for_a_refit(tiny_config, tmp_path, monkeypatch):
    # On a GPU it could not: a refit works on the CPU. Here both are the same, so the moves themselves are watched.
    away, moves, predict = [], [], Trainer.predict

    def leave(head):
        moves.append("cpu")
        away.append(head)
        return head

    def come_back(head, device):
        moves.append("back")
        away.clear()
        return head

    def watched(trainer, dataset):
        assert not away
        return predict(trainer, dataset)

    monkeypatch.setattr(LinearHead, "cpu", leave)
    monkeypatch.setattr(LinearHead, "to", come_back)
    monkeypatch.setattr(Trainer, "predict", watched)
    values = yaml.safe_load(tiny_config.read_text()) | {"loss": {"class": "dermaffinity.losses.CrossEntropyLoss"}}
    path = tmp_path / "watched.yaml"
    path.write_text(yaml.safe_dump(values | {"refit": REFIT, "name": "watched"}))
    console = Console(file=StringIO())
    run_experiments([read_config(path)], Plan(runs=tmp_path, folds=[0], console=console))
    assert moves == ["cpu", "back"]


@pytest.mark.parametrize("option", ["mixing", "average"])
def test_mixing_and_averaging_train_another_network(results, option):
    assert not np.allclose(probabilities(results[option]), probabilities(results["plain"]), atol=1e-3)
