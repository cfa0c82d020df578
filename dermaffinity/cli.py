"""The ``dermaffinity`` command. Heavy libraries are imported inside the verbs, so that ``--help`` answers at once."""

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from typer.core import TyperCommand

from dermaffinity import __version__
from dermaffinity.data.adapter_options import adapter_options
from dermaffinity.errors import ComparisonError, ConfigError, DataError, DermaffinityError, summed

if TYPE_CHECKING:
    from pandas import DataFrame

    from dermaffinity.experiments.experiment import Experiment
    from dermaffinity.experiments.run import How
    from dermaffinity.inference.classifier import LesionClassifier

_INTENDED_USE = "Research use only. Not a medical device."

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _adapter_names(begun: str) -> list[str]:
    """For the shell's completion."""
    return [name for name in adapter_options() if name.startswith(begun)]


def _config_names(begun: str) -> list[str]:
    """For the shell's completion; where nothing fits, it completes files."""
    from dermaffinity.config import shipped_names

    return [name for name in shipped_names() if name.startswith(begun)]


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; results only.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder of all experiments' results.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of every config.")
]
Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugins", metavar="MODULE", help="Trust a module of your own to hold parts of the network or loss."
    ),
]
Configs = Annotated[
    list[str],
    typer.Argument(
        help="YAML files, or a dataset and a method such as hamfit7_cosen or 'hamfit7_*'.",
        metavar="CONFIG...",
        autocompletion=_config_names,
    ),
]
Launcher = Annotated[
    str,
    typer.Option(
        "--launcher", help="inline: one job after the other; ray: side by side, here or on a cluster; slurm: an array."
    ),
]
Address = Annotated[
    str | None,
    typer.Option("--address", metavar="HOST:PORT", help="Ray cluster for --launcher ray; default: this machine alone."),
]
JobsPerDevice = Annotated[
    str,
    typer.Option(
        "--jobs-per-device",
        metavar="N|auto",
        help="Jobs at once on each GPU, or on each machine without one; auto: what its memory and cores hold.",
    ),
]
SlurmOptions = Annotated[
    list[str] | None,
    typer.Option("--slurm", metavar="KEY=VALUE", help="Option of sbatch for --launcher slurm, such as gres=gpu:1."),
]
Views = Annotated[
    Literal["1", "2", "4", "8"],
    typer.Option(help="Average over N flips and rotations (test-time augmentation); N times slower."),
]
Device = Annotated[Literal["cpu", "cuda", "auto"], typer.Option(help="auto: a GPU where there is one.")]
Uri = Annotated[
    str | None,
    typer.Option("--tracking-uri", help="MLflow store; default: MLFLOW_TRACKING_URI, else mlflow.db in this folder."),
]


def _say_version(asked: bool) -> None:
    if asked:
        print(f"dermaffinity {__version__}")
        raise typer.Exit


