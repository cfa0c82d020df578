"""The files of a trained classifier: ``classifier.json`` and one safetensors file per fold model.

A fold model is the network of one fold and seed. A job's folder has one, an experiment's ``classifier/`` those of all
folds. A second safetensors file per fold model may hold where it places its training images, for explanations; nothing
else reads it. The files hold no code and nothing is unpickled. Every file is checked against the digests in
``classifier.json``, which show damage and edits, not who wrote the files.
"""

import functools
import hashlib
import json
import operator
import re
from collections.abc import Sequence
from importlib import metadata
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, ValidationError
from safetensors.torch import load, save
from torch import Tensor

import dermaffinity
from dermaffinity.config import Component, NetworkConfig, Section, build, explain, import_class, part_class
from dermaffinity.errors import ConfigError, DataError, count_of, some_of
from dermaffinity.files import atomic_write, link_or_copy, sweep_partial
from dermaffinity.inference.metadata import MetadataEvidence, columns_found
from dermaffinity.models import LesionNetwork

if TYPE_CHECKING:
    import pandas as pd

FILE = "classifier.json"

HASH_DIGITS = 12
_FORMAT = 3
_INTENDED_USE = "Research use only. Not a medical device; not fit to decide about a patient."
# What decides which pixels reach the network and what becomes of them.
_PACKAGES = ("torch", "torchvision", "pillow", "numpy")


class Preprocessing(Section):
    """How an image is preprocessed for the network; see `dermaffinity.data.transforms`."""

    image_size: int = Field(ge=16, le=2048)  # pixels; side of the square the network sees
    lesion_crop: float | None  # margin of the crop to the lesion in training; without a mask an image is taken whole


class Data(Section):
    """What the classifier was trained on."""

    name: str
    split_hash: str
    images_digest: str  # SHA-256 over the contents of all images that any fold was trained on
    image_hashes: str = ""  # of each of these images `HASH_DIGITS` of its SHA-256, with blanks between, sorted
    class_counts: dict[str, int]
    source: str
    license: str


class Calibration(Section):
    """What a fold model's probabilities and distances mean, from its inner validation images."""

    temperature: float = Field(gt=0)  # of this fold model alone
    scores: dict[str, tuple[float, ...]]  # by class, sorted; see `dermaffinity.metrics.conformal`
    distance_mean: float  # of the distance to the nearest center
    distance_sd: float = Field(gt=0)
    novelty_threshold: float  # standardized distance that 95 % of the images stay below
    log_shares: tuple[float, ...]  # logarithms of the class shares among the images it was fitted to, in class order
    assumed: tuple[float, ...]  # of those that its probabilities assume, up to a constant


class File(Section):
    """One safetensors file beside ``classifier.json``."""

    file: str = Field(pattern=r"^[A-Za-z0-9_-]+\.safetensors$")
    sha256: str


class Parts(Section):
    """What a network is built from."""

    backbone: Component
    neck: Component
    head: Component


class FoldModel(File):
    """The network of one fold and seed; where experiments were joined, one of each has these."""

    fold: int
    seed: int
    parts: Parts | None = None  # where they are not the classifier's
    # (C,), added to the logarithms of its probabilities before the mean, where others assume other class frequencies.
    shift: tuple[float, ...] | None = None
    calibration: Calibration
    metadata: MetadataEvidence | None = None  # of the images it was fitted to
    examples: File | None = None  # see `TrainingExamples`


class Facts(Section):
    """What all fold models share."""

    name: str
    classes: tuple[str, ...]  # in the order of the probabilities
    malignant: tuple[str, ...]
    cross_validated: bool = True  # or trained on every fold, so that nothing was left to score it on
    preprocessing: Preprocessing
    backbone: Component
    neck: Component
    head: Component
    data: Data


