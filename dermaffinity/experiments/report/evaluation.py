"""The report of an external validation: what `dermaffinity.experiments.evaluate` measured, as one page."""

import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from dermaffinity.data.library import ImageLibrary
from dermaffinity.data.manifest import groups_known
from dermaffinity.experiments.report import findings
from dermaffinity.experiments.report.drawings import roc_curves
from dermaffinity.experiments.report.words import headlines_of, license_note
from dermaffinity.files import atomic_write
from dermaffinity.metrics.statistics import share_interval
from dermaffinity.report import figures
from dermaffinity.report.html.render import Picture, Table, picture, render, table_of
from dermaffinity.report.tables import interval_of, percent_interval, point_interval, results_table

if TYPE_CHECKING:
    from dermaffinity.experiments.evaluate import Evaluation


def write_report(evaluation: "Evaluation", images: bool) -> tuple[str, bool]:
    """Writes ``report.html`` in the evaluation's folder.

    Args:
        evaluation: A finished one.
        images: Whether to show images of the library.

    Returns:
        The page, and whether it shows any image.
    """
    content = _content(evaluation, images)
    html = render(content, "evaluation.html.jinja")
    with atomic_write(evaluation.path / "report.html") as file:
        file.write(html)
    return html, any(case.thumbnail for group in content["case_groups"] for case in group.cases)


def _content(evaluation: "Evaluation", images: bool) -> dict[str, Any]:
    model, manifest, measures = evaluation.model, evaluation.manifest, evaluation.measures()
    answers = findings.Answers(evaluation.classes, evaluation.best.best, evaluation.novelty)
    facts = manifest.rows.drop_duplicates("group").assign(image=lambda rows: rows["group"])
    split = findings.subgroups(answers, facts if evaluation.per == "group" else manifest.rows)
    library = ImageLibrary(manifest.root) if images and manifest.root and evaluation.per == "image" else None
    inside, guarantees = evaluation.sets, evaluation.guarantees
    known = {
        name: [len(one.calibration.scores[name]) for one in model.fold_models] for name in evaluation.classes.names
    }
    counts = evaluation.results.counts
    title = f"{evaluation.per.capitalize()}s of {manifest.name}"
    return {
        "name": model.name,
        "dataset": manifest.name,
        "created": datetime.now(UTC).strftime("%Y-%m-%d"),
        "intended_use": model.intended_use,
        "classes": list(evaluation.classes.names),
        "summary": _summary(evaluation),
        "headlines": headlines_of(measures, evaluation.classes),
        "facts": _facts(evaluation),
        "notes": evaluation.notes,
        "measures": table_of(
            results_table(evaluation.summaries, counts), f"{title}: percent [95 % interval]", "Class or measure"
        ),
        "confusion": {
            "caption": f"{title}: each true class (row) by predicted class, with percent of the row",
            "matrix": evaluation.results.matrix,
        },
        "points": _points(evaluation),
        "decision_note": _decision_note(evaluation),
        "calibration": _calibration(evaluation),
        "calibration_note": _calibration_note(evaluation),
        "coverage": findings.coverage_table(answers),
        "novelty": _novelty(evaluation, answers),
        "novelty_note": (
            f"Novelty is the distance to the nearest class center, standardized; the threshold is "
            f"{evaluation.novelty_threshold:.2f}. Of new images like the training images at most about 5 % are above "
            "it: many more mean that this library looks different to the model."
        ),
        "sets": findings.sets_table(
            answers, inside, known, guarantees["coverage"].tolist(), coverage=evaluation.coverage
        ),
        "sets_note": "Stated for images like the calibration images; another clinic or camera may break the statement. "
        + findings.sizes_of_sets(inside),
        "subgroups": list(split.values()),
        "subgroups_note": (
            "'Expected' is what would be recognized if each class were recognized as well here as in all images. The "
            "gap is what lies beside it, resampled by patient or lesion; an interval that holds zero shows no "
            "difference. Nothing is adjusted for looking at many subgroups at once."
            if split
            else "Not reported: the manifest has no facts of patients, such as age, sex, site or skin tone."
        ),
        "case_groups": findings.case_groups(answers, library),
        "cases_note": license_note(manifest.license, shown=library is not None),
        "limits": _limits(evaluation),
        "figures": _figures(evaluation, answers),
        "command": _command(evaluation),
        "versions": [
            ("model digest", model.digest), ("split", manifest.split_hash), *model.versions.items(),
        ],
    }  # fmt: skip