@app.callback()
def dermaffinity(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train, compare and use skin-lesion classifiers on small, strongly imbalanced image libraries."""


def main() -> None:
    """Runs the command."""
    guarded(app)


def guarded(program: Callable[[], object]) -> None:
    """Runs a program and turns every user's mistake, and Ctrl-C, into one clear message and an exit code."""
    try:
        program()
    except DermaffinityError as error:
        _say(str(error))
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != 130:  # 130 is what typer makes of Ctrl-C
            raise
        _say("Interrupted. Finished jobs are kept. Run the same command (crossval: with --resume) to continue.")
        sys.exit(130)


def _say(text: str) -> None:
    console = Console(stderr=True, style="red")
    console.print(f"dermaffinity: {text}", markup=False, highlight=False, soft_wrap=True)


class _PrepareCommand(TyperCommand):
    """Adds the options of every adapter to the help."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        for name, options in adapter_options().items():
            with formatter.section(f"Options of {name}, each as --set KEY=VALUE"):
                formatter.write_dl(
                    [
                        (f"{option.name}=", f"{option.kind}; default: {option.default}. {option.description}")
                        for option in options
                    ]
                )


@app.command(cls=_PrepareCommand)
def prepare(
    adapter: Annotated[
        str,
        typer.Argument(
            help="table for labels in a table, image_folder for one folder per class, or a dataset, listed below; your "
            "own by import path, clinic.OurAdapter.",
            autocompletion=_adapter_names,
        ),
    ],
    source: Annotated[Path, typer.Argument(help="The library's folder or zip archive.")],
    labels: Annotated[
        list[Path] | None, typer.Option(help="A table of labels or metadata, for the adapter table; may be repeated.")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Read the library in the classes of another: ham7, isic8 or dermofit10; others are left out."
        ),
    ] = None,
    experiment: Annotated[str | None, typer.Option(help="Such as 5-class (dermofit) or hamfit-7 (ham10000).")] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="group: no patient or lesion crosses a fold; image: single images; presplit: the dataset's own test "
            "set, the default of mnist and of folders train and test, offered by derm7pt and bcn20000; else group is."
        ),
    ] = None,
    folds: Annotated[int | None, typer.Option(min=1, help="Number of folds; default: 3, presplit: 1.")] = None,
    seed: Annotated[int, typer.Option(help="Of the split, and of the draw where the adapter draws.")] = 0,
    split: Annotated[
        Path | None,
        typer.Option(help="Adopt the folds of a published split, such as data_manifests/splits/hamfit-7.csv."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The manifest; default: data_manifests/NAME.csv.")] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Accept a library with missing images.")] = False,
    exact_ids: Annotated[
        bool,
        typer.Option(
            "--exact-ids",
            help="Take group and class names for different ones even if they differ only in case, blanks, leading "
            "zeros or a trailing .0.",
        ),
    ] = False,
    decisions: Annotated[
        Path | None,
        typer.Option(help="Table of images to drop or relabel; `verify --run` writes one to fill in."),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="An option of the adapter, such as groups=groups.csv; listed below."
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Read an image library and freeze it, with its folds, into a manifest.

    Example: dermaffinity prepare table /data/photos --labels labels.csv
    """
    from dermaffinity.experiments import prepare

    if protocol not in (None, "group", "image", "presplit"):
        raise ConfigError(f"--protocol {protocol}: allowed are group, image and presplit")
    settings: dict[str, Any] = dict(_setting("--set", option) for option in options or ())
    with _counting("hashing images", quiet) as on_progress:
        manifest = prepare.prepare(
            adapter,
            source,
            experiment=experiment,
            protocol=protocol,  # type: ignore[arg-type]
            folds=folds,
            seed=seed,
            out=out,
            partial=partial,
            exact_ids=exact_ids,
            decisions=decisions,
            vocabulary=classes,  # type: ignore[arg-type]
            split=split,
            on_note=print,
            on_progress=on_progress,
            **settings | ({"labels": labels} if labels else {}),
        )
    path = manifest.path
    counts = ", ".join(f"{name} {count}" for name, count in manifest.class_counts().items())
    development, trained = manifest.development(), len(manifest.trained_on())
    parts = (
        f"{trained:,} images to train on ({counts}), {len(development) - trained:,} to test"
        if manifest.protocol == "presplit"
        else f"{len(development):,} images in {manifest.folds} folds ({counts})"
    )
    print(f"{path}: {parts}, {len(manifest.external()):,} external")
    print(f"{development['group'].nunique():,} groups, protocol {manifest.protocol}, split {manifest.split_hash[:12]}")
    print(f"Next: {_command('verify', str(path))}")


@app.command()
def verify(
    manifest: Annotated[Path, typer.Argument(help="A manifest that prepare wrote.")],
    root: Annotated[Path | None, typer.Option(help="The library's folder, if it has moved.")] = None,
    run: Annotated[
        str | None,
        typer.Option("--run", help="Rank suspected label errors by this experiment's out-of-fold probabilities."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the contact sheet; default: review in the run's.")] = None,
    images: Annotated[bool, typer.Option("--images/--no-images", help="Show images of the library.")] = True,
    runs: Runs = Path("runs"),
    quiet: Quiet = False,
) -> None:
    """Decode every image, look for damage, duplicates and leaks; exit code 1 if any would spoil a run.

    Example: dermaffinity verify data_manifests/dermofit-5.csv
    """
    from dermaffinity.data import verify

    with _counting("checking images", quiet) as on_progress:
        verification = verify.verify(manifest, root=root, on_progress=on_progress)
    print("\n".join([*verification.lines(), *verification.quality_lines(), verification.statement()]))
    if run is not None:
        from dermaffinity.experiments.review import review

        found = review(verification, run, out=out, runs=runs, images=images)
        print("\n".join(found.lines()))
        print(f"{found.path}: review.html shows them; write relabel or drop into decisions.csv")
        print(f"Next: dermaffinity prepare … --decisions {shlex.quote(str(found.path / 'decisions.csv'))}")
    if not verification.ok():
        raise typer.Exit(1)
    if run is not None:
        return
    settings = {"data.manifest": str(manifest)} | ({"data.root": str(root)} if root else {})
    words = [word for key, text in settings.items() for word in ("--set", f"{key}={_as_yaml(text)}")]
    configs = ("library_cosen", "library_softmax", "library_affinity_plus")
    print(f"Next: {_command('crossval', *configs, *words, '--runs', f'runs/{verification.manifest.name}')}")


@app.command()
def crossval(
    configs: Configs,
    folds: Annotated[str | None, typer.Option(help="Such as 0,1; default: all.")] = None,
    seeds: Annotated[str, typer.Option(help="Such as 0,1,2.")] = "0",
    overrides: Overrides = None,
    plugins: Plugins = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep finished jobs and continue an interrupted run.")
    ] = False,
    external: Annotated[
        bool, typer.Option("--external", help="Score the manifest's external images as well, once, at the end.")
    ] = False,
    inner: Annotated[
        bool,
        typer.Option(
            "--inner", help="Score the inner validation images instead of the test folds: for choosing settings."
        ),
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="One epoch at 32 pixels, under names of its own: does it work at all?")
    ] = False,
    baseline: Annotated[str, typer.Option(help="The config that the others are compared with.")] = "cosen",
    launcher: Launcher = "inline",
    address: Address = None,
    jobs_per_device: JobsPerDevice = "auto",
    slurm: SlurmOptions = None,
    runs: Runs = Path("runs"),
    tracking_uri: Uri = None,
    quiet: Quiet = False,
) -> None:
    """Train and score every fold of one or more experiments, and track them in MLflow.

    Example: dermaffinity crossval dermofit5_cosen dermofit5_affinity_plus --seeds 0,1,2
    """
    from dermaffinity.config import matching
    from dermaffinity.experiments import run

    experiments = run.crossval(
        matching(configs),
        overrides=_with_plugins(overrides, plugins),
        resume=resume,
        external=external,
        inner=inner,
        quick=quick,
        **_how(folds, seeds, launcher, address, jobs_per_device, slurm, runs, tracking_uri, quiet),
    )
    if not experiments:  # torchrun has started this process to help another
        return
    comparable = _comparable(experiments, baseline)
    _show(experiments, already={name for names in comparable.values() for name in names})
    for base, names in comparable.items():
        compare(names, base, runs, tracking_uri, out=runs / f"compare-with-{base}")
    if not comparable:
        print("Next: dermaffinity compare EXPERIMENT... --baseline NAME, or dermaffinity ui")
        if experiments[0].complete and not inner:
            print(f"Write a report to share: {_command('report', str(experiments[0].path))}")


@app.command()
def fit(
    method: Annotated[
        str, typer.Argument(help="A method, with --data; or a YAML file, or a dataset and a method.", metavar="METHOD")
    ],
    data: Annotated[Path | None, typer.Option(help="The manifest; default: the config's own.")] = None,
    seeds: Annotated[str, typer.Option(help="Such as 0,1,2, for an ensemble of as many networks.")] = "0",
    overrides: Overrides = None,
    plugins: Plugins = None,
    launcher: Launcher = "inline",
    address: Address = None,
    jobs_per_device: JobsPerDevice = "auto",
    slurm: SlurmOptions = None,
    runs: Runs = Path("runs"),
    tracking_uri: Uri = None,
    quiet: Quiet = False,
) -> None:
    """Train a classifier for use on the images of all folds; nothing is left to score it on. Run again to continue.

    Example: dermaffinity fit affinity_plus --data data_manifests/clinic.csv
    """
    from dermaffinity.experiments import fit

    fitted = fit.fit(
        method,
        data=data,
        overrides=_with_plugins(overrides, plugins),
        **_how(None, seeds, launcher, address, jobs_per_device, slurm, runs, tracking_uri, quiet),
    )
    if not fitted.complete:  # torchrun has started this process to help another
        return
    images, held_out = sum(fitted.record.class_counts.values()), fitted.record.config["data"]["validation_fraction"]
    made = f"made from {images:,} images, {100 * held_out:.0f} % of them held out to calibrate; not scored"
    print(f"{fitted.path / 'classifier'}: {made}.")
    print("Expect about what crossval measures of the same method on the same manifest.")
    print(f"Next: {_command('predict', str(fitted.path), 'IMAGES')}")


@app.command()
def join(
    name: Annotated[str, typer.Argument(help="Of the new experiment, such as hamfit7_joined.")],
    sources: Annotated[
        list[str], typer.Argument(help="Experiments: folders or config names.", metavar="RUN_OR_CONFIG...")
    ],
    runs: Runs = Path("runs"),
    tracking_uri: Uri = None,
) -> None:
    """Make one experiment of several finished ones: the mean of their networks.

    Methods that err on different images know more together. Nothing is trained.

    Example: dermaffinity join hamfit7_joined hamfit7_affinity_plus hamfit7_affinity_frozen
    """
    from dermaffinity.experiments.experiment import Experiment
    from dermaffinity.experiments.join import join

    joined = join(name, sources, runs=runs, tracking_uri=tracking_uri)
    if joined.record.scored == "none":
        print(f"{joined.path}: the classifier of all; no image is left to score it on")
        print(f"Next: {_command('predict', str(joined.path), 'FOLDER')}")
        return
    _show([joined], already=set())
    base, *others = (Experiment.open(source, runs) for source in sources)
    compared = [str(one.path) for one in (joined, *others, base)]
    print(f"Next: {_command('compare', *compared, '--baseline', base.name)}")


@app.command()
def compare(
    sources: Annotated[
        list[str], typer.Argument(help="Experiments: folders or config names.", metavar="RUN_OR_CONFIG...")
    ],
    baseline: Annotated[str, typer.Option(help="The experiment the others are compared with.")] = "cosen",
    runs: Runs = Path("runs"),
    tracking_uri: Uri = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the comparison; default: RUNS/compare.")] = None,
) -> None:
    """Gains per class over a baseline on the same split, with intervals and paired tests.

    Example: dermaffinity compare demo_affinity_plus demo_softmax demo_cosen --baseline demo_cosen
    """
    from dermaffinity.experiments import compare

    compared = compare.compare(sources, baseline=baseline, runs=runs, tracking_uri=tracking_uri)
    _print_tables(compared.tables())
    for remark in compared.remarks:
        print(remark)
    for path in compared.write(out or runs / "compare"):
        print(path)
    _, candidate, *_ = compared.experiments.values()
    if candidate.record.scored == "test":
        command = _command("report", str(candidate.path), "--baseline", compared.baseline)
        print(f"Write a report to share: {command}")
    print("Next: dermaffinity ui, to see the methods side by side in a browser")


@app.command()
def tune(
    config: Annotated[str, typer.Argument(help="A YAML file, or a dataset and a method such as hamfit7_cosen.")],
    grid: Annotated[
        list[str] | None,
        typer.Option(
            "--grid", metavar="KEY=V1,V2", help="Values to try, in every combination; default: the config's grid."
        ),
    ] = None,
    folds: Annotated[str | None, typer.Option(help="Such as 0,1; default: all.")] = None,
    seeds: Annotated[str, typer.Option(help="Such as 0,1,2.")] = "0",
    overrides: Overrides = None,
    plugins: Plugins = None,
    launcher: Launcher = "inline",
    address: Address = None,
    jobs_per_device: JobsPerDevice = "auto",
    slurm: SlurmOptions = None,
    runs: Runs = Path("runs"),
    tracking_uri: Uri = None,
    quiet: Quiet = False,
) -> None:
    """Choose a method's settings on the inner validation images; the test folds stay unseen. Resumes finished jobs.

    Example: dermaffinity tune hamfit7_affinity --grid training.learning_rate=0.004,0.01 --grid loss.margin=0.5,0.75
    """
    from dermaffinity.experiments import tune
    from dermaffinity.report.method_tables import tuning_table

    settings = _with_plugins(overrides, plugins)
    tuning = tune.tune(
        config,
        grid=dict(_grid(text) for text in grid or ()),
        overrides=settings,
        **_how(folds, seeds, launcher, address, jobs_per_device, slurm, runs, tracking_uri, quiet),
    )
    if tuning is None:  # torchrun has started this process to help another
        return
    title = "Inner validation images (for choosing, not for reporting): percent [95 % interval]"
    _print_tables({title: tuning_table(tuning.table)})
    for name in ("tuning.csv", "chosen.yaml"):
        print(tuning.folder / name)
    print(f"Next: {_with_chosen(config, settings, tuning.chosen)}")


@app.command()
def benchmark(
    configs: Configs,
    folds: Annotated[str | None, typer.Option(help="Such as 0,1; default: all.")] = None,
    seeds: Annotated[str, typer.Option(help="Such as 0,1,2; tuning uses the first.")] = "0",
    tuned: Annotated[bool, typer.Option("--tuned", help="Tune every config that states a grid first.")] = False,
    budget: Annotated[int, typer.Option(min=1, help="Most combinations that a grid may have.")] = 4,
    baseline: Annotated[str, typer.Option(help="The config that the others are compared with.")] = "cosen",
    external: Annotated[
        bool, typer.Option("--external", help="Score the manifest's external images as well, once, at the end.")
    ] = False,
    overrides: Overrides = None,
    plugins: Plugins = None,
    train: Annotated[bool, typer.Option("--train/--no-train", help="--no-train: only measure what is there.")] = True,
    quick: Annotated[
        bool, typer.Option("--quick", help="One fold, one seed, one epoch at 32 pixels: does it work at all?")
    ] = False,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Score the mean of the seeds' models in each fold, for every method.")
    ] = False,
    launcher: Launcher = "inline",
    address: Address = None,
    jobs_per_device: JobsPerDevice = "auto",
    slurm: SlurmOptions = None,
    runs: Runs = Path("runs"),
    out: Annotated[Path | None, typer.Option(help="Folder of the tables; default: RUNS/benchmark.")] = None,
    tracking_uri: Uri = None,
    quiet: Quiet = False,
) -> None:
    """Compare many methods on one split: tune, train, test, rank. Run it again to resume.

    Example: dermaffinity benchmark hamfit7_cosen hamfit7_softmax hamfit7_affinity --seeds 0,1,2 --tuned
    """
    from dermaffinity.config import matching
    from dermaffinity.experiments import benchmark

    found = benchmark.benchmark(
        matching(configs),
        overrides=_with_plugins(overrides, plugins),
        tuned=tuned,
        budget=budget,
        baseline=baseline,
        external=external,
        train=train,
        quick=quick,
        ensemble=ensemble,
        **_how(folds, seeds, launcher, address, jobs_per_device, slurm, runs, tracking_uri, quiet),
    )
    if found is None:  # torchrun has started this process to help another
        return
    _print_tables(found.tables())
    print("\n".join(found.notes()))
    for path in found.write(out or runs / ("benchmark.quick" if quick else "benchmark")):
        print(path)
    if found.failures:
        raise typer.Exit(1)
    print("Next: dermaffinity report EXPERIMENT, or dermaffinity ui")


