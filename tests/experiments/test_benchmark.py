"""A benchmark from end to end on a tiny library: partly run, resumed, with a config that fails, and read again."""

import dataclasses
import shutil
from io import StringIO

import pandas as pd
import pytest
from rich.console import Console

from dermaffinity.data.manifest import read_manifest, write_manifest
from dermaffinity.errors import ComparisonError, ConfigError, TrainingError
from dermaffinity.experiments.benchmark import QUICK, Options, run_benchmark
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.results import average_models
from dermaffinity.experiments.run import Plan
from dermaffinity.metrics.comparison import compare
from dermaffinity.metrics.summary import Measured, ScoredImages

SOFTMAX = "class: dermaffinity.losses.CrossEntropyLoss"


@pytest.fixture(scope="module")
def desk(tiny_config, phantom_manifest, tmp_path_factory):
    """Configs on a manifest with external images: CoSen, softmax with a grid, and one whose training fails."""
    folder = tmp_path_factory.mktemp("benchmark")
    manifest = read_manifest(phantom_manifest)
    rows = manifest.rows.copy()
    groups = rows.loc[rows["label"] == "ML", "group"].unique()[:2]
    rows.loc[rows["group"].isin(groups), "fold"] = pd.NA
    write_manifest(dataclasses.replace(manifest, rows=rows), folder / "with_external.csv")
    cosen = tiny_config.read_text().replace(str(phantom_manifest), str(folder / "with_external.csv"))
    cosen = cosen.replace("epochs: 3", "epochs: 1")
    softmax = cosen.replace("class: dermaffinity.losses.CoSenLoss, cost_rate: 0.1", SOFTMAX)
    grid = "grid: {training.learning_rate: [0.02, 0.01]}\n"
    configs = {"tiny_cosen": cosen, "tiny_softmax": softmax + grid, "tiny_broken": softmax.replace("0.02", "1.0e+30")}
    for name, config in configs.items():
        (folder / f"{name}.yaml").write_text(config.replace("name: tiny", f"name: {name}"))
    return folder


def run(desk, *names, runs="runs", **options):
    console = Console(file=StringIO(), width=200)
    configs = [desk / f"tiny_{name}.yaml" for name in names]
    words = {
        name: options.pop(name)
        for name in ("tuned", "budget", "train", "quick", "baseline", "ensemble")
        if name in options
    }
    overrides = options.pop("overrides", ())
    plan = Plan(runs=desk / runs, console=console, **options)
    return run_benchmark(configs, plan, Options(**words), overrides=overrides), console


@pytest.fixture(scope="module")
def gone_on_with(desk):
    """First one fold of one config, then everything; with the files of the first call as they were, and are."""
    run(desk, "cosen", "softmax", folds=[1])
    before = {path: path.stat().st_mtime_ns for path in (desk / "runs").glob("*/fold-*/*") if path.is_file()}
    benchmark, console = run(desk, "cosen", "broken", "softmax", seeds=[0, 1], external=True)
    # Only the external images' predictions come beside them.
    after = {path: path.stat().st_mtime_ns for path in before}
    return benchmark, console.file.getvalue(), before, after


def test_a_benchmark_that_goes_on_leaves_finished_jobs_alone(gone_on_with):
    benchmark, said, before, after = gone_on_with
    assert before == after
    assert said.count("epoch 1/1") == 2 * 6 - 2
    assert set(benchmark.measured) == {"tiny_cosen", "tiny_softmax"}


def test_a_config_that_fails_is_in_the_table_and_the_others_go_on(gone_on_with):
    benchmark = gone_on_with[0]
    assert len(benchmark.failures["tiny_broken"]) == 6
    assert "cross_entropy" in benchmark.failures["tiny_broken"][0]
    title, table = next(iter(benchmark.tables().items()))
    assert title == "Out-of-fold images: percent [95 % interval]"
    assert table.index.get_level_values("row")[-1] == "tiny_broken (without results: 6 jobs)"
    assert (table.iloc[-1] == "–").all()
    row = benchmark.wide().loc["tiny_broken"]
    assert "is not finite" in row["failure"]
    assert pd.isna(row["balanced_accuracy.value"])
    assert "Without results: tiny_broken fold 0 seed 0: training stopped in epoch 1" in "\n".join(benchmark.notes())


