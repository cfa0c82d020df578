import numpy as np
import pytest

from dermaffinity.metrics.label_errors import label_errors


def test_worked_example():
    # Own probabilities .9 .5 | .6 .2: the mean is .55, the classes' own means are (1.4 + 5.5)/12 and (.8 + 5.5)/12.
    labels, first = np.array([0, 0, 1, 1]), np.array([0.9, 0.5, 0.4, 0.8])
    table = label_errors(labels, np.stack([first, 1 - first], axis=1)).set_index("index")
    usual = (1.4 + 5.5) / 12, (0.8 + 5.5) / 12
    assert table.loc[3, "score"] == pytest.approx(0.2 / usual[1])
    assert table.loc[1, "score"] == pytest.approx(0.5 / usual[0])
    assert table.index[0] == 3
    assert table.loc[3, ["suggested", "suspected"]].tolist() == [0, True]
    assert not table.loc[0, "suspected"]


def test_a_rare_class_that_models_hardly_dare_to_name_does_not_fill_the_top():
    """300 images of 0 and 30 of 1, whose own images get 0.3 for it; one image of 0 is flipped to 1."""
    rng = np.random.default_rng(0)
    rare = np.concatenate([rng.uniform(0.0, 0.1, 300), rng.uniform(0.25, 0.35, 30)])
    labels = np.array([0] * 300 + [1] * 30)
    labels[0] = 1
    table = label_errors(labels, np.stack([1 - rare, rare], axis=1))
    assert table["index"][0] == 0
    assert table["suspected"].sum() <= 2
    plain = np.argsort(np.stack([1 - rare, rare], axis=1)[np.arange(330), labels])
    assert set(plain[:5]) <= {0, *range(300, 330)}  # by confidence alone the rare class comes first


def test_planted_errors_come_first_and_are_suspected():
    rng = np.random.default_rng(0)
    truth = rng.integers(4, size=600)
    probabilities = rng.dirichlet(np.ones(4), size=600) + 2 * np.eye(4)[truth]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    flipped = rng.random(600) < 0.05
    labels = np.where(flipped, (truth + 1) % 4, truth)
    table = label_errors(labels, probabilities)
    top = table.head(flipped.sum())
    assert flipped[top["index"]].mean() > 0.95
    assert (table["suggested"] == truth[table["index"]])[flipped[table["index"]]].mean() > 0.95
