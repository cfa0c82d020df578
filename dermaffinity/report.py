"""One finished experiment as one page to read, print and send: gathers what ``reports.html`` lays out.

Numbers come from the experiment's own tables. The manifest adds patients' facts, the images add embeddings, doubt and
thumbnails; where either is out of reach the page says so instead.
"""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from dermaffinity.compare import ComparedExperiments, compare_experiments
from dermaffinity.data.images import decode_image
from dermaffinity.data.library import ImageLibrary
from dermaffinity.data.manifest import COLUMNS, Manifest, read_manifest
from dermaffinity.data.splits import Leak, measure_leak
from dermaffinity.data.verify import leak_sentence, leak_statement
from dermaffinity.errors import ComparisonError, DataError, DermaffinityError, ManifestError
from dermaffinity.files import atomic_write
from dermaffinity.metrics.calibration import reliability_bins, with_temperature
from dermaffinity.metrics.classification import MINORITY_BELOW, confusion_matrix, minority_classes
from dermaffinity.metrics.conformal import in_set, p_values, promised_coverage
from dermaffinity.metrics.curves import coverage_curve, roc_curve
from dermaffinity.metrics.statistics import wilson_interval
from dermaffinity.metrics.summary import per_fold
from dermaffinity.model_folder import Description, Member, read_description
from dermaffinity.reports import figures
from dermaffinity.reports.checklist import checklist
from dermaffinity.reports.html import (
    Case,
    CaseGroup,
    Confusion,
    Figures,
    Headline,
    Picture,
    ReportContent,
    Table,
    picture,
    render,
    table_of,
    thumbnail,
)
from dermaffinity.reports.tables import gains_table, p_value_table, percent_interval, results_table
from dermaffinity.results import ExperimentFolder, class_indices, find_experiment, read_table
from dermaffinity.revisit import SeenFold, revisit
from dermaffinity.tracking.base import NullTracker

_USUAL_BASELINE = "cosen"
_CASES = 12
_COVERAGE = 0.9  # of the prediction sets
_AGES = {"under 40": 0, "40 to 59": 40, "60 to 79": 60, "80 and older": 80}  # years, from
_MOST_VALUES = 20  # of a column that splits the results; more would be names


@dataclass(frozen=True)
class Written:
    """A report on the disk.

    Args:
        path: The page.
        thumbnails: How many images of the library it shows.
        licence: Their terms.
        notes: What it leaves out, and why.
    """

    path: Path
    thumbnails: int
    licence: str
    notes: tuple[str, ...]