@app.command()
def predict(
    model: Annotated[
        str, typer.Argument(help="Folder of an experiment, a fold or a classifier, or models:/NAME@ALIAS.")
    ],
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Image files, folders, zip archives; tables that name images (CSV, TSV, Excel, Parquet, or a .txt of "
            "paths), whose columns are kept.",
            metavar="IMAGES...",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="A .csv or .parquet file, or a folder of Parquet shards, which the same command continues."),
    ] = Path("predictions.csv"),
    part: Annotated[
        str, typer.Option(metavar="I/N", help="Predict the I-th of N parts of a folder's shards; for arrays of jobs.")
    ] = "1/1",
    launcher: Annotated[
        Literal["inline", "ray"],
        typer.Option(help="inline: in this process; ray: shards side by side, or on a cluster."),
    ] = "inline",
    address: Address = None,
    coverage: Annotated[
        float, typer.Option(min=0.5, max=0.999, help="Share of images whose set shall hold their class.")
    ] = 0.9,
    prior: Annotated[
        str | None,
        typer.Option(
            metavar="STRENGTH|CLASS=SHARE,…",
            help="Answer for other class frequencies: 0 equal ones, 1 the library's, or your own, mel=0.1,nv=0.9.",
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(help="Folder or zip archive of the images that tables name; default: the table's own folder."),
    ] = None,
    plugins: Plugins = None,
    views: Views = "1",
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Predict images with a trained classifier; exit code 1 if any file could not be used. For research only.

    Example: dermaffinity predict runs/hamfit7_affinity photographs/ more.zip --out predictions.csv
    """
    from dermaffinity.inference.batch import find_images, predict_to
    from dermaffinity.inference.classifier import LesionClassifier

    console = Console(stderr=True, highlight=False)
    faults: list[tuple[str, str]] = []

    def report(name: str, fault: str) -> None:
        faults.append((name, fault))

    classifier = LesionClassifier.load(model, views=int(views), device=device, plugins=plugins or ())  # type: ignore[arg-type]
    if prior is not None:
        classifier = _with_prior(classifier, prior)
    files = find_images(images, report, root)
    if not files:
        raise DataError("there are no images to predict", summed(faults))
    with _counting("predicting", quiet) as on_progress:
        words: dict[str, Any] = {"part": part, "launcher": launcher, "address": address, "coverage": coverage}
        told: dict[str, Any] = {"on_problem": report, "on_progress": on_progress}
        rows = predict_to(out, classifier, files, **words, **told)
    for line in summed(faults):
        console.print(f"skipped: {line}", markup=False, soft_wrap=True)
    guarantees = classifier.set_guarantees(coverage)
    always = guarantees.index[guarantees["always"]]
    print(f"{out}: {rows:,} images, {len(faults):,} skipped; {classifier.description.intended_use}")
    if classifier.description.metadata:
        import pandas as pd

        counted, silent = classifier.description.heard(pd.DataFrame([file.cells for file in files]))
        print("\n".join([*counted, *silent]))
    print(
        f"At most about 5 % of images like the training images have a novelty above {classifier.novelty_threshold:.2f}."
    )
    if len(always) < len(guarantees):
        promised = guarantees.loc[~guarantees["always"], "coverage"].min()
        asked = f"{100 * coverage:g} % of each class, and hold at least {100 * promised:.0f} %"
        print(f"Prediction sets were asked to hold {asked}.")
    if len(always):
        print(f"Included in every prediction set: too few calibration images of {', '.join(always)}.")
    if faults:
        raise typer.Exit(1)


@app.command()
def evaluate(
    model: Annotated[
        str, typer.Argument(help="Folder of an experiment, a fold or a classifier, or models:/NAME@ALIAS.")
    ],
    manifest: Annotated[Path, typer.Argument(help="A manifest that prepare wrote.")],
    root: Annotated[Path | None, typer.Option(help="The library's folder, if it has moved.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results; default: evaluations/MODEL_on_MANIFEST.")
    ] = None,
    per: Annotated[
        Literal["image", "group"],
        typer.Option(help="group: one answer per patient or lesion, from the mean log-odds of its images."),
    ] = "image",
    adapt: Annotated[
        float,
        typer.Option(min=0, help="Set so many images aside, or below 1 such a share, to fit a temperature; unscored."),
    ] = 0,
    prior: Annotated[
        bool, typer.Option("--prior", help="With --adapt: tell it the class frequencies of those images, too.")
    ] = False,
    level: Annotated[
        float, typer.Option(min=0.01, max=0.999, help="Show the sensitivity at this specificity, and the reverse.")
    ] = 0.9,
    coverage: Annotated[
        float, typer.Option(min=0.5, max=0.999, help="Share of images whose set shall hold their class.")
    ] = 0.9,
    rename: Annotated[
        list[str] | None,
        typer.Option("--rename", metavar="LIBRARY=MODEL", help="Read a class of the manifest as one of the model's."),
    ] = None,
    known_only: Annotated[
        bool, typer.Option("--known-only", help="Leave out images of classes that the model does not know.")
    ] = False,
    images: Annotated[bool, typer.Option("--images/--no-images", help="Show images of the library.")] = True,
    plugins: Plugins = None,
    views: Views = "1",
    device: Device = "cpu",
    tracking_uri: Uri = None,
    quiet: Quiet = False,
) -> None:
    """Validate a trained classifier on images that it was not made from, and write a report. Run again to continue.

    Example: dermaffinity evaluate runs/hamfit7_affinity data_manifests/clinic.csv --adapt 100
    """
    from dermaffinity.experiments import evaluate
    from dermaffinity.report.tables import results_table

    with _counting("predicting", quiet) as on_progress:
        evaluation = evaluate.evaluate(
            model,
            manifest,
            root=root,
            out=out,
            per=per,
            adapt=adapt,
            prior=prior,
            level=level,
            coverage=coverage,
            rename=dict(_setting("--rename", text) for text in rename or ()),
            known_only=known_only,
            images=images,
            views=int(views),  # type: ignore[arg-type]
            device=device,
            plugins=plugins or (),
            tracking_uri=tracking_uri,
            on_progress=on_progress,
        )
    for note in evaluation.notes:
        print(note)
    table = results_table(evaluation.summaries, evaluation.results.counts)
    _print_tables({f"{evaluation.manifest.name}, {per}s: percent [95 % interval]": table})
    for sentence in evaluation.sentences():
        print(sentence)
    print(f"{evaluation.path}: report.html, predictions and tables; {_INTENDED_USE}")


@app.command()
def explain(
    model: Annotated[
        str, typer.Argument(help="Folder of an experiment, a fold or a classifier, or models:/NAME@ALIAS.")
    ],
    image: Annotated[Path, typer.Argument(help="The image file.")],
    out: Annotated[Path, typer.Option(help="The sheet, a PNG.")] = Path("sheet.png"),
    library: Annotated[
        Path | None,
        typer.Option(help="Folder, zip archive or manifest of the training images, to show the nearest ones."),
    ] = None,
    plugins: Plugins = None,
    views: Views = "1",
    device: Device = "cpu",
) -> None:
    """Show on one page why a classifier says what it says about an image. For research only.

    Example: dermaffinity explain runs/hamfit7_affinity lesion.jpg --out sheet.png --library HAM10000/
    """
    from dermaffinity.inference import classifier

    explanation = classifier.explain(model, image, views=int(views), device=device, plugins=plugins or ())  # type: ignore[arg-type]
    explanation.save(out, library)
    print(f"{out}: {explanation.predicted} with {100 * explanation.probabilities.max():.1f} %")
    print(
        f"Prediction set at {100 * explanation.coverage:g} % coverage: "
        f"{', '.join(explanation.prediction_set) or 'empty'}"
    )
    state = "above" if explanation.novel else "below"
    print(f"Novelty {explanation.novelty:.2f}, {state} the novelty threshold {explanation.novelty_threshold:.2f}")
    if explanation.examples is None:
        print("This model was saved without training examples.")
    print(explanation.intended_use)


@app.command()
def report(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="The experiment, then others to show beside it: folders or config names.", metavar="RUN..."
        ),
    ],
    baseline: Annotated[
        str | None, typer.Option(help="What gains are measured against; default: cosen, if it was run on this split.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The HTML file to write; default: report.html in the experiment's folder.")
    ] = None,
    images: Annotated[bool, typer.Option("--images/--no-images", help="Show images of the library.")] = True,
    manifest: Annotated[Path | None, typer.Option(help="The experiment's manifest, if it has moved.")] = None,
    runs: Runs = Path("runs"),
    tracking_uri: Uri = None,
    quiet: Quiet = False,
) -> None:
    """Write one HTML page about an experiment, to read, print and pass on: results, limits, checklists, cases.

    Example: dermaffinity report hamfit7_affinity --baseline cosen --no-images
    """
    from dermaffinity.experiments.report import write

    with _counting("looking at test images", quiet) as on_progress:
        written = write.report(
            sources,
            baseline=baseline,
            out=out,
            images=images,
            manifest=manifest,
            runs=runs,
            tracking_uri=tracking_uri,
            on_progress=on_progress,
        )
    print(f"{written.path}: one file, needs no network; open it in a browser, print it to PDF from there")
    if written.tracked:
        print("It is also kept with the experiment's MLflow run, and linked above the table of `dermaffinity ui`.")
    for note in written.notes:
        print(note)
    if written.thumbnails:
        print(
            f"It shows {written.thumbnails} images of the library, whose license is {written.license}: pass it on only "
            "as that allows, or write it with --no-images."
        )


@app.command()
def export(
    model: Annotated[
        str, typer.Argument(help="Folder of an experiment, a fold or a classifier, or models:/NAME@ALIAS.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    kind: Annotated[
        str, typer.Option("--format", help="onnx: one file, without PyTorch; bundle: a folder for MONAI's tools.")
    ] = "onnx",
    plugins: Plugins = None,
) -> None:
    """Write a trained classifier in the format of another tool, checked to give the same numbers.

    Example: dermaffinity export runs/hamfit7_affinity --format onnx --out exported
    """
    from dermaffinity import export

    first, *others = export.export(model, out, format=kind, plugins=plugins or ())  # type: ignore[arg-type]
    for path in (first, *others):
        print(path)
    if kind == "onnx":
        print(f"Next: {shlex.join(['python', str(out / 'preprocess_and_run.py')])} IMAGE...; {_INTENDED_USE}")
    else:
        print(
            f"Next, in {shlex.quote(str(first))}: python -m monai.bundle run --config_file configs/inference.json "
            f"--dataset_dir FOLDER; {_INTENDED_USE}"
        )


configs_app = typer.Typer()
app.add_typer(configs_app, name="configs")


@configs_app.callback(invoke_without_command=True)
def configs(context: typer.Context) -> None:
    """List the datasets, methods and backbones that experiments are composed of; show, copy and describe configs.

    Example: dermaffinity configs
    """
    if context.invoked_subcommand is not None:
        return
    from rich.table import Table

    from dermaffinity.config import SHIPPED, question, shipped

    console = Console(highlight=False)
    for half in SHIPPED:
        table = Table("", "", title=f"{half}s".capitalize(), title_justify="left", box=None, show_header=False)
        for name, path in shipped(half).items():
            table.add_row(name, question(path))
        console.print(table)
    print("An experiment is a dataset and a method: dermaffinity configs show hamfit7_affinity_plus")
    print("Another backbone, in an experiment of its own: --set backbone=dinov2_s --set name=NEW")


@configs_app.command()
def show(
    name: Annotated[str, typer.Argument(help="DATASET_METHOD, a dataset, a method, a backbone, or a YAML file.")],
    overrides: Overrides = None,
) -> None:
    """Print an experiment with every setting and default, or a dataset or method as it is written.

    Example: dermaffinity configs show hamfit7_affinity_plus
    """
    import yaml

    from dermaffinity.config import read_config, shipped

    if half := (shipped("dataset") | shipped("method") | shipped("backbone")).get(name):
        print(half.read_text(encoding="utf-8"), end="")
        return
    config = read_config(name, overrides or ())
    grid = {"grid": {key: list(values) for key, values in config.grid.items()}} if config.grid else {}
    print(yaml.safe_dump(config.resolved() | grid, sort_keys=False, allow_unicode=True), end="")


@configs_app.command()
def copy(
    name: Annotated[str, typer.Argument(help="DATASET_METHOD, a dataset or a method.")],
    out: Annotated[
        Path | None, typer.Argument(help="The file to write; default: my_NAME.yaml.", metavar="FILE")
    ] = None,
) -> None:
    """Write a config of your own to change, and beside it the schema by which editors complete and check it.

    Example: dermaffinity configs copy hamfit7_affinity_plus ours.yaml
    """
    from dermaffinity.config import HALVES, copy_of, json_schema, shipped
    from dermaffinity.files import atomic_write, write_json

    path = out or Path(f"my_{name}.yaml")
    if path.exists():
        raise ConfigError(f"{path} exists already; name another file")
    schema = path.with_name("dermaffinity.schema.json")
    text = copy_of(name, schema.name)
    with atomic_write(path) as file:
        file.write(text)
    write_json(schema, json_schema())
    print(f"{path}: change what you like; editors complete and check it with {schema.name}")
    if half := next((half for half in HALVES if name in shipped(half)), None):
        print(f"Next: name it in a config, {half}: {path.name}")
    else:
        print(f"Next: {_command('crossval', str(path))}")


@configs_app.command()
def schema() -> None:
    """Print the JSON Schema of configs, for editors and other tools.

    Example: dermaffinity configs schema > dermaffinity.schema.json
    """
    import json

    from dermaffinity.config import json_schema

    print(json.dumps(json_schema(), indent=2))


@app.command()
def study(
    folder: Annotated[Path, typer.Argument(help="The images, or a manifest that prepare made of them.")],
    labels: Annotated[
        list[Path] | None,
        typer.Option(help="A table of labels or metadata; may be repeated. Without: one folder for each class."),
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(help="A dataset, such as ham10000; default: table with --labels, else image_folder.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Read the library in the classes of another; see prepare.")
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Accept a library with missing images.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of everything that is written.")] = Path("study"),
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="An option of the adapter, see prepare, or a setting of every config."
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Prepare, verify, train, compare and report, with a plan and times first. Run it again to resume.

    Example: dermaffinity study photos --labels labels.csv
    """
    from dermaffinity.experiments import study

    found = study.study(
        folder,
        labels=labels or (),
        adapter=adapter,
        out=out,
        overrides=overrides or (),
        quiet=quiet,
        counting=lambda what: _counting(what, quiet),
        vocabulary=classes,
        partial=partial,
    )
    print(found.compared.sentence())
    _print_tables(found.compared.tables())
    for remark in found.compared.remarks:
        print(remark)
    print(f"Tables and figures: {out / 'compare'}")
    print(f"{found.report.path}: one file, needs no network; open it in a browser, print it to PDF from there")


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where everything is written.")] = Path("demo"),
    quiet: Quiet = False,
) -> None:
    """Train and compare three methods on a synthetic library, and write a report; takes minutes on two cores.

    Example: dermaffinity demo
    """
    from dermaffinity.experiments.demo import run_demo

    run_demo(folder, Console(stderr=True, quiet=quiet), Console(highlight=False))


