"""The worked examples under docs/extend/, done as a reader would."""

import math
import re
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from torch.nn import functional as F
from typer.testing import CliRunner

from dermaffinity.cli import app
from dermaffinity.config import read_config
from dermaffinity.data import read_manifest
from dermaffinity.heads import HeadOutput

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def follow(tmp_path, monkeypatch):
    """Saves the files that a page says to save, in a folder that Python imports from, and goes there."""

    def save(name: str) -> Path:
        text = (ROOT / f"docs/extend/{name}.md").read_text(encoding="utf-8")
        found = re.findall(r"Save this as `([\w./]+)`.*?```\w+\n(.*?)```", text, flags=re.DOTALL)
        assert found
        for path, code in found:
            (tmp_path / Path(path).name).write_text(code, encoding="utf-8")
        return tmp_path

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return save


def test_a_loss_is_one_file(follow):
    loss = read_config(follow("loss") / "hamfit7_poly1.yaml").loss.build(class_counts=torch.ones(3), embedding_dim=4)

    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    output = HeadOutput(logits, torch.zeros(5, 4), torch.zeros(3, 1, 4))
    p = logits.softmax(dim=1)[torch.arange(5), labels]
    expected = F.cross_entropy(logits, labels) + 2 * (1 - p).mean()
    torch.testing.assert_close(loss(output, labels)["poly1"], expected)


def test_a_head_is_one_file(follow):
    config = read_config(follow("head") / "hamfit7_prototype.yaml")
    head = config.head.build(embedding_dim=4, num_classes=3)

    embedding = torch.randn(5, 4)
    output = head(embedding)
    expected = -torch.cdist(embedding, head.prototypes[:, 0]).square() / 0.1
    torch.testing.assert_close(output.scores, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(head.probabilities(output).sum(dim=1), torch.ones(5))
    assert config.resolved()["neck"]["class"].endswith("UnitNeck")


def test_a_dataset_is_one_file(follow):
    folder = follow("dataset")
    # As the dataset is distributed: three folders of images, and one table.
    classes = ("BCC", "ACK", "NEV", "SEK", "SCC", "MEL")
    lines = ["patient_id,lesion_id,age,gender,img_id,diagnostic"]
    for number in range(24):
        image, patient = f"PAT_{number // 2}_{number}_{number}.png", f"PAT_{number // 2}"
        path = folder / f"SOURCE/images/imgs_part_{number % 3 + 1}" / image
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 24), (10 * number, 100, 50)).save(path)
        lines.append(f"{patient},{number},60,MALE,{image},{classes[number // 2 % 6]}")
    (folder / "SOURCE/metadata.csv").write_text("\n".join(lines))

    adapter, manifest = "pad_ufes_20.PadUfes20Adapter", "data_manifests/pad_ufes_20.csv"
    arguments = ["prepare", adapter, "SOURCE", "--partial", "--folds", "2", "--out", manifest]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0

    manifest = read_manifest(folder / "data_manifests/pad_ufes_20.csv")
    assert manifest.classes == classes
    assert manifest.rows.groupby("group")["fold"].nunique().max() == 1
    assert manifest.rows["group"].nunique() == 12
    assert set(manifest.rows["sex"]) == {"male"}
    config = read_config(folder / "pad_affinity_plus.yaml")
    assert config.data.manifest == Path("data_manifests/pad_ufes_20.csv")


def test_a_dataset_that_is_not_there_says_where_to_get_it(follow):
    (follow("dataset") / "SOURCE").mkdir()
    result = CliRunner().invoke(app, ["prepare", "pad_ufes_20.PadUfes20Adapter", "SOURCE"])
    assert "no table metadata.csv in" in str(result.exception)
    assert "doi:10.17632/zr7vgbcyr2.1" in str(result.exception)


def test_an_experiment_is_one_config(follow):
    config = read_config(follow("experiment") / "hamfit7_more_centers.yaml")
    base = read_config("hamfit7_affinity_plus")
    changed = config.resolved()
    assert changed["head"] == {**base.resolved()["head"], "centers_per_class": 10}
    assert {key: value for key, value in changed.items() if key not in ("head", "name")} == {
        key: value for key, value in base.resolved().items() if key not in ("head", "name")
    }


def test_a_grid_shown_is_one_that_tune_takes(follow):
    folder = follow("experiment")
    text = (ROOT / "docs/extend/experiment.md").read_text(encoding="utf-8")
    (grid,) = re.findall(r"```yaml\n(grid: .*?)```", text, flags=re.DOTALL)
    config = {**yaml.safe_load((folder / "hamfit7_more_centers.yaml").read_text()), **yaml.safe_load(grid)}
    (folder / "tuned.yaml").write_text(yaml.safe_dump(config))
    tried = read_config(folder / "tuned.yaml").grid
    assert tried == {key: tuple(values) for key, values in yaml.safe_load(grid)["grid"].items()}
    assert math.prod(map(len, tried.values())) == 4