def write_report(
    sources: Sequence[str],
    *,
    runs: Path,
    baseline: str | None = None,
    out: Path | None = None,
    pictures: bool = True,
    manifest: Path | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Written:
    """Writes the report of one experiment, beside others on the same split.

    Args:
        sources: Experiments' folders, or pages' files or names. The report is about the first one.
        runs: Folder of all experiments.
        baseline: What gains are measured against: one of the sources or of the first one's neighbors. By default
            CoSen, where it was run on the same split.
        out: The HTML file; by default ``report.html`` in the experiment's folder.
        pictures: Whether to show images of the library.
        manifest: Where the manifest is, if not where the experiment's page says.
        on_progress: Called with the test images seen and all of them.

    Raises:
        DataError: When the experiment is not finished, or was scored on inner validation images.
        ComparisonError: When the baseline or another source cannot be compared with it.
        ManifestError: When the manifest named is not the experiment's.
    """
    # Absolute, because a folder called "." has no name.
    subject, *others = (ExperimentFolder(find_experiment(source, runs).path.absolute()) for source in sources)
    _check_finished(subject)
    notes: list[str] = []
    evidence = _Evidence.of(subject, _manifest(subject, manifest, notes), notes)
    compared = _compare(subject, others, baseline, notes)
    seen = _revisit(evidence, notes, on_progress)
    content = _content(evidence, compared, seen, notes, pictures)
    path = out or subject.path / "report.html"
    with atomic_write(path) as file:
        file.write(render(content))
    shown = sum(case.thumbnail is not None for group in content.case_groups for case in group.cases)
    return Written(path, shown, evidence.licence, tuple(notes))


@dataclass(frozen=True, eq=False)
class _Evidence:
    """What is known of the experiment that the report is about, for C classes."""

    folder: ExperimentFolder
    facts: dict[str, Any]  # experiment.json
    manifest: Manifest | None
    model: Description | None  # of the first fold
    members: dict[tuple[int, int], Member]  # by fold and seed; empty where the models are gone
    table: pd.DataFrame  # out of fold, all seeds
    calibrated: pd.DataFrame  # the same at each model's temperature, or as it is without models
    summary: pd.DataFrame
    external: pd.DataFrame | None
    external_summary: pd.DataFrame | None

    @classmethod
    def of(cls, folder: ExperimentFolder, manifest: Manifest | None, notes: list[str]) -> "_Evidence":
        facts = folder.description()
        table = read_table(folder.path / "out_of_fold.csv")
        model, members = None, {}
        try:
            for job in folder.jobs():
                model = read_description(job.path)
                members |= {(member.fold, member.seed): member for member in model.members}
        except DataError as error:
            model, members = None, {}
            notes.append(f"Calibrated probabilities and prediction sets are left out: {error.message}.")
        calibrated = table.copy()
        if members:
            columns = [f"p.{name}" for name in facts["classes"]]
            keys = zip(table["fold"], table["seed"], strict=True)
            own = np.array([members[key].calibration.temperature for key in keys])
            calibrated[columns] = with_temperature(table[columns].to_numpy(), own[:, None])
        has_external = (folder.path / "external.csv").exists()
        return cls(
            folder,
            facts,
            manifest,
            model,
            members,
            table,
            calibrated,
            _read_summary(folder.path / "out_of_fold_summary.csv"),
            read_table(folder.path / "external.csv") if has_external else None,
            _read_summary(folder.path / "external_summary.csv") if has_external else None,
        )

    @property
    def name(self) -> str:
        return self.folder.path.name

    @property
    def classes(self) -> list[str]:
        return self.facts["classes"]

    @property
    def counts(self) -> dict[str, int]:
        return self.facts["class_counts"]

    @property
    def minority(self) -> tuple[str, ...]:
        return minority_classes(self.counts)

    @property
    def malignant(self) -> list[str]:
        return self.facts["malignant"]

    @property
    def page(self) -> dict[str, Any]:
        return self.facts["identity"]["page"]

    @property
    def split_hash(self) -> str:
        return self.facts["identity"]["split_hash"]

    @property
    def seeds(self) -> list[int]:
        return sorted(map(int, self.table["seed"].unique()))

    @property
    def source(self) -> str:
        known = self.manifest or (self.model.data if self.model else None)
        return known.source if known else "not recorded with these results"

    @property
    def licence(self) -> str:
        known = self.manifest or (self.model.data if self.model else None)
        return (known.licence if known else "") or "not recorded with these results"

    @property
    def leak(self) -> Leak:
        rows = self.first_seed(self.table)
        return measure_leak(rows["label"].tolist(), rows["group"].tolist(), rows["fold"].tolist())

    def first_seed(self, table: pd.DataFrame) -> pd.DataFrame:
        """One row an image, for what looks at single images."""
        return table[table["seed"] == self.seeds[0]].reset_index(drop=True)

    def scored(self, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Class indices (N,) and probabilities (N, C) of a prediction table."""
        columns = [f"p.{name}" for name in self.classes]
        return class_indices(table["label"], self.classes), table[columns].to_numpy(float)


def _check_finished(folder: ExperimentFolder) -> None:
    if folder.description()["identity"]["scored"] != "test":
        raise DataError(
            f"{folder.path}: scored its inner validation images, which are for choosing settings and not for "
            "reporting; run the chosen page with dermaffinity crossval, without --inner"
        )
    if not (folder.path / "out_of_fold.csv").exists():
        raise DataError(
            f"{folder.path}: some folds are still to be run; go on with dermaffinity crossval PAGE --resume, then "
            "report again"
        )


def _read_summary(path: Path) -> pd.DataFrame:
    empty = dict.fromkeys(("value", "low", "high"), [""])
    table = pd.read_csv(path, dtype={"metric": str}, keep_default_na=False, na_values=empty)  # type: ignore[arg-type]
    return table.set_index("metric")


def _manifest(folder: ExperimentFolder, named: Path | None, notes: list[str]) -> Manifest | None:
    """The experiment's manifest: the one named, or the one its page names, seen from here or from beside the runs."""
    facts = folder.description()
    split = facts["identity"]["split_hash"]
    if named is not None:
        manifest = read_manifest(named)
        if manifest.split_hash != split:
            raise ManifestError(
                f"{named}: split {manifest.split_hash[:12]}, but {folder.path.name} was run on {facts['dataset']}, "
                f"split {split[:12]}; name that manifest"
            )
        return manifest
    page = yaml.safe_load((folder.path / "page.yaml").read_text(encoding="utf-8"))
    path = Path(page["data"]["manifest"])
    root = page["data"].get("root")
    for place in (path, folder.path.absolute().parent.parent / path):
        if place.is_file():
            try:
                manifest = read_manifest(place, Path(root) if root else None)
            except ManifestError as error:
                notes.append(f"What the manifest knows is left out: {error.message}.")
                return None
            if manifest.split_hash == split:
                return manifest
    notes.append(
        f"Facts of patients are left out: the manifest {path.name} of split {split[:12]} was not found where this "
        "report was written."
    )
    return None


def _compare(
    subject: ExperimentFolder, others: list[ExperimentFolder], baseline: str | None, notes: list[str]
) -> ComparedExperiments | None:
    """The subject beside a baseline and the other experiments asked for; None when there is nothing beside it."""
    named = {folder.path.name: folder for folder in (subject, *others)}
    for folder in others:
        _check_finished(folder)
    wanted = baseline or _USUAL_BASELINE
    known = named | {folder.path.name: folder for folder in _neighbors(subject) if folder.path.name not in named}
    fitting = [name for name in known if name == wanted] or [name for name in known if wanted in name]
    if len(fitting) != 1:
        if baseline is not None or others:
            raise ComparisonError(
                f"--baseline {wanted}: {len(fitting) or 'none'} of {', '.join(known)} fits, which are the finished "
                "experiments on this split; give the full name of one of them"
            )
        return None
    (base,) = fitting
    chosen = {**named, base: known[base]}
    if len(chosen) == 1:
        return None
    try:
        return compare_experiments(
            [str(folder.path) for folder in chosen.values()],
            baseline=base,
            runs=subject.path.parent,
            tracker=NullTracker(),
        )
    except ComparisonError as error:
        if baseline is not None or others:
            raise
        notes.append(f"The comparison with {base}, which lies beside this experiment, is left out: {error.message}.")
        return None


def _neighbors(subject: ExperimentFolder) -> list[ExperimentFolder]:
    """Finished experiments on the same split, in the same folder."""
    split, found = subject.description()["identity"]["split_hash"], []
    for path in sorted(subject.path.absolute().parent.glob("*/experiment.json")):
        folder = ExperimentFolder(path.parent)
        identity = folder.description()["identity"]
        finished = (folder.path / "out_of_fold.csv").exists()
        if folder.path.name != subject.path.name and finished and identity["scored"] == "test":
            found += [folder] if identity["split_hash"] == split else []
    return found


def _revisit(
    evidence: _Evidence, notes: list[str], on_progress: Callable[[int, int], None]
) -> list[SeenFold] | None:
    manifest = evidence.manifest
    if manifest is None or not evidence.members:
        return None
    left_out = "The embedding map, doubt and pictures of cases are left out: "
    if manifest.root is None or not manifest.root.exists():
        notes.append(f"{left_out}the images were not at hand where this report was written.")
        return None
    try:
        return revisit(
            evidence.folder, manifest, evidence.table, seed=evidence.seeds[0], on_progress=on_progress
        )
    except DermaffinityError as error:
        notes.append(f"{left_out}{error.message}.")
        return None


def _content(
    evidence: _Evidence,
    compared: ComparedExperiments | None,
    seen: list[SeenFold] | None,
    notes: list[str],
    pictures: bool,
) -> ReportContent:
    summaries = dict(compared.summaries) if compared else {evidence.name: evidence.summary}
    doubt = _doubts(seen)
    subgroups = _subgroups(evidence)
    sets, sets_note = _sets(evidence)
    groups = _cases(evidence, doubt, pictures and seen is not None)
    shown = any(case.thumbnail for group in groups for case in group.cases)
    leaks = evidence.leak.share > 0
    matrix = _matrix(evidence, evidence.table)
    seeds = f", summed over {len(evidence.seeds)} seeds" if len(evidence.seeds) > 1 else ""
    gains = compared.gains if compared else None
    external = evidence.external
    return ReportContent(
        name=evidence.name,
        dataset=evidence.facts["dataset"],
        created=datetime.now(UTC).strftime("%Y-%m-%d"),
        intended_use=evidence.model.intended_use if evidence.model else "Research use only. Not a medical device.",
        licence=evidence.licence,
        source=evidence.source,
        classes=evidence.classes,
        malignant=evidence.malignant,
        baseline=compared.baseline if compared else None,
        summary=_plain_summary(evidence, compared, matrix),
        notes=notes,
        headlines=_headlines(evidence),
        run_facts=_run_facts(evidence),
        data_facts=_data_facts(evidence),
        class_table=_class_table(evidence),
        leak=leak_statement(evidence.manifest).split("\n") if evidence.manifest else [
            f"Protocol '{evidence.facts['protocol']}': {leak_sentence(evidence.leak)}"
        ],
        leaks=leaks,
        discipline=_discipline(evidence),
        measures=table_of(
            results_table(summaries, evidence.counts),
            "Recall of each class and measures over all classes, out of fold: percent [95 % interval]",
            "Class or measure",
        ),
        by_fold=_fold_table(evidence),
        gains=table_of(
            gains_table(gains, evidence.counts),
            f"Gain over {compared.baseline}: percentage points [95 % interval]",
            "Class or measure",
        ) if compared and gains else None,
        tests=table_of(
            p_value_table(compared.tests), f"p-values against {compared.baseline}, adjusted (Holm)", "Test, measure"
        ) if compared else None,
        figures=_figures(evidence, compared, summaries, seen, doubt),
        confusion=Confusion(
            f"Out-of-fold images{seeds}: each true class (row) by predicted class, with percent of the row",
            evidence.classes,
            matrix,
        ),
        calibration=_calibration_table(evidence),
        coverage=_coverage_table(evidence, doubt),
        doubt=_doubt_sentence(evidence, seen),
        sets=sets,
        sets_note=sets_note,
        external=None if evidence.external_summary is None or external is None else table_of(
            results_table({evidence.name: evidence.external_summary}, _label_counts(external, evidence.classes)),
            "External images, mean of the folds' models: percent [95 % interval]",
            "Class or measure",
        ),
        external_confusion=None if external is None else Confusion(
            "External images: each true class (row) by predicted class, with percent of the row",
            evidence.classes,
            _matrix(evidence, external),
        ),
        external_note=_external_note(evidence),
        subgroups=list(subgroups.values()),
        subgroups_note=_subgroups_note(evidence, list(subgroups)),
        map_note=_map_note(seen),
        case_groups=groups,
        cases_note=_cases_note(evidence, shown, pictures),
        unrecorded=_unrecorded(evidence),
        checklist=checklist(
            external=external is not None,
            baseline=compared is not None,
            subgroups=list(subgroups),
            leaks=leaks,
            doubt=seen is not None,
            thumbnails=shown,
        ),
        commands=_commands(evidence),
        page=_page(evidence),
        versions=_versions(evidence),
    )  # fmt: skip


def _plain_summary(evidence: _Evidence, compared: ComparedExperiments | None, matrix: np.ndarray) -> list[str]:
    values, facts = evidence.summary, evidence.facts
    images = sum(evidence.counts.values())
    sentences = [
        f"{evidence.name} was cross-validated on {facts['dataset']}: {images:,} images of "
        f"{evidence.table['group'].nunique():,} patients or lesions in {len(evidence.classes)} classes. Every image was "
        f"classified by one of {facts['folds']} models that was not trained on its part of the library.",
        f"On average over the classes, {_said(values, 'balanced_accuracy')} of a class's images were recognized "
        "(balanced accuracy).",
    ]
    if "minority_recall" in values.index:
        sentences.append(
            f"Of the rare classes, those with fewer than {MINORITY_BELOW} images ({', '.join(evidence.minority)}), it "
            f"recognized {_said(values, 'minority_recall')}."
        )
    recalls = values.loc[[f"recall.{name}" for name in evidence.classes], "value"]
    worst = evidence.classes[int(np.nanargmin(recalls))]
    row = matrix[evidence.classes.index(worst)].astype(float)
    row[evidence.classes.index(worst)] = 0
    taken_for = f"; it was most often taken for {evidence.classes[int(row.argmax())]}" if row.any() else ""
    sentences.append(f"The weakest class is {worst}: {_said(values, f'recall.{worst}')} recognized{taken_for}.")
    if "malignant_sensitivity" in values.index:
        sentences.append(
            f"Counting {_enumerated(evidence.malignant)} as malignant, {_said(values, 'malignant_sensitivity')} of the "
            f"malignant images were called malignant, and {_said(values, 'malignant_specificity')} of the others were "
            "not."
        )
    if compared and evidence.name in compared.gains:
        sentences.append(_gain_sentence(compared, evidence.name))
    if evidence.external_summary is not None and evidence.external is not None:
        number = evidence.external["image"].nunique()
        sentences.append(
            f"On {number:,} external images the balanced accuracy of the folds' models together was "
            f"{_said(evidence.external_summary, 'balanced_accuracy')}."
        )
    return sentences


def _gain_sentence(compared: ComparedExperiments, name: str) -> str:
    value, low, high = 100 * compared.gains[name].loc["gain.balanced_accuracy", ["value", "low", "high"]]
    difference = f"{value:+z.1f} percentage points (95 % interval {low:+z.1f} to {high:+z.1f})"
    if low <= 0 <= high:
        judged = "the interval holds zero, so these images do not tell which of the two is better"
    else:
        judged = f"so on these images it is {'better' if value > 0 else 'worse'}, for the models that were trained"
    return f"Against {compared.baseline} its balanced accuracy differs by {difference}: {judged}."


def _headlines(evidence: _Evidence) -> list[Headline]:
    wanted = [
        ("balanced_accuracy", "Balanced accuracy", f"mean recall of {len(evidence.classes)} classes"),
        ("minority_recall", "Minority recall", ", ".join(evidence.minority)),
        ("worst_class_recall", "Worst class recall", "the class that is missed most"),
        ("malignant_sensitivity", "Malignant sensitivity", ", ".join(evidence.malignant)),
        ("macro_auc", "Macro AUC", "each class against the rest"),
    ]
    headlines = []
    for metric, label, note in wanted:
        if metric in evidence.summary.index:
            value, _, interval = percent_interval(*_row(evidence.summary, metric)).partition(" ")
            headlines.append(Headline(label, value, interval.strip("[]").replace(", ", " to "), note))
    return headlines


def _run_facts(evidence: _Evidence) -> list[tuple[str, str]]:
    page, training = evidence.page, evidence.page["training"]
    facts = [(title, _component(page[section])) for title, section in (
        ("Network", "backbone"), ("Neck", "neck"), ("Head", "head"), ("Loss", "loss"), ("Augmentation", "augmentation")
    )]  # fmt: skip
    crop = page["data"]["lesion_crop"]
    facts.insert(0, ("Page", evidence.name))
    facts += [
        ("Image size", f"{page['data']['image_size']} pixels, " + (
            "whole image" if crop is None else f"cropped to the lesion's mask with a margin of {crop:g} lesion sizes"
        )),
        ("Training", f"{training['epochs']} epochs, batches of {training['batch_size']}, learning rate "
         f"{training['learning_rate']:g}, weight decay {training['weight_decay']:g}, precision "
         f"{training['precision']}" + (", classes sampled evenly" if training["balanced_sampling"] else "")),
        ("Seeds", ", ".join(map(str, evidence.seeds))),
        ("Results written", _written_on(evidence.folder.path / "out_of_fold.csv")),
    ]  # fmt: skip
    return facts


def _data_facts(evidence: _Evidence) -> list[tuple[str, str]]:
    facts, manifest = evidence.facts, evidence.manifest
    protocol = {
        "group": "group: all images of a patient or lesion are in the same fold",
        "image": "image: images are dealt out one by one, whoever they show",
    }
    rows = [
        ("Manifest", facts["dataset"]),
        ("Source", evidence.source),
        ("Licence", evidence.licence),
        ("Folds", f"{facts['folds']}, test images in turn"),
        ("Protocol", protocol.get(facts["protocol"], facts["protocol"])),
        ("Split hash", evidence.split_hash),
    ]
    if manifest is not None:
        experiment = f", experiment {manifest.experiment}" if manifest.experiment else ""
        rows.insert(1, ("Library", f"adapter {manifest.adapter}{experiment}"))
    return rows


def _class_table(evidence: _Evidence) -> Table:
    rows = evidence.first_seed(evidence.table)
    in_fold = pd.crosstab(rows["label"], rows["fold"])
    groups = rows.groupby("label")["group"].nunique()
    external = None if evidence.manifest is None else evidence.manifest.external()["label"].value_counts()
    table = []
    for name in evidence.classes:
        kind = [word for word, among in (("malignant", evidence.malignant), ("rare", evidence.minority)) if name in among]
        cells = [name, ", ".join(kind) or "–", f"{evidence.counts[name]:,}", f"{groups.get(name, 0):,}"]
        cells += [f"{count:,}" for count in in_fold.loc[name]] if name in in_fold.index else ["0"] * len(in_fold.columns)
        table.append([*cells, *([] if external is None else [f"{external.get(name, 0):,}"])])
    columns = ["Class", "Kind", "Images", "Groups", *(f"Fold {fold}" for fold in in_fold.columns)]
    return Table(
        f"Images of each class; groups are patients or lesions, rare is below {MINORITY_BELOW} images",
        [*columns, *([] if external is None else ["Set aside"])],
        table,
    )


def _discipline(evidence: _Evidence) -> list[str]:
    fraction, patience = evidence.facts["validation_fraction"], evidence.page["training"]["patience"]
    stop = (
        f"Training ran for all {evidence.page['training']['epochs']} epochs; the last network was kept, whatever its "
        "score."
        if patience is None
        else f"Training stopped {patience} epochs after the best inner validation score, and that network was kept."
    )
    return [
        f"Every image was scored once for each seed ({len(evidence.seeds)}), by the model of the fold that had it as "
        "a test image.",
        f"{100 * fraction:.0f} % of each model's training images were held out by group as inner validation. "
        "Temperatures, the limit of doubt and the scores behind prediction sets come from there, never from test "
        f"images. {stop}",
        "Class counts that losses use were taken from the training images of each fold alone.",
        "What people changed after they had seen earlier test results cannot be read from these files. Settings that "
        "were chosen so would make the numbers better than they are.",
    ]


def _fold_table(evidence: _Evidence) -> Table:
    measured = per_fold(evidence.table, evidence.classes, minority=evidence.minority, malignant=evidence.malignant)
    wanted = {"balanced_accuracy": "Balanced accuracy", "minority_recall": "Minority recall", "accuracy": "Accuracy"}
    present = {metric: title for metric, title in wanted.items() if metric in measured}
    rows = [
        [f"{fold}", f"{seed}", *(f"{100 * value:.1f}" for value in values)]
        for fold, seed, *values in measured[["fold", "seed", *present]].itertuples(index=False)
    ]
    return Table("Each fold and seed by itself: percent", ["Test fold", "Seed", *present.values()], rows)


def _figures(
    evidence: _Evidence,
    compared: ComparedExperiments | None,
    summaries: dict[str, pd.DataFrame],
    seen: list[SeenFold] | None,
    doubt: pd.Series | None,
) -> Figures:
    counts, name = evidence.counts, evidence.name
    methods = " and ".join(summaries)
    recalls = "; ".join(f"{code} {percent_interval(*_row(evidence.summary, f'recall.{code}'))}" for code in counts)
    aucs = "; ".join(f"{code} {percent_interval(*_row(evidence.summary, f'auc.{code}'))}" for code in counts)
    tables = {name: evidence.table}
    if compared and compared.baseline != name:
        base = find_experiment(compared.baseline, evidence.folder.path.parent)
        tables = {compared.baseline: base.predictions("predictions"), **tables}
    curves = {method: _roc_curves(evidence, table) for method, table in tables.items()}
    bins = {"as trained": reliability_bins(*evidence.scored(evidence.table))}
    if evidence.members:
        bins["calibrated"] = reliability_bins(*evidence.scored(evidence.calibrated))
    return Figures(
        recall=picture(
            figures.recall_figure(summaries, counts, ""),
            "recall",
            f"Recall of each class in percent with 95 % intervals for {methods}. {name}: {recalls}.",
            "Recall of each class with its 95 % interval, the most frequent class at the top.",
        ),
        roc=picture(
            figures.roc_figure(curves, evidence.summary, name, counts),
            "roc",
            f"ROC curves of each class against the rest. AUC of {name} in percent: {aucs}.",
            "Each class against the rest. Curves are averaged over folds, because models of different folds need not "
            f"share a scale. AUC in percent with its 95 % interval, of {name}.",
        ),
        reliability=picture(
            figures.reliability_figure(bins, ""),
            "reliability",
            f"Share of right answers against confidence, {' and '.join(bins)}; the numbers are in the table beside.",
            "Reliability: on the diagonal, 80 % of the answers given with a confidence of 80 % are right. Below, the "
            "number of images in each bin.",
        ),
        coverage=picture(
            figures.coverage_figure(_coverage_curves(evidence, doubt)),
            "coverage",
            "Share of right answers against the share of images answered; the numbers are in the table below.",
            "What is gained by leaving the least sure images to a person. Dotted: all images answered. Shares below "
            "5 % rest on too few images to be drawn.",
        ),
        gain=picture(
            figures.gain_figure(compared.gains, compared.baseline, counts),
            "gain",
            f"Gains over {compared.baseline} with 95 % intervals; the numbers are in the table below.",
            f"Gain over {compared.baseline} on the same images. An interval that holds zero does not tell which is "
            "better.",
        )
        if compared
        else None,
        map=_map(evidence, seen[0]) if seen else None,
    )


def _roc_curves(evidence: _Evidence, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    labels, probabilities = evidence.scored(table)
    models = table.groupby(["fold", "seed"]).ngroup().to_numpy()
    return {
        name: roc_curve(labels == index, probabilities[:, index], models)
        for index, name in enumerate(evidence.classes)
    }


def _map(evidence: _Evidence, seen: SeenFold) -> Picture:
    """One fold's test images, because the axes of different models have nothing to do with one another."""
    from sklearn.decomposition import PCA

    # Linear: centers fall where the same map puts them, distances shrink but never grow, and there is nothing to tune.
    # t-SNE would draw tighter clusters, whose sizes and distances mean nothing, and has no place for centers.
    plane = PCA(n_components=2, svd_solver="full").fit(seen.embedding)
    if seen.centers_are_places:
        centers, meaning = seen.centers, "large markers are the centers that the head learned"
    else:
        means = [seen.embedding[seen.labels == label].mean(axis=0) for label in range(len(evidence.classes))]
        centers = np.stack(means)[:, None]
        meaning = (
            "large markers are the means of the classes (the class vectors of a linear head are directions, not places)"
        )
    flat = plane.transform(centers.reshape(-1, centers.shape[-1]))
    figure = figures.embedding_figure(
        plane.transform(seen.embedding),
        seen.labels,
        seen.predicted == seen.labels,
        flat.reshape(*centers.shape[:2], 2),
        evidence.classes,
        plane.explained_variance_ratio_.tolist(),
    )
    share = 100 * plane.explained_variance_ratio_.sum()
    return picture(
        figure,
        "map",
        f"Map of the {len(seen.labels)} test images of fold {seen.fold} by class; {meaning}.",
        f"The {len(seen.labels)} test images of fold {seen.fold} as its model sees them: filled where it is right, "
        f"hollow where it is wrong; {meaning}. The plane holds {share:.0f} % of the variance of a "
        f"{seen.embedding.shape[1]}-dimensional embedding, so what overlaps here may be apart in truth.",
    )


def _doubts(seen: list[SeenFold] | None) -> pd.Series | None:
    """Doubt by image."""
    if not seen:
        return None
    return pd.concat([pd.Series(fold.doubt, index=fold.images) for fold in seen])


def _coverage_curves(evidence: _Evidence, doubt: pd.Series | None) -> dict[str, pd.DataFrame]:
    rows = evidence.first_seed(evidence.calibrated)
    labels, probabilities = evidence.scored(rows)
    right = probabilities.argmax(axis=1) == labels
    curves = {"surest by confidence": coverage_curve(right, 1 - probabilities.max(axis=1))}
    if doubt is not None:
        curves["least doubtful"] = coverage_curve(right, doubt.loc[rows["image"]].to_numpy())
    return curves


def _coverage_table(evidence: _Evidence, doubt: pd.Series | None) -> Table:
    curves = _coverage_curves(evidence, doubt)
    images = len(evidence.first_seed(evidence.table))
    rows = []
    for asked in (1.0, 0.9, 0.8, 0.7, 0.5):
        cells = [f"{100 * asked:.0f} %"]
        for curve in curves.values():
            coverage, accuracy, _ = curve.iloc[min(int((curve["coverage"] < asked - 1e-9).sum()), len(curve) - 1)]
            answered = round(coverage * images)
            cells.append(percent_interval(accuracy, *wilson_interval(round(accuracy * answered), answered)))
        rows.append(cells)
    return Table(
        "Right among the images answered, when the least sure are left out: percent [95 % interval]",
        ["Images answered", *(name[0].upper() + name[1:] for name in curves)],
        rows,
    )


def _doubt_sentence(evidence: _Evidence, seen: list[SeenFold] | None) -> str:
    if not seen:
        return "Doubt, the distance from every class center, needs the images and is not shown here."
    above = np.concatenate([fold.doubt > fold.doubt_limit for fold in seen])
    wrong = np.concatenate([fold.predicted != fold.labels for fold in seen])
    parts = [
        f"{_share_text(wrong[chosen])} of the {int(chosen.sum()):,} images {where} the limit are misclassified"
        for where, chosen in (("above", above), ("below", ~above))
        if chosen.any()
    ]
    return (
        "Doubt is the distance to the nearest class center, in standard deviations from the mean of inner validation "
        "images; the limit is what 95 % of those stay below. It is meant for images unlike all training images, not "
        f"for telling two similar classes apart. Here {_share_text(above)} of the test images are above the limit: "
        f"{'; '.join(parts)}."
    )


def _sets(evidence: _Evidence) -> tuple[Table | None, str]:
    """How often prediction sets hold the true class, for each class on its own, against the promise."""
    if not evidence.members:
        return None, "Prediction sets need the models' calibration scores, which are gone."
    rows = evidence.first_seed(evidence.calibrated)
    inside = np.zeros((len(rows), len(evidence.classes)), dtype=bool)
    members = {fold: evidence.members[fold, evidence.seeds[0]] for fold in sorted(rows["fold"].unique())}
    for fold, member in members.items():
        here = (rows["fold"] == fold).to_numpy()
        scores = [np.asarray(member.calibration.scores[name]) for name in evidence.classes]
        inside[here] = in_set(p_values(scores, evidence.scored(rows[here])[1]), _COVERAGE)
    labels, sizes = evidence.scored(rows)[0], inside.sum(axis=1)
    held = inside[np.arange(len(labels)), labels]
    table = []
    for index, name in enumerate(evidence.classes):
        own = labels == index
        known = [len(member.calibration.scores[name]) for member in members.values()]
        promised = min(promised_coverage(_COVERAGE, [count]) for count in known)
        table.append([
            name, f"{own.sum():,}", f"{min(known)}–{max(known)}", f"{100 * promised:.0f} %",
            percent_interval(held[own].mean(), *wilson_interval(int(held[own].sum()), int(own.sum())))
            if own.any() else "–",
            f"{sizes[own].mean():.1f}" if own.any() else "–",
        ])  # fmt: skip
    everything = percent_interval(held.mean(), *wilson_interval(int(held.sum()), len(held)))
    table.append(["all", f"{len(held):,}", "", "", everything, f"{sizes.mean():.1f}"])
    columns = ["Class", "Test images", "Calibration images", "Promised at least", "Sets that hold it", "Classes in a set"]
    caption = f"Prediction sets asked to hold the true class of {100 * _COVERAGE:.0f} % of each class's images"
    note = (
        "Each fold's model makes sets from its own inner validation images (conformal prediction, for each class on "
        "its own). The promise is an average over choices of those images: with few of them the share seen here may "
        f"well lie some way off. {_share_text(sizes == 1)} of the sets name a single class, {_share_text(sizes == 0)} "
        "are empty."
    )
    return Table(caption, columns, table, frozenset({len(evidence.classes)})), note


def _calibration_table(evidence: _Evidence) -> Table:
    kinds = {"as trained": "", "calibrated": ".calibrated"}
    present = {name: end for name, end in kinds.items() if f"ece{end}" in evidence.summary.index}
    rows = [
        ["Calibration error (ECE), percent", *(percent_interval(*_row(evidence.summary, f"ece{end}")) for end in present.values())],
        ["Brier score, 0 best, 2 worst", *(_plain_interval(*_row(evidence.summary, f"brier{end}")) for end in present.values())],
    ]  # fmt: skip
    return Table("Calibration with 95 % intervals; temperatures are fitted on inner validation images", ["Measure", *present], rows)  # fmt: skip # noqa: E501


def _external_note(evidence: _Evidence) -> str:
    if evidence.external is None:
        aside = 0 if evidence.manifest is None else len(evidence.manifest.external())
        if aside:
            return f"The manifest sets {aside:,} images aside as an external test; they were not scored in this run."
        return "There is no external test: how far these results carry to other clinics and cameras is not known."
    return (
        "Images that took no part in training or tuning. Their probabilities are the mean over the folds' models. "
        "Where they come from the same library as the training images they test other patients or lesions, not "
        "another clinic or camera."
    )


def _subgroups(evidence: _Evidence) -> dict[str, Table]:
    """Results by what the manifest knows of patients."""
    if evidence.manifest is None:
        return {}
    facts = evidence.manifest.development().set_index("image")
    rows = evidence.first_seed(evidence.table)
    tables = {}
    for column in (name for name in facts.columns if name not in COLUMNS):
        values = _subgroup_values(facts[column], column)
        if values is not None:
            tables[column] = _subgroup_table(evidence, rows, values.loc[rows["image"]].to_numpy(), column)
    return tables


def _subgroup_values(column: pd.Series, name: str) -> pd.Series | None:
    """Which subgroup each image is in; None for a column that makes no subgroups."""
    if pd.api.types.is_numeric_dtype(column):
        if name.lower() != "age":
            return None
        bins = [*_AGES.values(), np.inf]
        column = pd.cut(column.astype(float), bins, right=False, labels=list(_AGES)).astype(object)
    if not 1 < column.nunique() <= _MOST_VALUES:
        return None
    return column.where(column.notna(), "not recorded").replace("unknown", "not recorded")


def _subgroup_table(evidence: _Evidence, rows: pd.DataFrame, values: np.ndarray, column: str) -> Table:
    labels, probabilities = evidence.scored(rows)
    predicted = probabilities.argmax(axis=1)
    right = predicted == labels
    recall = np.array([right[labels == index].mean() if (labels == index).any() else np.nan for index in range(len(evidence.classes))])  # fmt: skip # noqa: E501
    is_malignant = np.isin(evidence.classes, evidence.malignant)
    order = [name for name in _AGES if column.lower() == "age" and name in values]
    order += [name for name in pd.Series(values).value_counts().index if name not in (*_AGES, "not recorded")]
    table = []
    for value in [*order, *(["not recorded"] if "not recorded" in values else [])]:
        here = values == value
        cells = [str(value), f"{here.sum():,} ({100 * here.mean():.0f} %)"]
        cells.append(percent_interval(right[here].mean(), *wilson_interval(int(right[here].sum()), int(here.sum()))))
        cells.append(f"{100 * recall[labels[here]].mean():.1f}")
        if is_malignant.any():
            ill = here & is_malignant[labels]
            found = int(is_malignant[predicted[ill]].sum())
            cells.append(
                f"{percent_interval(found / ill.sum(), *wilson_interval(found, int(ill.sum())))}, n = {ill.sum()}"
                if ill.any()
                else "–"
            )
        table.append(cells)
    columns = [column.capitalize(), "Images", "Recognized, %", "Expected, %"]
    return Table(
        f"Results by {column}: percent [95 % interval]",
        [*columns, *(["Malignant called malignant, %"] if is_malignant.any() else [])],
        table,
    )


def _subgroups_note(evidence: _Evidence, columns: list[str]) -> str:
    if evidence.manifest is None:
        return "The manifest was not at hand, so results cannot be split by what it may know of patients."
    if not columns:
        return "Not reported: the manifest has no facts of patients, such as age, sex or site."
    return (
        "'Expected' is what would be recognized if each class were recognized as well here as everywhere: subgroups "
        "differ in their diagnoses, and only what lies beside the expected share hints at the subgroup itself. "
        "Intervals take images as independent, and nothing is adjusted for looking at many subgroups at once."
    )


def _map_note(seen: list[SeenFold] | None) -> str:
    if not seen:
        return "Left out: the map needs the images and the models, which were not at hand where this was written."
    difference = max(fold.difference for fold in seen)
    return (
        "For this map the stored models looked at their test images once more; their probabilities differ from those "
        f"of the out-of-fold table by at most {difference:.1g}. The map is a principal component analysis of the test "
        "images' embeddings: a linear shadow that depends on no seed, onto which centers fall as images do."
    )


def _cases(evidence: _Evidence, doubt: pd.Series | None, pictures: bool) -> list[CaseGroup]:
    rows = evidence.first_seed(evidence.calibrated)
    labels, probabilities = evidence.scored(rows)
    confidence, predicted = probabilities.max(axis=1), probabilities.argmax(axis=1)
    own = probabilities[np.arange(len(labels)), labels]
    wrong = np.flatnonzero(predicted != labels)
    surest = wrong[np.argsort(-confidence[wrong], kind="stable")][:_CASES]
    unsure = np.argsort(confidence, kind="stable")[:_CASES]
    library = ImageLibrary(evidence.manifest.root) if pictures and evidence.manifest and evidence.manifest.root else None
    doubts = None if doubt is None else doubt.loc[rows["image"]].to_numpy()

    def cases(chosen: np.ndarray) -> list[Case]:
        found = []
        for index in chosen:
            image = rows["image"].iloc[index]
            facts = [f"confidence {100 * confidence[index]:.0f} %"]
            if predicted[index] != labels[index]:
                facts.append(f"for {evidence.classes[labels[index]]} {100 * own[index]:.0f} %")
            if doubts is not None:
                facts.append(f"doubt {doubts[index]:.1f}")
            shown = None if library is None else thumbnail(decode_image(library.read(image), image))
            found.append(
                Case(image, evidence.classes[labels[index]], evidence.classes[predicted[index]], facts, shown)
            )
        return found

    groups = [
        CaseGroup("Most confident errors", "Wrong, and sure of it: look for labels in doubt, hair, rulers, "
                  "cropping, or lesions that a person would call the same.", cases(surest)),
        CaseGroup("Least confident answers", "The highest probability is the lowest here; right or wrong is close to "
                  "chance.", cases(unsure)),
    ]  # fmt: skip
    if doubts is not None:
        strangest = np.argsort(-doubts, kind="stable")[:_CASES]
        lead = "Farthest from every class center: images unlike those of the training."
        groups.append(CaseGroup("Most doubtful images", lead, cases(strangest)))
    return groups


def _cases_note(evidence: _Evidence, shown: bool, pictures: bool) -> str:
    if shown:
        return (
            f"This report holds images of the library under its licence, {evidence.licence}: pass it on only as that "
            "allows. A report without images is written with --no-images."
        )
    return "Images are left out on request." if not pictures else "The images were not at hand; cases are listed by name."


def _unrecorded(evidence: _Evidence) -> list[str]:
    """Facts of patients that readers ask for and the manifest does not have."""
    known = set() if evidence.manifest is None else {name.lower() for name in evidence.manifest.rows.columns}
    asked = {
        "age": {"age"},
        "sex": {"sex", "gender"},
        "site of the lesion": {"site", "localization", "anatom_site"},
        "skin tone": {"skin_tone", "skin_type", "fitzpatrick"},
        "ethnicity": {"ethnicity"},
        "camera or device": {"camera", "device"},
        "clinic": {"clinic", "center", "hospital"},
    }
    return [fact for fact, names in asked.items() if not names & known]


def _commands(evidence: _Evidence) -> str:
    manifest, name = evidence.manifest, evidence.facts["dataset"]
    path = f"data_manifests/{name}.csv"
    lines = []
    if commit := evidence.facts["versions"].get("git_commit"):
        lines.append(f"git checkout {commit}")
    if manifest is not None:
        words = ["dermaffinity", "prepare", manifest.adapter, "FOLDER"]
        words += ["--experiment", manifest.experiment] if manifest.experiment else []
        words += ["--protocol", manifest.protocol, "--folds", str(manifest.folds), "--seed", str(manifest.seed)]
        lines.append(shlex.join([*words, "--out", path]))
    else:
        lines.append(f"# copy the manifest {name} to {path}")
    lines.append(shlex.join(["dermaffinity", "verify", path]))
    words = ["dermaffinity", "crossval", f"{evidence.name}.yaml", "--seeds", ",".join(map(str, evidence.seeds))]
    lines.append(shlex.join([*words, *(["--external"] if evidence.external is not None else [])]))
    lines.append(shlex.join(["dermaffinity", "report", f"runs/{evidence.name}"]))
    return "\n".join(lines)


def _page(evidence: _Evidence) -> str:
    """The resolved page, without paths of the machine it was run on."""
    page = dict(evidence.page)
    page["data"] = {"manifest": f"data_manifests/{evidence.facts['dataset']}.csv", **page["data"]}
    return yaml.safe_dump(page, sort_keys=False)


def _versions(evidence: _Evidence) -> list[tuple[str, str]]:
    found = dict(evidence.facts["versions"])
    commit = found.pop("git_commit", None)
    found |= {} if evidence.model is None else evidence.model.versions
    rows = [("commit", commit or "not recorded"), *found.items(), ("split", evidence.split_hash)]
    if evidence.model is not None:
        rows.append(("images", evidence.model.data.images_digest))
    return rows


def _matrix(evidence: _Evidence, table: pd.DataFrame) -> np.ndarray:
    labels, probabilities = evidence.scored(table)
    return confusion_matrix(labels, probabilities.argmax(axis=1), len(evidence.classes))


def _label_counts(table: pd.DataFrame, classes: Sequence[str]) -> dict[str, int]:
    labels = table.drop_duplicates("image")["label"]
    return {name: int((labels == name).sum()) for name in classes}


def _row(summary: pd.DataFrame, metric: str) -> tuple[float, float, float]:
    value, low, high = summary.loc[metric, ["value", "low", "high"]].to_numpy(float)
    return value, low, high


def _said(summary: pd.DataFrame, metric: str) -> str:
    value, low, high = (100 * number for number in _row(summary, metric))
    return f"{value:.1f} % (95 % interval {low:.1f} to {high:.1f})"


def _plain_interval(value: float, low: float, high: float) -> str:
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _share_text(chosen: np.ndarray) -> str:
    return f"{100 * chosen.mean():.1f} %"


def _enumerated(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _component(section: dict[str, Any]) -> str:
    name = section["class"].rpartition(".")[2]
    settings = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in section.items() if key != "class")
    return f"{name}: {settings}" if settings else name


def _written_on(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d")