@app.command()
def ui(
    tracking_uri: Uri = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of 127.0.0.1.")] = 5000,
) -> None:
    """Serve the MLflow pages of your runs on this machine; stop with Ctrl-C.

    Example: dermaffinity ui --port 5001
    """
    from dermaffinity.tracking.mlflow_tracker import serve_ui, view_addresses

    addresses = view_addresses(tracking_uri, port=port)
    print("Ready in some seconds; stop with Ctrl-C. Open in a browser:")
    for name, address in addresses.items():
        print(f"{name}: {address}")
    serve_ui(tracking_uri, port=port)


def _comparable(experiments: "list[Experiment]", baseline: str) -> dict[str, list[str]]:
    """The finished experiments on one split, by the one of them that is the baseline; without splits that have none."""
    from dermaffinity.experiments.compare import find_baseline

    by_split: dict[str, list[str]] = {}
    for experiment in experiments:
        if experiment.complete:
            by_split.setdefault(experiment.record.split_hash, []).append(experiment.name)
    comparable = {}
    for names in by_split.values():
        if len(names) > 1:
            try:
                comparable[find_baseline(baseline, names)] = names
            except ComparisonError as error:
                print(f"Not compared: {error}")
    return comparable


def _show(experiments: "list[Experiment]", already: set[str]) -> None:
    """Prints the measures of experiments, those on one dataset side by side, and where the rest lies.

    ``already`` names those whose out-of-fold measures a comparison is about to print.
    """
    from dermaffinity.report.tables import results_table

    finished = [experiment for experiment in experiments if experiment.complete]
    for dataset in dict.fromkeys(experiment.record.dataset for experiment in finished):
        here = [experiment for experiment in finished if experiment.record.dataset == dataset]
        results = {one.name: one.out_of_fold for one in here if one.name not in already}
        external = {one.name: one.external for one in here if one.external is not None}
        for title, shown in (
            (here[0].record.images, results),
            ("external images, mean of the fold models", external),
        ):
            if shown:
                counts = next(iter(shown.values())).counts
                table = results_table({name: one.summary for name, one in shown.items()}, counts)
                _print_tables({f"{dataset}, {title}: percent [95 % interval]": table})
    for experiment in experiments:
        kept = "figures, tables and models" if experiment.joint_temperatures else "figures and tables"
        print(f"{experiment.path}: {kept if experiment.complete else 'some folds are still to be run'}")


