"""External validation: a saved classifier on the images of a manifest that it was not made from."""

import hashlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch

from dermaffinity.data.dataset import ManifestDataset, RowImages
from dermaffinity.data.diagnoses import Vocabulary, known_classes
from dermaffinity.data.library import ImageLibrary
from dermaffinity.data.loaders import every_image, load
from dermaffinity.data.manifest import Manifest, read_manifest
from dermaffinity.data.splits import inner_validation
from dermaffinity.data.transforms import EvaluationStage, FixedStage
from dermaffinity.errors import ConfigError, DataError, count_of, nearest, some_of
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.results import (
    Results,
    at_temperatures,
    average_models,
    models_of,
    prediction_table,
    read_table,
    write_table,
)
from dermaffinity.files import hold, sweep_partial, write_json
from dermaffinity.inference.classifier import LesionClassifier
from dermaffinity.inference.model_folder import HASH_DIGITS, Description, load_examples, told_prior
from dermaffinity.inference.predict import BATCH_SIZE
from dermaffinity.metrics.classification import Classes
from dermaffinity.metrics.conformal import in_set
from dermaffinity.metrics.operating import decision_curve, operating_points
from dermaffinity.metrics.reliability import fit_temperature
from dermaffinity.metrics.summary import ScoredImages
from dermaffinity.report.tables import point_interval
from dermaffinity.tracking.base import Tracker

FILE = "evaluation.json"
_PATIENCE = 10.0  # seconds to wait for another process in the same folder
_AT_A_TIME = 8 * BATCH_SIZE  # images after which predictions are kept
_RISKS = np.round(np.arange(0.01, 0.51, 0.01), 2)  # of the decision curve
_ISIC = "ISIC_"

