"""The jobs of configs with a network: trained, scored and saved, from a checkpoint where there is one."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from torch import Tensor

from dermaffinity.config import NetworkConfig
from dermaffinity.data.dataset import ManifestDataset
from dermaffinity.data.manifest import Manifest
from dermaffinity.data.transforms import EvaluationStage, TrainingStage
from dermaffinity.errors import ConfigError
from dermaffinity.experiments.frozen import FrozenFeatures
from dermaffinity.experiments.job import PATIENCE, Images, Job, keep, parts
from dermaffinity.experiments.progress import JobProgress
from dermaffinity.experiments.results import prediction_table, write_table
from dermaffinity.files import hold, sweep_partial, write_json
from dermaffinity.heads import Predictions
from dermaffinity.heads.base import log_shares
from dermaffinity.inference.metadata import MetadataEvidence
from dermaffinity.inference.model_folder import (
    HASH_DIGITS,
    Facts,
    TrainingExamples,
    build_network,
    load_networks,
    read_description,
    save_model,
)
from dermaffinity.inference.predict import predict
from dermaffinity.models import LesionNetwork
from dermaffinity.seeding import derive_seed, seed_everything
from dermaffinity.training.calibration import calibrate, learned_prior
from dermaffinity.training.memory import training_memory
from dermaffinity.training.trainer import Trainer

Stage = EvaluationStage | TrainingStage | Callable[[np.ndarray], Tensor]


@dataclass(frozen=True)
class NetworkJob(Job):
    """Trains, scores and saves a network; see `Job`."""

    config: NetworkConfig

    def memory(self) -> float:
        """See `Job.memory`."""
        return training_memory(self.config)

    def check(self, manifest: Manifest) -> None:
        """Refuses metadata that the manifest does not have, and weights that cannot be had."""
        own = manifest.metadata
        if missing := [name for name in self.config.metadata or () if name not in own]:
            raise ConfigError(
                f"metadata: {manifest.name} has no column of metadata {', '.join(missing)}; those there: "
                f"{', '.join(own) or 'none'}"
            )
        if not (self.files.finished or self.files.started):
            build_network(self.config.resolved(), len(manifest.classes), pretrained=True, plugins=self.config.plugins)

    @property
    def shared(self) -> str:
        """Decoded images, or none."""
        return "" if self.config.training.freeze_backbone else "decoded"

    def prepare(self, images: Images, progress: JobProgress) -> None:
        """Decodes the images, unless a network learns from features."""
        if not self.config.training.freeze_backbone:
            images.decoded()

    def run(self, images: Images, progress: JobProgress) -> None:
        """See `Job.run`."""
        files, fabric = self.files, _fabric(self.config)
        # Under torchrun one process holds the folder for all.
        with hold(files.path, PATIENCE) if fabric.is_global_zero else nullcontext():
            if fabric.is_global_zero:
                sweep_partial(files.path)
            if not files.finished:
                _train_and_score(self, images, fabric, progress)
            if self.external:
                _score_external(self, images, fabric, progress)


def _train_and_score(job: NetworkJob, images: Images, fabric: Fabric, progress: JobProgress) -> None:
    config, classes = job.config, images.manifest.classes
    settings = config.training
    rows, labels = images.rows, images.labels
    fit_rows, inner_rows, test_rows = parts(job, rows)

    seed_everything(derive_seed("initialization", job.seed, job.fold))
    network = build_network(config.resolved(), len(classes), pretrained=True, plugins=config.plugins)
    counts = torch.bincount(torch.as_tensor(labels[fit_rows]), minlength=len(classes))
    loss = config.loss.build(class_counts=counts, embedding_dim=network.head.embedding_dim)
    mixing = None if config.mixing is None else config.mixing.build()
    seed = derive_seed("training", job.seed, job.fold)
    learner, seen_as, fixed, augmented = _inputs(job, images, network, fabric, progress)
    tricks = [trick.build() for trick in config.tricks()]
    trainer = Trainer(learner, loss, settings, seed=seed, fabric=fabric, mixing=mixing, tricks=tricks)

    def dataset(which: np.ndarray, stage: Stage) -> ManifestDataset:
        return ManifestDataset([seen_as[i] for i in which], labels[which], stage, seed=trainer.seed)

    images_per_epoch = len(fit_rows) // settings.batch_size * settings.batch_size or len(fit_rows)
    progress.start(job.label, settings.epochs * images_per_epoch)

    def on_epoch(history: list[dict[str, float]]) -> None:
        progress.skip(len(history) * images_per_epoch)
        if history:
            if fabric.is_global_zero:
                write_table(pd.DataFrame(history), job.files.history)
            last = history[-1]
            progress.epoch(len(history), settings.epochs, last["loss"], last.get("validation_balanced_accuracy"))

    inner = dataset(inner_rows, fixed)
    trainer.fit(dataset(fit_rows, augmented), inner, job.files.checkpoint, on_images=progress.images, on_epoch=on_epoch)

    def table(which: np.ndarray, predictions: Predictions) -> pd.DataFrame:
        probabilities = predictions.probabilities.numpy()
        return prediction_table(rows.iloc[which], probabilities, classes, fold=job.fold, seed=job.seed)

    learned, seen = trainer.predict(dataset(fit_rows, fixed)), trainer.predict(inner)
    chosen: Mapping[str, float] = {}
    if config.refit is not None:
        # Predictions are on the CPU. While the head is there as well, a network on a GPU cannot predict.
        chosen = config.refit.build()(network.head.cpu(), learned, seen, seed=derive_seed("refit", seed))
        network.head.to(fabric.device)
        seen = trainer.predict(inner)
    validation = table(inner_rows, seen)
    scored = validation if job.scored != "test" else table(test_rows, trainer.predict(dataset(test_rows, fixed)))
    examples = rows.iloc[fit_rows]
    assumed = learned_prior(loss, balanced_sampling=settings.balanced_sampling, refitted=config.refit is not None)
    if fabric.is_global_zero:
        strength = config.prior_strength
        save_model(
            job.files.path,
            network,
            _facts(config, images.manifest, everything=job.scored == "none"),
            fold=job.fold,
            seed=job.seed,
            calibration=calibrate(
                seen, network.head, classes, log_shares=log_shares(counts).double().numpy(), assumed=assumed
            ),
            metadata=MetadataEvidence.of(examples, config.metadata, classes) if config.metadata else None,
            # What is chosen is chosen for a fold with all its seeds, once they are there.
            strength=None if strength == "chosen" else strength,
            examples=TrainingExamples(examples["image"].tolist(), examples["label"].tolist(), learned.embedding),
        )
        reported = {f"training.{name}": last[name] for last in trainer.history[-1:] for name in loss.acts_from}
        reported |= {f"refit.{name}": value for name, value in chosen.items()}
        metrics = keep(job, images.manifest, {"validation": validation, "predictions": scored})
        write_json(job.files.path / "metrics.json", metrics | reported)
        job.files.checkpoint.unlink(missing_ok=True)  # the job is finished from here on
    fabric.barrier()


def _inputs(
    job: NetworkJob, images: Images, network: LesionNetwork, fabric: Fabric, progress: JobProgress
) -> tuple[LesionNetwork, Sequence[np.ndarray], Stage, Stage]:
    """What learns, what it is given of every development image, and the stages of evaluation and training."""
    config = job.config
    if config.training.freeze_backbone:
        features = _features(job, images, "development", network, fabric, progress)
        return network.on_features(), list(features), torch.from_numpy, torch.from_numpy
    fixed = EvaluationStage(config.data.image_size)
    augmentation = config.augmentation.build(image_size=config.data.image_size)
    return network, images.decoded(), fixed, TrainingStage(augmentation) if augmentation.random else fixed


def _features(
    job: NetworkJob, images: Images, part: str, network: LesionNetwork, fabric: Fabric, progress: JobProgress
) -> np.ndarray:
    """(N, F, 1, 1) of the development or external rows, from a backbone that does not learn."""
    backbone = network.backbone.to(fabric.device).to(memory_format=torch.channels_last).eval()
    frozen = FrozenFeatures(job.folder.parent / "features", job.config, backbone)
    key = (part, frozen.folder.name)
    if key not in images.features:
        rows, content = images.development() if part == "development" else images.external()
        images.features[key] = frozen.of(rows, content, progress)
    return images.features[key]


def _score_external(job: NetworkJob, images: Images, fabric: Fabric, progress: JobProgress) -> None:
    """Scores the external images with the finished model, once."""
    if job.files.external.exists():
        return
    config = job.config
    description = read_description(job.files.path)
    (network,) = load_networks(job.files.path, description, job.config.plugins)
    network = network.to(fabric.device).to(memory_format=torch.channels_last)
    rows, content = images.external()
    dataset = ManifestDataset(content, images.indices(rows), EvaluationStage(config.data.image_size))
    if config.training.freeze_backbone:
        features = _features(job, images, "external", network, fabric, progress)
        dataset = ManifestDataset(list(features), images.indices(rows), torch.from_numpy)
        network = network.on_features()
    progress.start(f"{job.label}, external images", len(rows))
    predictions = predict(
        network,
        dataset,
        device=fabric.device,
        workers=config.training.workers,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        on_images=progress.images,
    )
    if fabric.is_global_zero:
        table = prediction_table(
            rows, predictions.probabilities.numpy(), description.classes, fold=job.fold, seed=job.seed
        )
        write_table(table, job.files.external)
    fabric.barrier()


def _facts(config: NetworkConfig, manifest: Manifest, *, everything: bool) -> Facts:
    """What the classifier's file says about it, but for what belongs to one fold."""
    resolved = config.resolved()
    if everything:  # a test set of the dataset's own is trained on as well
        manifest = replace(manifest, protocol="group")
    return Facts.model_validate(
        {
            "name": config.name,
            "classes": manifest.classes,
            "malignant": manifest.malignant,
            "cross_validated": not everything,
            "preprocessing": {"image_size": config.data.image_size, "lesion_crop": config.data.lesion_crop},
            **{section: resolved[section] for section in ("backbone", "neck", "head")},
            "data": {
                "name": manifest.name,
                "split_hash": manifest.split_hash,
                "images_digest": manifest.images_digest,
                "image_hashes": " ".join(sorted(manifest.trained_on()["sha256"].str[:HASH_DIGITS])),
                "class_counts": manifest.class_counts(),
                "source": manifest.source,
                "license": manifest.license,
            },
        }
    )


