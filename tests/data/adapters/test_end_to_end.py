"""From three datasets as they come to a report, by one command."""

import pytest

from dermaffinity.cli import app


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "classes", "images"), [("isic2020", 2, 16), ("pad_ufes_20", 5, 40), ("derm7pt", 4, 32)]
)
def test_a_public_dataset_is_prepared_verified_trained_and_reported(name, classes, images, fake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake.write_tree(tmp_path / name, fake.published_files(name))
    settings = ("backbone={class: dermaffinity.models.SmallConvNet}", "training.epochs=1", "data.image_size=16")
    words = [word for setting in (*settings, "training.batch_size=8") for word in ("--set", setting)]
    named = ["--classes", "ham7"] if name != "isic2020" else []
    done = fake.run(app, ["study", name, "--adapter", name, "--partial", "--quiet", *named, *words])
    assert f"Plan for {images} images in 3 folds" in done.output
    page = (tmp_path / "study/report.html").read_text(encoding="utf-8")
    assert f"{name}_affinity_plus" in page
    matrix = (tmp_path / f"study/runs/{name}_cosen/out_of_fold.csv").read_text().partition("\n")[0]
    assert matrix.count("p.") == classes