def _print_tables(tables: "dict[str, DataFrame]") -> None:
    from dermaffinity.report.tables import console_table

    console = Console(highlight=False)
    for title, table in tables.items():
        console.print(console_table(table, title, console.width))


def _how(
    folds: str | None,
    seeds: str,
    launcher: str,
    address: str | None,
    jobs_per_device: str,
    slurm: list[str] | None,
    runs: Path,
    tracking_uri: str | None,
    quiet: bool,
) -> "How":
    if jobs_per_device != "auto" and not (jobs_per_device.isdecimal() and int(jobs_per_device)):
        raise ConfigError(f"--jobs-per-device {jobs_per_device}: write a number from 1, or auto")
    return {
        "folds": None if folds is None else _numbers("--folds", folds),
        "seeds": _numbers("--seeds", seeds),
        "launcher": launcher,  # type: ignore[typeddict-item]
        "address": address,
        "slurm": dict(_setting("--slurm", text) for text in slurm or ()),
        "jobs_per_device": "auto" if jobs_per_device == "auto" else int(jobs_per_device),
        "runs": runs,
        "tracking_uri": tracking_uri,
        "quiet": quiet,
    }


def _with_plugins(overrides: list[str] | None, plugins: list[str] | None) -> list[str]:
    """The overrides, and the trusted modules as one more: they are added to those that a config lists."""
    return [*(overrides or ()), *([f"plugins=[{', '.join(plugins)}]"] if plugins else [])]


