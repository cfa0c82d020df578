"""The files of a classifier: what is written is read back exactly, and nothing else is read at all."""

import json
import shutil
from hashlib import sha256

import pytest
import torch
from safetensors.torch import save

from dermaffinity.errors import ConfigError, DataError
from dermaffinity.inference.model_folder import (
    Calibration,
    Facts,
    TrainingExamples,
    _digest,
    build_network,
    join_models,
    load_examples,
    load_networks,
    read_description,
    save_model,
)
from dermaffinity.models import ResNet18, SmallConvNet

SECTIONS = {
    "backbone": {"class": "dermaffinity.models.SmallConvNet"},
    "neck": {"class": "dermaffinity.models.UnitNeck", "dim": 8},
    "head": {"class": "dermaffinity.heads.AffinityHead", "centers_per_class": 2, "sigma": 0.7},
}
CLASSES = ["AK", "BCC", "Muttermal, gutartig"]
FACTS = {
    "name": "tiny",
    "classes": CLASSES,
    "malignant": ["BCC"],
    "preprocessing": {"image_size": 16, "lesion_crop": None},
    **SECTIONS,
    "data": {
        "name": "phantom",
        "split_hash": "ab" * 32,
        "images_digest": "cd" * 32,
        "image_hashes": "0123456789ab ba9876543210",
        "class_counts": {"AK": 3, "BCC": 4, "Muttermal, gutartig": 5},
        "source": "Müller et al.",
        "license": "none",
    },
}
CALIBRATION = Calibration(
    temperature=1.25,
    scores={"AK": (0.1, 0.123457), "BCC": (), "Muttermal, gutartig": (1e-6,)},
    distance_mean=0.1 + 0.2,
    distance_sd=0.5,
    novelty_threshold=1.7,
    log_shares=(-1.5, -1.0, -0.9),
    assumed=(0.0, 0.25, 0.0),
)


def trained_network(seed=0):
    torch.manual_seed(seed)
    network = build_network(SECTIONS, 3, pretrained=False)
    network.train()(torch.randn(8, 3, 16, 16))  # moves the statistics of batch normalization
    return network.eval()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "model"
    facts = Facts.model_validate(FACTS)
    save_model(folder, trained_network(), facts, fold=1, seed=5, calibration=CALIBRATION)
    return folder


@pytest.fixture
def saved(written, tmp_path):
    return shutil.copytree(written, tmp_path / "model")


EXAMPLES = TrainingExamples(
    ("part.zip/a.jpg", "ä/b.png"), ("BCC", "Muttermal, gutartig"), torch.tensor([[0.1] * 8, [1 / 3] * 8])
)


@pytest.fixture
def with_examples(tmp_path):
    facts = Facts.model_validate(FACTS)
    folder = tmp_path / "with"
    save_model(folder, trained_network(), facts, fold=1, seed=5, calibration=CALIBRATION, examples=EXAMPLES)
    return folder


def examples_of(folder):
    description = read_description(folder)
    return [load_examples(folder, description, fold_model) for fold_model in description.fold_models]


def load(folder):
    description = read_description(folder)
    return description, load_networks(folder, description)


def rewrite(folder, change, sign=True):
    """Changes ``classifier.json``; ``sign`` makes its digest fit again, as only somebody who means it would."""
    values = json.loads((folder / "classifier.json").read_text(encoding="utf-8"))
    change(values)
    if sign:
        values["digest"] = _digest(values)
    (folder / "classifier.json").write_text(json.dumps(values), encoding="utf-8")


def test_a_loaded_network_gives_exactly_what_the_saved_one_gave(saved):
    description, (loaded,) = load(saved)
    images = torch.randn(4, 3, 16, 16)
    assert all(torch.equal(a, b) for a, b in zip(loaded(images), trained_network()(images), strict=True))
    assert not loaded.training
    assert loaded.head.sigma == 0.7
    assert description.classes == tuple(CLASSES)
    (fold_model,) = description.fold_models
    assert (fold_model.fold, fold_model.seed) == (1, 5)
    assert fold_model.calibration == CALIBRATION  # every digit
    assert "not a medical device" in description.intended_use.lower()
    assert description.data.model_dump() == FACTS["data"]


def test_a_model_folder_is_readable_json_and_safetensors(saved):
    assert sorted(path.name for path in saved.iterdir()) == ["classifier.json", "fold-1_seed-5.safetensors"]
    content = (saved / "fold-1_seed-5.safetensors").read_bytes()
    assert "head.centers" in json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    text = (saved / "classifier.json").read_text(encoding="utf-8")
    assert '"AK": [ 0.1, 0.123457 ]' in text  # a line for a list, not for each number
    assert "Müller" in text


