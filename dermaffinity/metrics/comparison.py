"""Is one method better than another on the same images? Gains with intervals, and tests of three different questions.

* `mcnemar`: does it get more **images** right? It looks at the images on which the two disagree, one by one, and takes
  them as independent.
* `sign_flip`: would a difference this large arise if, for each lesion or patient (**group**), it were chance which
  method made which predictions? Right for images that come in groups; asked of the accuracy, and of the recall averaged
  over all and over the minority classes.
* `corrected_t`: would **training again**, on other folds and with other seeds, give the same winner? The strictest.
  Seeds count once for each fold, by their mean, so that with three folds it hardly sees anything, however many seeds.

The first two judge the models that were trained, the third the way of training. All are two-sided. With several methods
against one baseline, read `p_holm`, which is adjusted for their number.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from dermaffinity.metrics.statistics import (
    bootstrap_interval,
    corrected_resampled_t,
    holm,
    mcnemar_exact,
    sign_flip_test,
)
from dermaffinity.metrics.summary import Measured, ScoredImages, fold_gains, interval_table

_GAINS = ("balanced_accuracy", "minority_recall", "majority_recall", "accuracy", "macro_auc")


@dataclass(frozen=True)
class Comparison:
    """A candidate against a baseline on the same images.

    Examples:
        >>> import pandas as pd
        >>> from dermaffinity.metrics import Classes, Measured, ScoredImages, compare
        >>> scored = ScoredImages.from_table(pd.read_csv("out_of_fold.csv"), Classes(("AK", "ML"), minority=("AK",)))
        >>> measured = Measured.of(scored, resamples=100)
        >>> comparison = compare(measured, measured)
        >>> comparison.gained, comparison.lost
        (0, 0)
        >>> list(comparison.tests)
        ['test', 'metric', 'p', 'p_holm']
    """

    # Index `metric` (gain.<CLASS>, of the recall; gain.balanced_accuracy, …), columns value, low, high: candidate minus
    # baseline, as fractions. The 95 % intervals resample whole groups, the same for both methods.
    gains: pd.DataFrame
    # Columns test, metric, p, p_holm; p is NaN where a test needs more folds than there are.
    tests: pd.DataFrame
    # Images that the candidate gets right more often (over seeds) than the baseline, and less often.
    gained: int
    lost: int


def compare(baseline: Measured, candidate: Measured, *, test_train_ratio: float | None = None) -> Comparison:
    """Gains of one method over another, with intervals and tests; `p_holm` is `p` until `adjusted` sees all of them.

    Args:
        baseline: Measured on the same images, with the same resamples.
        candidate: The method that gains.
        test_train_ratio: Test over training images of a fold, for the corrected t-test; about 1 / (K - 1) for K folds,
            more where training rows are set aside for validation. None where nothing can be said about other folds.

    Examples:
        >>> import pandas as pd
        >>> from dermaffinity.metrics import Classes, Measured, ScoredImages, compare
        >>> classes, table = Classes(("AK", "ML"), minority=("AK",)), pd.read_csv("out_of_fold.csv")
        >>> only_ml = table.assign(**{"predicted": "ML", "p.AK": 0.1, "p.ML": 0.9})
        >>> base, better = (Measured.of(ScoredImages.from_table(one, classes)) for one in (only_ml, table))
        >>> compare(base, better).gains.loc["gain.AK"]
        value    0.75000
        low      0.04035
        high     1.00000
        Name: gain.AK, dtype: float64
    """
    right = candidate.predictions.correct() - baseline.predictions.correct()
    gained, lost = int((right > 0).sum()), int((right < 0).sum())
    tests = {
        ("mcnemar", "accuracy"): mcnemar_exact(gained, lost).mid_p,
        **_sign_flip_tests(baseline.predictions, right),
        **_corrected_t_tests(baseline, candidate, test_train_ratio),
    }
    table = pd.DataFrame([(test, metric, p) for (test, metric), p in tests.items()], columns=["test", "metric", "p"])
    return Comparison(_gains(baseline, candidate), table.assign(p_holm=table["p"]), gained, lost)


def adjusted(comparisons: Mapping[str, Comparison]) -> dict[str, Comparison]:
    """The comparisons with `p_holm` adjusted over them, for each test and measure."""
    p_values = np.array([comparison.tests["p"] for comparison in comparisons.values()])  # (methods, tests)
    by_method = np.apply_along_axis(holm, 0, p_values)
    return {
        name: replace(comparison, tests=comparison.tests.assign(p_holm=p_holm))
        for (name, comparison), p_holm in zip(comparisons.items(), by_method, strict=True)
    }


def check_paired(measured: Mapping[str, Measured]) -> None:
    """Holds that all methods scored the same images, in the same folds and with the same seeds, as the first one.

    Raises:
        ValueError: With every difference.
    """
    first, *_ = measured.values()
    problems = [
        f"{name}: {difference}"
        for name, other in measured.items()
        for difference in _differences(first.predictions, other.predictions)
    ]
    if problems:
        raise ValueError("only predictions for the same images and folds can be compared: " + "; ".join(problems))


def _differences(base: ScoredImages, other: ScoredImages) -> list[str]:
    differences = []
    for more, less, where in ((base, other, "baseline"), (other, base, "candidate")):
        if only := sorted(set(more.images) - set(less.images)):
            differences.append(f"{len(only)} images are only in the {where}, the first is {only[0]}")
    if not np.array_equal(base.seeds, other.seeds):
        differences.append(f"its seeds are {other.seeds.tolist()}, those of the baseline {base.seeds.tolist()}")
    if np.array_equal(base.images, other.images):
        for fact in ("labels", "groups", "folds"):
            if count := int((getattr(base, fact) != getattr(other, fact)).sum()):
                differences.append(f"the {fact} of {count} images differ from those of the baseline")
    return differences


def _gains(base: Measured, other: Measured) -> pd.DataFrame:
    gained_in = {name: f"recall.{name}" for name in base.predictions.classes.names}
    gained_in |= {name: name for name in _GAINS if name in base.by_seed}
    rows = {}
    for gain, metric in gained_in.items():
        value = other.value(metric) - base.value(metric)
        draws, groups = other.draws[metric] - base.draws[metric], base.predictions.groups_behind(metric)
        rows[f"gain.{gain}"] = (value, *bootstrap_interval(value, draws, (-1, 1), groups=groups))
    return interval_table(rows)


def _sign_flip_tests(base: ScoredImages, right: np.ndarray) -> dict[tuple[str, str], float]:
    # Each image's share of its class's recall, so that their sum is the difference of the recalls.
    recall_share = right / np.bincount(base.labels)[base.labels]
    differences = {"accuracy": right, "balanced_accuracy": recall_share}
    if base.classes.minority:
        differences["minority_recall"] = recall_share * np.isin(base.classes.names, base.classes.minority)[base.labels]
    return {("sign_flip", metric): sign_flip_test(values, base.groups) for metric, values in differences.items()}


def _corrected_t_tests(base: Measured, other: Measured, test_train_ratio: float | None) -> dict[tuple[str, str], float]:
    tests: dict[tuple[str, str], float] = {}
    for metric in ("accuracy", "balanced_accuracy", "minority_recall"):
        if metric in base.by_seed:
            gains, p = fold_gains(base, other, metric), math.nan
            if test_train_ratio is not None and len(gains) > 1:
                p = corrected_resampled_t(gains, test_train_ratio).p
            tests["corrected_t", metric] = p
    return tests
