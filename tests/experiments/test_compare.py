import numpy as np
import pandas as pd
import pytest

from dermaffinity.errors import ComparisonError
from dermaffinity.experiments.compare import compare_experiments, find_baseline
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.record import ExperimentRecord
from dermaffinity.experiments.results import prediction_table, write_table

CLASSES = ["AK", "ML"]
LABELS = ["AK"] * 6 + ["ML"] * 24


class Recorder:
    """A tracker and a run that keep what they are told."""

    def __init__(self):
        self.metrics, self.tables, self.opened, self.finished, self.described = {}, [], [], [], []

    def parent(self, experiment, name, *, key, tags, description):
        self.opened.append((experiment, name, key, tags))
        return self

    def log_metrics(self, metrics):
        self.metrics[self.opened[-1][1]] = metrics

    def log_table(self, table, path):
        self.tables.append(path)

    def finish(self, status):
        self.finished.append(status)

    def describe(self, experiment, text):
        self.described.append((experiment, text))


def write_experiment(
    runs, name: str, wrong: set[int], *, split: str = "a" * 64, scored: str = "test", folds=3, copy: str = ""
) -> None:
    """An experiment that errs on the images ``wrong``, of files in the folder ``copy``."""
    record = ExperimentRecord(
        name=name,
        config={"data": {"validation_fraction": 0.15}},
        scored=scored,
        dataset="trial",
        split_hash=split,
        images_digest=f"files of {copy}",
        protocol="presplit" if folds == 1 else "group",
        folds=folds,
        class_counts={"AK": 6, "ML": 24},
        malignant=("AK",),
        versions={},
    )
    (runs / name).mkdir(parents=True)
    (runs / name / "experiment.json").write_text(record.model_dump_json())
    (runs / name / "folder_id.txt").write_text(f"key-{name}")
    names = [f"{copy}/{i * 7 % 30}/{i:02}.jpg" if copy else f"{i:02}.png" for i in range(30)]
    rows = pd.DataFrame({"image": names, "group": [f"g{i}" for i in range(29)] + names[29:]})
    rows["label"] = LABELS
    predicted = np.array([(label == "ML") ^ (i in wrong) for i, label in enumerate(LABELS)]).astype(int)
    probabilities = np.where(np.eye(2)[predicted] == 1, 0.8, 0.2)
    for fold in range(folds):
        here = np.arange(30) % 3 == fold
        folder = runs / name / f"fold-{fold}_seed-0"
        write_table(
            prediction_table(rows[here], probabilities[here], CLASSES, fold=fold, seed=0), folder / "predictions.csv"
        )
        (folder / "metrics.json").write_text("{}")


@pytest.fixture
def runs(tmp_path):
    """The baseline misses 3 of 6 AK and 2 of 24 ML; the affinity misses 1 AK and 5 ML."""
    write_experiment(tmp_path, "trial_cosen", {0, 1, 2, 10, 11})
    write_experiment(tmp_path, "trial_affinity", {0, 10, 12, 13, 14, 15})
    return tmp_path


def compare(runs, *sources, baseline="cosen", tracker=None):
    return compare_experiments([Experiment.open(s, runs) for s in sources], baseline=baseline, tracker=tracker)


def test_gains_of_a_worked_example_are_recorded_and_tracked(runs):
    recorder = Recorder()
    compared = compare(runs, "trial_cosen", "trial_affinity", tracker=recorder)
    value = compared.gains["trial_affinity"]["value"]
    assert compared.baseline == "trial_cosen"
    assert value["gain.AK"] == pytest.approx(2 / 6)
    assert value["gain.ML"] == pytest.approx(-3 / 24)
    assert value["gain.balanced_accuracy"] == pytest.approx((2 / 6 - 3 / 24) / 2)
    assert value["gain.minority_recall"] == value["gain.AK"]
    assert compared.summaries["trial_cosen"].loc["recall.AK", "value"] == pytest.approx(0.5)
    # Only the affinity gets right: 1, 2, 11; only the baseline: 12 to 15.
    assert (compared.comparisons["trial_affinity"].gained, compared.comparisons["trial_affinity"].lost) == (3, 4)
    assert recorder.opened == [
        ("trial", name, f"key-{name}", {"baseline": "trial_cosen"}) for name in ("trial_cosen", "trial_affinity")
    ]
    assert recorder.metrics["trial_affinity"] == pytest.approx(value.to_dict(), abs=5e-5)
    assert recorder.metrics["trial_affinity"]["gain.AK"] == 0.3333  # as many digits as a table has room for
    assert recorder.metrics["trial_cosen"] == dict.fromkeys(value.index, 0.0)
    assert recorder.tables == ["gains_over_trial_cosen.csv", "tests_against_trial_cosen.csv"]
    assert recorder.finished == ["FINISHED", "FINISHED"]
    ((experiment, text),) = recorder.described
    assert experiment == "trial"
    assert text.splitlines()[0] == compared.sentence()
    assert "| AK (n=6) | 50.0 [" in text
    assert "+33.3 [" in text


