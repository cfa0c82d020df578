import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dermaffinity.metrics import comparison as module
from dermaffinity.metrics.classification import Classes, classification_metrics
from dermaffinity.metrics.comparison import check_paired
from dermaffinity.metrics.standings import contest
from dermaffinity.metrics.statistics import share_interval, wilson_interval
from dermaffinity.metrics.summary import Measured, ScoredImages

CLASSES = ("ML", "BCC", "MEL")
ROLES = Classes(CLASSES, minority=("MEL",), malignant=("BCC", "MEL"))
LABELS = np.repeat([0, 1, 2], [60, 40, 20])


def measured(table, resamples=2000):
    return Measured.of(ScoredImages.from_table(table, ROLES), resamples=resamples)


def summarize(table, resamples=2000):
    return measured(table, resamples).summary()


def compare(baseline, candidate, resamples=2000, test_train_ratio=None):
    both = measured(baseline, resamples), measured(candidate, resamples)
    return module.compare(*both, test_train_ratio=test_train_ratio)


def prediction_table(strength, seeds=(0, 1), shift=0):
    """Predictions for the same 120 images in 60 groups and 3 folds; more strength, more right."""
    rows = []
    for seed in seeds:
        rng = np.random.default_rng(100 * shift + seed)
        scores = rng.normal(size=(len(LABELS), 3))
        scores[np.arange(len(LABELS)), LABELS] += strength
        probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        table = pd.DataFrame(probabilities, columns=[f"p.{name}" for name in CLASSES])
        table["image"] = [f"image{i:03}.png" for i in range(len(LABELS))]
        table["group"] = [f"lesion{i // 2}" for i in range(len(LABELS))]
        table["label"] = np.array(CLASSES)[LABELS]
        table["fold"] = np.arange(len(LABELS)) // 2 % 3
        table["seed"] = seed
        table["predicted"] = np.array(CLASSES)[probabilities.argmax(axis=1)]
        rows.append(table)
    return pd.concat(rows).sample(frac=1, random_state=0, ignore_index=True)


def test_summary_averages_over_seeds_and_has_wilson_for_recall():
    table = prediction_table(1.0)
    summary = summarize(table, resamples=50)
    by_seed = []
    for _, part in table.groupby("seed"):
        labels = pd.Index(CLASSES).get_indexer(part["label"])
        by_seed.append(classification_metrics(labels, part[[f"p.{n}" for n in CLASSES]].to_numpy(), ROLES))
    for name in ("balanced_accuracy", "minority_recall", "macro_f1", "ece", "recall.BCC"):
        assert summary.at[name, "value"] == pytest.approx(np.mean([metrics[name] for metrics in by_seed]))
    recall = summary.loc["recall.BCC"]
    right = (table["label"] == table["predicted"]).groupby(table["image"]).mean()  # over seeds
    own = table[table["label"] == "BCC"].drop_duplicates("image")
    expected = share_interval(right.loc[own["image"]].to_numpy(), own["group"].to_numpy())
    assert (recall["low"], recall["high"]) == pytest.approx(expected)
    assert (summary["low"] <= summary["value"]).all()
    assert (summary["value"] <= summary["high"]).all()


def test_a_class_of_which_nothing_was_found_leaves_the_worst_recall_uncertain():
    table = prediction_table(3.0, seeds=(0,))
    table.loc[table["label"] == "MEL", [f"p.{name}" for name in CLASSES]] = [float(n != "MEL") / 2 for n in CLASSES]
    table.loc[table["label"] == "MEL", "predicted"] = next(name for name in CLASSES if name != "MEL")
    worst = summarize(table, resamples=50).loc["worst_class_recall"]
    assert (worst["value"], worst["low"]) == (0, 0)
    assert worst["high"] > 0.05


def test_images_of_a_lesion_that_are_right_together_widen_the_interval_of_their_recall():
    table = prediction_table(1.0, seeds=(0,))
    first = table.sort_values("image").groupby("group")[["predicted", *(f"p.{name}" for name in CLASSES)]].first()
    alike = table[["image", "group", "label", "fold", "seed"]].join(first, on="group")
    widths = {}
    for name, groups in {"lesions": alike["group"], "images": alike["image"]}.items():
        recall = summarize(alike.assign(group=groups), resamples=5).loc["recall.BCC"]
        widths[name] = recall["high"] - recall["low"]
    assert widths["lesions"] == pytest.approx(np.sqrt(2) * widths["images"], rel=0.06)  # 20 instead of 40


