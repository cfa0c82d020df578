"""From three datasets as they come to a report, by one command, and the classifier on a fourth."""

import pandas as pd
import pytest

from dermaffinity.cli import app


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "classes", "images"), [("milk10k", 7, 56), ("pad_ufes_20", 5, 40), ("derm7pt", 4, 32)]
)
def test_a_public_dataset_is_prepared_verified_trained_reported_and_its_model_evaluated(
    name, classes, images, fake, ham_source, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    fake.write_tree(tmp_path / name, fake.published_files(name))
    settings = ("backbone={class: dermaffinity.models.SmallConvNet}", "training.epochs=1", "data.image_size=16")
    words = [word for setting in (*settings, "training.batch_size=8") for word in ("--set", setting)]
    done = fake.run(app, ["study", name, "--adapter", name, "--partial", "--quiet", "--classes", "ham7", *words])
    assert f"Plan for {images} images in 3 folds" in done.output
    page = (tmp_path / "study/report.html").read_text(encoding="utf-8")
    assert f"{name}_affinity_plus" in page
    matrix = (tmp_path / f"study/runs/{name}_cosen/out_of_fold.csv").read_text().partition("\n")[0]
    assert matrix.count("p.") == classes

    fake.run(app, ["prepare", "ham10000", str(ham_source), "--folds", "2", "--out", "ham.csv"])
    done = fake.run(app, ["evaluate", f"study/runs/{name}_cosen", "ham.csv", "--known-only", "--no-images", "--quiet"])
    answers = pd.read_csv(f"evaluations/{name}_cosen_on_ham10000/predictions.csv")
    assert answers["label"].nunique() == classes
    assert "ham10000, images: percent [95 % interval]" in done.output