def test_a_sentence_says_how_many_images_of_the_rare_classes_each_method_found(runs):
    write_experiment(runs, "trial_softmax", set(range(7)))
    compared = compare(runs, "trial_softmax", "trial_cosen", "trial_affinity")
    assert compared.sentence() == (
        "Of 6 images of rare lesions (AK), trial_affinity found 5, trial_cosen 3, trial_softmax 0."
    )


def test_a_comparison_on_inner_validation_images_is_not_shown_as_a_result(runs, tmp_path):
    for name in ("inner_cosen", "inner_affinity"):
        write_experiment(tmp_path / "inner", name, {0, 1}, scored="inner")
    recorder = Recorder()
    experiments = [Experiment.open(name, tmp_path / "inner") for name in ("inner_cosen", "inner_affinity")]
    compare_experiments(experiments, baseline="cosen", tracker=recorder)
    assert recorder.described == []


def test_an_experiment_against_its_double_gains_nothing(runs):
    write_experiment(runs, "trial_double", {0, 1, 2, 10, 11})
    compared = compare(runs, "trial_double", "trial_cosen")
    assert (compared.gains["trial_double"]["value"] == 0).all()
    p = compared.tests["trial_double"]["p"].dropna()
    assert (p > 0.99).all()


def test_everything_is_written_and_reads_back(runs, tmp_path):
    write_experiment(runs, "trial_softmax", set(range(6)))
    compared = compare(runs, "trial_softmax", "trial_cosen", "trial_affinity")
    files = compared.write(tmp_path / "compare")
    assert sorted(files) == sorted((tmp_path / "compare").iterdir())
    assert all(path.stat().st_size > 0 for path in files)
    gains = pd.read_csv(tmp_path / "compare" / "gains.csv").set_index(["method", "metric"])
    assert gains.loc[("trial_affinity", "gain.AK"), "value"] == pytest.approx(2 / 6)
    assert gains.loc[("trial_softmax", "gain.AK"), "value"] == pytest.approx(-3 / 6)
    assert set(pd.read_csv(tmp_path / "compare" / "measures.csv")["method"]) == {
        "trial_softmax",
        "trial_cosen",
        "trial_affinity",
    }
    tests = pd.read_csv(tmp_path / "compare" / "tests.csv")
    assert list(tests.columns) == ["method", "test", "metric", "p", "p_holm"]
    config = (tmp_path / "compare" / "comparison.md").read_text()
    assert "## Gain over trial_cosen: percentage points" in config
    assert "+33.3" in config


def test_one_split_of_other_files_is_compared_image_by_image_and_said(runs, tmp_path):
    write_experiment(tmp_path, "trial_larger", {0, 10, 12, 13, 14, 15}, copy="large")
    same, other = compare(runs, "trial_cosen", "trial_affinity"), compare(runs, "trial_cosen", "trial_larger")
    assert same.remarks == []
    pd.testing.assert_frame_equal(same.gains["trial_affinity"], other.gains["trial_larger"])
    (remark,) = other.remarks
    assert remark.startswith(
        "The same split, aaaaaaaaaaaa, of other image files than trial_cosen read: trial_larger. It is another "
    )
    assert other.markdown().startswith(remark)


def test_two_folders_of_one_name_are_not_taken_for_one(runs, tmp_path):
    write_experiment(tmp_path / "elsewhere", "trial_affinity", set())
    with pytest.raises(ComparisonError, match="elsewhere/trial_affinity are both called trial_affinity; rename"):
        compare(runs, "trial_cosen", "trial_affinity", tmp_path / "elsewhere" / "trial_affinity")