def test_summary_auc_is_the_mean_over_folds_weighted_by_their_pairs():
    from sklearn.metrics import roc_auc_score

    table = prediction_table(1.0, seeds=(0,))
    aucs, pairs = [], []
    for _, part in table.groupby("fold"):
        melanoma = part["label"] == "MEL"
        aucs.append(roc_auc_score(melanoma, part["p.MEL"]))
        pairs.append(melanoma.sum() * (~melanoma).sum())
    expected = np.average(aucs, weights=pairs)
    assert summarize(table, resamples=5).at["auc.MEL", "value"] == pytest.approx(expected)


def test_external_images_without_folds_can_be_summarized():
    table = prediction_table(1.0).assign(fold=pd.array([pd.NA] * 240, dtype="Int64"))
    assert summarize(table, resamples=20).notna().all(axis=None)
    assert measured(table, 5).by_fold["fold"].tolist() == [-1, -1]


def test_per_fold_measures_each_fold_and_seed_alone():
    table = prediction_table(1.0)
    folds = measured(table, 5).by_fold
    assert folds[["fold", "seed"]].to_numpy().tolist() == [[f, s] for f in range(3) for s in range(2)]
    part = table[(table["fold"] == 1) & (table["seed"] == 1)]
    assert folds.at[3, "accuracy"] == pytest.approx((part["label"] == part["predicted"]).mean())


def test_gains_are_the_differences_of_the_summaries():
    baseline, candidate = prediction_table(0.8), prediction_table(1.6, shift=1)
    before, after = (summarize(table, resamples=10) for table in (baseline, candidate))
    comparison = compare(baseline, candidate, resamples=200)
    gains = comparison.gains
    expected = {f"gain.{name}": f"recall.{name}" for name in CLASSES}
    overall = ("balanced_accuracy", "minority_recall", "majority_recall", "accuracy", "macro_auc")
    expected |= {f"gain.{metric}": metric for metric in overall}
    assert list(gains.index) == list(expected)
    for gain, metric in expected.items():
        assert gains.at[gain, "value"] == pytest.approx(after.at[metric, "value"] - before.at[metric, "value"])
    assert gains.at["gain.accuracy", "low"] > 0
    tests = comparison.tests.set_index(["test", "metric"])["p"]
    assert tests["mcnemar", "accuracy"] < 0.01
    assert tests["sign_flip", "balanced_accuracy"] < 0.01
    assert len(tests) == 7


def test_a_method_against_itself_gains_nothing():
    table = prediction_table(1.0)
    comparison = compare(table, table, resamples=50, test_train_ratio=0.5)
    assert (comparison.gains["value"] == 0).all()
    assert (comparison.tests["p"] == 1).all()
    assert (comparison.gained, comparison.lost) == (0, 0)


def test_methods_that_answered_alike_may_still_differ_on_other_lesions():
    table = prediction_table(1.0)
    gains = compare(table, table, resamples=50).gains
    reach = wilson_interval(0, 10)[1]  # MEL has 20 images in 10 groups
    assert gains.loc["gain.MEL"].tolist() == pytest.approx([0, -reach, reach])
    assert gains.at["gain.ML", "high"] == pytest.approx(wilson_interval(0, 30)[1])
    assert gains.at["gain.accuracy", "high"] == pytest.approx(wilson_interval(0, 60)[1])


def test_swapping_the_methods_turns_the_gains_around():
    one, other = prediction_table(0.8), prediction_table(1.2, shift=1)
    forth = compare(one, other, resamples=100)
    back = compare(other, one, resamples=100)
    np.testing.assert_allclose(forth.gains["value"], -back.gains["value"])
    np.testing.assert_allclose(forth.gains["low"], -back.gains["high"], atol=1e-12)
    np.testing.assert_allclose(forth.tests["p"], back.tests["p"])
    assert (forth.gained, forth.lost) == (back.lost, back.gained)


def test_pairing_makes_the_interval_of_like_methods_narrow():
    baseline = prediction_table(1.0)
    probabilities = [f"p.{name}" for name in CLASSES]
    candidate = baseline.copy()
    changed = candidate.index[candidate["label"] != candidate["predicted"]][:3]
    candidate.loc[changed, probabilities] = np.eye(3)[pd.Index(CLASSES).get_indexer(candidate.loc[changed, "label"])]
    candidate.loc[changed, "predicted"] = candidate.loc[changed, "label"]
    gain = compare(baseline, candidate, resamples=200).gains.loc["gain.accuracy"]
    alone = summarize(baseline, resamples=200).loc["accuracy"]
    assert gain["high"] - gain["low"] < (alone["high"] - alone["low"]) / 3