def _summary(evaluation: "Evaluation") -> list[str]:
    table, model, measures = evaluation.results.table, evaluation.model, evaluation.measures()
    value, low, high = (100 * number for number in interval_of(measures, "balanced_accuracy"))
    known = groups_known(evaluation.manifest.rows)
    of_groups = f"{table['group'].nunique():,} patients or lesions of " if known else ""
    unseen = "none of which it was trained on" if known else "which may show patients that it was trained on"
    sentences = [
        f"{model.name}, trained on {model.data.name}, was asked about {len(table):,} {evaluation.per}s of {of_groups}"
        f"{evaluation.manifest.name}, {unseen}.",
        f"On average over the classes it recognized {value:.1f} % of a class's {evaluation.per}s (balanced accuracy, "
        f"95 % interval {low:.1f} to {high:.1f}).",
    ]
    return [*sentences, *evaluation.sentences()]


def _facts(evaluation: "Evaluation") -> list[tuple[str, str]]:
    model, manifest = evaluation.model, evaluation.manifest
    rows = [
        ("Classifier", f"{model.name}, {len(model.fold_models)} fold models, trained on {model.data.name}"),
        ("Trained on", f"{model.data.source}; license: {model.data.license}"),
        ("Evaluated on", f"{manifest.source}; license: {manifest.license}"),
        (
            "One answer per",
            {"image": "image", "group": "patient or lesion: mean of the log-odds of its images"}[evaluation.per],
        ),
    ]
    if evaluation.set_aside:
        rows.append(("Set aside to adapt", f"{evaluation.set_aside:,} {evaluation.per}s, by whole groups; not scored"))
    return rows


def _points(evaluation: "Evaluation") -> Table:
    level, points = f"{100 * evaluation.level:g} %", evaluation.operating_points
    rows = [
        [name, f"{points['images'][name]:,}", point_interval(points, name, "sensitivity"),
         f"{points['threshold.sensitivity'][name]:.3f}", point_interval(points, name, "specificity"),
         f"{points['threshold.specificity'][name]:.3f}"]
        for name in points.index
    ]  # fmt: skip
    columns = ["Against the rest", "Images", f"Sensitivity at {level} specificity", "Threshold"]
    return Table(
        "Operating points: percent [95 % interval], and the calibrated probability from which on an image counts",
        [*columns, f"Specificity at {level} sensitivity", "Threshold"],
        rows,
    )


def _decision_note(evaluation: "Evaluation") -> str:
    return (
        f"Net benefit of acting on the probability of {', '.join(evaluation.classes.malignant)}: true positives per "
        "image less false ones, weighted by the risk from which on one would act. It depends on the share of malignant "
        "images here, which is not that of a clinic."
    )


def _calibration(evaluation: "Evaluation") -> Table:
    measures = evaluation.measures()
    kinds = {"as trained": "", f"temperature of the model, {evaluation.model.temperature:.2f}": ".calibrated"}
    if evaluation.adapted is not None:
        kinds[f"adapted temperature, {evaluation.temperature:.2f}"] = ".adapted"
    ece = [percent_interval(*interval_of(measures, f"ece{end}")) for end in kinds.values()]
    brier = ["{:.3f} [{:.3f}, {:.3f}]".format(*interval_of(measures, f"brier{end}")) for end in kinds.values()]
    return Table(
        "Calibration with 95 % intervals",
        ["Measure", *kinds],
        [["Calibration error (ECE), percent", *ece], ["Brier score, 0 best, 2 worst", *brier]],
    )


def _calibration_note(evaluation: "Evaluation") -> str:
    if evaluation.adapted is None:
        return (
            "How far the probabilities can be trusted here. --adapt sets some labeled images of this library aside and "
            "fits the temperature to them."
        )
    return (
        "How far the probabilities can be trusted here, before and after fitting the temperature to "
        f"{evaluation.set_aside:,} {evaluation.per}s of this library, which are not scored. A temperature changes no "
        "predicted class. "
        + (
            "It is also told how frequent the classes are there, which does change answers. "
            if evaluation.prior
            else ""
        )
        + "All that follows, and the decisions above, use the adapted one."
    )