def test_one_network_gives_the_same_bytes_every_time_whatever_its_memory_layout(saved, tmp_path):
    other = trained_network().to(memory_format=torch.channels_last)
    facts = Facts.model_validate(FACTS)
    save_model(tmp_path / "again", other, facts, fold=1, seed=5, calibration=CALIBRATION)
    for path in saved.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_the_path_of_pretrained_weights_stays_on_its_machine(tmp_path):
    network = build_network(SECTIONS, 3, pretrained=False)
    facts = Facts.model_validate(
        {**FACTS, "backbone": {"class": "dermaffinity.models.ResNet18", "weights": "/a/b.pth"}}
    )
    save_model(tmp_path, network, facts, fold=0, seed=0, calibration=CALIBRATION)
    assert "b.pth" not in (tmp_path / "classifier.json").read_text()


def test_joined_models_are_the_single_ones_side_by_side(saved, tmp_path):
    facts = Facts.model_validate(FACTS)
    save_model(tmp_path / "other", trained_network(3), facts, fold=0, seed=5, calibration=CALIBRATION)
    join_models([tmp_path / "other", saved], tmp_path / "joined", temperature=1.5)
    assert read_description(saved).temperature == 1.25  # of its one fold model
    assert read_description(tmp_path / "joined").temperature == 1.5
    description, networks = load(tmp_path / "joined")
    assert [fold_model.fold for fold_model in description.fold_models] == [0, 1]
    for network, seed in zip(networks, (3, 0), strict=True):
        assert torch.equal(network.head.centers, trained_network(seed).head.centers)


def test_training_examples_are_read_back_exactly_and_go_along_when_models_are_joined(saved, with_examples, tmp_path):
    join_models([with_examples, saved], tmp_path / "joined", temperature=1.5)
    assert "a.jpg" not in (with_examples / "classifier.json").read_text()
    for found in (examples_of(with_examples)[0], examples_of(tmp_path / "joined")[0]):
        assert tuple(found.images) == EXAMPLES.images
        assert tuple(found.labels) == EXAMPLES.labels
        assert torch.equal(found.embedding, EXAMPLES.embedding)  # every digit
    assert examples_of(tmp_path / "joined")[1] is None


def test_a_model_from_before_there_were_examples_has_none(saved):
    rewrite(saved, lambda values: values["fold_models"][0].pop("examples"))
    assert examples_of(saved) == [None]
    load(saved)


def test_networks_are_loaded_without_a_look_at_the_examples(with_examples):
    (with_examples / "fold-1_seed-5_examples.safetensors").unlink()
    load(with_examples)
    with pytest.raises(DataError, match=r"fold-1_seed-5_examples\.safetensors: cannot be read"):
        examples_of(with_examples)


def resigned(folder, content):
    path = folder / "fold-1_seed-5_examples.safetensors"
    path.write_bytes(content)
    rewrite(folder, lambda values: values["fold_models"][0]["examples"].update(sha256=sha256(content).hexdigest()))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "do not fit together"),
        (save({"other": torch.zeros(1, 8)}, {"examples": "{}"}), "do not fit together"),
        (save({"embedding": torch.zeros(1, 8)}), "do not fit together"),
        (
            save({"embedding": torch.zeros(2, 8)}, {"examples": '{"images": ["a"], "labels": ["AK"]}'}),
            "images, labels and embedding differ in length",
        ),
        (
            save({"embedding": torch.zeros(1, 8)}, {"examples": '{"images": ["a"], "labels": ["MEL"]}'}),
            "not among the classes: MEL",
        ),
    ],
)
def test_examples_that_are_none_are_refused(with_examples, content, message):
    resigned(with_examples, content)
    with pytest.raises(DataError, match=message):
        examples_of(with_examples)


def test_examples_that_were_changed_are_refused(with_examples):
    path = with_examples / "fold-1_seed-5_examples.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged or changed, its SHA-256 is not the one in"):
        examples_of(with_examples)


def test_each_part_tells_the_next_its_size():
    network = build_network(SECTIONS, 5, pretrained=False)
    assert network.neck.projection.weight.shape == (8, SmallConvNet.num_features)
    assert network.head.centers.shape == (5, 2, 8)


def test_what_a_backbone_cannot_be_is_said_in_words():
    backbone = {"class": "dermaffinity.models.ResNet18", "weights": None, "pooled_stages": 7}
    with pytest.raises(ConfigError, match="backbone: pooled_stages must be from 1 to 4, got 7"):
        build_network(SECTIONS | {"backbone": backbone}, 3, pretrained=True)


def test_weights_that_are_about_to_be_replaced_are_not_read():
    sections = SECTIONS | {"backbone": {"class": "dermaffinity.models.ResNet18", "weights": "nowhere.pth"}}
    assert isinstance(build_network(sections, 3, pretrained=False).backbone, ResNet18)
    with pytest.raises(ConfigError, match=r"no file nowhere\.pth"):
        build_network(sections, 3, pretrained=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (None, r"model: no readable classifier\.json \(No such file"),
        ("", r"classifier\.json: damaged, not JSON"),
        ('{"format": 2, "classes"', r"classifier\.json: damaged, not JSON"),
        ("[1]", "does not say its format"),
        ('{"classes": []}', "does not say its format"),
        ('{"format": 4}', "model format 4, this version of dermaffinity reads 3; install a newer dermaffinity"),
        ('{"format": "old"}', "model format 'old', this version of dermaffinity reads 3; train or export"),
    ],
)
def test_a_description_that_cannot_be_read_is_named(saved, damage, message):
    (saved / "classifier.json").unlink()
    if damage is not None:
        (saved / "classifier.json").write_text(damage)
    with pytest.raises(DataError, match=message):
        read_description(saved)


