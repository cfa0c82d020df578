"""The loop of one fold: resuming, stopping early, and every way to fail."""

import errno
import os
from itertools import pairwise

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from dermaffinity import files
from dermaffinity.config import TrainingSettings
from dermaffinity.data.augmentation import LesionAugmentation
from dermaffinity.data.dataset import ManifestDataset
from dermaffinity.data.mixing import MixedBatch, Mixing, Mixup, Remix
from dermaffinity.data.transforms import EvaluationStage, TrainingStage
from dermaffinity.errors import DataError, TrainingError
from dermaffinity.heads import AffinityHead, LinearHead
from dermaffinity.losses import AffinityLoss, CoSenLoss, CrossEntropyLoss
from dermaffinity.models import IdentityNeck, LesionNetwork
from dermaffinity.models.backbones import Backbone
from dermaffinity.training import trainer as module
from dermaffinity.training.trainer import Trainer
from dermaffinity.training.tricks import MovingAverage, SharpnessAware, Trick

CLASSES = 3


class NoisyBackbone(Backbone):
    """Draws random numbers in training."""

    num_features = 4

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(),
        )

    def forward(self, images):
        return self.layers(images)


def dataset(number, transform, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(number) % CLASSES
    images = [np.clip(rng.normal(60 * label + 60, 40, (16, 16, 3)), 0, 255).astype(np.uint8) for label in labels]
    return ManifestDataset(images, labels, transform, seed=seed)


def training_images():
    return dataset(25, TrainingStage(LesionAugmentation(16)))


def validation_images():
    return dataset(10, EvaluationStage(16), seed=1)


@pytest.fixture(autouse=True)
def every_epoch_is_saved(monkeypatch):
    monkeypatch.setattr("dermaffinity.training.trainer.CHECKPOINT_SECONDS", 0.0)


def make_trainer(loss=CoSenLoss, mixing=None, head=None, tricks=(), **settings):
    torch.manual_seed(0)
    network = LesionNetwork(NoisyBackbone(), IdentityNeck(4), head or LinearHead(4, CLASSES))
    built = loss(torch.tensor([9.0, 8.0, 8.0]), 4)
    settings = TrainingSettings(**{"epochs": 4, "batch_size": 8, "learning_rate": 0.05, **settings})
    fabric = Fabric(accelerator="cpu", devices=1)
    return Trainer(network, built, settings, seed=3, fabric=fabric, mixing=mixing, tricks=tricks)


EXTRAS = {
    "average": lambda: {"tricks": [MovingAverage(decay=0.9)]},
    "sharpness": lambda: {"tricks": [SharpnessAware(radius=0.05)]},
    "mixing": lambda: {"mixing": Mixup(alpha=1.0)},
    "all": lambda: {
        "tricks": [MovingAverage(decay=0.9), SharpnessAware(radius=0.05)],
        "mixing": Remix(alpha=1.0, imbalance=1.0),
    },
}


def fit(trainer, checkpoint, **callbacks):
    trainer.fit(training_images(), validation_images(), checkpoint, **callbacks)
    return trainer.network.state_dict()


def without_speed(history):
    return [{name: value for name, value in row.items() if name != "images_per_second"} for row in history]


class InterruptionError(Exception):
    pass


def stop_after(epochs):
    def on_epoch(history):
        if len(history) == epochs:
            raise InterruptionError

    return on_epoch


@pytest.mark.parametrize("sorted_rows", [True, False])
def test_centers_start_on_images_of_their_class_however_the_rows_are_sorted(sorted_rows):
    # One class is one color, and normalization takes the mean color of a batch away.
    labels = torch.arange(CLASSES).repeat_interleave(80) if sorted_rows else torch.arange(240) % CLASSES
    noise = np.random.default_rng(0).normal(0, 20, (240, 16, 16, 3))
    images = list(np.clip(60 + 60 * labels.numpy()[:, None, None, None] + noise, 0, 255).astype(np.uint8))
    trainer = make_trainer(AffinityLoss, head=AffinityHead(4, CLASSES, centers_per_class=3, start="samples"))
    trainer.network.backbone.layers[-1].p = 0.0  # no dropout
    trainer._start_head(ManifestDataset(images, labels, EvaluationStage(16)))
    mixed = torch.stack([EvaluationStage(16)(image) for image in images])
    found = trainer.network(mixed).scores.argmax(dim=1)
    recall = [(found[labels == label] == label).float().mean().item() for label in range(CLASSES)]
    assert min(recall) > 0.9


@pytest.mark.parametrize(("workers", "resumed_workers"), [(0, 2), (2, 0)])
def test_an_interruption_and_another_number_of_workers_change_nothing(tmp_path, workers, resumed_workers):
    whole = make_trainer()
    expected = fit(whole, tmp_path / "whole.pt")

    with pytest.raises(InterruptionError):
        fit(make_trainer(workers=workers), tmp_path / "cut.pt", on_epoch=stop_after(2))
    resumed = make_trainer(workers=resumed_workers)
    found = fit(resumed, tmp_path / "cut.pt")
    assert without_speed(resumed.history) == without_speed(whole.history)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert torch.equal(resumed.loss.cost, whole.loss.cost)


def test_patience_keeps_the_best_epoch_even_over_an_interruption(tmp_path, monkeypatch):
    scores = [0.2, 0.6, 0.5, 0.6, 0.9, 0.9]  # the second is best when the fourth has not risen above it

    def scored(trainer, checkpoint, after=None):
        weights = []
        given = iter(scores[len(trainer.history) if after is None else after :])

        def score(predictions):
            weights.append({name: value.clone() for name, value in trainer.network.state_dict().items()})
            return next(given)

        monkeypatch.setattr(module, "_balanced_accuracy", score)
        return weights

    whole = make_trainer(epochs=6, patience=2)
    weights = scored(whole, None)
    kept = fit(whole, tmp_path / "whole.pt")
    assert [row["validation_balanced_accuracy"] for row in whole.history] == scores[:4]
    assert all(torch.equal(kept[name], weights[1][name]) for name in kept)
    assert any(not torch.equal(kept[name], weights[3][name]) for name in kept)

    cut = make_trainer(epochs=6, patience=2)
    scored(cut, None)
    with pytest.raises(InterruptionError):
        fit(cut, tmp_path / "cut.pt", on_epoch=stop_after(3))
    resumed = make_trainer(epochs=6, patience=2)
    scored(resumed, None, after=3)
    found = fit(resumed, tmp_path / "cut.pt")
    assert len(resumed.history) == 4
    assert all(torch.equal(found[name], kept[name]) for name in kept)

    finished = make_trainer(epochs=6, patience=2)  # interrupted after the last epoch, before the results were written
    found = fit(finished, tmp_path / "cut.pt")
    assert len(finished.history) == 4
    assert all(torch.equal(found[name], kept[name]) for name in kept)


def test_a_loss_that_is_not_finite_stops_the_run_and_is_named(tmp_path):
    class Broken(CrossEntropyLoss):
        def forward(self, output, labels):
            return {**super().forward(output, labels), "extra": output.scores.sum() * float("inf")}

    with pytest.raises(TrainingError, match=r"stopped in epoch 1, step 1: extra = -?inf is not finite. Lower"):
        fit(make_trainer(Broken), tmp_path / "checkpoint.pt")
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_plateau_stops_the_run_with_the_advice_of_the_loss(tmp_path):
    class Flat(CrossEntropyLoss):
        def on_epoch_end(self, epoch, validation):
            if epoch == 1:
                raise ValueError("the hinge has no gradient; raise sigma")
            return {}

    with pytest.raises(TrainingError, match="stopped after epoch 2: the hinge has no gradient; raise sigma"):
        fit(make_trainer(Flat, validate_every=1), tmp_path / "checkpoint.pt")


def test_a_full_disk_at_the_checkpoint_loses_nothing(tmp_path, monkeypatch):
    expected = fit(make_trainer(), tmp_path / "whole.pt")
    full = False

    def fdopen(*arguments, **options):
        file = os_fdopen(*arguments, **options)
        if full:

            class Full:
                def write(self, content):
                    file.write(content[: len(content) // 2])
                    raise OSError(errno.ENOSPC, "No space left on device")

                __enter__ = lambda self: self  # noqa: E731
                __exit__ = lambda self, *error: file.close()  # noqa: E731

            return Full()
        return file

    os_fdopen = os.fdopen
    monkeypatch.setattr(files.os, "fdopen", fdopen)

    def fill(history):
        nonlocal full
        full = len(history) == 2

    with pytest.raises(DataError, match=r"cut.pt: the disk is full. Free some space"):
        fit(make_trainer(), tmp_path / "cut.pt", on_epoch=fill)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.pt", "whole.pt"]
    full = False
    resumed = make_trainer()
    seen = []
    found = fit(resumed, tmp_path / "cut.pt", on_epoch=lambda history: seen.append(len(history)))
    assert seen == [2, 3, 4]
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", "half"])
def test_a_damaged_checkpoint_is_named_with_what_to_do(tmp_path, content):
    checkpoint = tmp_path / "checkpoint.pt"
    if content == "half":
        fit(make_trainer(epochs=1), checkpoint)
        content = checkpoint.read_bytes()[: checkpoint.stat().st_size // 2]
    checkpoint.write_bytes(content)
    with pytest.raises(DataError, match=r"checkpoint.pt: not a readable checkpoint.*Delete it to train this fold anew"):
        fit(make_trainer(), checkpoint)


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_interruption_changes_nothing_with_any_way_of_training(tmp_path, extra):
    whole = make_trainer(**EXTRAS[extra]())
    expected = fit(whole, tmp_path / "whole.pt")
    plain = fit(make_trainer(), tmp_path / "plain.pt")
    assert any(not torch.equal(plain[name], expected[name]) for name in expected), "it has an effect"

    with pytest.raises(InterruptionError):
        fit(make_trainer(**EXTRAS[extra]()), tmp_path / "cut.pt", on_epoch=stop_after(2))
    resumed = make_trainer(**EXTRAS[extra]())
    found = fit(resumed, tmp_path / "cut.pt")
    assert without_speed(resumed.history) == without_speed(whole.history)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_result_is_the_moving_average_of_the_weights_over_the_steps(tmp_path):
    seen = []

    class Watched(CrossEntropyLoss):
        def forward(self, output, labels):
            seen.append({name: value.clone() for name, value in trainer.network.state_dict().items()})
            return super().forward(output, labels)

    trainer = make_trainer(Watched, tricks=[MovingAverage(decay=0.75)], epochs=2)
    fit(trainer, tmp_path / "averaged.pt")
    average = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    trainer = make_trainer(CrossEntropyLoss, epochs=2)
    last = fit(trainer, tmp_path / "last.pt")
    # The weights before the second step are those after the first, and so on.
    after_each = [state["head.linear.weight"] for state in seen[1:]] + [last["head.linear.weight"]]
    expected = after_each[0]
    for weights in after_each[1:]:
        expected = 0.75 * expected + 0.25 * weights
    torch.testing.assert_close(average["head.linear.weight"], expected)


def test_a_mixed_objective_is_the_mean_of_both_labels_objectives(tmp_path):
    class Fixed(Mixing):
        def __call__(self, images, labels, class_counts, generator):
            assert class_counts.tolist() == [9, 8, 8]
            return MixedBatch(images, labels, labels.flip(0), torch.tensor(0.25))

    terms = []

    class Watched(CrossEntropyLoss):
        def forward(self, output, labels):
            terms.append(super().forward(output, labels))
            return terms[-1]

    trainer = make_trainer(Watched, mixing=Fixed(), epochs=1)
    fit(trainer, tmp_path / "checkpoint.pt")
    pairs = [first["cross_entropy"] * 0.25 + second["cross_entropy"] * 0.75 for first, second in pairwise(terms)][::2]
    assert trainer.history[0]["loss"] == pytest.approx(torch.stack(pairs).mean().item())


def test_statistics_of_normalization_count_each_batch_once_with_sharpness(tmp_path):
    state = fit(make_trainer(tricks=[SharpnessAware(radius=0.05)]), tmp_path / "checkpoint.pt")
    assert state["backbone.layers.1.num_batches_tracked"] == 4 * (25 // 8)


def test_a_checkpoint_is_written_only_when_enough_would_be_lost(tmp_path, monkeypatch):
    now = iter(range(0, 1000, 10))  # asked at the start, after each epoch, and after each saving
    monkeypatch.setattr("dermaffinity.training.trainer.time.monotonic", lambda: next(now))
    monkeypatch.setattr("dermaffinity.training.trainer.CHECKPOINT_SECONDS", 20.0)
    epochs = []
    save = lambda path, state: epochs.append(len(state["history"]))  # noqa: E731
    monkeypatch.setattr("dermaffinity.training.trainer.save_checkpoint", save)
    fit(make_trainer(epochs=6), tmp_path / "checkpoint.pt")
    assert epochs == [2, 4, 6]


def test_a_trick_acts_at_its_moments_and_what_it_keeps_is_restored(tmp_path):
    class Counting(Trick):
        def __init__(self):
            super().__init__()
            self.register_buffer("counts", torch.zeros(3, dtype=torch.long))

        def on_start(self, network):
            self.counts[0] += 1

        def on_gradient(self, objective, backward):
            assert all(parameter.grad is not None for parameter in objective.parameters())
            self.counts[1] += 1

        def on_step(self, network):
            self.counts[2] += 1

    trick = Counting()
    fit(make_trainer(tricks=[trick]), tmp_path / "whole.pt")
    assert trick.counts.tolist() == [1, 12, 12]  # 4 epochs of 3 steps
    with pytest.raises(InterruptionError):
        fit(make_trainer(tricks=[Counting()]), tmp_path / "cut.pt", on_epoch=stop_after(2))
    resumed = Counting()
    fit(make_trainer(tricks=[resumed]), tmp_path / "cut.pt")
    assert resumed.counts.tolist() == [1, 12, 12]


def test_a_trick_replaces_the_gradient_of_a_step(tmp_path):
    class Without(Trick):
        def on_gradient(self, objective, backward):
            for parameter in objective.parameters():
                parameter.grad.zero_()

    trainer = make_trainer(tricks=[Without()], weight_decay=0)
    before = {name: value.detach().clone() for name, value in trainer.network.named_parameters()}
    fit(trainer, tmp_path / "checkpoint.pt")
    assert all(torch.equal(value, before[name]) for name, value in trainer.network.named_parameters())


def test_fewer_looks_at_the_validation_images_change_no_weight_and_the_last_epoch_is_always_seen(tmp_path):
    each, few = (make_trainer(CrossEntropyLoss, epochs=5, validate_every=every) for every in (1, 3))
    first, second = (fit(trainer, tmp_path / f"{trainer.settings.validate_every}.pt") for trainer in (each, few))
    assert all(torch.equal(first[name], second[name]) for name in first)
    scores = [[row.get("validation_balanced_accuracy") for row in trainer.history] for trainer in (each, few)]
    assert None not in scores[0]
    assert scores[1] == [None, None, scores[0][2], None, scores[0][4]]


@pytest.mark.parametrize(("loss", "settings"), [(CoSenLoss, {}), (CrossEntropyLoss, {"patience": 9})])
def test_a_training_that_depends_on_the_validation_images_sees_them_after_each_epoch(tmp_path, loss, settings):
    trainer = make_trainer(loss, validate_every=3, **settings)
    fit(trainer, tmp_path / "checkpoint.pt")
    assert all("validation_balanced_accuracy" in row for row in trainer.history)


def test_a_trick_changes_the_images_of_a_step_by_how_far_training_is(tmp_path):
    seen = []

    class Half(Trick):
        def on_images(self, images, progress):
            seen.append(progress)
            return images[..., ::2, ::2]

    def sizes(module, arguments):
        assert arguments[0].shape[2:] == ((8, 8) if module.training else (16, 16))

    trainer = make_trainer(tricks=[Half()], epochs=2)
    trainer.network.register_forward_pre_hook(sizes)
    fit(trainer, tmp_path / "checkpoint.pt")
    assert seen == pytest.approx([step / 6 for step in range(6)])
