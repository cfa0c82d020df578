"""The pictures of a report."""

import numpy as np
import pandas as pd

from dermaffinity.experiments.compare import ComparedExperiments
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.report.findings import Answers, coverage_curves
from dermaffinity.experiments.report.revisit import SeenFold
from dermaffinity.experiments.results import arrays
from dermaffinity.metrics.classification import Classes
from dermaffinity.metrics.curves import roc_curve
from dermaffinity.report import figures
from dermaffinity.report.html.render import Picture, picture
from dermaffinity.report.tables import interval_of, percent_interval


def draw(
    experiment: Experiment,
    compared: ComparedExperiments | None,
    summaries: dict[str, pd.DataFrame],
    seen: list[SeenFold] | None,
    answers: Answers,
) -> dict[str, Picture | None]:
    """Every picture of the report."""
    counts, name, summary = experiment.record.class_counts, experiment.name, experiment.measures()
    methods = " and ".join(summaries)
    recalls = "; ".join(f"{code} {percent_interval(*interval_of(summary, f'recall.{code}'))}" for code in counts)
    aucs = "; ".join(f"{code} {percent_interval(*interval_of(summary, f'auc.{code}'))}" for code in counts)
    tables = {name: experiment.out_of_fold.table}
    if compared and compared.baseline != name:
        tables = {compared.baseline: compared.experiments[compared.baseline].out_of_fold.table, **tables}
    curves = {method: roc_curves(table, experiment.classes) for method, table in tables.items()}
    bins = experiment.out_of_fold.bins()
    return {
        "recall": picture(
            figures.recall_figure(summaries, counts, ""),
            "recall",
            f"Recall of each class in percent with 95 % intervals for {methods}. {name}: {recalls}.",
            "Recall of each class with its 95 % interval, the most frequent class at the top.",
        ),
        "roc": picture(
            figures.roc_figure(curves, experiment.measures(), name, counts),
            "roc",
            f"ROC curves of each class against the rest. AUC of {name} in percent: {aucs}.",
            "Each class against the rest. Curves are averaged over folds, because models of different folds need not "
            f"share a scale. AUC in percent with its 95 % interval, of {name}.",
        ),
        "reliability": picture(
            figures.reliability_figure(bins, ""),
            "reliability",
            f"Share of right answers against confidence, {' and '.join(bins)}; the numbers are in the table beside.",
            "Reliability: on the diagonal, 80 % of the answers given with a confidence of 80 % are right. Below, the "
            "number of images in each bin.",
        ),
        "coverage": picture(
            figures.coverage_figure(coverage_curves(answers)),
            "coverage",
            "Share of right answers against the share of images answered; the numbers are in the table below.",
            "Accuracy when the most uncertain images are left to a person. Dotted: all images answered. Shares below "
            "5 % hold too few images to be drawn.",
        ),
        "gain": picture(
            figures.gain_figure(compared.gains, compared.baseline, counts),
            "gain",
            f"Gains over {compared.baseline} with 95 % intervals; the numbers are in the table below.",
            f"Gain over {compared.baseline} on the same images. An interval that holds zero does not tell which is "
            "better.",
        )
        if compared
        else None,
        "map": _map(experiment, seen[0]) if seen else None,
    }


def roc_curves(table: pd.DataFrame, classes: Classes) -> dict[str, pd.DataFrame]:
    """The curve of each class against the rest."""
    labels, probabilities = arrays(table, classes)
    models = table.groupby(["fold", "seed"]).ngroup().to_numpy()
    return {
        name: roc_curve(labels == index, probabilities[:, index], models) for index, name in enumerate(classes.names)
    }


def _map(experiment: Experiment, seen: SeenFold) -> Picture:
    """One fold's test images, because the axes of different models have nothing to do with one another."""
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import normalize

    # Linear: centers fall where the same map puts them, distances shrink but never grow, and there is nothing to tune.
    # t-SNE would draw tighter clusters, whose sizes and distances mean nothing, and has no place for centers.
    embedding = seen.embedding
    if not seen.centers_are_places:  # such a head tells classes by the angle; lengths would fill the map with fans
        embedding = normalize(embedding)
    plane = PCA(n_components=2, svd_solver="full").fit(embedding)
    if seen.centers_are_places:
        centers, meaning = seen.centers, "large markers are the centers that the head learned"
    else:
        means = [embedding[seen.labels == label].mean(axis=0) for label in range(len(experiment.classes.names))]
        centers = np.stack(means)[:, None]
        meaning = (
            "large markers are the means of the classes, and all lengths are one, because the class vectors of "
            "this head are directions, not places"
        )
    flat = plane.transform(centers.reshape(-1, centers.shape[-1]))
    figure = figures.embedding_figure(
        plane.transform(embedding),
        seen.labels,
        seen.predicted == seen.labels,
        flat.reshape(*centers.shape[:2], 2),
        experiment.classes.names,
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
