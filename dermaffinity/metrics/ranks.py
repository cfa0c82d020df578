"""Which method ranks where, over the folds on which all were scored.

Axes: J blocks (folds, each the mean of its seeds), k methods. Ranks describe: the folds of one data set share their
training images, so that blocks are not independent as the formulas take them to be, and differences look surer than
they are. Tests that hold are in `dermaffinity.metrics.comparison`.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Ranks:
    """Average ranks over blocks, 1 is best.

    Examples:
        >>> import pandas as pd
        >>> from dermaffinity.metrics import average_ranks
        >>> scores = {"cosen": [0.60, 0.58, 0.61], "affinity": [0.64, 0.63, 0.62], "softmax": [0.59, 0.57, 0.6]}
        >>> average_ranks(pd.DataFrame(scores)).groups()
        [('affinity', 'cosen'), ('cosen', 'softmax')]
    """

    average: pd.Series  # by method, in the order given
    blocks: int
    friedman_p: float  # that all methods rank alike; NaN below three methods or two blocks
    critical_difference: float  # of two average ranks; NaN below two methods or two blocks

    def groups(self) -> list[tuple[str, ...]]:
        """The largest sets of methods whose average ranks span no more than the critical difference, the best first.

        A method that differs from all others is in none.
        """
        ordered = self.average.sort_values(kind="stable")
        found: list[tuple[str, ...]] = []
        for start in range(len(ordered)):
            near = ordered.iloc[start:]
            group = tuple(near.index[near - near.iloc[0] <= self.critical_difference])
            if len(group) > 1 and not (found and set(group) <= set(found[-1])):
                found.append(group)
        return found


def average_ranks(scores: pd.DataFrame, level: float = 0.05) -> Ranks:
    r"""Average ranks with Friedman's test and Nemenyi's critical difference.

    .. math:: CD = q_\alpha \sqrt{k (k + 1) / (6 J)}

    where q is the quantile of the studentized range over infinitely many degrees of freedom, divided by the root of 2.

    Source: Demšar, "Statistical comparisons of classifiers over multiple data sets", JMLR 7, 2006, Eq. 6 and Table 5.

    Args:
        scores: (J, k), higher is better, no value missing; columns are methods.
        level: Of the critical difference, in (0, 1).

    Raises:
        ValueError: If a score is missing.

    Examples:
        >>> import pandas as pd
        >>> from dermaffinity.metrics import average_ranks
        >>> average_ranks(pd.DataFrame({"cosen": [0.60, 0.58, 0.61], "affinity": [0.64, 0.63, 0.62]})).average
        cosen       2.0
        affinity    1.0
        dtype: float64
    """
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    values = scores.to_numpy(float)  # (J, k)
    if np.isnan(values).any():
        raise ValueError(f"ranks need every method's score in every block, {int(np.isnan(values).sum())} are missing")
    blocks, methods = values.shape
    ranks = rankdata(-values, axis=1)  # ties share their mean rank
    differing = bool((ranks != ranks[:, :1]).any())
    friedman_p, critical = math.nan, math.nan
    if blocks > 1 and methods > 2:
        friedman_p = float(friedmanchisquare(*values.T).pvalue) if differing else 1.0
    if blocks > 1 and methods > 1:
        quantile = float(studentized_range.ppf(1 - level, methods, math.inf)) / math.sqrt(2)
        critical = quantile * math.sqrt(methods * (methods + 1) / (6 * blocks))
    return Ranks(pd.Series(ranks.mean(axis=0), index=scores.columns), blocks, friedman_p, critical)