def test_the_numbers_are_those_of_the_pooled_tables(gone_on_with, desk):
    benchmark = gone_on_with[0]
    folder = Experiment(desk / "runs/tiny_softmax")
    classes = folder.classes
    softmax, cosen = (Experiment(desk / f"runs/{name}").predictions() for name in ("tiny_softmax", "tiny_cosen"))
    row = benchmark.wide().loc["tiny_softmax"]

    def measured(table, resamples=2000):
        return Measured.of(ScoredImages.from_table(table, classes), resamples=resamples)

    summary = measured(softmax).summary()
    for bound in ("value", "low", "high"):
        assert row[f"minority_recall.{bound}"] == pytest.approx(summary.loc["minority_recall", bound])
    pooled = pd.read_csv(folder.path / "out_of_fold_summary.csv", index_col="metric")
    assert row["ece.calibrated.value"] == pytest.approx(pooled.loc["ece.calibrated", "value"], abs=1e-6)
    by_seed = [measured(part, 2).value("balanced_accuracy") for _, part in softmax.groupby("seed")]
    assert row["balanced_accuracy.seed_mean"] == pytest.approx(sum(by_seed) / 2)
    assert row["balanced_accuracy.seed_sd"] == pytest.approx(abs(by_seed[0] - by_seed[1]) / 2**0.5)
    gains = compare(measured(cosen), measured(softmax)).gains
    assert row["baseline.gain"] == pytest.approx(gains.loc["gain.balanced_accuracy", "value"])
    # Two methods are each other's rivals, and the baseline's opponent has the same comparison in both.
    assert (row["rival.against"], row["baseline.against"]) == ("tiny_cosen", "tiny_cosen")

    external = average_models(folder.predictions("external"), classes)
    right = external[external["label"] == "ML"]["predicted"].eq("ML").mean()
    assert row["external.balanced_accuracy.value"] == pytest.approx(right)  # ML alone is outside
    other = average_models(Experiment(desk / "runs/tiny_cosen").predictions("external"), classes)
    gained = right - other[other["label"] == "ML"]["predicted"].eq("ML").mean()
    (over_cosen, over_rival) = benchmark.external_contests().values()
    for contest in (over_cosen, over_rival):
        assert contest.comparisons["tiny_softmax"].gains.loc["gain.balanced_accuracy", "value"] == pytest.approx(gained)
    outside = pd.read_csv(folder.path / "external_summary.csv", index_col="metric")
    assert row["external.ece.calibrated.value"] == pytest.approx(outside.loc["ece.calibrated", "value"], abs=1e-6)


def test_everything_is_written_and_can_be_read_again_without_training(gone_on_with, desk, monkeypatch):
    benchmark = gone_on_with[0]
    files = benchmark.write(desk / "out")
    assert sorted(files) == sorted((desk / "out").iterdir())
    names = {path.name for path in files}
    assert names >= {
        "benchmark.md",
        "benchmark.csv",
        "per_fold.csv",
        "gains.csv",
        "tests.csv",
        "external_gains.csv",
        "external_tests.csv",
        "forest.png",
        "ranks.png",
    }
    text = (desk / "out/benchmark.md").read_text()
    assert "## Gain over tiny_cosen: percentage points" in text
    assert "## Gain over the best rival: percentage points" in text
    assert "picked by its result, which favors it, so that the comparison is conservative" in text
    assert "no detectable difference (smallest detectable gain:" in text

    def refuse(*arguments, **options):
        raise AssertionError("something was trained")

    monkeypatch.setattr("dermaffinity.experiments.benchmark.run_experiments", refuse)
    again, _ = run(desk, "cosen", "broken", "softmax", seeds=[0, 1], train=False)
    assert set(again.failures) == {"tiny_broken"}
    assert again.failures["tiny_broken"][0] == "tiny_broken fold 0 seed 0: not run yet"
    again.write(desk / "again")
    for name in ("per_fold.csv", "gains.csv", "tests.csv"):
        assert (desk / "again" / name).read_text() == (desk / "out" / name).read_text()
    untuned, _ = run(desk, "cosen", "softmax", tuned=True, train=False)
    assert "run dermaffinity tune for this config first" in untuned.failures["tiny_softmax"][0]
    assert untuned.standings is None


