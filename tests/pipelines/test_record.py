import io
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "pipelines"))
from record import Arm, chosen_shares, gains, majority_recall, mean_of_seeds, measures, tables, with_prior

from dermaffinity.metrics.classification import Classes
from dermaffinity.report.tables import console_table

CLASSES = Classes(("a", "b", "rare"), minority=("rare",))


def table(probabilities: np.ndarray, labels: list[str], *, fold: int = 0, seed: int = 0) -> pd.DataFrame:
    """A prediction table of one fold and seed."""
    names = np.asarray(CLASSES.names)[probabilities.argmax(axis=1)]
    images = [f"{fold}-{number}.jpg" for number in range(len(labels))]
    facts = {"image": images, "group": images, "label": labels, "fold": fold, "seed": seed, "predicted": names}
    return pd.DataFrame(facts).join(pd.DataFrame(probabilities, columns=CLASSES.columns))


def random_arm(seed: int, sharpness: float = 1.0) -> Arm:
    """Two folds and two seeds; the classes of the other fold's images are the prior: 6, 3 and 1 of ten."""
    random = np.random.default_rng(seed)
    labels = ["a"] * 6 + ["b"] * 3 + ["rare"]
    own = np.eye(3)[[CLASSES.names.index(label) for label in labels]]

    def part() -> pd.DataFrame:
        tables = []
        for fold in range(2):
            for one in range(2):
                scores = np.exp(sharpness * own + random.normal(size=own.shape))
                tables.append(table(scores / scores.sum(axis=1, keepdims=True), labels, fold=fold, seed=one))
        return pd.concat(tables, ignore_index=True)

    return Arm(part(), part(), part())


def test_the_prior_is_that_of_the_other_folds_and_counts_as_much_as_asked():
    arm = random_arm(0)
    prior = np.array([0.6, 0.3, 0.1])
    found = with_prior(arm.tested, arm, {0: 0.5, 1: 1.0}, CLASSES)
    for share, fold in ((0.5, 0), (1.0, 1)):
        before = arm.tested[arm.tested["fold"] == fold][CLASSES.columns].to_numpy()
        expected = before * prior**share
        expected /= expected.sum(axis=1, keepdims=True)
        rows = found[found["fold"] == fold]
        np.testing.assert_allclose(rows[CLASSES.columns], expected)
        assert rows["predicted"].tolist() == [CLASSES.names[index] for index in expected.argmax(axis=1)]


def test_no_part_of_the_prior_changes_nothing():
    arm = random_arm(0)
    found = with_prior(arm.tested, arm, {0: 0.0, 1: 0.0}, CLASSES)
    np.testing.assert_allclose(found[CLASSES.columns], arm.tested[CLASSES.columns])


def test_majority_recall_is_the_mean_over_the_common_classes():
    predictions = np.eye(3)[[0, 0, 1, 1, 2, 0]]
    assert majority_recall(table(predictions, ["a", "a", "a", "b", "b", "rare"]), CLASSES) == pytest.approx(
        (2 / 3 + 1 / 2) / 2
    )


def test_the_smallest_part_of_the_prior_that_spares_the_common_classes_is_chosen():
    labels = ["a"] * 6 + ["b"] * 3 + ["rare"]
    certain = table(np.eye(3)[[0] * 6 + [1] * 3 + [2]], labels)
    # An image of class a that is taken for rare until the prior, six to one, counts half: 0.3 · √6 > 0.6.
    doubtful = np.eye(3)[[0] * 6 + [1] * 3 + [2]] * 0.9 + 0.1 / 3
    doubtful[0] = 0.3, 0.1, 0.6
    validation = table(doubtful, labels)
    tested = pd.concat([certain, certain.assign(fold=1, image="1-" + certain["image"])])
    arm = Arm(tested, validation, tested)
    assert chosen_shares(arm, Arm(tested, certain, tested), CLASSES) == {0: 0.5}
    assert chosen_shares(arm, Arm(tested, validation, tested), CLASSES) == {0: 0.0}
    lost = Arm(tested, table(np.eye(3)[[2] * 10], labels), tested)
    assert chosen_shares(lost, Arm(tested, certain, tested), CLASSES) == {0: 1.0}


def test_an_ensemble_is_the_mean_of_the_seeds_of_each_fold():
    arm = random_arm(3)
    found = mean_of_seeds(arm.tested, CLASSES)
    assert len(found) == 20
    for row in found.itertuples():
        same = arm.tested[(arm.tested["image"] == row.image) & (arm.tested["fold"] == row.fold)]
        assert len(same) == 2
        mean = same[CLASSES.columns].mean().to_numpy()
        np.testing.assert_allclose(found.loc[row.Index, CLASSES.columns].astype(float), mean)


def test_measures_and_gains_have_every_part_and_the_sign_of_the_better_arm():
    arms = {"cosen": random_arm(0), "cosen_plus": random_arm(1), "softmax": random_arm(2)}
    arms |= {name: random_arm(3, sharpness=6.0) for name in ("affinity_plus", "affinity_plus, prior")}
    measured = measures(arms, CLASSES)
    assert set(measured["part"]) == {"single models", "ensembles of three", "external", "external, ensembles"}
    assert (measured["low"].astype(float) <= measured["value"].astype(float)).all()
    held = gains(arms, CLASSES)
    ours = held[(held["method"] == "affinity_plus") & (held["measure"] == "Balanced accuracy")]
    assert ours["value"].str.startswith("+").all()
    over = held[held["part"] == "single models: gain of affinity_plus"]
    assert set(over["method"]) == {"cosen", "cosen_plus", "softmax"}
    p = over[over["measure"] == "p (Holm)"].set_index("method")["value"].astype(float)
    assert ((p > 0) & (p <= 1)).all()
    assert "ensembles of three: gain over cosen, single models" in set(held["part"])
    shown = tables(held)
    assert list(shown) == list(dict.fromkeys(held["part"]))
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(console_table(shown["single models: gain over cosen"], "title", 200))
    assert "affinity_plus" in console.export_text()