class Description(Facts):
    """The content of ``classifier.json``."""

    format: Literal[3]
    intended_use: str
    versions: dict[str, str]
    temperature: float = Field(gt=0)  # of the mean of the fold models' probabilities
    told: tuple[float, ...]  # added to the logarithms of the calibrated probabilities, in class order; see `told_prior`
    fold_models: tuple[FoldModel, ...]
    digest: str  # SHA-256 over all other entries

    @property
    def metadata(self) -> tuple[str, ...]:
        """The columns that count as evidence beside the image; none for most models."""
        known = self.fold_models[0].metadata
        return () if known is None else tuple(known.columns)

    def evidence(self, rows: "pd.DataFrame") -> np.ndarray:
        """(N, C), what metadata add to the logarithms of the probabilities, as the mean of the fold models."""
        known = [own for fold_model in self.fold_models if (own := fold_model.metadata) is not None]
        return np.mean([own(rows) for own in known], axis=0) if known else np.zeros((len(rows), len(self.classes)))

    def heard(self, rows: "pd.DataFrame") -> tuple[list[str], list[str]]:
        """Of how many images each column counts as evidence, and what would and does not: sentences."""
        from dermaffinity.data.labels import known_texts

        known = [own for fold_model in self.fold_models if (own := fold_model.metadata) is not None]
        if not known:
            return [], []
        said = functools.reduce(operator.or_, (own.heard(rows) for own in known))
        columns = [str(column) for column in rows.columns]
        found = columns_found(self.metadata, columns)
        told = ", ".join(f"{name} of {number:,}" for name in self.metadata if (number := said[name].sum()))
        lacking = ", ".join(name for name in self.metadata if name not in found)
        blank = ", ".join(name for name in found if not said[name].any())
        silent = [f"Nothing is known of {blank}, which would count as evidence."] if blank else []
        if lacking:
            others = f"; those there: {some_of(columns)}" if columns else ""
            silent.append(f"There is no column {lacking}, which would count as evidence{others}.")
        for name, column in found.items():
            strange = known_texts(rows[column].where(~said[name])).dropna()
            if len(strange):
                silent.append(
                    f"{column} of {count_of(len(strange), 'image')} says nothing, since the classifier does not know "
                    f"it ({some_of(set(strange), 5)})."
                )
        return [f"Evidence beside the images: {told} of {count_of(len(rows), 'image')}."] if told else [], silent

    def parts(self, fold_model: FoldModel) -> dict[str, Any]:
        """The sections that a fold model's network is built from, see `build_network`."""
        own = self if fold_model.parts is None else fold_model.parts
        return own.model_dump(by_alias=True, include=set(Parts.model_fields))

    @property
    def plugins(self) -> tuple[str, ...]:
        """The modules outside dermaffinity that parts of the networks come from; whoever loads it must trust them."""
        parts = [part for fold_model in self.fold_models for part in self.parts(fold_model).values()]
        modules = [part["class"].rpartition(".")[0] for part in parts]
        return tuple(dict.fromkeys(module for module in modules if module.partition(".")[0] != "dermaffinity"))


class TrainingExamples(NamedTuple):
    """Where a fold model places the n images that it was fitted on, as they are, without augmentation."""

    images: Sequence[str]  # (n,), names in their library; never a path of this machine
    labels: Sequence[str]  # (n,), class codes
    embedding: Tensor  # (n, D)


def save_model(
    folder: Path,
    network: LesionNetwork,
    facts: Facts,
    *,
    fold: int,
    seed: int,
    calibration: Calibration,
    strength: float | None = None,
    metadata: MetadataEvidence | None = None,
    examples: TrainingExamples | None = None,
) -> None:
    """Writes the model folder of one trained network.

    Args:
        folder: Where to; made if need be.
        network: The trained network.
        facts: Of the experiment.
        fold: The test fold, which the network never saw.
        seed: Of its training.
        calibration: From its inner validation images.
        strength: Of the class frequencies in training that it is told, see `told_prior`; None for none.
        metadata: What is known of images beside their pixels, as evidence.
        examples: What explanations show of its training; their names become part of the model.
    """
    name = f"fold-{fold}_seed-{seed}"
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
    kept = None
    if examples is not None:
        # Exact, because it costs little: a thousand images in 512 dimensions are a twentieth of a ResNet-18.
        embedding = {"embedding": examples.embedding.detach().cpu().float().contiguous()}
        # One entry, because safetensors writes several in any order.
        which = json.dumps({"images": list(examples.images), "labels": list(examples.labels)})
        kept = _write(folder / f"{name}_examples.safetensors", save(embedding, {"examples": which}))
    weights = _write(folder / f"{name}.safetensors", save(state))
    facts_of_one = {"fold": fold, "seed": seed, "calibration": calibration, "metadata": metadata, "examples": kept}
    fold_model = FoldModel.model_validate({**weights.model_dump(), **facts_of_one})
    told = [0.0] * len(facts.classes) if strength is None else told_prior([fold_model], strength=strength)
    _describe(folder, facts, [fold_model], calibration.temperature, told)