def _novelty(evaluation: "Evaluation", answers: findings.Answers) -> Table:
    above = (evaluation.novelty.loc[answers.rows["image"]] > evaluation.novelty_threshold).to_numpy()
    rows = []
    for index, name in enumerate([*evaluation.classes.names, "all"]):
        own = answers.labels == index if name != "all" else np.ones(len(above), dtype=bool)
        cells = [_share(above[own], answers.groups[own])]
        cells += [_share(answers.right[own & chosen], answers.groups[own & chosen]) for chosen in (~above, above)]
        rows.append([name, f"{own.sum():,}", *cells])
    columns = ["Class", "Images", "Above the threshold", "Right below it", "Right above it"]
    return Table("Novelty: percent [95 % interval]", columns, rows, frozenset({len(rows) - 1}))


def _share(chosen: np.ndarray, groups: np.ndarray) -> str:
    return percent_interval(chosen.mean(), *share_interval(chosen, groups)) if len(chosen) else "–"


def _limits(evaluation: "Evaluation") -> list[str]:
    model, manifest = evaluation.model, evaluation.manifest
    limits = [
        "A library is a choice of lesions: how often each class occurs here is not how often it occurs in a clinic, so "
        "accuracy, predictive values and net benefit do not carry over.",
        "Labels are taken as they are; errors of the labels count as errors of the model.",
    ]
    if manifest.source == model.data.source:
        limits.insert(
            0,
            "These images come from the library that the classifier was trained on: they test other patients or "
            "lesions, not another clinic or camera.",
        )
    return limits


def _figures(evaluation: "Evaluation", answers: findings.Answers) -> dict[str, Picture | None]:
    name, counts, measures = evaluation.model.name, evaluation.results.counts, evaluation.measures()
    recalls = "; ".join(f"{code} {percent_interval(*interval_of(measures, f'recall.{code}'))}" for code in counts)
    bins = evaluation.results.bins()
    if evaluation.adapted is not None:
        bins["adapted"] = evaluation.adapted.bins()["calibrated"]
    curve, curves = evaluation.decision_curve, roc_curves(evaluation.results.table, evaluation.classes)
    return {
        "recall": picture(
            figures.recall_figure(evaluation.summaries, counts, ""),
            "recall",
            f"Recall of each class in percent with 95 % intervals: {recalls}.",
            "Recall of each class with its 95 % interval, the most frequent class at the top.",
        ),
        "roc": picture(
            figures.roc_figure({name: curves}, measures, name, counts),
            "roc",
            "ROC curves of each class against the rest; the areas are written in the panels.",
            "Each class against the rest, with the AUC in percent and its 95 % interval.",
        ),
        "decision": None if curve is None else picture(
            figures.decision_figure(curve),
            "decision",
            "Net benefit of the model with its interval, of acting on every image and on none, against the threshold.",
            "Net benefit against the risk from which on one would act, with its 95 % interval.",
        ),
        "reliability": picture(
            figures.reliability_figure(bins, ""),
            "reliability",
            f"Share of right answers against confidence, {' and '.join(bins)}.",
            "Reliability: on the diagonal, 80 % of the answers given with a confidence of 80 % are right.",
        ),
        "coverage": picture(
            figures.coverage_figure(findings.coverage_curves(answers)),
            "coverage",
            "Share of right answers against the share of images answered; the numbers are in the table below.",
            "Accuracy when the most uncertain answers are left to a person. Dotted: all answered.",
        ),
    }  # fmt: skip


def _command(evaluation: "Evaluation") -> str:
    words = ["dermaffinity", "evaluate", "MODEL", f"{evaluation.manifest.name}.csv"]
    words += ["--per", "group"] if evaluation.per == "group" else []
    words += ["--adapt", str(evaluation.set_aside)] if evaluation.set_aside else []
    return shlex.join([*words, "--level", f"{evaluation.level:g}", "--coverage", f"{evaluation.coverage:g}"])
