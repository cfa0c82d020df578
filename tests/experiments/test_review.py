"""Label errors planted in what the tiny experiment's models say about its images."""

import csv
import shutil

import numpy as np
import pandas as pd
import pytest

import dermaffinity as da
from dermaffinity.data.decisions import apply_decisions
from dermaffinity.errors import ManifestError
from dermaffinity.experiments.results import read_table, write_table


@pytest.fixture(scope="module")
def verification(phantom_manifest):
    return da.verify(phantom_manifest)


@pytest.fixture(scope="module")
def run(uninterrupted, tmp_path_factory):
    """The models say the label with 80 %, but for two images of AK, which they take for ML."""
    folder = tmp_path_factory.mktemp("review") / "tiny"
    shutil.copytree(uninterrupted / "runs" / "tiny", folder)
    names = da.Experiment(folder).classes.names
    planted = []
    # The inner validation tables as well: the temperatures of the folds are then alike.
    for file in sorted(folder.glob("fold-*/predictions.csv")) + sorted(folder.glob("fold-*/validation.csv")):
        table = read_table(file)
        said = table["label"].to_numpy(dtype=object)
        if file.stem == "predictions" and len(planted) < 2:
            at = int(np.flatnonzero(said == "AK")[0])
            planted.append(table["image"][at])
            said[at] = "ML"
        own = np.eye(len(names))[pd.Index(names).get_indexer(said)]
        table[[f"p.{name}" for name in names]] = 0.75 * own + 0.05
        write_table(table.assign(predicted=said), file)
    return folder, planted


def test_planted_errors_are_the_suspects_and_the_decisions_can_be_applied(run, verification, tmp_path):
    folder, planted = run
    found = da.review(verification, folder, out=tmp_path)
    suspects = found.suspects[found.suspects["suspected"]]
    assert sorted(suspects["image"]) == sorted(planted)
    assert set(suspects["suggested"]) == {"ML"}
    assert found.lines()[0] == f"2 of {len(found.suspects)} labels are suspected: AK 2"
    rows = list(csv.DictReader((tmp_path / "decisions.csv").open()))
    assert [row["decision"] for row in rows] == ["keep"] * len(rows)
    text = (tmp_path / "decisions.csv").read_text().replace("keep,ML", "relabel,ML")
    (tmp_path / "decisions.csv").write_text(text)
    after = apply_decisions(verification.manifest, tmp_path / "decisions.csv").rows.set_index("image")["label"]
    assert after[planted].tolist() == ["ML", "ML"]
    page = (tmp_path / "review.html").read_text()
    assert page.count('<span class="wrong">ML</span> instead of AK') == 2
    assert "data:image/jpeg" in page


def test_an_experiment_on_another_split_is_refused(run, verification, phantom_library, tmp_path):
    other = da.prepare("phantom", phantom_library, experiment="5-class", seed=1, out=tmp_path / "other.csv")
    with pytest.raises(ManifestError, match="and not on phantom-5, split"):
        da.review(da.verify(other), run[0], out=tmp_path)