def told_prior(
    fold_models: Sequence[FoldModel], *, frequencies: np.ndarray | None = None, strength: float | None = None
) -> list[float]:
    r"""What class frequencies add to the logarithms of calibrated probabilities: (C,), the mean over fold models.

    .. math:: \log q - \log \rho \quad \text{or} \quad s \log \pi - \log \rho

    for frequencies q, or a strength s of the shares π in training, and ρ, which the probabilities assume.

    Args:
        fold_models: With their shares.
        frequencies: (C,), logarithms of those told.
        strength: 0 for equally frequent classes, 1 for those of the library.

    Raises:
        ValueError: For a strength that is no number in [0, 2].
    """
    if strength is not None and not (isinstance(strength, Real) and 0 <= strength <= 2):
        raise ValueError(
            f"a strength is 0 for equally frequent classes, 1 for the library's, at most 2; got {strength!r}"
        )
    shares, assumed = (
        np.mean([getattr(fold_model.calibration, name) for fold_model in fold_models], axis=0)
        for name in ("log_shares", "assumed")
    )
    return ((strength * shares if frequencies is None else frequencies) - assumed).tolist()


def changed(description: Description, **changes: Any) -> Description:
    """The description with other entries, and with the digest of these."""
    values = json.loads(description.model_copy(update=changes).model_dump_json(by_alias=True))
    return Description.model_validate({**values, "digest": _digest(values)})


def join_models(
    folders: Sequence[Path],
    target: Path,
    temperature: float,
    told: Sequence[float] | None = None,
    *,
    name: str | None = None,
    shifts: Sequence[Sequence[float]] | None = None,
    examples: bool = True,
) -> None:
    """Writes one model folder with the fold models of several that share their facts, but for the parts of networks.

    Args:
        folders: Model folders.
        target: Where to; made if need be.
        temperature: Of the mean of all fold models' probabilities.
        told: (C,), see `told_prior`; None for the mean of what each was told.
        name: Of the classifier; None for that of the first.
        shifts: For each folder (C,), added to the logarithms of its fold models' probabilities so that these assume the
            class frequencies that the first folder's do; None where all assume the same.
        examples: Whether to keep what tells of single training images: their embeddings, names and hashes.

    Raises:
        DataError: When one of them cannot be read.

    Examples:
        >>> from pathlib import Path
        >>> from dermaffinity.inference import join_models, read_description
        >>> folders = [Path(f"runs/library_affinity_plus/fold-{fold}") for fold in (0, 1)]
        >>> join_models(folders, Path("joined"), temperature=1.2)
        >>> len(read_description(Path("joined")).fold_models)
        2
    """
    sweep_partial(target)
    descriptions = [read_description(folder) for folder in folders]
    facts = Facts.model_validate(descriptions[0].model_dump(by_alias=True, include=set(Facts.model_fields)))
    if name is not None:
        facts = facts.model_copy(update={"name": name})
    shared = Parts.model_validate(facts.model_dump(by_alias=True, include=set(Parts.model_fields)))
    fold_models: list[FoldModel] = []
    for number, (folder, description) in enumerate(zip(folders, descriptions, strict=True)):
        for fold_model in description.fold_models:
            # Experiments that are joined name the files of a fold and seed alike.
            ending = f"_{len(fold_models)}" if fold_model.file in {one.file for one in fold_models} else ""

            def copied(file: File, folder: Path = folder, ending: str = ending) -> File:
                _content(folder, file)  # is checked
                path = target / f"{Path(file.file).stem}{ending}.safetensors"
                link_or_copy(folder / file.file, path)
                return File(file=path.name, sha256=file.sha256)

            parts = Parts.model_validate(description.parts(fold_model))
            changes: dict[str, Any] = {
                "file": (weights := copied(fold_model)).file,
                "sha256": weights.sha256,
                "parts": None if parts == shared else parts,
                "examples": copied(fold_model.examples) if examples and fold_model.examples else None,
            }
            if shifts is not None and any(shifts[number]):
                assumed = tuple(np.add(fold_model.calibration.assumed, shifts[number]).tolist())
                changes["shift"] = tuple(shifts[number])
                changes["calibration"] = fold_model.calibration.model_copy(update={"assumed": assumed})
            fold_models.append(fold_model.model_copy(update=changes))
    if not examples:
        facts = facts.model_copy(update={"data": facts.data.model_copy(update={"image_hashes": ""})})
    if told is None:
        told = np.mean([description.told for description in descriptions], axis=0).tolist()
    _describe(target, facts, fold_models, temperature, told)


