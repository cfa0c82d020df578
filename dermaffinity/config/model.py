"""What a config consists of: its sections and their settings."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from dermaffinity.config.parts import build, flatten, hyper_parameters, import_class


def _once(names: tuple[str, ...]) -> tuple[str, ...]:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"names {', '.join(twice)} twice")
    return names


class Section(BaseModel):
    """A part of a config: unknown keys are refused, values are frozen.

    Examples:
        >>> from dermaffinity.config import DataSettings, Section
        >>> data = DataSettings(manifest="data_manifests/library.csv", image_size=128)
        >>> isinstance(data, Section), data.image_size
        (True, 128)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


class Component(Section):
    """A class and its keyword-only arguments.

    Examples:
        >>> from dermaffinity.config import Component
        >>> head = Component.model_validate({"class": "dermaffinity.heads.AffinityHead", "centers_per_class": 3})
        >>> head.build(embedding_dim=4, num_classes=2).centers.shape
        torch.Size([2, 3, 4])
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    class_path: str = Field(alias="class")

    def build(self, **facts: Any) -> Any:
        """An instance; of the ``facts`` of the run, its constructor names those that it is built from."""
        return build(import_class(self.class_path), facts, self.model_extra or {})


@dataclass(frozen=True)
class Kind:
    """What the class of a section must be: the annotation of a field makes it a section that names a class.

    Args:
        base: Import path of the base class.
        tried: Whether checking a config builds it, with stand-ins for the facts; not where building reads files or
            needs the manifest's classes.
    """

    base: str
    tried: bool = True


NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
"""Of an experiment."""
TRICK = Kind("dermaffinity.training.tricks.Trick")
"""Of the sections that change how a network is trained: a new trick is one file, and its section here one line."""


class DataSettings(Section):
    """Which images, and how they are preprocessed for the network.

    Examples:
        >>> from dermaffinity.config import DataSettings
        >>> DataSettings(manifest="data_manifests/library.csv").image_size
        224
    """

    manifest: Path  # relative to the working directory
    root: Path | None = None  # the library's folder; None for the one that `prepare` noted beside the manifest
    image_size: int = Field(224, ge=16, le=2048)  # pixels; side of the square the network sees
    lesion_crop: float | None = Field(
        None, ge=0, le=4
    )  # margin around the mask, in lesion sizes; None for the whole image
    validation_fraction: float = Field(0.15, gt=0, lt=0.5)  # share of the training rows cut off for choices


class TrainingSettings(Section):
    """The optimization; the defaults are those of fine-tuning a ResNet-18.

    Examples:
        >>> from dermaffinity.config import TrainingSettings
        >>> settings = TrainingSettings(epochs=50)
        >>> settings.epochs, settings.batch_size
        (50, 32)
    """

    epochs: int = Field(30, ge=0)  # 0 leaves all to the refit
    batch_size: int = Field(32, ge=2)
    learning_rate: float = Field(0.01, gt=0)
    # Its features are computed once for each image, without augmentation, and kept for all jobs beside them.
    freeze_backbone: bool = False
    head_rate_factor: float = Field(1.0, gt=0)  # learning rate of neck and head, as a multiple of learning_rate
    # Learning rate of each stage of the backbone, as a multiple of the next one's; below 1 for large pretrained ones.
    stage_rate_decay: float = Field(1.0, gt=0, le=1)
    optimizer: Literal["sgd", "adamw"] = "sgd"  # adamw for transformers, with a learning rate of 1e-4 or less
    momentum: float = Field(0.9, ge=0, lt=1)  # of sgd
    weight_decay: float = Field(5e-4, ge=0)  # never applied to normalization, biases and centers
    warmup_epochs: float = Field(1.0, ge=0)  # linear, then one cosine to zero
    balanced_sampling: bool = False  # draw every class equally often
    patience: int | None = Field(
        None, ge=1
    )  # epochs without a better inner-validation score before stopping; None: never
    # Epochs between two looks at the inner validation images, which change no weight. The last epoch is always seen,
    # and every one with patience or a loss that learns from them.
    validate_every: int = Field(4, ge=1)
    # auto: bf16-mixed on a GPU or processor that has it in hardware, else 32-true; decided when an experiment begins.
    precision: str = Field("auto", pattern=r"^(auto|32-true|16-mixed|bf16-mixed)$")
    workers: int = Field(0, ge=0)  # processes that augment images; 0 augments in the training process


class Config(Section):
    """One experiment: what every kind of config has.

    Examples:
        >>> from dermaffinity.config import Config, read_config
        >>> config = read_config("library_affinity_plus", ["training.epochs=5"])
        >>> isinstance(config, Config), config.name
        (True, 'library_affinity_plus')
        >>> config.resolved()["training"]["epochs"]
        5
    """

    name: str = Field(pattern=NAME, max_length=100)
    dataset: str | None = None  # the halves that it was composed of, by name; no part of the experiment
    method: str | None = None
    plugins: tuple[str, ...] = ()  # modules outside dermaffinity that the config may take classes from
    grid: dict[
        str, tuple[Any, ...]
    ] = {}  # what `dermaffinity tune` tries: dotted key -> values; no part of the experiment
    data: DataSettings

    not_of_the_experiment: ClassVar[set[str]] = {"dataset", "method", "grid"}
    job: ClassVar[str]  # import path of the class that runs one fold and seed

    @classmethod
    def kinds(cls) -> dict[str, Kind]:
        """The sections that name a class, and what that class must be."""
        return {
            name: kind for name, field in cls.model_fields.items() for kind in field.metadata if isinstance(kind, Kind)
        }

    def components(self) -> dict[str, Component]:
        """The sections that name a class, without those that this config leaves out."""
        return {name: part for name in self.kinds() if (part := getattr(self, name)) is not None}

    def resolved(self) -> dict[str, Any]:
        """The whole config as plain values, every default filled in; what two equal experiments share."""
        config = json.loads(self.model_dump_json(by_alias=True, exclude=self.not_of_the_experiment))
        for section, component in self.components().items():
            parameters = hyper_parameters(import_class(component.class_path))
            defaults = {name: parameter.default for name, parameter in parameters.items()}
            config[section] = json.loads(
                json.dumps({"class": component.class_path, **defaults, **(component.model_extra or {})})
            )
        return config

    def setting(self, key: str) -> Any:
        """A resolved value by dotted key; None where this kind of config has none."""
        return dict(flatten(self.resolved())).get(key)

    def with_setting(self, section: str, key: str, value: Any) -> "Config":
        """The config with one valid value changed."""
        return self.model_copy(update={section: getattr(self, section).model_copy(update={key: value})})

    def quick(self) -> "Config":
        """The config at 32 pixels, under a name of its own: to see that it works at all."""
        return self.with_setting("data", "image_size", 32).model_copy(update={"name": f"{self.name}.quick"})

    def portable(self) -> dict[str, Any]:
        """``resolved`` without the folders of this machine: files by their names."""
        config = self.resolved()
        config["data"] |= {"manifest": self.data.manifest.name, "root": None}
        return config

    def contradictions(self, parts: Mapping[str, Any]) -> list[str]:
        """What the sections have against each other; ``parts`` are those that could be built, with stand-in facts."""
        return []


class NetworkConfig(Config):
    """An experiment that trains a network.

    Examples:
        >>> from dermaffinity.config import NetworkConfig, read_config
        >>> config = read_config("library_softmax")
        >>> isinstance(config, NetworkConfig), config.loss.class_path
        (True, 'dermaffinity.losses.CrossEntropyLoss')
    """

    job = "dermaffinity.experiments.network_job.NetworkJob"

    augmentation: Annotated[Component, Kind("dermaffinity.data.augmentation.Augmentation")]
    backbone: Annotated[Component, Kind("dermaffinity.models.Backbone", tried=False)]
    neck: Annotated[Component, Kind("dermaffinity.models.Neck")] = Component.model_validate(
        {"class": "dermaffinity.models.IdentityNeck"}
    )
    head: Annotated[Component, Kind("dermaffinity.heads.Head")]
    loss: Annotated[Component, Kind("dermaffinity.losses.Loss")]
    mixing: Annotated[Component | None, Kind("dermaffinity.data.mixing.Mixing")] = None  # of the images of a batch
    refit: Annotated[Component | None, Kind("dermaffinity.refit.Refit")] = None  # of the head, after training
    growth: Annotated[Component | None, TRICK] = None  # of the images over the epochs
    average: Annotated[Component | None, TRICK] = None  # of the weights over the steps
    sharpness: Annotated[Component | None, TRICK] = None  # of the minimum that training ends in
    training: TrainingSettings = TrainingSettings()
    # Of the library's class frequencies in the answers: 0 for equally frequent classes, 1 for those of the library, or
    # chosen, see `Experiment.chosen_strengths`; None for what the method learns.
    prior_strength: Annotated[float, Field(ge=0, le=2)] | Literal["chosen"] | None = None
    # Columns of the manifest, such as age, sex and site, that count as evidence beside the image; None for none.
    metadata: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_once)] | None = None

    def tricks(self) -> list[Component]:
        """The sections that change how the network is trained, in the order in which they act."""
        return [part for name, part in self.components().items() if self.kinds()[name] is TRICK]

    def quick(self) -> Config:
        """See `Config.quick`; and for one epoch, where there is one."""
        return super().quick().with_setting("training", "epochs", min(1, self.training.epochs))

    def portable(self) -> dict[str, Any]:
        """See `Config.portable`."""
        config = super().portable()
        weights = config["backbone"].get("weights")
        if isinstance(weights, str):
            config["backbone"]["weights"] = Path(weights).name
        return config

    def contradictions(self, parts: Mapping[str, Any]) -> list[str]:
        """See `Config.contradictions`."""
        head, loss = (import_class(part.class_path) for part in (self.head, self.loss))
        problems = []
        if head.score_kind != loss.score_kind:  # type: ignore[attr-defined]
            problems.append(
                f"loss: {loss.__name__} works on {loss.score_kind.value} scores, but the head {head.__name__} gives "  # type: ignore[attr-defined]
                f"{head.score_kind.value} scores; change one of the two"  # type: ignore[attr-defined]
            )
        if {"refit", "head"} <= parts.keys():
            try:
                parts["refit"].check(parts["head"])
            except ValueError as error:
                problems.append(f"refit: {error}")
        if self.training.epochs == 0 and self.refit is None:
            problems.append("training.epochs: 0 trains nothing; give more, or a refit that sets the head")
        if self.training.freeze_backbone and self.growth is not None:
            problems.append("growth: training.freeze_backbone leaves no images that could grow; leave one of them out")
        scales = {name: self.resolved()[name].get("scale") for name in ("head", "loss")}
        if None not in scales.values() and scales["head"] != scales["loss"]:
            problems.append(
                f"loss.scale is {scales['loss']} and head.scale {scales['head']}: the probabilities would not be those "
                "that were trained; give both the same"
            )
        return problems


class EstimatorConfig(Config):
    """An experiment that fits an estimator to features of the masked lesion, without a network.

    Examples:
        >>> from dermaffinity.config import EstimatorConfig, read_config
        >>> config = read_config("hamfit7_knn")
        >>> isinstance(config, EstimatorConfig), config.estimator.class_path
        (True, 'dermaffinity.classic.FlatKNN')
    """

    job = "dermaffinity.experiments.estimator_job.EstimatorJob"

    features: Annotated[Component, Kind("dermaffinity.classic.Features")]
    estimator: Annotated[Component, Kind("dermaffinity.classic.Estimator", tried=False)]