def test_missing_and_unknown_keys_and_wrong_values_are_listed_all_at_once(saved):
    def change(values):
        del values["head"], values["data"]["license"]
        values["clases"] = values["preprocessing"]["size"] = 1
        values["preprocessing"]["image_size"] = "big"
        values["fold_models"][0]["file"] = "../other.safetensors"
        values["fold_models"][0]["folds"] = 1

    rewrite(saved, change)
    with pytest.raises(DataError, match=r"classifier\.json: this does not describe a classifier") as error:
        read_description(saved)
    assert sorted(problem.partition(":")[0] for problem in error.value.problems) == [
        "clases",
        "data.license",
        "fold_models.0.file",
        "fold_models.0.folds",
        "head",
        "preprocessing.image_size",
        "preprocessing.size",
    ]
    assert "clases: unknown key (did you mean 'classes'?)" in error.value.problems
    assert "fold_models.0.folds: unknown key (did you mean 'fold'?)" in error.value.problems


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values["classes"].reverse(),
        lambda values: values["fold_models"][0]["calibration"].update(temperature=3.0),
        lambda values: values.update(intended_use="Diagnosis"),
        lambda values: values["head"].update(sigma=0.8),
    ],
)
def test_a_description_that_was_edited_is_refused(saved, change):
    rewrite(saved, change, sign=False)
    with pytest.raises(DataError, match=r"classifier\.json: was changed after it was written"):
        read_description(saved)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda values: values["classes"].reverse(),
            "the calibration scores of fold-1_seed-5.safetensors are not those",
        ),
        (lambda values: values.update(malignant=["MEL"]), "not among the classes: MEL"),
        (lambda values: values.update(classes=["AK", "BCC", "AK"]), "two classes have the same name"),
        (lambda values: values.update(fold_models=[]), "no fold models"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(saved, change, problem):
    rewrite(saved, change)
    with pytest.raises(DataError, match=r"classifier\.json: contradicts itself") as error:
        read_description(saved)
    assert any(found.startswith(problem) for found in error.value.problems)


@pytest.mark.parametrize("damage", ["missing", "truncated", "one bit", "another model's"])
def test_weights_that_are_not_the_ones_described_are_refused(saved, tmp_path, damage):
    path = saved / "fold-1_seed-5.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()
    if damage == "another model's":
        facts = Facts.model_validate(FACTS)
        save_model(tmp_path / "x", trained_network(1), facts, fold=1, seed=5, calibration=CALIBRATION)
        shutil.copy(tmp_path / "x" / path.name, path)
    elif damage != "missing":
        path.write_bytes(content[:-9] if damage == "truncated" else content)
    message = "cannot be read" if damage == "missing" else "damaged or changed, its SHA-256 is not the one in"
    with pytest.raises(DataError, match=rf"fold-1_seed-5\.safetensors: {message}"):
        load(saved)


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("head", {"class": "dermaffinity.heads.LinearHead"}, "do not fit together"),
        ("head", SECTIONS["head"] | {"sigma": -1}, "head: sigma must be positive"),
        ("head", SECTIONS["head"] | {"centres": 2}, "do not fit together .*centres"),
        ("head", {"class": "dermaffinity.heads.Affinity"}, r"has no class 'Affinity' \(did you mean"),
        (
            "backbone",
            {"class": "dermaffinity.heads.LinearHead"},
            r"backbone: class 'dermaffinity\.heads\.LinearHead' is not a Backbone; dermaffinity has DigitNet, ",
        ),
        ("neck", {"class": "dermaffinity.cli.main"}, "has no class 'main'"),
    ],
)
def test_a_description_of_another_network_is_refused(saved, section, values, message):
    rewrite(saved, lambda description: description.update({section: values}))
    with pytest.raises(DataError, match=message):
        load(saved)


def test_a_model_from_elsewhere_can_neither_import_nor_call_what_it_names(saved, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Net: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    rewrite(saved, lambda values: values.update(backbone={"class": "evil.Net"}))
    with pytest.raises(DataError, match=r"backbone: class 'evil\.Net' is outside dermaffinity.*--plugins evil"):
        load(saved)
    assert not (tmp_path / "ran").exists()
    description = read_description(saved)
    with pytest.raises(DataError, match=r"backbone: class 'evil\.Net' is not a Backbone"):
        load_networks(saved, description, plugins=["evil"])