def read_description(folder: Path) -> Description:
    """What ``classifier.json`` says, checked against its own digest.

    Raises:
        DataError: When it is missing, damaged, of another format, incomplete, or was changed by hand.

    Examples:
        >>> from pathlib import Path
        >>> from dermaffinity.inference import read_description
        >>> description = read_description(Path("runs/library_affinity_plus/classifier"))
        >>> description.classes, len(description.fold_models)
        (('AK', 'BCC', 'ML'), 2)
    """
    path = folder / FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{folder}: no readable {FILE} ({error.strerror}); this is not a trained classifier") from error
    except ValueError as error:
        raise DataError(f"{path}: damaged, not JSON ({error}); copy the model again") from error
    if not isinstance(values, dict) or "format" not in values:
        raise DataError(f"{path}: does not say its format, so it is not the description of a classifier")
    if values["format"] != _FORMAT:
        advice = "install a newer dermaffinity" if _is_newer(values["format"]) else "train or export the model again"
        raise DataError(
            f"{path}: model format {values['format']!r}, this version of dermaffinity reads {_FORMAT}; {advice}"
        )
    try:
        description = Description.model_validate(values)
    except ValidationError as error:
        raise DataError(f"{path}: this does not describe a classifier", explain(error, "", Description)) from error
    if _digest(values) != description.digest:
        raise DataError(
            f"{path}: was changed after it was written: its digest does not fit its classes, calibration or another "
            "entry. Copy the model again"
        )
    if problems := _contradictions(description):
        raise DataError(f"{path}: contradicts itself", problems)
    return description


def load_networks(folder: Path, description: Description, plugins: Sequence[str] = ()) -> list[LesionNetwork]:
    """The network of each fold model, in evaluation mode.

    Args:
        folder: Where the description was read.
        description: Of the folder.
        plugins: Modules outside dermaffinity that parts of the network may come from. They are imported, so name only
            what you trust.

    Raises:
        DataError: When a file is missing or not the one described, or a part is not what its place asks for.
    """
    networks = []
    for fold_model in description.fold_models:
        content = _content(folder, fold_model)
        try:
            parts = description.parts(fold_model)
            network = build_network(parts, len(description.classes), pretrained=False, plugins=plugins)
            network.load_state_dict(load(content))
        except ConfigError as error:
            raise DataError(f"{folder}: {error.message}", error.problems) from error
        except Exception as error:  # not safetensors, other shapes, arguments that a part does not take
            raise DataError(f"{folder}: {FILE} and {fold_model.file} do not fit together ({error})") from error
        networks.append(network.eval())
    return networks


def load_examples(folder: Path, description: Description, fold_model: FoldModel) -> TrainingExamples | None:
    """What a fold model was fitted on, or None for a model without examples.

    Args:
        folder: Where the description was read.
        description: Of the folder.
        fold_model: Of the description.

    Raises:
        DataError: When the file is missing or not the one described.
    """
    if fold_model.examples is None:
        return None
    content = _content(folder, fold_model.examples)
    try:
        embedding = load(content)["embedding"]
        # A safetensors file starts with the size of its header, in eight bytes, and the header, in JSON.
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        told = json.loads(header["__metadata__"]["examples"])
        examples = TrainingExamples(told["images"], told["labels"], embedding)
        if not len(examples.images) == len(examples.labels) == len(embedding):
            raise ValueError("images, labels and embedding differ in length")
        if strangers := sorted({*examples.labels} - {*description.classes}):
            raise ValueError(f"not among the classes: {', '.join(strangers)}")
    except Exception as error:  # not safetensors, other entries
        raise DataError(f"{folder}: {FILE} and {fold_model.examples.file} do not fit together ({error})") from error
    return examples