def test_a_quick_tuned_benchmark_runs_under_names_of_its_own_and_says_so(desk):
    benchmark, _ = run(desk, "cosen", "softmax", runs="quick", quick=True, tuned=True, seeds=[3, 4])
    assert benchmark.notes()[0] == QUICK
    assert all(".quick" in path.name for path in (desk / "quick").iterdir())
    assert all(title.startswith("Quick trial, means nothing: ") for title in benchmark.tables())
    assert benchmark.methods["tiny_cosen"].config.name == "tiny_cosen.quick"
    tuned = benchmark.methods["tiny_softmax"]
    assert (tuned.config.name, tuned.tried) == ("tiny_softmax.quick.tuned", 2)
    assert tuned.config.training.learning_rate == tuned.settings["training.learning_rate"]
    assert (tuned.config.training.epochs, tuned.config.data.image_size) == (1, 32)
    (job,) = Experiment(desk / "quick/tiny_softmax.quick.tuned").jobs
    assert job.path.name == "fold-0_seed-3"
    seeds = benchmark.tables()["Quick trial, means nothing: Mean ± standard deviation over seeds, percent"]
    assert seeds["Settings tried"].tolist() == ["not tuned", "2"]
    assert seeds["Balanced accuracy"].str.endswith("(one seed)").all()


def test_tuning_within_a_benchmark_is_refused_under_torchrun(desk, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(ConfigError, match="run dermaffinity tune with it, then crossval"):
        run(desk, "cosen", "softmax", runs="none", tuned=True)


def test_what_cannot_be_compared_is_refused_before_anything_is_trained(desk, phantom_manifest):
    with pytest.raises(ConfigError, match="larger than the budget of 1 combinations that every method has") as error:
        run(desk, "cosen", "softmax", runs="none", tuned=True, budget=1)
    assert error.value.problems == ("tiny_softmax: 2 combinations",)
    with pytest.raises(ConfigError, match="none of these configs states a grid"):
        run(desk, "cosen", "broken", runs="none", tuned=True)
    with pytest.raises(ComparisonError, match="--baseline ldam: none of tiny_cosen, tiny_softmax fits"):
        run(desk, "cosen", "softmax", runs="none", baseline="ldam")
    with pytest.raises(ConfigError, match="every config needs a name of its own, and tiny_cosen is there already"):
        run(desk, "cosen", "cosen", runs="none")
    other = shutil.copy(desk / "tiny_softmax.yaml", desk / "tiny_other.yaml")
    other.write_text(other.read_text().replace(str(desk / "with_external.csv"), str(phantom_manifest)))
    with pytest.raises(ComparisonError, match="on different splits, so their numbers cannot be paired"):
        run(desk, "cosen", "other", runs="none")
    with pytest.raises(ConfigError, match="has no external images"):
        run(desk, "cosen", "softmax", runs="none", overrides=[f"data.manifest={phantom_manifest}"], external=True)
    with pytest.raises(TrainingError, match="no method has all of its folds and seeds"):
        run(desk, "cosen", "softmax", runs="none", train=False)
    assert not (desk / "none").exists()


def test_an_ensemble_of_the_seeds_takes_the_place_of_single_models_for_every_method(gone_on_with, desk):
    benchmark, _ = run(desk, "cosen", "softmax", seeds=[0, 1], train=False, ensemble=True, external=True)
    assert "the mean of 2 models in each fold" in "\n".join(benchmark.notes())
    for name in ("tiny_cosen", "tiny_softmax"):
        expected = Experiment(desk / "runs" / name).ensemble()
        assert benchmark.summaries[name].equals(expected.measures())
        pd.testing.assert_frame_equal(benchmark.external[name], expected.external.summary)
        assert benchmark.measured[name].predictions.seeds.tolist() == [0]
    with pytest.raises(ConfigError, match="name two seeds or more, --seeds 0,1,2"):
        run(desk, "cosen", "softmax", ensemble=True)
