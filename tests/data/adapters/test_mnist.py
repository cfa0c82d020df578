from pathlib import Path

import numpy as np
import pytest

from dermaffinity.data.adapters.mnist import MnistAdapter
from dermaffinity.data.images import decode_image
from dermaffinity.data.library import ImageLibrary
from dermaffinity.data.manifest import Manifest
from dermaffinity.errors import DataError

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "mnist"


def prepared(source: Path, seed: int = 0, **options) -> Manifest:
    return MnistAdapter(source, **options).prepare(seed=seed)


def test_the_standard_split_is_all_of_mnist(mnist_source):
    manifest = prepared(mnist_source)
    assert (manifest.name, manifest.protocol, manifest.folds) == ("mnist-standard", "presplit", 1)
    assert manifest.class_counts() == dict.fromkeys("0123456789", 20)
    assert manifest.rows["image"].iloc[0] == "MNIST/raw/t10k-images-idx3-ubyte.gz/00000.pgm"
    assert (manifest.rows["fold"] == 0).sum() == 30
    assert manifest.rows["group"].is_unique


def test_labels_belong_to_their_images(mnist_source):
    manifest = prepared(mnist_source)
    library = ImageLibrary(manifest.root)
    for row in manifest.rows.sample(20, random_state=0).itertuples():
        gray = int(
            decode_image(library.read(row.image), row.image)[0, 0, 0]
        )  # its number within the file, see conftest
        assert row.label == str(gray % 10)
        assert (gray >= 100) == (row.fold == 0)


@pytest.mark.parametrize(
    ("experiment", "rare", "number"),
    [("odd-10", "13579", 2), ("even-25", "02468", 5), ("first-10", "01234", 2), ("first-2.5", "01234", 1)],
)
def test_an_experiment_keeps_a_part_of_its_rare_digits_and_the_whole_test_set(mnist_source, experiment, rare, number):
    manifest = prepared(mnist_source, experiment=experiment)
    assert manifest.class_counts() == {digit: number if digit in rare else 20 for digit in "0123456789"}
    test = manifest.rows[manifest.rows["fold"] == 0]
    assert test["label"].value_counts().to_dict() == dict.fromkeys("0123456789", 3)
    assert manifest.name == f"mnist-{experiment}"


def test_fewer_kept_images_are_some_of_more_and_another_seed_keeps_others(mnist_source):
    def kept(percent: str, seed: int = 0) -> set[str]:
        return set(prepared(mnist_source, seed, experiment=f"odd-{percent}").trained_on()["image"])

    assert kept("10") < kept("25") < kept("50") < kept("100")
    assert kept("10") == kept("10")
    assert kept("10") != kept("10", seed=1)


def test_label_noise_changes_its_share_of_training_labels_and_no_other(mnist_source):
    few, many = (prepared(mnist_source, label_noise=noise) for noise in (0.1, 0.4))
    wrong = [set(m.rows.loc[m.rows["label"] != m.rows["digit"].astype(str), "image"]) for m in (few, many)]
    assert [len(images) for images in wrong] == [20, 80]
    assert wrong[0] < wrong[1]
    assert set(many.rows.loc[many.rows["fold"] == 0, "image"]).isdisjoint(wrong[1])
    assert many.name == "mnist-standard-noise-40"
    assert few.split_hash != many.split_hash


def test_wrong_labels_are_spread_over_all_other_digits():
    from dermaffinity.data.adapters.base import Record

    adapter = MnistAdapter.__new__(MnistAdapter)
    adapter.rare, adapter.kept, adapter.label_noise = (), 1.0, 0.5
    records = [Record(f"{k:05}", None, "3", "g", {"digit": 3}) for k in range(9000)]
    labels = [record.label for record in adapter.select(records, seed=0)]
    counts = np.array([labels.count(digit) for digit in "0123456789"])
    assert counts[3] == 4500
    assert abs(np.delete(counts, 3) - 500).max() < 4 * np.sqrt(500)


def test_a_file_beside_its_compressed_original_is_read_once(tmp_path, fake, mnist_source):
    labels = [k % 10 for k in range(200)], [k % 10 for k in range(30)]
    plain = {f"MNIST/raw/{name}": content for name, content in fake.mnist_files(*labels, compress=False).items()}
    both = fake.write_tree(mnist_source, plain)
    assert prepared(both).rows["image"].str.contains(".gz/").all()
    only_plain = prepared(fake.write_tree(tmp_path / "plain", plain))
    assert only_plain.rows["sha256"].tolist() == prepared(both).rows["sha256"].tolist()


def test_everything_that_is_missing_or_double_is_named(tmp_path, fake):
    files = fake.mnist_files([0, 1], [0, 1])
    del files["t10k-labels-idx1-ubyte.gz"]
    source = fake.write_tree(
        tmp_path, files | {f"copy/{name}": content for name, content in files.items() if "train-i" in name}
    )
    with pytest.raises(DataError, match=r"does not hold MNIST once\. MNIST is free: .*torchvision") as refused:
        prepared(source)
    assert refused.value.problems == (
        "more than one train-images-idx3-ubyte: copy/train-images-idx3-ubyte.gz, train-images-idx3-ubyte.gz",
        "no t10k-labels-idx1-ubyte",
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [([1, 2], r"holds 3 images, but .*train-labels-idx1-ubyte.gz 2 labels"), ([1, 2, 10], "holds the label 10")],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, fake, labels, message):
    files = fake.mnist_files([0, 1, 2], [0, 1])
    files["train-labels-idx1-ubyte.gz"] = fake.mnist_files(labels, [0])["train-labels-idx1-ubyte.gz"]
    with pytest.raises(DataError, match=message):
        prepared(fake.write_tree(tmp_path, files))


@pytest.mark.parametrize("experiment", ["odd", "odd-0", "odd-101", "third-10", "odd-1e1", ""])
def test_an_unknown_experiment_is_refused_with_an_example(mnist_source, experiment):
    with pytest.raises(ValueError, match="such as odd-10, got"):
        MnistAdapter(mnist_source, experiment=experiment)


def test_an_impossible_share_of_noise_is_refused(mnist_source):
    with pytest.raises(ValueError, match=r"label_noise must be in \[0, 1\), got 1"):
        MnistAdapter(mnist_source, label_noise=1.0)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="MNIST is not beside the checkout")
def test_real_mnist_has_its_published_counts():
    manifest = prepared(REAL, experiment="first-10")
    published = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    expected = [round(0.1 * count) if digit < 5 else count for digit, count in enumerate(published)]
    assert list(manifest.class_counts().values()) == expected
    test = manifest.rows[manifest.rows["fold"] == 0]["label"].value_counts()
    assert [test[digit] for digit in "0123456789"] == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