def _fabric(config: NetworkConfig) -> Fabric:
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces the precision for every fold
    # One device, unless torchrun says otherwise. Fabric must not guess: within a job of Slurm or Ray, that several
    # processes were started does not mean that they train one network.
    together = "TORCHELASTIC_RUN_ID" in os.environ
    devices, processes = (int(os.environ.get(name, 1)) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    fabric = Fabric(
        devices=devices,
        num_nodes=processes // devices,
        precision=config.training.precision,  # type: ignore[arg-type]
        plugins=[TorchElasticEnvironment() if together else LightningEnvironment()],
    )
    fabric.launch()
    _check_one_precision(fabric, config.training.precision)
    return fabric


def _check_one_precision(fabric: Fabric, precision: str) -> None:
    """Refuses to train one network in several precisions: each process decided ``auto`` for the machine it is on."""
    if fabric.world_size == 1:
        return
    decided = [""] * fabric.world_size
    torch.distributed.all_gather_object(decided, precision)
    if len(counts := Counter(decided)) > 1:
        found = " and ".join(f"{name} on {count}" for name, count in sorted(counts.items()))
        # The experiment's file has the decision of the first process already.
        ways = f"--set training.precision={decided[0]}"
        if decided[0] != "32-true":
            ways += ", or in a new experiment float32: --set name=NEW --set training.precision=32-true"
        raise ConfigError(
            f"training.precision: auto is {found} of the {len(decided)} processes that train together, because their "
            f"machines differ. Take for all that of the first: {ways}"
        )