def test_holm_counts_the_methods_of_each_test():
    baseline = prediction_table(1.0)
    candidates = {"a": prediction_table(1.1, shift=1), "b": prediction_table(1.4, shift=2)}
    methods = {name: measured(table, 20) for name, table in {"base": baseline, **candidates}.items()}
    together = contest(methods, dict.fromkeys(candidates, "base")).comparisons
    alone = compare(baseline, candidates["b"], resamples=20)
    np.testing.assert_array_equal(together["b"].tests["p"], alone.tests["p"])
    np.testing.assert_array_equal(alone.tests["p"], alone.tests["p_holm"])
    smaller = together["b"].tests["p"] < together["a"].tests["p"]
    assert smaller.any()
    np.testing.assert_allclose(
        together["b"].tests["p_holm"][smaller], np.minimum(1, 2 * together["b"].tests["p"][smaller])
    )


def test_more_training_rows_set_aside_make_the_corrected_t_stricter():
    baseline, candidate = prediction_table(0.8), prediction_table(1.4, shift=1)
    plain = compare(baseline, candidate, resamples=5, test_train_ratio=0.5).tests
    strict = compare(baseline, candidate, resamples=5, test_train_ratio=0.6).tests
    corrected = plain["test"] == "corrected_t"
    assert (strict["p"][corrected] > plain["p"][corrected]).all()


def test_the_corrected_t_is_that_of_the_folds_means_over_seeds():
    tables = [prediction_table(0.8, seeds=range(4)), prediction_table(1.4, seeds=range(4), shift=1)]
    tests = compare(*tables, resamples=5, test_train_ratio=0.5).tests.set_index(["test", "metric"])
    right = [(table["label"] == table["predicted"]).groupby(table["fold"]).mean() for table in tables]
    difference = right[1] - right[0]  # every fold has as many images with every seed
    t = difference.mean() / (difference.std() * np.sqrt(1 / 3 + 0.5))
    assert tests.at[("corrected_t", "accuracy"), "p"] == pytest.approx(2 * stats.t.sf(abs(t), 2))


@pytest.mark.parametrize(("folds", "ratio"), [(1, 0.5), (3, None)])
def test_one_fold_or_no_ratio_has_no_corrected_t(folds, ratio):
    tables = [prediction_table(s) for s in (1.0, 1.2)]
    tables = [table.assign(fold=table["fold"] % folds) for table in tables]
    tests = compare(*tables, resamples=5, test_train_ratio=ratio).tests.set_index("test")["p"]
    assert tests["corrected_t"].isna().all()
    assert tests[["mcnemar", "sign_flip"]].notna().all()


def test_all_differences_between_tables_are_named_at_once():
    baseline = prediction_table(1.0)
    fewer = baseline[baseline["image"] != "image007.png"]
    moved = baseline.assign(fold=(baseline["fold"] + 1) % 3)
    other_seeds = baseline.assign(seed=baseline["seed"] + 1)
    tables = {"base": baseline, "a": fewer, "b": moved, "c": other_seeds}
    with pytest.raises(ValueError, match="same images and folds") as error:
        check_paired({name: measured(table, 5) for name, table in tables.items()})
    assert "a: 1 images are only in the baseline, the first is image007.png" in str(error.value)
    assert "b: the folds of 120 images differ" in str(error.value)
    assert "c: its seeds are [1, 2], those of the baseline [0, 1]" in str(error.value)


def test_all_problems_of_a_table_are_named_at_once():
    table = prediction_table(1.0)
    table.loc[0, "label"] = "XX"
    table.loc[1, "predicted"] = next(name for name in CLASSES if name != table.loc[1, "predicted"])
    with pytest.raises(ValueError, match="cannot be used") as error:
        summarize(pd.concat([table, table.iloc[[5]]]))
    for problem in ("label holds ['XX']", "1 rows repeat an image", "label of 1 images differs", "in 1 rows another"):
        assert problem in str(error.value)
    with pytest.raises(ValueError, match=r"lacks the columns \['fold', 'p.MEL'\]"):
        summarize(table.drop(columns=["fold", "p.MEL"]))
    with pytest.raises(ValueError, match="1 images are not predicted by every one of the 2 seeds"):
        summarize(prediction_table(1.0).drop(index=3))