def test_different_splits_are_not_compared(runs):
    write_experiment(runs, "other", set(), split="b" * 64)
    with pytest.raises(ComparisonError, match="different splits, so their numbers cannot be paired") as caught:
        compare(runs, "trial_cosen", "other")
    assert caught.value.problems == (
        "trial_cosen: trial, split aaaaaaaaaaaa",
        "other: trial, split bbbbbbbbbbbb",
    )


def test_test_folds_are_not_compared_with_inner_validation_images(runs):
    write_experiment(runs, "other", set(), scored="inner")
    with pytest.raises(ComparisonError, match="some of these experiments scored the test folds and some the inner"):
        compare(runs, "trial_cosen", "other")


def test_experiments_with_different_folds_are_not_compared(runs):
    write_experiment(runs, "partial", set(), folds=2)
    with pytest.raises(ComparisonError, match=r"these experiments cannot be compared: .*partial"):
        compare(runs, "trial_cosen", "partial")


@pytest.mark.parametrize(
    ("sources", "baseline", "message"),
    [
        (("trial_cosen", "trial_affinity"), "softmax", "--baseline softmax: none of trial_cosen, trial_affinity fits"),
        (("trial_cosen", "trial_affinity"), "trial", "--baseline trial: none of .* fits; give the full name of one"),
        (("trial_cosen",), "cosen", "nothing to compare trial_cosen with; name at least two experiments"),
        (("trial_cosen",), "trial_cosen", "nothing to compare trial_cosen with; name at least two experiments"),
        (("trial_cosen", "trial_cosen"), "cosen", "nothing to compare trial_cosen with"),
        (("trial_cosen", "trial_focal"), "cosen", "trial_focal: no experiment of that name"),
    ],
)
def test_a_request_that_means_nothing_is_refused(runs, sources, baseline, message):
    with pytest.raises(ComparisonError, match=message):
        compare(runs, *sources, baseline=baseline)


def test_a_full_name_is_the_baseline_even_where_it_is_part_of_another(runs):
    write_experiment(runs, "trial_cosen_slow", {0})
    assert compare(runs, "trial_cosen_slow", "trial_cosen", baseline="trial_cosen").baseline == "trial_cosen"


def test_a_baseline_is_a_full_name_or_a_method():
    names = ["hamfit7_cosen_plus", "hamfit7_cosen", "hamfit7_cosen_as_printed", "hamfit7_softmax.tuned"]
    assert find_baseline("cosen", names) == "hamfit7_cosen"
    assert find_baseline("hamfit7_cosen", names) == "hamfit7_cosen"
    assert find_baseline("softmax", names) == "hamfit7_softmax.tuned"
    assert find_baseline("cosen", ["cosen", "softmax"]) == "cosen"
    for text, many in (("hamfit7", "none"), ("print", "none"), ("x", "none")):
        with pytest.raises(ComparisonError, match=f"--baseline {text}: {many} of hamfit7_cosen_plus"):
            find_baseline(text, names)
    with pytest.raises(ComparisonError, match="--baseline cosen: 2 of hamfit5_cosen, hamfit7_cosen fits"):
        find_baseline("cosen", ["hamfit5_cosen", "hamfit7_cosen"])


def test_experiments_on_one_test_set_are_compared_without_a_claim_about_other_folds(tmp_path):
    write_experiment(tmp_path, "base", {0, 1, 2}, folds=1)
    write_experiment(tmp_path, "better", {0}, folds=1)
    compared = compare(tmp_path, "base", "better", baseline="base")
    assert compared.images == "test images"
    assert compared.class_counts == {"AK": 2, "ML": 8}  # of the images tested, not of those trained on
    tests = compared.tests["better"].set_index("test")["p"].groupby(level=0).apply(list)
    assert np.isnan(tests["corrected_t"]).all()
    assert not np.isnan(tests["mcnemar"]).any()


def test_models_that_share_inner_validation_images_are_compared_without_a_claim_about_other_folds(tmp_path):
    write_experiment(tmp_path, "base", {0, 1, 2, 12, 16}, scored="inner")
    write_experiment(tmp_path, "better", {0, 10}, scored="inner")
    compared = compare(tmp_path, "base", "better", baseline="base")
    tests = compared.tests["better"].set_index("test")["p"]
    assert tests["corrected_t"].isna().all()
    assert tests["sign_flip"].notna().all()