Per = Literal["image", "group"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a classifier says about another library, and what it measures.

    Args:
        path: Folder of the results.
        model: What the classifier says of itself.
        manifest: The library, with the classes of the classifier.
        results: On the images that are scored, as the models say and at the model's temperature; one row per image, or
            per group.
        novelty: By image (or group) of the results.
        p_values: (N, C) for the rows of the results.
        novelty_threshold: See `LesionClassifier.novelty_threshold`.
        guarantees: See `LesionClassifier.set_guarantees`.
        adapted: The same images at a temperature from the part that was set aside with ``adapt``.
        temperature: That temperature; the model's own without ``adapt``.
        set_aside: Images that served to adapt, and are not scored.
        prior: Whether the adapted classifier is told the class frequencies of the part set aside as well.
        notes: What was left out, a sentence each.
        per: Whether a row is an image or a group.
        level: Of the operating points.
        coverage: Of the prediction sets.

    Examples:
        >>> import dermaffinity as da
        >>> library = "data_manifests/library.csv"
        >>> evaluation = da.evaluate("runs/library_affinity_plus", library, known_only=True)
        >>> evaluation.measures().columns.tolist()
        ['value', 'low', 'high']
        >>> evaluation.operating_points.index.tolist()
        ['malignant', 'AK', 'BCC', 'ML']
    """

    path: Path
    model: Description
    manifest: Manifest
    results: Results
    novelty: pd.Series
    p_values: np.ndarray
    novelty_threshold: float
    guarantees: pd.DataFrame
    adapted: Results | None
    temperature: float
    set_aside: int
    prior: bool
    notes: tuple[str, ...]
    per: Per
    level: float
    coverage: float

    @property
    def classes(self) -> Classes:
        """Those of the classifier, with the rare and the malignant ones."""
        return self.results.classes

    @property
    def best(self) -> Results:
        """The adapted results, where there are any."""
        return self.adapted or self.results

    def measures(self) -> pd.DataFrame:
        """Every measure with its 95 % interval by group: index `metric`; columns `value`, `low`, `high`.

        ``ece.calibrated`` and ``brier.calibrated`` are at the model's temperature, ``….adapted`` at the one fitted on
        the part set aside.
        """
        summary = self.results.summary
        if self.adapted is not None:
            calibrated = self.adapted.summary.filter(like=".calibrated", axis=0)
            summary = pd.concat([summary, calibrated.rename(lambda name: name.replace("calibrated", "adapted"))])
        return summary

    @property
    def summaries(self) -> dict[str, pd.DataFrame]:
        """The measures by what the columns of a table are called: of the classifier, and told other frequencies."""
        told = {"told frequencies": self.adapted.summary} if self.adapted is not None and self.prior else {}
        return {self.model.name: self.measures()} | told

    @cached_property
    def scored(self) -> ScoredImages:
        """The best predictions there are, as arrays."""
        return ScoredImages.from_table(self.best.best, self.classes)

    @cached_property
    def operating_points(self) -> pd.DataFrame:
        """See `dermaffinity.metrics.operating_points`."""
        return operating_points(self.scored, self.level)

    @cached_property
    def decision_curve(self) -> pd.DataFrame | None:
        """See `dermaffinity.metrics.decision_curve`; None without malignant classes."""
        return decision_curve(self.scored, self.classes.malignant, _RISKS) if self.classes.malignant else None

    @property
    def sets(self) -> np.ndarray:
        """(N, C) bool, the prediction sets."""
        return in_set(self.p_values, self.coverage)

    def sentences(self) -> list[str]:
        """What the tables of measures do not say: operating points, sets, novelty and, if adapted, calibration."""
        found, level = [], f"{100 * self.level:g} %"
        points, kinds = self.operating_points, ("sensitivity", "specificity")
        if "malignant" in points.index:
            most, least = (point_interval(points, "malignant", kind) for kind in kinds)
            found.append(
                f"With a threshold that clears {level} of the benign {self.per}s it finds {most} % of the malignant "
                f"ones; to find {level} of these it clears {least} % of the benign ones."
            )
        held = self.sets[np.arange(len(self.sets)), self.classes.indices(self.results.table["label"])]
        found.append(
            f"Prediction sets asked for {100 * self.coverage:g} % hold the true class of {100 * held.mean():.1f} % of "
            f"the {self.per}s, with {self.sets.sum(axis=1).mean():.1f} classes each."
        )
        above = 100 * (self.novelty > self.novelty_threshold).mean()
        found.append(
            f"{above:.1f} % of the {self.per}s are above the novelty threshold; of new images like the training images "
            "at most about 5 % are."
        )
        if self.adapted is not None:
            before, after = (100 * self.measures()["value"][f"ece.{kind}"] for kind in ("calibrated", "adapted"))
            found.append(
                f"The calibration error is {before:.1f} % at the model's temperature {self.model.temperature:.2f} and "
                f"{after:.1f} % at {self.temperature:.2f}, from {count_of(self.set_aside, self.per)} set aside."
            )
        return found

    def write(self) -> None:
        """Writes tables beside the predictions; see `evaluate`."""
        table = self.best.best.assign(novelty=self.novelty.loc[self.results.table["image"]].to_numpy())
        write_table(table, self.path / "predictions.csv")
        write_table(self.measures().reset_index(), self.path / "measures.csv")
        write_table(self.operating_points.reset_index(), self.path / "operating_points.csv")
        if self.decision_curve is not None:
            write_table(self.decision_curve, self.path / "decision_curve.csv")


def evaluate(
    model: str | Path,
    manifest: Manifest | str | Path,
    *,
    root: str | Path | None = None,
    out: str | Path | None = None,
    per: Per = "image",
    adapt: float = 0,
    prior: bool = False,
    level: float = 0.9,
    coverage: float = 0.9,
    rename: Mapping[str, str] | None = None,
    known_only: bool = False,
    images: bool = True,
    views: Literal[1, 2, 4, 8] = 1,
    device: Literal["cpu", "cuda", "auto"] = "cpu",
    plugins: Sequence[str] = (),
    tracking_uri: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Validates a trained classifier on another library, or on the external images of its own.

    Of the manifest that it was made from only the external images are scored; of another one all images, but those of
    patients or lesions that the classifier was trained on. Predictions are kept as they come: after an interruption,
    and for other settings of the analysis, the same folder goes on from there.

    Args:
        model: Folder of an experiment, a fold or a classifier, or ``models:/NAME@ALIAS``.
        manifest: The library, or its path.
        root: The library's folder, if it has moved.
        out: Folder of the results; by default ``evaluations/MODEL_on_MANIFEST``.
        per: ``image``, or ``group`` for one answer per patient or lesion, from the mean log-odds of its images.
        adapt: Images, or below 1 their share, to set aside, by whole groups, for a temperature of this library. They
            are not scored.
        prior: Whether to tell the classifier the class frequencies of the part set aside as well, which changes
            answers: fair where that part is drawn as at random from what is to come.
        level: Operating points are the sensitivity at this specificity, and the other way round.
        coverage: Of the prediction sets.
        rename: Class of the classifier for a class of the manifest.
        known_only: Leave out images of classes that the classifier does not know, rather than refuse.
        images: Whether the report shows images of the library.
        views: See `LesionClassifier`.
        device: See `LesionClassifier.load`.
        plugins: See `LesionClassifier.load`.
        tracking_uri: MLflow store; by default MLFLOW_TRACKING_URI, else ``mlflow.db`` in this folder.
        on_progress: Called with the images predicted and all of them.

    Raises:
        DataError: When the classes do not fit, or nothing is left to score.
        ConfigError: For settings that cannot be.

    Examples:
        >>> import dermaffinity as da
        >>> evaluation = da.evaluate("runs/library_affinity_plus", "data_manifests/library.csv", known_only=True)
        >>> evaluation.results.counts
        {'AK': 6, 'BCC': 7, 'ML': 10}
        >>> evaluation.notes[0]
        'Left out, of classes that the classifier does not know: SK (8 images), SCC (6 images).'
    """
    from dermaffinity.experiments.report.evaluation import write_report
    from dermaffinity.tracking.mlflow_tracker import MlflowTracker

    if prior and not adapt:
        raise ConfigError("--prior takes class frequencies from the images that --adapt N sets aside; add --adapt")
    if not adapt >= 0 or not 0 < level < 1 or not 0 < coverage < 1 or per not in ("image", "group"):
        raise ConfigError(
            "adapt is 0, a number of images or a share; level and coverage are in (0, 1); per is image or group"
        )
    classifier = LesionClassifier.load(model, views=views, device=device, plugins=plugins)
    if not isinstance(manifest, Manifest):
        manifest = read_manifest(Path(manifest), None if root is None else Path(root))
    manifest, notes = _in_classes_of(classifier.description, manifest, rename or {}, known_only)
    rows = _unseen(classifier, manifest, notes)
    notes += chain(*classifier.description.heard(rows))
    path = Path(out or Path("evaluations") / f"{classifier.description.name}_on_{manifest.name}")
    with hold(path, _PATIENCE):
        table = _predictions(classifier, manifest, rows, path, on_progress)
        evaluation = _analyzed(classifier, manifest, table, path, notes, per, adapt, prior, level, coverage)
        evaluation.write()
        html, pictures = write_report(evaluation, images)
        track(MlflowTracker(tracking_uri), evaluation, html, private=pictures)
    return evaluation


def _in_classes_of(
    model: Description, manifest: Manifest, rename: Mapping[str, str], known_only: bool
) -> tuple[Manifest, list[str]]:
    """The manifest with the classes of a model, and what that took.

    Raises:
        DataError: Naming both classes, and what can be done.
    """
    known = set(model.classes)
    if wrong := [f"{old}={new}" for old, new in rename.items() if old not in manifest.classes or new not in known]:
        raise ConfigError(
            f"--rename {wrong[0]}: write LIBRARY=MODEL; the library's classes are {', '.join(manifest.classes)}, the "
            f"model's {', '.join(model.classes)}"
        )
    rows = manifest.rows.assign(label=manifest.rows["label"].replace(dict(rename)))
    strange = rows.loc[~rows["label"].isin(known), "label"].value_counts()
    notes = [f"Renamed: {', '.join(f'{old} to {new}' for old, new in rename.items())}."] if rename else []
    if len(strange):
        counts = ", ".join(f"{name} ({count:,} images)" for name, count in strange.items())
        if not known_only:
            near = {name: nearest(name, known) or ["MODEL"] for name in strange.index}
            vocabularies = [word for word in get_args(Vocabulary) if set(known_classes(word).names) == known]
            renaming = [word for name, (first, *_) in near.items() for word in ("--rename", f"{name}={first}")]
            raise DataError(
                f"{manifest.name} has classes that {model.name} does not know: {counts}",
                [
                    f"the model's classes are {', '.join(model.classes)}",
                    f"the manifest's classes are {', '.join(manifest.classes)}",
                    f"if they mean the same under another name: {shlex.join(renaming)}",
                    *(f"diagnoses by other names: prepare the library with --classes {word}" for word in vocabularies),
                    "to score the other images only: --known-only",
                ],
            )
        rows = rows[rows["label"].isin(known)]
        notes.append(f"Left out, of classes that the classifier does not know: {counts}.")
    if absent := [name for name in model.classes if name not in set(rows["label"])]:
        notes.append(
            f"No images of {', '.join(absent)}: measures over classes are over the others, and an image that is called "
            "one of these is an error."
        )
    return replace(manifest, classes=model.classes, rows=rows), notes


def _unseen(classifier: LesionClassifier, manifest: Manifest, notes: list[str]) -> pd.DataFrame:
    """The rows of patients and lesions that the classifier was not made from."""
    model = classifier.description
    if manifest.split_hash == model.data.split_hash:
        rows = manifest.external()
        notes.append("The classifier was made from this manifest: its external images are scored.")
        if rows.empty:
            raise DataError(
                f"{model.name} was trained on this very manifest, {manifest.name}, which sets no external images "
                "aside; the out-of-fold results of dermaffinity crossval are what it can tell"
            )
        return rows.reset_index(drop=True)
    hashes = set(model.data.image_hashes.split())
    if not hashes:
        notes.append(
            "The classifier does not say what it was trained on: whether these images are new to it was not checked."
        )
    # A public image may come in another resolution; its number in the ISIC Archive stays.
    examples = [load_examples(classifier.folder, model, one) for one in model.fold_models]
    names = {Path(name).stem for one in examples if one is not None for name in one.images}
    stems = manifest.rows["image"].map(lambda name: Path(name).stem)
    met = manifest.rows["sha256"].str[:HASH_DIGITS].isin(hashes) | (stems.str.startswith(_ISIC) & stems.isin(names))
    familiar = manifest.rows["group"].isin(manifest.rows.loc[met, "group"])
    if familiar.any():
        notes.append(
            f"Left out, because the classifier was trained on images of these patients or lesions: "
            f"{count_of(int(familiar.sum()), 'image')}."
        )
    if familiar.all():
        raise DataError(
            f"{model.name} was trained on images of every patient or lesion of {manifest.name}; nothing is left to "
            "score"
        )
    return manifest.rows[~familiar].reset_index(drop=True)


def _predictions(
    classifier: LesionClassifier,
    manifest: Manifest,
    rows: pd.DataFrame,
    path: Path,
    on_progress: Callable[[int, int], None],
) -> pd.DataFrame:
    """One row per image and fold model: probabilities ``p.<class>``, ``novelty``, p-values ``u.<class>``."""
    if manifest.root is None:
        raise ConfigError(
            f"{manifest.path or manifest.name}: the folder of its images is not known here. Say where it "
            "is with --root FOLDER"
        )
    model = classifier.description
    facts = {
        "model": model.name, "model_digest": model.digest, "manifest": manifest.name, "split_hash": manifest.split_hash,
        "images": len(rows), "views": classifier.views, "license": manifest.license,
    }  # fmt: skip
    if model.metadata:  # of the same images another manifest may say something else
        facts["metadata"] = hashlib.sha256(model.evidence(rows).tobytes()).hexdigest()[:12]
    if (path / FILE).exists():
        if (known := json.loads((path / FILE).read_text(encoding="utf-8"))) != facts:
            different = ", ".join(key for key in facts if known.get(key) != facts[key])
            raise ConfigError(
                f"{path} holds another evaluation ({different} differ); name another folder with --out, or remove it"
            )
    else:
        write_json(path / FILE, facts)
    parts = path / "parts"
    parts.mkdir(exist_ok=True)
    sweep_partial(parts)
    singles = [
        LesionClassifier(
            model.model_copy(update={"fold_models": (one,)}), [network], classifier.folder,
            views=classifier.views, device=classifier.device,
        )
        for one, network in zip(model.fold_models, classifier.networks, strict=True)
    ]  # fmt: skip
    preprocessing = model.preprocessing
    stages = FixedStage(preprocessing.image_size, preprocessing.lesion_crop), EvaluationStage(preprocessing.image_size)
    library, labels = ImageLibrary(manifest.root), Classes(model.classes).indices(rows["label"])
    done = 0

    def count(images: int) -> None:
        nonlocal done
        done += images
        on_progress(done, len(rows))

    for start in range(0, len(rows), _AT_A_TIME):
        part, here = parts / f"{start:08}.csv", rows.iloc[start : start + _AT_A_TIME]
        if not part.exists():
            dataset = ManifestDataset(RowImages(library, here, stages[0]), labels[start : start + len(here)], stages[1])
            write_table(_predicted(singles, dataset, here, count), part)
        else:
            count(len(here))
    return pd.concat([read_table(part) for part in sorted(parts.glob("*.csv"))], ignore_index=True)


def _predicted(
    singles: Sequence[LesionClassifier], dataset: ManifestDataset, rows: pd.DataFrame, on_images: Callable[[int], None]
) -> pd.DataFrame:
    tables, first = [], 0
    batches = every_image(len(dataset), BATCH_SIZE)
    for images, _ in load(dataset, batches, workers=0, device=torch.device("cpu")):
        here = rows.iloc[first : first + len(images)]
        for one in singles:
            (fold_model,), names = one.description.fold_models, one.description.classes
            said = one.assess_prepared(list(images), calibrated=False)
            table = prediction_table(here, said.probabilities, names, fold=fold_model.fold, seed=fold_model.seed)
            usual = {f"u.{name}": said.p_values[:, index] for index, name in enumerate(names)}
            tables.append(table.assign(novelty=said.novelty, **usual))
        first += len(images)
        on_images(len(images))
    return pd.concat(tables, ignore_index=True)


def _analyzed(
    classifier: LesionClassifier,
    manifest: Manifest,
    table: pd.DataFrame,
    path: Path,
    notes: list[str],
    per: Per,
    adapt: float,
    prior: bool,
    level: float,
    coverage: float,
) -> Evaluation:
    model = classifier.description
    classes = Classes.of(dict.fromkeys(model.classes, 0) | model.data.class_counts, model.malignant)
    table["seed"] = model.fold_models[0].seed  # one ensemble, though its models have several
    others = ["novelty", *(f"u.{name}" for name in model.classes)]
    more = table.groupby("image")[others].mean()
    heard = [f"e.{name}" for name in model.classes]
    more[heard] = model.evidence(manifest.rows.set_index("image").loc[more.index])
    table = average_models(table, classes)
    if per == "group":
        table, more = _by_group(table, more, classes)
    aside = _part_to_adapt(table, adapt, per)
    scored, temperature, adapted = table[~aside].reset_index(drop=True), model.temperature, None
    evidence = more.loc[table["image"], heard].to_numpy()
    told = evidence + np.asarray(model.told)
    # Where class frequencies or metadata are told, what is measured is what the classifier answers.
    calibrated = at_temperatures(scored, dict.fromkeys(models_of(scored), temperature), told[~aside], classes)
    results = Results("external", classes, calibrated if any(model.told) or model.metadata else scored, calibrated)
    if aside.any():
        part = table[aside]
        if prior:  # one image more of each class, so that no class is ruled out
            counts = np.bincount(classes.indices(part["label"]), minlength=len(classes.names)) + 1.0
            frequencies = classes.log_frequencies(dict(zip(classes.names, counts, strict=True)))
            told = evidence + np.asarray(told_prior(model.fold_models, frequencies=frequencies))
        temperature = fit_temperature(classes.indices(part["label"]), part[classes.columns].to_numpy(), told[aside])
        calibrated = at_temperatures(scored, dict.fromkeys(models_of(scored), temperature), told[~aside], classes)
        adapted = Results("external", classes, calibrated if prior else results.table, calibrated)
    own = more.loc[scored["image"]]
    return Evaluation(
        path, model, manifest, results, own["novelty"], own[others[1:]].to_numpy(), classifier.novelty_threshold,
        classifier.set_guarantees(coverage), adapted, temperature, int(aside.sum()), prior, tuple(notes), per, level,
        coverage,
    )  # fmt: skip


def _by_group(table: pd.DataFrame, more: pd.DataFrame, classes: Classes) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per group: the softmax of the mean log probabilities, which is the mean of the log-odds of its images.

    Raises:
        DataError: When a group holds several classes, so that it has no one answer.
    """
    labels = table.groupby("group")["label"].nunique()
    if len(mixed := labels.index[labels > 1]):
        raise DataError(
            f"--per group: {count_of(len(mixed), 'group')} of {len(labels):,} hold images of several classes "
            f"({some_of(mixed, 5)}), so that no one answer is right. A group has to be a lesion here: prepare the "
            "manifest with lesions as groups, or leave --per group out"
        )
    logs = table[classes.columns].clip(lower=float(np.finfo(np.float32).tiny)).apply(np.log)
    mean = logs.groupby(table["group"]).mean().apply(np.exp)
    facts = table.drop_duplicates("group").set_index("group").loc[mean.index, ["label", "fold", "seed"]]
    joined = facts.join(mean.div(mean.sum(axis=1), axis=0)).reset_index()
    joined["predicted"] = np.asarray(classes.names)[joined[classes.columns].to_numpy().argmax(axis=1)]
    joined.insert(0, "image", joined["group"])
    return joined, more.join(table.set_index("image")["group"]).groupby("group").mean()


def _part_to_adapt(table: pd.DataFrame, adapt: float, per: Per) -> np.ndarray:
    """(N,) bool, the rows that are set aside."""
    fraction = adapt if adapt < 1 else adapt / len(table)
    if not adapt:
        return np.zeros(len(table), dtype=bool)
    if fraction >= 1:
        raise ConfigError(f"--adapt {adapt:g}: of {count_of(len(table), per)} some must be left to score")
    return inner_validation(table["label"].tolist(), table["group"].tolist(), fraction=fraction, seed=0)


def track(tracker: Tracker, evaluation: Evaluation, html: str, *, private: bool) -> None:
    """Keeps an evaluation as a run beside those of its manifest, linked to the registered version of the model."""
    model, manifest, key = evaluation.model, evaluation.manifest, Experiment(evaluation.path).identifier()
    run = tracker.parent(
        manifest.name,
        f"{model.name} on {manifest.name}",
        key=key,
        tags={
            "role": "evaluation",
            "model": model.name,
            "model_digest": model.digest,
            "split_hash": manifest.split_hash,
        },
        description=f"{model.name} on {len(evaluation.results.table):,} {evaluation.per}s of {manifest.name}",
    )
    run.link_model(model.digest)
    run.log_dataset(
        manifest.name, manifest.split_hash, manifest.source, "external validation", evaluation.results.counts
    )
    measures = evaluation.measures()["value"].round(4)
    run.log_metrics(dict(zip(measures.index, measures, strict=True)))
    run.log_table(evaluation.best.best, "predictions.csv")
    run.log_table(evaluation.measures().reset_index(), "measures.csv")
    run.log_table(evaluation.operating_points.reset_index(), "operating_points.csv")
    tracker.add_report(manifest.name, key, f"{model.name} on {manifest.name}", html, private=private)
    run.finish("FINISHED")
