"""One finished experiment as one page to read, print and send: gathers what ``reports.html`` renders."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dermaffinity.data.verify import leak_sentence, leak_statement
from dermaffinity.errors import DermaffinityError
from dermaffinity.experiments.compare import ComparedExperiments
from dermaffinity.experiments.record import ExperimentFolder, find_experiment
from dermaffinity.experiments.report.drawings import draw
from dermaffinity.experiments.report.evidence import (
    Evidence,
    check_finished,
    compare_with_baseline,
    find_manifest,
    label_counts,
    matrix_of,
)
from dermaffinity.experiments.report.findings import (
    calibration_table,
    case_groups,
    class_table,
    coverage_table,
    fold_table,
    novelties,
    novelty_sentence,
    prediction_sets,
    subgroups,
)
from dermaffinity.experiments.report.revisit import SeenFold, revisit
from dermaffinity.experiments.report.words import (
    cases_note,
    commands,
    data_facts,
    discipline,
    external_note,
    headlines,
    map_note,
    plain_summary,
    portable_config,
    run_facts,
    subgroups_note,
    unrecorded,
    versions,
)
from dermaffinity.files import atomic_write
from dermaffinity.report.html.checklist import checklist
from dermaffinity.report.html.render import (
    Confusion,
    ReportContent,
    render,
    table_of,
)
from dermaffinity.report.tables import gains_table, p_value_table, results_table


@dataclass(frozen=True)
class Written:
    """A report on the disk.

    Args:
        path: The page.
        thumbnails: How many images of the library it shows.
        license: Their terms.
        notes: What it leaves out, and why.
    """

    path: Path
    thumbnails: int
    license: str
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
        sources: Experiments' folders, or configs' files or names. The report is about the first one.
        runs: Folder of all experiments.
        baseline: What gains are measured against: one of the sources or of the first one's neighbors. By default
            CoSen, where it was run on the same split.
        out: The HTML file; by default ``report.html`` in the experiment's folder.
        pictures: Whether to show images of the library.
        manifest: Where the manifest is, if not where the experiment's config says.
        on_progress: Called with the test images seen and all of them.

    Raises:
        DataError: When the experiment is not finished, or was scored on inner validation images.
        ComparisonError: When the baseline or another source cannot be compared with it.
        ManifestError: When the manifest named is not the experiment's.
    """
    # Absolute, because a folder called "." has no name.
    subject, *others = (ExperimentFolder(find_experiment(source, runs).path.absolute()) for source in sources)
    check_finished(subject)
    notes: list[str] = []
    evidence = Evidence.of(subject, find_manifest(subject, manifest, notes), notes)
    compared = compare_with_baseline(subject, others, baseline, notes)
    seen = _revisit(evidence, notes, on_progress)
    # A page that is passed on does not tell where things lie on this machine.
    notes = [note.replace(f"{subject.path.parent}/", "") for note in notes]
    content = _content(evidence, compared, seen, notes, pictures)
    path = out or find_experiment(sources[0], runs).path / "report.html"
    with atomic_write(path) as file:
        file.write(render(content))
    shown = sum(case.thumbnail is not None for group in content.case_groups for case in group.cases)
    return Written(path, shown, evidence.license, tuple(notes))


def _revisit(evidence: Evidence, notes: list[str], on_progress: Callable[[int, int], None]) -> list[SeenFold] | None:
    manifest = evidence.manifest
    if manifest is None or not evidence.fold_models:
        return None
    left_out = "The embedding map, novelty and pictures of cases are left out: "
    if manifest.root is None or not manifest.root.exists():
        notes.append(f"{left_out}the images were not at hand where this report was written.")
        return None
    try:
        return revisit(evidence.folder, manifest, evidence.table, seed=evidence.seeds[0], on_progress=on_progress)
    except DermaffinityError as error:
        notes.append(f"{left_out}{error.message}.")
        return None


def _content(
    evidence: Evidence,
    compared: ComparedExperiments | None,
    seen: list[SeenFold] | None,
    notes: list[str],
    pictures: bool,
) -> ReportContent:
    summaries = dict(compared.summaries) if compared else {evidence.name: evidence.summary}
    novelty = novelties(seen)
    split_tables = subgroups(evidence)
    sets, sets_note = prediction_sets(evidence)
    groups = case_groups(evidence, novelty, pictures and seen is not None)
    shown = any(case.thumbnail for group in groups for case in group.cases)
    leaks = evidence.leak.share > 0
    matrix = matrix_of(evidence, evidence.table)
    seeds = f", summed over {len(evidence.seeds)} seeds" if len(evidence.seeds) > 1 else ""
    gains = compared.gains if compared else None
    external = evidence.external
    return ReportContent(
        name=evidence.name,
        dataset=evidence.facts["dataset"],
        created=datetime.now(UTC).strftime("%Y-%m-%d"),
        intended_use=evidence.model.intended_use if evidence.model else "Research use only. Not a medical device.",
        license=evidence.license,
        source=evidence.source,
        classes=evidence.classes,
        malignant=evidence.malignant,
        baseline=compared.baseline if compared else None,
        summary=plain_summary(evidence, compared, matrix),
        notes=notes,
        headlines=headlines(evidence),
        run_facts=run_facts(evidence),
        data_facts=data_facts(evidence),
        class_table=class_table(evidence),
        leak=leak_statement(evidence.manifest).split("\n") if evidence.manifest else [
            f"Protocol '{evidence.facts['protocol']}': {leak_sentence(evidence.leak)}"
        ],
        leaks=leaks,
        discipline=discipline(evidence),
        measures=table_of(
            results_table(summaries, evidence.counts),
            "Recall of each class and measures over all classes, out of fold: percent [95 % interval]",
            "Class or measure",
        ),
        by_fold=fold_table(evidence),
        gains=table_of(
            gains_table(gains, evidence.counts),
            f"Gain over {compared.baseline}: percentage points [95 % interval]",
            "Class or measure",
        ) if compared and gains else None,
        tests=table_of(
            p_value_table(compared.tests), f"p-values against {compared.baseline}, adjusted (Holm)", "Test, measure"
        ) if compared else None,
        figures=draw(evidence, compared, summaries, seen, novelty),
        confusion=Confusion(
            f"Out-of-fold images{seeds}: each true class (row) by predicted class, with percent of the row",
            evidence.classes,
            matrix,
        ),
        calibration=calibration_table(evidence),
        coverage=coverage_table(evidence, novelty),
        novelty=novelty_sentence(evidence, seen),
        sets=sets,
        sets_note=sets_note,
        external=None if evidence.external_summary is None or external is None else table_of(
            results_table({evidence.name: evidence.external_summary}, label_counts(external, evidence.classes)),
            "External images, mean of the folds' models: percent [95 % interval]",
            "Class or measure",
        ),
        external_confusion=None if external is None else Confusion(
            "External images: each true class (row) by predicted class, with percent of the row",
            evidence.classes,
            matrix_of(evidence, external),
        ),
        external_note=external_note(evidence),
        subgroups=list(split_tables.values()),
        subgroups_note=subgroups_note(evidence, list(split_tables)),
        map_note=map_note(seen),
        case_groups=groups,
        cases_note=cases_note(evidence, shown, pictures),
        unrecorded=unrecorded(evidence),
        checklist=checklist(
            external=external is not None,
            baseline=compared is not None,
            subgroups=list(split_tables),
            leaks=leaks,
            novelty=seen is not None,
            thumbnails=shown,
        ),
        commands=commands(evidence),
        config=portable_config(evidence),
        versions=versions(evidence),
    )  # fmt: skip