def build_network(
    sections: dict[str, Any], num_classes: int, *, pretrained: bool, plugins: Sequence[str] = ()
) -> LesionNetwork:
    """A new network from the ``backbone``, ``neck`` and ``head`` sections of a config.

    Args:
        sections: Each section has the key ``class`` and that class's hyper-parameters.
        num_classes: Number of classes C.
        pretrained: Whether the backbone loads its ``weights``; not when they are about to be replaced.
        plugins: Modules outside dermaffinity that parts may come from.

    Raises:
        ConfigError: When a class comes from elsewhere, is not what its section asks for, or refuses its arguments.
    """

    def part(section: str, **facts: int) -> Any:
        arguments = {key: value for key, value in sections[section].items() if key != "class"}
        if "weights" in arguments and not pretrained:
            arguments["weights"] = None
        try:
            # A model may come from somebody else: nothing but a part of a network is built.
            found = part_class(sections[section]["class"], import_class(NetworkConfig.kinds()[section].base), plugins)
        except ConfigError as error:
            raise ConfigError(f"{section}: {error.message}") from error
        try:
            return build(found, facts, arguments)
        except ValueError as error:
            raise ConfigError(f"{section}: {error}") from error

    backbone = part("backbone")
    neck = part("neck", num_features=backbone.num_features)
    head = part("head", embedding_dim=neck.embedding_dim, num_classes=num_classes)
    return LesionNetwork(backbone, neck, head)


def _describe(
    folder: Path, facts: Facts, fold_models: Sequence[FoldModel], temperature: float, told: Sequence[float]
) -> None:
    values = {
        "format": _FORMAT,
        "intended_use": _INTENDED_USE,
        **json.loads(facts.model_dump_json(by_alias=True)),
        "versions": {"dermaffinity": dermaffinity.__version__, **{name: metadata.version(name) for name in _PACKAGES}},
        "temperature": temperature,
        "told": list(told),
        "fold_models": [json.loads(fold_model.model_dump_json(by_alias=True)) for fold_model in fold_models],
    }
    # Weights that training started from lie on this machine, and are replaced anyway.
    if "weights" in values["backbone"]:
        values["backbone"]["weights"] = None
    text = json.dumps({**values, "digest": _digest(values)}, indent=2, ensure_ascii=False)
    # A line for each list of numbers, not for each number.
    text = re.sub(r"\[[\d\s.,e-]+\]", lambda match: " ".join(match[0].split()), text)
    with atomic_write(folder / FILE) as file:
        file.write(f"{text}\n")


def _contradictions(description: Description) -> list[str]:
    classes = description.classes
    problems = ["two classes have the same name"] if len(set(classes)) < len(classes) else []
    if len(classes) < 2:
        problems.append("fewer than two classes")
    if not description.fold_models:
        problems.append("no fold models")
    if strangers := sorted({*description.malignant, *description.data.class_counts} - set(classes)):
        problems.append(f"not among the classes: {', '.join(strangers)}")
    return (
        problems
        + [
            f"the calibration scores of {fold_model.file} are not those of the classes"
            for fold_model in description.fold_models
            if tuple(fold_model.calibration.scores) != classes
        ]
        + [
            f"{name} of {where} are {len(values)} numbers for {len(classes)} classes"
            for name, where, values in [("told", FILE, description.told)]
            + [
                (name, fold_model.file, getattr(fold_model.calibration, name))
                for fold_model in description.fold_models
                for name in ("log_shares", "assumed")
            ]
            + [("shift", one.file, one.shift) for one in description.fold_models if one.shift is not None]
            if len(values) != len(classes)
        ]
    )


def _write(path: Path, content: bytes) -> File:
    with atomic_write(path, "wb") as opened:
        opened.write(content)
    return File(file=path.name, sha256=hashlib.sha256(content).hexdigest())


def _content(folder: Path, file: File) -> bytes:
    path = folder / file.file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}), but {FILE} names it; copy it again") from error
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise DataError(f"{path}: damaged or changed, its SHA-256 is not the one in {FILE}; copy the model again")
    return content


def _digest(values: dict[str, Any]) -> str:
    others = {key: value for key, value in values.items() if key != "digest"}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def _is_newer(found: Any) -> bool:
    return isinstance(found, int) and found > _FORMAT
