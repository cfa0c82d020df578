"""The ISIC challenges' own scoring, where it is installed, gives the same balanced accuracy."""

import numpy as np
import pandas as pd
import pytest

from dermaffinity.metrics.classification import Classes, classification_metrics

scoring = pytest.importorskip("isic_challenge_scoring.metrics")
NAMES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")


@pytest.mark.parametrize("seed", range(3))
def test_balanced_accuracy_is_that_of_the_isic_challenges(seed):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(8), rng.choice(8, 200, p=[0.2, 0.5, 0.1, 0.05, 0.05, 0.03, 0.03, 0.04])])
    probabilities = 0.7 * rng.dirichlet(np.ones(8), len(labels)) + 0.3 * np.eye(8)[labels]
    probabilities[labels == 5] = np.eye(8)[1]  # a class that is never found counts as zero
    truth = pd.DataFrame(np.eye(8)[labels], columns=NAMES)
    weights = pd.Series(np.ones(len(labels)))
    theirs = scoring.balanced_multiclass_accuracy(truth, pd.DataFrame(probabilities, columns=NAMES), weights)
    ours = classification_metrics(labels, probabilities, Classes(NAMES))["balanced_accuracy"]
    assert ours == pytest.approx(theirs)
    assert 0.2 < ours < 0.9
