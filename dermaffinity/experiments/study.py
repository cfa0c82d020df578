"""From a folder of images to a report, in one command: each step is a command of its own, and all can be resumed."""

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dermaffinity.config import Config, shipped
from dermaffinity.config.parts import hyper_parameters
from dermaffinity.data.adapters.base import adapter_class
from dermaffinity.data.manifest import Manifest, read_manifest
from dermaffinity.data.verify import Verification, leak_sentence, verify
from dermaffinity.errors import ConfigError, DataError, count_of
from dermaffinity.experiments.compare import ComparedExperiments, compare_experiments
from dermaffinity.experiments.experiment import Experiment
from dermaffinity.experiments.prepare import prepare
from dermaffinity.experiments.report.write import Written, report
from dermaffinity.experiments.run import check_identity, config_on, crossval
from dermaffinity.files import atomic_write
from dermaffinity.inference.model_folder import build_network
from dermaffinity.tracking.mlflow_tracker import MlflowTracker

# Of features that are computed once: the first answer, where this method is there.
_FAST = "affinity_frozen"
# In the order of training; the last is what the report is about.
_METHODS = (_FAST, "cosen", "affinity_plus")
_BASELINE = "cosen"
# Seconds that verify takes for an image on one core, decoding and comparing it; measured on HAM10000 at 200 x 150.
_LOOK_SECONDS = 0.015
# Of a training: its forward and backward passes alone are measured.
_OVERHEAD = 1.3


Counting = Callable[[str], AbstractContextManager[Callable[[int, int], None] | None]]


@dataclass(frozen=True, eq=False)
class Study:
    """What `study` found.

    Args:
        manifest: The library with its folds.
        verification: What `verify` says about it; None where it was verified before.
        compared: Every method against CoSen.
        report: The page about it all.

    Examples:
        >>> import dermaffinity as da
        >>> found = da.study("photos")  # doctest: +SKIP
        >>> found.compared.sentence()  # doctest: +SKIP
        'Of 66 images of rare lesions (AK, SCC), photos_affinity_plus found 47, photos_cosen 41.'
    """

    manifest: Manifest
    verification: Verification | None
    compared: ComparedExperiments
    report: Written


def study(
    folder: str | Path,
    *,
    labels: Sequence[str | Path] = (),
    adapter: str | None = None,
    out: str | Path = "study",
    overrides: Sequence[str] = (),
    quiet: bool = False,
    on_note: Callable[[str], None] = print,
    counting: Counting = lambda what: nullcontext(),
    **options: Any,
) -> Study:
    """Prepares and verifies a library, trains and compares methods on it, and writes a report.

    It prints a plan with times before it trains, and stops where images are damaged or leak from training into testing.
    The same call again resumes: finished folds are kept.

    Args:
        folder: The images; or a manifest that `prepare` made of them.
        labels: Tables of labels; without any, the folder holds one folder for each class.
        adapter: How the folder is read: by default ``table`` with labels, else ``image_folder``.
        out: Folder of the manifest, the runs, the tables and the report.
        overrides: ``key=value`` texts: for the adapter where it takes the key, such as ``label=diagnosis``, else for
            every config, such as ``training.epochs=5``.
        quiet: No progress of the training.
        on_note: Told the plan and what happens.
        counting: Opens a bar for what is counted, and gives what to call with the number done and of all.
        **options: Of `prepare`, such as ``folds``, and of the adapter.

    Raises:
        ConfigError: ``out`` holds another study.
        DataError: The library is damaged, or leaks.

    Examples:
        >>> import dermaffinity as da
        >>> found = da.study("photos", labels=["labels.csv"])  # doctest: +SKIP
        >>> found.report.path  # doctest: +SKIP
        PosixPath('study/report.html')
    """
    out = Path(out)
    name = adapter or ("table" if labels else "image_folder")
    if labels:
        options["labels"] = [Path(path) for path in labels]
    taken = hyper_parameters(adapter_class(name))
    options |= {key: value for key, _, value in (text.partition("=") for text in overrides) if key in taken}
    overrides = [text for text in overrides if text.partition("=")[0] not in taken]
    if Path(folder).suffix == ".csv":  # prepared already, in a way that no option of a study says
        if adapter or any(options.values()):
            raise ConfigError(f"{folder} is prepared already; give the options of prepare to that command")
        manifest = read_manifest(Path(folder))
    else:  # anew each time: it is quick, and so a changed table or image is noticed
        with counting("hashing images") as on_progress:
            path = out / _manifest_name(folder)
            manifest = prepare(name, folder, out=path, on_note=on_note, on_progress=on_progress, **options)
    assert manifest.path is not None
    methods = [method for method in _METHODS if method in shipped("method")]
    configs = {method: config_on(method, manifest, _settings(method, overrides)) for method in methods}
    runs, store = out / "runs", f"sqlite:///{(out / 'mlflow.db').absolute()}"
    _refuse_another(manifest, configs, runs)
    for line in _plan(manifest, configs, overrides, runs, store):
        on_note(line)
    verification = _verified(manifest, out / "verification.txt", on_note, counting)
    experiments: list[Experiment] = []
    for method, config in configs.items():
        on_note(f"Training {method} …")
        experiments += crossval(config, resume=True, runs=runs, tracking_uri=store, quiet=quiet)
        value = experiments[-1].measures().loc["balanced_accuracy"] * 100
        on_note(f"{method}: balanced accuracy {value['value']:.1f} % [{value['low']:.1f}, {value['high']:.1f}]")
    compared = compare_experiments(experiments, baseline=configs[_BASELINE].name, tracker=MlflowTracker(store))
    compared.write(out / "compare")
    named = [one.name for one in reversed(experiments)]
    page = report(named, baseline=configs[_BASELINE].name, out=out / "report.html", runs=runs, tracking_uri=store)
    return Study(manifest, verification, compared, page)