def _grid(text: str) -> tuple[str, list[Any]]:
    """A key and its values; commas within brackets belong to a value."""
    import yaml

    key, equals, values = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"--grid {text}: write key=value,value, such as --grid loss.tau=0.5,1.0")
    try:
        return key, yaml.safe_load(f"[{values}]")
    except yaml.YAMLError as error:
        raise ConfigError(f"--grid {text}: {values!r} is not a list of YAML values") from error


def _with_prior(classifier: "LesionClassifier", text: str) -> "LesionClassifier":
    """The classifier with answers for the class frequencies of ``--prior``."""

    def number(word: str) -> Any:
        try:
            return float(word)
        except ValueError:
            return word  # refused below, together with all else

    frequencies: dict[str, Any] = {}
    problems: list[str] = []
    for part in text.split(",") if "=" in text else ():
        name, _, share = (word.strip() for word in part.rpartition("="))
        if not name:
            problems.append(f"{part!r} between commas is no CLASS=SHARE (decimals have a point)")
        elif name in frequencies:
            problems.append(f"{name!r} is there twice")
        else:
            frequencies[name] = number(share)
    told = classifier
    try:
        told = classifier.with_prior(frequencies) if "=" in text else classifier.with_prior(strength=number(text))
    except ValueError as error:
        problems.append(str(error))
    if found := "; ".join(dict.fromkeys(problems)):
        classes = classifier.description.classes
        example = ",".join(f"{name}={1 / len(classes):.2g}" for name in classes)
        raise ConfigError(
            f"--prior {text}: a strength such as 0.5, or every class with its share; {found}. "
            f"For example --prior {shlex.quote(example)}"
        )
    return told


def _command(*words: str) -> str:
    """A command of this program to paste into a shell."""
    return shlex.join(["dermaffinity", *words])


def _as_yaml(text: str) -> str:
    """A text that `--set` of configs, which reads YAML, takes for this text."""
    import json

    import yaml

    try:
        plain = yaml.safe_load(text) == text
    except yaml.YAMLError:
        plain = False
    return text if plain else json.dumps(text, ensure_ascii=False)


def _with_chosen(config: str, overrides: Sequence[str], chosen: dict[str, Any]) -> str:
    """The command that runs a config with overrides and chosen settings."""
    import json

    from dermaffinity.config import read_config

    name = f"{read_config(config, overrides).name}.tuned"
    settings = [*overrides, *(f"{key}={json.dumps(value)}" for key, value in chosen.items()), f"name={name}"]
    return _command("crossval", config, *(word for setting in settings for word in ("--set", setting)))


def _numbers(option: str, text: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise ConfigError(f"{option} {text}: write numbers with commas between, such as 0,1,2") from None


def _setting(option: str, text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"{option} {text}: write key=value")
    return key, value


@contextmanager
def _counting(what: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr for work that reports (done, total)."""
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True, quiet=quiet)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
