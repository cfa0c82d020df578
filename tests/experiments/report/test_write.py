"""A report of the tiny experiment of conftest, beside copies of it that lack or have one thing more."""

import itertools
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from made_experiments import made

from dermaffinity.data.manifest import read_manifest, write_manifest
from dermaffinity.errors import ComparisonError, DataError, ManifestError
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.report import write
from dermaffinity.experiments.report.words import plain_summary
from dermaffinity.experiments.results import read_table, write_table
from dermaffinity.heads import AffinityHead, AffinityMixtureHead, CosineHead, LinearHead
from dermaffinity.report.tables import results_table


class Page(HTMLParser):
    """What a browser would make of a page, as far as the tests ask: text, tables by caption, tags with attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.html = path.read_text(encoding="utf-8")
        self.tags, self.tables, self.words = [], {}, []
        self.cell, self.caption, self.rows = None, None, []
        self.feed(self.html)
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "caption":
            self.caption, self.rows = "", []
        if tag == "tr" and self.caption is not None:
            self.rows.append([])
        if tag in ("td", "th"):
            self.cell = ""

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1].append(" ".join(self.cell.split()))
            self.cell = None
        if tag == "caption":
            self.caption = self.words.pop()
        if tag == "table":
            self.tables[self.caption] = self.rows[0], {row[0]: row[1:] for row in self.rows[1:]}

    def handle_data(self, data):
        data = data.replace("\N{NO-BREAK SPACE}", " ")
        self.words.append(data)
        if self.cell is not None:
            self.cell += data

    def table(self, start: str) -> tuple[list[str], dict[str, list[str]]]:
        (found,) = [table for caption, table in self.tables.items() if caption.startswith(start)]
        return found


@pytest.fixture(scope="module")
def runs(uninterrupted, tmp_path_factory) -> Path:
    """The tiny experiment as ``tiny_cosen``, and with other answers and an external set as ``tiny_affinity``."""
    runs = tmp_path_factory.mktemp("report") / "runs"
    for name in ("tiny_cosen", "tiny_affinity"):
        shutil.copytree(uninterrupted / "runs" / "tiny", runs / name)
    folder = runs / "tiny_affinity"
    facts = json.loads((folder / "experiment.json").read_text())
    names = list(facts["class_counts"])
    columns = [f"p.{name}" for name in names]
    for file in folder.glob("fold-*/predictions.csv"):
        table = read_table(file)
        own = np.eye(len(columns))[pd.Index(names).get_indexer(table["label"])]
        table[columns] = 0.6 * table[columns] + 0.4 * np.roll(own, 1, axis=0)
        table["predicted"] = np.array(names)[table[columns].to_numpy().argmax(axis=1)]
        write_table(table, file)
    pooled = Experiment(folder).predictions()
    for file in folder.glob("fold-*"):  # every fold's model says the same about an image
        write_table(pooled[pooled["label"] != "AK"].assign(fold=int(file.name[5])), file / "external.csv")
    return runs


def report(runs: Path, *sources: str, **options) -> tuple[Page, tuple[str, ...]]:
    written = write.report(sources, runs=runs, out=runs.parent / "report.html", **options)
    return Page(written.path), written.notes


@pytest.fixture(scope="module")
def whole(runs) -> Page:
    """The report with everything there is: the stored tables of tiny_cosen are those of its models."""
    page, notes = report(runs, "tiny_cosen", "tiny_affinity")
    assert notes == ()
    return page


@pytest.fixture(scope="module")
def changed(runs) -> tuple[Page, tuple[str, ...]]:
    """The report of the experiment whose tables its models do not reproduce, against its neighbor."""
    return report(runs, "tiny_affinity")


def test_numbers_are_those_of_the_summary_tables(whole, changed, runs):
    compared = Experiment(runs / "tiny_affinity").compare("tiny_cosen")
    known = results_table(compared.summaries, compared.class_counts)
    for page in (whole, changed[0]):
        head, rows = page.table("Recall of each class and measures over all")
        assert head[1:] == ["tiny_cosen", "tiny_affinity"]
        assert rows == {row: list(values) for (_, row), values in zip(known.index, known.to_numpy(), strict=True)}
    stored = Experiment(runs / "tiny_affinity").measures()
    value, low, high = 100 * stored.loc["balanced_accuracy", ["value", "low", "high"]]
    assert f"{value:.1f} % (95 % interval {low:.1f} to {high:.1f}) of a class's images" in changed[0].text
    gain = 100 * compared.gains["tiny_affinity"].loc["gain.balanced_accuracy", "value"]
    assert changed[0].table("Gain over tiny_cosen")[1]["Balanced accuracy"][0].startswith(f"{gain:+.1f} ")
    assert f"Against tiny_cosen its balanced accuracy differs by {gain:+.1f} ".replace("-", "−") in changed[0].text
    assert "images of 33 patients or lesions in 5 classes" in changed[0].text


def test_a_report_without_known_groups_claims_nothing_of_patients(tmp_path):
    experiment = made(tmp_path / "made", "CrossEntropyLoss")
    assert plain_summary(experiment, None, experiment.out_of_fold.matrix)[0] == (
        "made was cross-validated on made: 400 images in 3 classes. Every image was classified by one of 2 models that "
        "was not trained on its part of the library, which may show the same patients."
    )


def test_centers_are_drawn_where_a_head_measures_distances():
    """The map and its caption follow; the scores of affinity_plus are logits, though its centers are places."""
    heads = (AffinityHead, AffinityMixtureHead, CosineHead, LinearHead)
    assert [head.centers_are_places for head in heads] == [True, True, False, False]


def test_gains_and_losses_are_told_together(runs):
    gains = pd.DataFrame(
        {"value": [0.01, 0.057, -0.112], "low": [-0.02, -0.056, -0.146], "high": [0.03, 0.182, -0.079]},
        index=["gain.balanced_accuracy", "gain.minority_recall", "gain.majority_recall"],
    )
    experiment = Experiment(runs / "tiny_affinity")
    record = experiment.record
    longer = record.model_copy(
        update={"config": {**record.config, "training": {**record.config["training"], "epochs": 7}}}
    )
    compared = SimpleNamespace(
        baseline="cosen",
        gains={"tiny_affinity": gains},
        sentence=lambda: "Of 2.",
        experiments={"tiny_affinity": experiment, "cosen": SimpleNamespace(record=longer)},
    )
    told = plain_summary(experiment, compared, experiment.out_of_fold.matrix)
    assert (
        "Its recall of the rare classes differs by +5.7 (−5.6 to +18.2), that of the others by −11.2 (−14.6 to −7.9). "
        "An interval that holds zero shows neither a gain nor a loss."
    ) in told
    (apart,) = (sentence for sentence in told if "more than the method" in sentence)
    epochs = record.config["training"]["epochs"]
    assert apart.startswith(f"tiny_affinity differs from cosen in more than the method: training.epochs {epochs} (7). ")


def test_the_confusion_matrix_counts_every_out_of_fold_image(changed, runs):
    table = Experiment(runs / "tiny_affinity").predictions()
    head, rows = changed[0].table("Out-of-fold images: each true class")
    for name in head[1:]:
        own = table[table["label"] == name]
        counts = [int((own["predicted"] == other).sum()) for other in head[1:]]
        expected = [f"{count}{100 * count / len(own):.0f} %" for count in counts]
        assert rows[f"{name} ({len(own)})"] == expected


def test_nothing_is_loaded_from_elsewhere(whole, changed):
    for page in (whole, changed[0]):
        assert not re.search(r"(?:src|href|url)\s*[=(]\s*[\"']?\s*(?:https?:|//|file:)", page.html)
        assert "<script" not in page.html
        assert "@import" not in page.html
        for tag, attributes in page.tags:
            for name in ("src", "href", "xlink:href"):
                assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)


def test_headings_are_in_order_ids_unique_pictures_have_words_and_links_lead_somewhere(whole):
    levels = [int(tag[1]) for tag, _ in whole.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    ids = [attributes["id"] for _, attributes in whole.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in whole.tags:
        if tag == "img":
            assert attributes["alt"]
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
    assert sum(tag == "table" for tag, _ in whole.tags) == sum(tag == "caption" for tag, _ in whole.tags)


def test_models_that_reproduce_their_table_give_the_map_novelty_and_cases(whole):
    assert [attributes for tag, attributes in whole.tags if tag == "img"]
    assert "differ from those of the out-of-fold table by at most" in whole.text
    assert "in standard deviations from the mean of inner validation images" in whole.text
    assert "Most novel images" in whole.text
    assert "under its license, Apache-2.0: pass it on only as that allows" in whole.text
    assert "Protocol 'group' (used here): no test image has another image of its group in training." in whole.text


def test_models_that_contradict_their_table_are_not_shown(changed):
    page, (note,) = changed
    assert "no longer says what its table says" in note
    assert note in page.text
    assert "Most novel images" not in page.text
    assert not [tag for tag, _ in page.tags if tag == "img"]


def test_external_images_of_fewer_classes_have_a_dash_for_the_others(changed, runs):
    head, rows = changed[0].table("External images, mean of the folds' models")
    assert head == ["Class or measure", "tiny_affinity"]
    assert rows["AK (n=0)"] == ["–"]
    count = int((Experiment(runs / "tiny_affinity").external.table["label"] == "ML").sum())
    assert rows[f"ML (n={count})"] != ["–"]
    assert changed[0].table("External images: each true class")[1]["AK (0)"][0] == "0–"


def test_without_external_images_the_report_says_so(whole):
    assert "There is no external test" in whole.text
    assert whole.table("Items of CLAIM")[1]["External validation"][2].startswith("Not reported")


def test_sets_hold_the_true_class_as_often_as_counted_by_hand(runs, whole):
    from dermaffinity.inference.model_folder import read_description
    from dermaffinity.metrics.reliability import with_temperature

    held = dict.fromkeys(whole.table("Prediction sets asked")[1], 0)
    for path in sorted((runs / "tiny_cosen").glob("fold-*")):
        (fold_model,) = read_description(path).fold_models
        table = read_table(path / "predictions.csv")
        columns = [name for name in table if name.startswith("p.")]
        own = with_temperature(table[columns].to_numpy(), fold_model.calibration.temperature)
        for label, row in zip(table["label"], own, strict=True):
            score = 1 - row[columns.index(f"p.{label}")]
            known = fold_model.calibration.scores[label]
            above = sum(other >= score for other in known) + 1
            held[label] += above / (len(known) + 1) > 0.1 + 1e-9
    rows = whole.table("Prediction sets asked")[1]
    for name, (images, _, _, share, _) in rows.items():
        if name != "all":
            assert share.startswith(f"{100 * held[name] / int(images):.1f} ")


def test_without_a_baseline_only_the_method_is_shown(runs, tmp_path):
    shutil.copytree(runs / "tiny_affinity", tmp_path / "runs" / "alone")
    page, _ = report(tmp_path / "runs", "alone")
    assert page.table("Recall of each class and measures over all")[0] == ["Class or measure", "alone"]
    assert "No baseline stands beside this method" in page.text
    with pytest.raises(ComparisonError, match=r"--baseline ldam: none of alone fits"):
        report(tmp_path / "runs", "alone", baseline="ldam")


def test_what_comes_from_data_is_escaped(runs, tmp_path):
    folder = tmp_path / "runs" / "<i>run"
    shutil.copytree(runs / "tiny_affinity", folder)
    evil = "<img src=x onerror=alert(1)>&"
    facts = (folder / "experiment.json").read_text().replace('"AK"', json.dumps(evil))
    (folder / "experiment.json").write_text(facts)
    for path in folder.glob("fold-*/*.csv"):
        path.write_text(re.sub(r"\bAK\b", evil, path.read_text()))
    page, notes = report(tmp_path / "runs", "<i>run")
    assert evil in page.text
    assert "<i>run" in page.text
    assert not [tag for tag, _ in page.tags if tag in ("img", "i")]
    assert any("its model has other classes" in note for note in notes)


def test_models_that_are_gone_and_an_unknown_manifest_are_left_out_in_words(runs, tmp_path, changed):
    folder = tmp_path / "runs" / "old"
    shutil.copytree(runs / "tiny_affinity", folder)
    for path in folder.glob("fold-*/classifier.json"):
        path.unlink()
    config_file = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(re.sub(r"manifest: .*", "manifest: gone.csv", config_file))
    page, notes = report(tmp_path / "runs", "old")
    assert any(note.startswith("The embedding map, novelty and pictures of cases are left out") for note in notes)
    assert any("the manifest phantom-5.csv of split" in note for note in notes)
    assert page.table("Prediction sets asked") == changed[0].table("Prediction sets asked")
    assert "Protocol 'group': no test image has another image of its group in training." in page.text
    assert "license: not recorded with these results" in page.text


def test_a_manifest_that_has_moved_is_named_and_one_of_another_split_refused(runs, tmp_path, phantom_manifest):
    moved = tmp_path / "moved.csv"
    shutil.copy(phantom_manifest, moved)
    page, notes = report(runs, "tiny_cosen", manifest=moved)
    assert notes == ("The embedding map, novelty and pictures of cases are left out: the images were not at hand where "
                     "this report was written.",)  # fmt: skip
    assert "The images were not at hand; cases are listed by name." in page.text
    manifest = read_manifest(phantom_manifest)
    manifest.rows.loc[0, "fold"] = (manifest.rows.loc[0, "fold"] + 1) % 3
    write_manifest(manifest, tmp_path / "other.csv")
    with pytest.raises(ManifestError, match=r"other.csv: split [0-9a-f]{12}, but tiny_cosen was run on"):
        report(runs, "tiny_cosen", manifest=tmp_path / "other.csv")


def test_subgroups_split_by_what_the_manifest_knows_with_what_their_classes_let_expect(
    runs, tmp_path, phantom_manifest
):
    manifest = read_manifest(phantom_manifest)
    rng = np.random.default_rng(0)
    rows = manifest.rows
    ages = rng.integers(20, 90, len(rows))
    rows["age"] = pd.Series(ages.astype(str), index=rows.index).where(rows.index != 1, "eighty")  # a slip of the pen
    rows.loc[2, "age"] = "90+"  # as privacy rules write it
    rows["sex"] = rng.choice(["female", "male", "unknown"], len(rows))
    rows["camera_number"] = rng.integers(0, 9, len(rows))
    rows["clinic"] = rng.choice(["001", "002"], len(rows))
    rows["site"] = rng.choice(["back", "Back", "face"], len(rows))
    rows["ulcer"] = rng.choice(["none", "present"], len(rows))
    manifest.rows.loc[0, "age"] = None
    write_manifest(manifest, tmp_path / "facts.csv")
    page, _ = report(runs, "tiny_cosen", manifest=tmp_path / "facts.csv", images=False)
    assert [caption for caption in page.tables if caption.startswith("Results by")] == [
        "Results by age: percent [95 % interval]",
        "Results by sex: percent [95 % interval]",
        "Results by clinic: percent [95 % interval]",
        "Results by site: percent [95 % interval]",
        "Results by ulcer: percent [95 % interval]",
    ]
    assert {site.casefold() for site in page.table("Results by site")[1]} == {"back", "face"}
    assert len(page.table("Results by site")[1]) == 2
    assert list(page.table("Results by ulcer")[1]) in (["none", "present"], ["present", "none"])
    table = read_table(runs / "tiny_cosen" / "out_of_fold.csv").merge(rows[["image", "age", "sex"]], on="image")
    right = (table["label"] == table["predicted"]).astype(float)
    expected = right.groupby(table["label"]).transform("mean")
    women = table["sex"] == "female"
    cells = page.table("Results by sex")[1]["female"]
    assert cells[0].startswith(f"{women.sum()} (")
    assert cells[1].startswith(f"{100 * right[women].mean():.1f} [")
    assert cells[2] == f"{100 * expected[women].mean():.1f}"
    assert list(page.table("Results by sex")[1])[-1] == "not recorded"
    old = pd.to_numeric(table["age"].replace("90+", "90"), errors="coerce") >= 80
    assert (table["age"] == "90+").any()
    assert page.table("Results by age")[1]["80 and older"][0].startswith(f"{old.sum()} (")
    assert "age" not in page.text.partition("Not recorded in this manifest")[2].partition(".")[0].split(", ")
    assert "skin tone" in page.text.partition("Not recorded in this manifest")[2]


def test_no_images_keeps_the_map_and_names_the_cases(runs):
    page, notes = report(runs, "tiny_cosen", "tiny_affinity", images=False)
    assert notes == ()
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert "Images are left out on request." in page.text
    assert "Most novel images" in page.text


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda facts: facts.update(scored="inner"), "scored its inner validation images"),
        (None, "some folds are still to be run; run the command that made it, such as"),
    ],
)
def test_what_is_not_to_be_reported_is_refused(runs, tmp_path, spoil, message):
    folder = tmp_path / "runs" / "odd"
    shutil.copytree(runs / "tiny_cosen", folder)
    if spoil is None:
        (folder / "fold-1_seed-0/metrics.json").unlink()
    else:
        facts = json.loads((folder / "experiment.json").read_text())
        spoil(facts)
        (folder / "experiment.json").write_text(json.dumps(facts))
    with pytest.raises(DataError, match=message):
        report(tmp_path / "runs", "odd")


def test_the_commands_and_the_config_give_the_experiment_again(whole, uninterrupted):
    from dermaffinity.config import read_config
    from dermaffinity.experiments.job import identity

    (shown,) = [text for text in re.findall(r"<code>(.*?)</code>", whole.html, re.DOTALL) if text.startswith("name:")]
    path = uninterrupted.parent / "shown.yaml"
    path.write_text(shown)
    facts = json.loads((uninterrupted / "runs" / "tiny" / "experiment.json").read_text())
    assert identity(read_config(path)) == facts["config"]
    assert "dermaffinity prepare phantom FOLDER --experiment 5-class --protocol group --folds 3 --seed 0" in whole.text
    assert facts["split_hash"] in whole.text