def _refuse_another(manifest: Manifest, configs: Mapping[str, Config], runs: Path) -> None:
    """A study with other images, folds or settings needs a folder of its own."""
    for config in configs.values():
        try:
            check_identity(config, manifest, Experiment(runs / config.name), "test")
        except ConfigError as error:
            raise ConfigError(
                f"{runs.parent} holds another study. Give this one a folder of its own, --out NEW, or remove that one",
                error.problems,
            ) from error


def _settings(method: str, overrides: Sequence[str]) -> list[str]:
    """The overrides that concern a method: what is not trained keeps its settings of the training."""
    return [text for text in overrides if method != _FAST or not text.startswith("training.")]


def _manifest_name(folder: str | Path) -> str:
    kept = "".join(
        letter if letter.isalnum() or letter in "_-" else "-" for letter in Path(folder).resolve().stem.lower()
    )
    return f"{kept.strip('-') or 'library'}.csv"


def _verified(
    manifest: Manifest, note: Path, on_note: Callable[[str], None], counting: Counting
) -> Verification | None:
    """What verify finds; None where a note says that it has looked at these files and folds already."""
    seal = f"split {manifest.split_hash}, images {manifest.images_digest}"
    if note.is_file() and note.read_text(encoding="utf-8").startswith(seal):
        on_note(f"Verified before: {note}")
        return None
    with counting("checking images") as on_progress:
        found = verify(manifest, on_progress=on_progress)
    problems = [line for line in found.lines() if line.startswith("error")]
    leak = found.leak[manifest.protocol]
    if leak.share > 0:
        problems.append(f"groups on both sides of the split: {leak_sentence(leak)}")
    if problems:
        raise DataError(
            f"{manifest.path}: verify found damage or leaks that would spoil every number. Fix or remove these images, "
            "and run the same command again",
            problems,
        )
    with atomic_write(note) as file:
        file.write("\n".join([seal, *found.lines(), found.statement(), ""]))
    on_note(found.statement())
    if not found.findings.empty:
        on_note(f"{len(found.findings)} warnings, in {note}")
    return found


def _plan(
    manifest: Manifest, configs: dict[str, Config], overrides: Sequence[str], runs: Path, store: str
) -> list[str]:
    """What will be done, how long it will take here, and the command of each step."""
    path = str(manifest.path)
    counts = ", ".join(f"{name} {count}" for name, count in manifest.class_counts().items())
    lines = [
        f"Plan for {len(manifest.development()):,} images in {manifest.folds} folds ({counts}), in {runs.parent}:",
        f"  verify, {_duration(_LOOK_SECONDS * len(manifest.rows))}: {_command('verify', path)}",
    ]
    for method, config in configs.items():
        settings = (f"data.manifest={path}", f"name={config.name}", *_settings(method, overrides))
        words = [word for setting in settings for word in ("--set", setting)]
        command = _command("crossval", f"library_{method}", *words, "--runs", str(runs), "--tracking-uri", store)
        lines.append(f"  train {method}, {_training_time(config, manifest)}: {command} --resume")
    last = [config.name for config in configs.values()][-1]
    report_command = _command("report", last, "--baseline", configs[_BASELINE].name, "--runs", str(runs))
    return [*lines, f"  compare and report, about a minute: {report_command}"]


def _training_time(config: Any, manifest: Manifest) -> str:
    """The time of all folds on this machine, from a few steps on images of noise."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = build_network(config.resolved(), len(manifest.classes), pretrained=True, plugins=config.plugins)
    epochs = config.training.epochs
    network.to(device).train(epochs > 0)
    images = torch.rand(8, 3, config.data.image_size, config.data.image_size, device=device)
    for step in range(3):  # the first warms up
        if step == 1:
            begun = time.perf_counter()
        with torch.set_grad_enabled(epochs > 0):
            scores = network(images).scores.sum()
        if epochs:
            scores.backward()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - begun) / (2 * len(images))
    # Each image is trained on in all folds but its own; without epochs its features are computed once for all.
    seen = len(manifest.trained_on()) * max(1, manifest.folds - 1) * epochs or len(manifest.development())
    work = count_of(epochs, "epoch") if epochs else "features alone"
    return f"{_duration(_OVERHEAD * seconds * seen)} ({work}, {1000 * seconds:.0f} ms an image)"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(1, round(seconds)):.0f} s"
    minutes = round(seconds / 60)
    return f"about {minutes} min" if minutes < 90 else f"about {minutes / 60:.1f} h"


def _command(*words: str) -> str:
    return shlex.join(["dermaffinity", *words])
