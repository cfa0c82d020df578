"""The training loop of one fold."""

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from dermaffinity.config import TrainingSettings
from dermaffinity.data.dataset import ManifestDataset
from dermaffinity.data.loaders import Batches, EpochBatches, every_image_shuffled, load
from dermaffinity.data.mixing import MixedBatch, Mixing
from dermaffinity.errors import TrainingError
from dermaffinity.heads import Predictions
from dermaffinity.inference.predict import BATCH_SIZE, predict
from dermaffinity.losses import Loss
from dermaffinity.models import LesionNetwork
from dermaffinity.seeding import derive_seed
from dermaffinity.training.checkpoint import load_checkpoint, save_checkpoint
from dermaffinity.training.optim import build_optimizer, rates_to, set_learning_rate
from dermaffinity.training.step import Step
from dermaffinity.training.tricks import Trick

CHECKPOINT_SECONDS = 30.0
"""How much training an interruption may cost: on a GPU, saving after every epoch would take longer than training."""


class Trainer:
    """Fits one network with one loss, epoch by epoch, resumable.

    Args:
        network: With freshly built or pretrained weights.
        loss: Fits the network's head.
        settings: The config's ``training`` section.
        seed: Of order and augmentation.
        fabric: Launched; decides device, precision and number of processes.
        mixing: Mixes the images of each training batch.
        tricks: Change how the network is trained, each in turn.

    Examples:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from lightning_fabric import Fabric
        >>> import torch
        >>> from dermaffinity.config import TrainingSettings
        >>> from dermaffinity.data import EvaluationStage, ManifestDataset
        >>> from dermaffinity.heads import LinearHead
        >>> from dermaffinity.losses import CrossEntropyLoss
        >>> from dermaffinity.models import IdentityNeck, LesionNetwork, SmallConvNet
        >>> from dermaffinity.training import Trainer
        >>> network = LesionNetwork(SmallConvNet(), IdentityNeck(128), LinearHead(128, 2))
        >>> images = ManifestDataset([np.zeros((16, 16, 3), np.uint8)] * 8, np.arange(8) % 2, EvaluationStage(16))
        >>> settings = TrainingSettings(epochs=2, batch_size=4)
        >>> trainer = Trainer(
        ...     network, CrossEntropyLoss(torch.tensor([4, 4]), 128), settings, seed=0, fabric=Fabric(accelerator="cpu")
        ... )
        >>> trainer.fit(images, images, Path("checkpoint.pt"))
        >>> [row["epoch"] for row in trainer.history]
        [0.0, 1.0]
        >>> trainer.predict(images).probabilities.shape
        torch.Size([8, 2])
    """

    def __init__(
        self,
        network: LesionNetwork,
        loss: Loss,
        settings: TrainingSettings,
        *,
        seed: int,
        fabric: Fabric,
        mixing: Mixing | None = None,
        tricks: Sequence[Trick] = (),
    ) -> None:
        self.network = network
        self.loss = loss
        self.settings = settings
        self.seed = seed
        self.fabric = fabric
        self.mixing = mixing
        network.to(memory_format=torch.channels_last)
        optimizer = build_optimizer(network, loss, settings, fabric.device)
        self.objective, self.optimizer = fabric.setup(_Objective(network, loss), optimizer)
        self.step = Step(self.objective, self.optimizer, fabric, tricks)
        self.tricks = tuple(tricks)
        for trick in tricks:
            trick.on_start(network)
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] = {"score": -1.0, "epoch": -1, "network": None}

    def fit(
        self,
        training: ManifestDataset,
        validation: ManifestDataset,
        checkpoint: Path,
        *,
        on_images: Callable[[int], None] = lambda count: None,
        on_epoch: Callable[[list[dict[str, float]]], None] = lambda history: None,
    ) -> None:
        """Trains to the last epoch, or until the validation score has not risen for ``patience`` epochs.

        Args:
            training: Images to learn from.
            validation: Inner validation images, for the loss's own adaptation and for early stopping.
            checkpoint: Written after an epoch when `CHECKPOINT_SECONDS` have passed; where it exists, training goes on
                from it.
            on_images: Told the number of images after each step.
            on_epoch: Told the history so far, one dict an epoch, after each epoch and once at the start.

        Raises:
            TrainingError: When a term is not finite, or the loss sees that training cannot succeed.
        """
        if checkpoint.exists():
            self._restore(load_checkpoint(checkpoint))
        else:
            self._start_head(training)
        on_epoch(self.history)
        settings, fabric = self.settings, self.fabric
        batches = EpochBatches(
            training.labels,
            settings.batch_size,
            seed=self.seed,
            balanced=settings.balanced_sampling,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
        )
        loader = load(training, batches, workers=settings.workers, device=fabric.device)
        saved = time.monotonic()
        for epoch in range(len(self.history), settings.epochs):
            if self._should_stop(epoch):
                break
            # Whatever draws random numbers inside the network then draws the same ones after an interruption.
            torch.manual_seed(derive_seed("epoch", self.seed, epoch))
            batches.epoch = epoch
            self.loss.on_epoch_start(epoch, settings.epochs)
            row = {"epoch": float(epoch), **self._train_epoch(loader, len(batches), epoch, on_images)}
            self._share_buffers()
            if self._is_validated(epoch):
                row |= self._validate(validation, epoch)
            self.history.append(row)
            if fabric.is_global_zero and time.monotonic() - saved >= CHECKPOINT_SECONDS:
                save_checkpoint(checkpoint, self._state())
                saved = time.monotonic()
            fabric.barrier()
            on_epoch(self.history)
        self.network.load_state_dict(
            self._result.state_dict() if self.best["network"] is None else self.best["network"]
        )
        self.tricks = ()

    @torch.inference_mode()
    def predict(self, dataset: ManifestDataset) -> Predictions:
        """The network's view of every image, in order, in evaluation mode and float32, the same on every process."""
        return predict(
            self._result,
            dataset,
            device=self.fabric.device,
            workers=self.settings.workers,
            rank=self.fabric.global_rank,
            world_size=self.fabric.world_size,
        )

    def _is_validated(self, epoch: int) -> bool:
        settings, done = self.settings, epoch + 1
        each = settings.patience is not None or self.loss.learns_from_validation
        return each or done % settings.validate_every == 0 or done == settings.epochs

    def _validate(self, validation: ManifestDataset, epoch: int) -> dict[str, float]:
        predictions = self.predict(validation)
        try:
            watched = self.loss.on_epoch_end(epoch, predictions)
        except ValueError as error:
            raise TrainingError(f"training stopped after epoch {epoch + 1}: {error}") from error
        score = _balanced_accuracy(predictions)
        self._keep_best(score, epoch)
        return {**watched, "validation_balanced_accuracy": score}

    @property
    def _result(self) -> LesionNetwork:
        """The network that would be kept now."""
        network = self.network
        for trick in self.tricks:
            network = trick.result(network)
        return network

    @torch.no_grad()
    def _start_head(self, training: ManifestDataset) -> None:
        if not self.network.head.starts_from_samples:
            return
        # Normalization has no running statistics yet, so the batches' own are used, as in the first step of training.
        # Each batch is a random draw of all images: rows come sorted by class, and the statistics of a batch of one
        # class would take away what tells that class from the others.
        # Every process sees all images and draws the same, because all are seeded alike.
        self.network.train()
        batches = every_image_shuffled(len(training), BATCH_SIZE, seed=derive_seed("start", self.seed))
        loader = load(training, batches, workers=self.settings.workers, device=self.fabric.device)
        seen = [(self.network(images.to(self.fabric.device)).embedding, labels) for images, labels in loader]
        embedding, labels = (torch.cat(column) for column in zip(*seen, strict=True))
        self.network.head.start_from(embedding, labels.to(embedding.device))

    def _train_epoch(
        self, loader: Batches, steps: int, epoch: int, on_images: Callable[[int], None]
    ) -> dict[str, float]:
        self.objective.train()
        terms: list[Tensor] = []  # on the device until the epoch ends, so that no step waits for the one before
        started = time.perf_counter()
        seen = 0
        generator = torch.Generator().manual_seed(
            derive_seed("mixing", self.seed, epoch, self.fabric.global_rank)  # every process mixes its own batch
        )
        for step, (images, labels) in enumerate(loader):
            done = epoch + step / steps
            factor = set_learning_rate(self.optimizer, done, self.settings)
            images, labels = images.to(self.fabric.device), labels.to(self.fabric.device)
            for trick in self.tricks:
                images = trick.on_images(images, done / self.settings.epochs)
            batch = self._batch(images, labels, generator)
            terms.append(self.step(batch))
            for trick in self.tricks:
                trick.on_step(self.network)
            seen += len(labels)
            on_images(len(labels) * self.fabric.world_size)
        values = torch.stack(terms).double().cpu()  # (steps, T); batches are equally large
        _check_finite(values, self.step.names, epoch)
        means = dict(zip(self.step.names, values.mean(dim=0).tolist(), strict=True))
        return {
            "loss": sum(means.values()),
            **means,
            "learning_rate": self.settings.learning_rate * factor,
            "images_per_second": seen * self.fabric.world_size / (time.perf_counter() - started),
        }

    def _batch(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> MixedBatch:
        """The batch as it is trained on."""
        batch = MixedBatch(images, labels)
        if self.mixing is not None:
            batch = self.mixing(images, labels, self.loss.class_counts, generator)
        return batch._replace(images=batch.images.contiguous(memory_format=torch.channels_last))

    def _share_buffers(self) -> None:
        # Every process has normalized its own images; the statistics of the first are the ones that are saved.
        if self.fabric.world_size > 1:
            for buffer in (*self.network.buffers(), *self._result.buffers()):
                torch.distributed.broadcast(buffer, src=0)

    def _should_stop(self, epoch: int) -> bool:
        patience = self.settings.patience
        return patience is not None and self.best["epoch"] >= 0 and epoch - self.best["epoch"] > patience

    def _keep_best(self, score: float, epoch: int) -> None:
        if self.settings.patience is not None and score > self.best["score"]:
            weights = {name: tensor.detach().cpu().clone() for name, tensor in self._result.state_dict().items()}
            self.best = {"score": score, "epoch": epoch, "network": weights}

    def _state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
            "best": self.best,
            "tricks": [trick.state_dict() for trick in self.tricks],
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.loss.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        rates_to(self.optimizer, self.fabric.device)
        self.history = copy.deepcopy(state["history"])
        self.best = state["best"]
        for trick, kept in zip(self.tricks, state["tricks"], strict=True):
            trick.load_state_dict(kept)


class _Objective(nn.Module):
    """Network and loss as one module, so that whatever a loss learns is optimized and synchronized as well."""

    def __init__(self, network: LesionNetwork, loss: Loss) -> None:
        super().__init__()
        self.network = network
        self.loss = loss

    def forward(
        self, images: Tensor, labels: Tensor, other_labels: Tensor | None, share: Tensor | None
    ) -> dict[str, Tensor]:
        output = self.network(images)
        with torch.autocast(device_type=images.device.type, enabled=False):
            terms = self.loss(output, labels)
            if other_labels is None or share is None:
                return terms
            others = self.loss(output, other_labels)
            return {name: share * term + (1 - share) * others[name] for name, term in terms.items()}


def _check_finite(values: Tensor, names: tuple[str, ...], epoch: int) -> None:
    if values.isfinite().all():
        return
    step = int((~values.isfinite()).any(dim=1).nonzero()[0])
    found = [f"{name} = {value}" for name, value in zip(names, values[step].tolist(), strict=True)]
    broken = ", ".join(term for term, finite in zip(found, values[step].isfinite(), strict=True) if not finite)
    raise TrainingError(
        f"training stopped in epoch {epoch + 1}, step {step + 1}: {broken} is not finite. Lower "
        "training.learning_rate, or use training.precision=32-true"
    )


def _balanced_accuracy(predictions: Predictions) -> float:
    from sklearn.metrics import recall_score

    labels = predictions.labels.numpy()
    predicted = predictions.probabilities.argmax(dim=1).numpy()
    present = sorted(set(labels.tolist()))
    return float(recall_score(labels, predicted, labels=present, average="macro", zero_division=0))
