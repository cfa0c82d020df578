import math

import numpy as np
import pandas as pd
import pytest

from dermaffinity.metrics.ranks import Ranks, average_ranks

# Demšar 2006, Table 6: AUC of C4.5 and its variants with parameters m and cf on 14 data sets.
# Of two values printed as .975 the paper ranks that of C4.5+cf first.
DEMSAR = pd.DataFrame(
    {
        "C4.5": [.763, .599, .954, .628, .882, .936, .661, .583, .775, 1.0, .940, .619, .972, .957],
        "C4.5+m": [.768, .591, .971, .661, .888, .931, .668, .583, .838, 1.0, .962, .666, .981, .978],
        "C4.5+cf": [.771, .590, .968, .654, .886, .916, .609, .563, .866, 1.0, .965, .614, .9751, .946],
        "C4.5+m+cf": [.798, .569, .967, .657, .898, .931, .685, .625, .875, 1.0, .962, .669, .975, .970],
    }
)  # fmt: skip


def test_the_published_example():
    ranks = average_ranks(DEMSAR)
    assert ranks.average.round(3).to_dict() == {"C4.5": 3.143, "C4.5+m": 2.0, "C4.5+cf": 2.893, "C4.5+m+cf": 1.964}
    # Without a correction for ties, as in the paper: 12 J / (k (k + 1)) · (Σ R² - k (k + 1)² / 4) = 9.28, p = 0.0257.
    assert 12 * 14 / 20 * ((ranks.average**2).sum() - 25) == pytest.approx(9.28, abs=5e-3)
    assert 0.015 < ranks.friedman_p < 0.0257
    # q = 2.569 for four methods at 0.05; at 0.10 the paper has CD = 1.12.
    assert ranks.critical_difference == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 14)), abs=1e-3)
    assert average_ranks(DEMSAR, level=0.10).critical_difference == pytest.approx(1.12, abs=5e-3)


@pytest.mark.parametrize(("methods", "q"), [(2, 1.960), (3, 2.343), (6, 2.850), (10, 3.164)])
def test_the_critical_difference_follows_the_published_table(methods, q):
    scores = pd.DataFrame(np.random.default_rng(0).random((5, methods)))
    expected = q * math.sqrt(methods * (methods + 1) / 30)
    assert average_ranks(scores).critical_difference == pytest.approx(expected, abs=1e-3)


def test_ties_share_their_rank_and_equal_methods_are_no_finding():
    ranks = average_ranks(pd.DataFrame({"a": [1.0, 2.0], "b": [1.0, 2.0], "c": [1.0, 2.0]}))
    assert ranks.average.tolist() == [2, 2, 2]
    assert ranks.friedman_p == 1
    assert ranks.groups() == [("a", "b", "c")]


def test_one_block_or_one_method_ranks_without_a_claim():
    ranks = average_ranks(pd.DataFrame({"a": [0.5], "b": [0.7], "c": [0.6]}))
    assert ranks.average.to_dict() == {"a": 3, "b": 1, "c": 2}
    assert math.isnan(ranks.friedman_p)
    assert math.isnan(ranks.critical_difference)
    assert ranks.groups() == []
    assert math.isnan(average_ranks(pd.DataFrame({"a": [0.5, 0.6]})).critical_difference)


def test_groups_are_as_large_as_they_can_be_and_none_lies_within_another():
    average = pd.Series({"d": 6.0, "a": 1.0, "c": 3.2, "b": 2.0, "e": 9.0})
    assert Ranks(average, 9, 0.01, 2.0).groups() == [("a", "b"), ("b", "c")]
    assert Ranks(average, 9, 0.01, 2.8).groups() == [("a", "b", "c"), ("c", "d")]
    assert Ranks(average, 9, 0.01, 0.5).groups() == []


def test_a_missing_score_is_refused():
    with pytest.raises(ValueError, match="ranks need every method's score in every block, 1 are missing"):
        average_ranks(pd.DataFrame({"a": [0.5, 0.6], "b": [0.7, np.nan]}))
