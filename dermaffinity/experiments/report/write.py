"""One finished experiment as one page to read, print and send: gathers what ``reports.html`` renders."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dermaffinity.data.library import ImageLibrary
from dermaffinity.data.splits import measure_leak
from dermaffinity.data.verify import leak_sentence, leak_statement
from dermaffinity.errors import ComparisonError, DataError, DermaffinityError, ManifestError
from dermaffinity.experiments.compare import ComparedExperiments, compare_experiments, find_baseline
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.record import FILE
from dermaffinity.experiments.report import findings, words
from dermaffinity.experiments.report.drawings import draw
from dermaffinity.experiments.report.revisit import SeenFold, revisit
from dermaffinity.files import atomic_write
from dermaffinity.report.html.checklist import checklist
from dermaffinity.report.html.render import render, table_of
from dermaffinity.report.tables import gains_table, p_value_table, results_table
from dermaffinity.tracking.mlflow_tracker import MlflowTracker

_USUAL_BASELINE = "cosen"
_NO_MAP = "The embedding map, novelty and pictures of cases are left out: "


@dataclass(frozen=True)
class Written:
    """A report on the disk.

    Args:
        path: The page.
        thumbnails: How many images of the library it shows.
        license: Their terms.
        notes: What it leaves out, and why.
        tracked: Whether the experiment's tracking run has it as well.

    Examples:
        >>> from dermaffinity.experiments.report import report
        >>> written = report(["runs/small_softmax"], images=False, out="report.html")
        >>> written.path.name
        'report.html'
    """

    path: Path
    thumbnails: int
    license: str
    notes: tuple[str, ...]
    tracked: bool


def report(
    sources: "Sequence[str | Path | Experiment]",
    *,
    baseline: str | None = None,
    out: str | Path | None = None,
    images: bool = True,
    manifest: str | Path | None = None,
    runs: str | Path = "runs",
    tracking_uri: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Written:
    """Writes one HTML file about an experiment, beside others on the same split.

    Args:
        sources: Experiments, their folders, or their configs' names. The report is about the first one.
        baseline: What gains are measured against: one of the sources or of the first one's neighbors. By default
            CoSen, where it was run on the same split.
        out: The HTML file; by default ``report.html`` in the experiment's folder.
        images: Whether to show images of the library.
        manifest: Where the manifest is, if not where the experiment's config says.
        runs: Folder of all experiments.
        tracking_uri: MLflow store with the experiment's run, which keeps the report as well; by default
            MLFLOW_TRACKING_URI, else mlflow.db in this folder. Images of the library are not sent to a server.
        on_progress: Called with the test images seen and all of them.

    Raises:
        DataError: When the experiment is not finished, or was scored on inner validation images.
        ComparisonError: When the baseline or another source cannot be compared with it.
        ManifestError: When the manifest named is not the experiment's.

    Examples:
        >>> from dermaffinity.experiments.report import report
        >>> report(["runs/small_softmax"], baseline="small_cosen", images=False, out="report.html").path.name
        'report.html'
    """
    first, *others = (Experiment.open(source, runs) for source in sources)
    if not first.as_run:
        raise DataError(
            f"{first.label}: a report is of an experiment as it was run; set prior_strength or metadata in its config"
        )
    # Absolute, because a folder called "." has no name.
    subject = Experiment(first.path.absolute(), manifest=None if manifest is None else Path(manifest))
    for experiment in (subject, *others):
        _check_finished(experiment)
    notes: list[str] = []
    _leave_out_what_is_gone(subject, notes)
    compared = _compared(subject, others, baseline, notes)
    seen = _revisit(subject, notes, on_progress)
    # A report that is passed on does not tell where things lie on this machine.
    notes = [note.replace(f"{subject.path.parent}/", "") for note in notes]
    content = _content(subject, compared, seen, notes, images)
    path = Path(out) if out else first.path / "report.html"
    html = render(content)
    with atomic_write(path) as file:
        file.write(html)
    shown = sum(case.thumbnail is not None for group in content["case_groups"] for case in group.cases)
    tracker = MlflowTracker(tracking_uri)
    dataset, key = subject.record.dataset, subject.identifier()
    tracked = tracker.add_report(dataset, key, subject.name, html, private=shown > 0)
    return Written(path, shown, words.license_of(subject), tuple(notes), tracked)


def _check_finished(experiment: Experiment) -> None:
    if experiment.record.scored != "test":
        raise DataError(
            f"{experiment.path}: scored its inner validation images, which are for choosing settings and not for "
            "reporting; run the chosen config with dermaffinity crossval, without --inner"
        )
    if not experiment.complete:
        raise DataError(
            f"{experiment.path}: some folds are still to be run; {experiment.record.again}, then report again"
        )


def _leave_out_what_is_gone(subject: Experiment, notes: list[str]) -> None:
    """From here on a subject without readable models or manifest has none."""
    try:
        _ = subject.models
    except DataError as error:
        subject.models = {}
        notes.append(f"{_NO_MAP}{error.message}.")
    try:
        missing = subject.manifest is None
    except ManifestError as error:
        if subject.moved_to is not None:
            raise
        subject.manifest = None
        notes.append(f"What the manifest knows is left out: {error.message}.")
    else:
        if missing:
            notes.append(
                f"Facts of patients are left out: the manifest {subject.record.dataset}.csv of split "
                f"{subject.record.split_hash[:12]} was not found where this report was written."
            )


def _compared(
    subject: Experiment, others: list[Experiment], baseline: str | None, notes: list[str]
) -> ComparedExperiments | None:
    """The subject beside a baseline and the other experiments asked for; None when there is nothing beside it."""
    named = {experiment.label: experiment for experiment in (subject, *others)}
    known = named | {experiment.name: experiment for experiment in _neighbors(subject)} | named
    try:
        base = find_baseline(baseline or _USUAL_BASELINE, known)
        chosen = {**named, base: known[base]}
        return compare_experiments(list(chosen.values()), baseline=base) if len(chosen) > 1 else None
    except ComparisonError as error:
        if baseline is not None or others:
            raise
        if any(name.endswith(_USUAL_BASELINE) for name in known):
            notes.append(f"The comparison with {_USUAL_BASELINE} is left out: {error.message}.")
        return None


def _neighbors(subject: Experiment) -> list[Experiment]:
    """Finished experiments on the same split, in the same folder."""
    beside = [Experiment(path.parent) for path in sorted(subject.path.parent.glob(f"*/{FILE}"))]
    split = (subject.record.split_hash, "test")
    return [one for one in beside if (one.record.split_hash, one.record.scored) == split and one.complete]


def _revisit(
    experiment: Experiment, notes: list[str], on_progress: Callable[[int, int], None]
) -> list[SeenFold] | None:
    manifest = experiment.manifest
    if manifest is None or not experiment.models:
        return None
    if experiment.record.joined:
        notes.append(f"{_NO_MAP}a mean of several networks has no embedding; the reports of each have them.")
        return None
    if manifest.root is None or not manifest.root.exists():
        notes.append(f"{_NO_MAP}the images were not at hand where this report was written.")
        return None
    try:
        return revisit(experiment, manifest, seed=experiment.seeds[0], on_progress=on_progress)
    except DermaffinityError as error:
        notes.append(f"{_NO_MAP}{error.message}.")
        return None


def _content(
    experiment: Experiment,
    compared: ComparedExperiments | None,
    seen: list[SeenFold] | None,
    notes: list[str],
    images: bool,
) -> dict[str, Any]:
    summaries = compared.summaries if compared else {experiment.name: experiment.measures()}
    record, classes, manifest, model = (
        experiment.record,
        experiment.classes,
        experiment.manifest,
        words.model_of(experiment),
    )
    novelty = findings.novelties(seen)
    answers = findings.Answers.of(experiment, novelty)
    split_tables = {} if manifest is None else findings.subgroups(answers, manifest.development())
    sets, sets_note = findings.prediction_sets(experiment)
    library = ImageLibrary(manifest.root) if images and seen and manifest and manifest.root else None
    groups = findings.case_groups(answers, library)
    shown = any(case.thumbnail for group in groups for case in group.cases)
    rows = experiment.out_of_fold.table.query("seed == @experiment.seeds[0]")
    leak = measure_leak(*(rows[column].tolist() for column in ("label", "group", "fold")))
    leaks, matrix = leak.share > 0, experiment.out_of_fold.matrix
    seeds = f", summed over {len(experiment.seeds)} seeds" if len(experiment.seeds) > 1 else ""
    gains = compared.gains if compared else None
    external = experiment.external
    return {
        "name": experiment.name,
        "dataset": record.dataset,
        "created": datetime.now(UTC).strftime("%Y-%m-%d"),
        "intended_use": model.intended_use if model else "Research use only. Not a medical device.",
        "license": words.license_of(experiment),
        "source": words.source_of(experiment),
        "classes": list(classes.names),
        "malignant": list(classes.malignant),
        "baseline": compared.baseline if compared else None,
        "summary": words.plain_summary(experiment, compared, matrix),
        "notes": notes,
        "headlines": words.headlines_of(experiment.measures(), classes),
        "run_facts": words.run_facts(experiment),
        "data_facts": words.data_facts(experiment),
        "class_table": findings.class_table(experiment),
        "leak": leak_statement(manifest).split("\n") if manifest else [
            f"Protocol '{record.protocol}': {leak_sentence(leak)}"
        ],
        "leaks": leaks,
        "discipline": words.discipline(experiment),
        "measures": table_of(
            results_table(summaries, record.class_counts),
            "Recall of each class and measures over all classes, out of fold: percent [95 % interval]",
            "Class or measure",
        ),
        "by_fold": findings.fold_table(experiment),
        "gains": table_of(
            gains_table(gains, record.class_counts),
            f"Gain over {compared.baseline}: percentage points [95 % interval]",
            "Class or measure",
        ) if compared and gains else None,
        "tests": table_of(
            p_value_table(compared.tests), f"p-values against {compared.baseline}, adjusted (Holm)", "Test, measure"
        ) if compared else None,
        "figures": draw(experiment, compared, summaries, seen, answers),
        "confusion": {
            "caption": f"Out-of-fold images{seeds}: each true class (row) by predicted class, with percent of the row",
            "matrix": matrix,
        },
        "calibration": findings.calibration_table(experiment),
        "coverage": findings.coverage_table(answers),
        "novelty": findings.novelty_sentence(experiment, seen),
        "sets": sets,
        "sets_note": sets_note,
        "external": None if external is None else table_of(
            results_table({experiment.name: external.summary}, external.counts),
            "External images, mean of the folds' models: percent [95 % interval]",
            "Class or measure",
        ),
        "external_confusion": None if external is None else {
            "caption": "External images: each true class (row) by predicted class, with percent of the row",
            "matrix": external.matrix,
        },
        "external_note": words.external_note(experiment),
        "subgroups": list(split_tables.values()),
        "subgroups_note": words.subgroups_note(experiment, list(split_tables)),
        "map_note": words.map_note(experiment, seen),
        "case_groups": groups,
        "cases_note": words.cases_note(experiment, shown, images),
        "unrecorded": words.unrecorded(experiment),
        "checklist": checklist(
            external=external is not None,
            baseline=compared is not None,
            subgroups=list(split_tables),
            leaks=leaks,
            novelty=seen is not None,
            thumbnails=shown,
        ),
        "commands": words.commands(experiment),
        "configs": words.portable_configs(experiment),
        "versions": words.versions(experiment),
    }  # fmt: skip
