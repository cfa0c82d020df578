"""Predictions over Ray Data: the bytes of the shards that one process writes."""

import numpy as np
import pytest
from PIL import Image

from dermaffinity import LesionClassifier
from dermaffinity.cluster import check_answers, connected
from dermaffinity.errors import ConfigError, DataError
from dermaffinity.inference import shards
from dermaffinity.inference.batch import find_images, predict_to
from dermaffinity.inference.on_ray import predict_on_ray

QUIET = {"on_problem": lambda name, fault: None, "on_progress": lambda done, total: None}


@pytest.fixture(scope="module")
def pool():
    """Ray on this machine."""
    with connected(None):
        yield


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_SIZE", 3)
    (tmp_path / "photos").mkdir()
    for number in range(10):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photos/{number}.png")
    (tmp_path / "photos/5.png").write_bytes(b"broken")
    return find_images([tmp_path / "photos"], pytest.fail)


@pytest.fixture
def classifier(toy_model):
    return LesionClassifier.load(toy_model)


def contents(out):
    return {path.name: path.read_bytes() for path in out.iterdir() if not path.name.startswith(".")}


def test_workers_write_the_shards_that_one_process_writes_and_keep_finished_ones(pool, classifier, files, tmp_path):
    shards.predict_shards(classifier, files, tmp_path / "inline", **QUIET)
    shards.predict_shards(classifier, files, tmp_path / "ray", part="2/4", **QUIET)
    kept = tmp_path / "ray/predictions-00001.parquet"
    written = kept.stat().st_mtime_ns
    problems, steps = [], []
    rows = predict_on_ray(
        classifier,
        files,
        tmp_path / "ray",
        on_problem=lambda name, fault: problems.append(name.rpartition("/")[2]),
        on_progress=lambda *counts: steps.append(counts),
    )
    assert (rows, problems) == (9, ["5.png"])
    assert steps[0] == (3, 10)
    assert steps[-1] == (10, 10)
    assert contents(tmp_path / "ray") == contents(tmp_path / "inline")
    assert kept.stat().st_mtime_ns == written


def test_what_stops_a_worker_is_one_sentence(pool, classifier, files, tmp_path):
    out = tmp_path / "ray"
    shards.predict_shards(classifier, files, out, part="2/4", **QUIET)
    (out / ".predictions-00000.lock").mkdir()
    with pytest.raises(DataError, match=r"ray: cannot be written"):
        predict_on_ray(classifier, files, out, **QUIET)
    (out / ".predictions-00000.lock").rmdir()
    assert predict_on_ray(classifier, files, out, **QUIET) == 9


@pytest.mark.parametrize(
    ("out", "words", "message"),
    [
        (
            "a.csv",
            {"launcher": "ray"},
            r"--launcher ray: workers share a folder; give one as --out instead of .*a\.csv",
        ),
        ("shards", {"address": "10.0.0.1:6379"}, r"--address 10\.0\.0\.1:6379: is for --launcher ray"),
        ("shards", {"launcher": "ray", "address": "127.0.0.1:1"}, r"--address 127\.0\.0\.1:1: nothing answers there"),
    ],
)
def test_words_that_do_not_go_together_are_refused(classifier, files, tmp_path, out, words, message):
    with pytest.raises(ConfigError, match=message):
        predict_to(tmp_path / out, classifier, files, **words, **QUIET)


def test_an_address_is_a_host_and_a_port():
    check_answers("auto")
    with pytest.raises(ConfigError, match="--address nowhere: write HOST:PORT"):
        check_answers("nowhere")
