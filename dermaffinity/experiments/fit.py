"""A classifier for use: trained on every fold's images, and so never scored."""

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from dermaffinity.config import Config, NetworkConfig
from dermaffinity.data.manifest import Manifest
from dermaffinity.errors import ConfigError
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.run import How, Plan, config_on, run_experiments


def fit(
    method: "str | Path | Config",
    *,
    data: Manifest | str | Path | None = None,
    overrides: Sequence[str] = (),
    **how: Unpack[How],
) -> Experiment:
    """Trains one classifier on the images of all folds, for use; an earlier call that was interrupted is continued.

    An inner validation part, another one for each seed, serves to stop, to choose and to calibrate, as in
    cross-validation. No image is left to score it on: what `crossval` measures of the same method on the same manifest
    is what to expect, or a little less, and `evaluate` measures it on other images.

    Args:
        method: A config, its path, or the name of a shipped one; with ``data`` also that of a method alone.
        data: The manifest, or its path; None for the one that the config names.
        overrides: ``key=value`` texts.
        **how: See `dermaffinity.experiments.run.How`; without folds. Several seeds make an ensemble.

    Returns:
        The experiment ``RUNS/<manifest>_<method>.fit``; its `Experiment.classifier` is the result.

    Raises:
        ConfigError: For a method without a network, or another experiment of this name.
        TrainingError: When training cannot go on.

    Examples:
        >>> import dermaffinity as da
        >>> fitted = da.fit("small_softmax.yaml", quiet=True)
        >>> fitted.classifier()
        <LesionClassifier small_softmax.fit: AK, BCC, ML, SCC, SK; 1 fold model>
    """
    config = config_on(method, data, overrides)
    if not isinstance(config, NetworkConfig):
        raise ConfigError(f"{config.name}: fits an estimator and leaves no classifier; name a method with a network")
    if how.get("folds") is not None:
        raise ConfigError("fit trains on all folds; leave folds out")
    config = config.model_copy(update={"name": f"{config.name}.fit"})
    plan = Plan.of({**how, "folds": [0]}, resume=True, scored="none")
    (fitted,) = run_experiments([config], plan) or [Experiment(plan.runs / config.name)]
    return fitted
