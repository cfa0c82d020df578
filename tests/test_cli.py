"""The words a user types: what works, and one clear message for everything that does not."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from dermaffinity.cli import app
from dermaffinity.config import read_config
from dermaffinity.data.manifest import read_manifest

HELP = """
import json, sys
from typer.main import get_command
from typer.testing import CliRunner
from dermaffinity.cli import app
texts = {verb: CliRunner().invoke(app, [verb, "--help"]).output for verb in get_command(app).commands}
heavy = [name for name in ("torch", "monai", "mlflow", "numpy", "pandas", "matplotlib") if name in sys.modules]
print(json.dumps([texts, heavy]))
"""


def test_the_shell_completes_commands_and_config_names():
    def completed(words: str, place: int) -> list[str]:
        environment = {"_DERMAFFINITY_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(place)}
        return CliRunner().invoke(app, [], prog_name="dermaffinity", env=environment).output.split()

    assert completed("dermaffinity ver", 1) == ["verify"]
    assert completed("dermaffinity crossval hamfit7_cosen_", 2) == ["hamfit7_cosen_as_printed", "hamfit7_cosen_plus"]


def test_every_verb_has_a_help_with_an_example_that_costs_no_heavy_import():
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    texts, heavy = json.loads(done.stdout)
    assert set(texts) >= {"prepare", "verify", "crossval", "compare", "predict", "export", "demo", "ui"}
    for verb, text in texts.items():
        assert f"Example: dermaffinity {verb}" in " ".join(text.split())
    assert heavy == []


def test_the_version_is_said():
    assert CliRunner().invoke(app, ["--version"]).output == f"dermaffinity {metadata.version('dermaffinity')}\n"


@pytest.fixture(scope="module")
def desk(fresh_folder, phantom_manifest, tiny_config):
    """A folder with what a user could get wrong: a config, its manifest, a finished experiment of another split."""
    folder = fresh_folder("desk")
    shutil.copy(phantom_manifest, folder / "good.csv")
    shutil.copy(phantom_manifest.with_suffix(".root"), folder / "good.root")
    shutil.copy(phantom_manifest, folder / "rootless.csv")
    shutil.copy(phantom_manifest, folder / "lost.csv")
    (folder / "lost.root").write_text(f"{folder / 'nowhere'}\n")
    shutil.copy(phantom_manifest, folder / "vanished.csv")
    images = shutil.copytree(phantom_manifest.parent / "library", folder / "vanished")
    (images / read_manifest(phantom_manifest).rows["image"][3]).unlink()
    (folder / "vanished.root").write_text(f"{images}\n")
    edited = phantom_manifest.read_text().replace(",AK,", ",SK,", 1)
    (folder / "edited.csv").write_text(edited)
    (folder / "empty").mkdir()
    config = tiny_config.read_text().replace(str(phantom_manifest), "good.csv")
    (folder / "config.yaml").write_text(config)
    (folder / "bad.yaml").write_text(
        config.replace("epochs: 3", "epoch: 3").replace("image_size: 32", "image_size: big")
    )
    return folder


@pytest.mark.parametrize(
    ("code", "words", "message"),
    [
        (2, "prepare dermofitt empty", "there is no adapter 'dermofitt' .did you mean 'dermofit'"),
        (1, "prepare dermofit nowhere", "dermofit: no folder or archive nowhere. Dermofit is licensed"),
        (1, "prepare dermofit empty", "empty"),
        (2, "prepare dermofit empty --folds 0", "'--folds'"),
        (2, "prepare dermofit empty --folds 1", "folds=1 with the protocol group: a dataset's own split has 1 fold"),
        (2, "prepare dermofit empty --protocol presplit", "dermofit brings no test set of its own"),
        (2, "prepare dermofit empty --folds many", "'--folds'"),
        (2, "prepare dermofit empty --protocol patient", "--protocol patient: allowed are group, image and presplit"),
        (2, "prepare dermofit empty --experiment 7-class", "experiment: .*'10-class' or '5-class', got '7-class'"),
        (2, "prepare phantom empty --partial", "these options cannot be used; .*\n  - partial: unknown key"),
        (2, "prepare image_folder empty --set groups", "--set groups: write key=value"),
        (2, "prepare image_folder empty --set classes=[", r"  - classes: '\[' is not a list, such as \[a, b\]"),
        (1, "verify nowhere.csv", "nowhere.csv: no such manifest; make one with `dermaffinity prepare`"),
        (1, "verify edited.csv", "edited.csv: this manifest cannot be used.*\n.*the split hash differs"),
        (2, "verify rootless.csv", "rootless.csv: the folder of its images is not known here.* --root FOLDER"),
        (1, "verify lost.csv", "nowhere"),
        (2, "crossval nothing.yaml", "there is no config nothing.yaml: .*`dermaffinity configs` lists"),
        (2, "crossval demo_afinity", "there is no config demo_afinity: the nearest are demo_affinity, "),
        (2, "crossval bad.yaml", "bad.yaml: this config.*\n  - data.image_size.*\n  - training.epoch: .*"),
        (2, "crossval config.yaml --folds 3", "--folds 3: phantom-5 has the folds 0 to 2"),
        (2, "crossval config.yaml --folds all", "--folds all: write numbers with commas between, such as 0,1,2"),
        (2, "crossval config.yaml --seeds 1;2", "--seeds 1;2: write numbers with commas between"),
        (2, "crossval config.yaml --launcher local", "--launcher local: allowed are inline, ray and slurm"),
        (2, "crossval config.yaml --set training.epochs", "--set training.epochs: write key=value"),
        (2, "crossval config.yaml --external", "--external: good.csv has no external images"),
        (1, "crossval config.yaml --set data.manifest=nowhere.csv", "nowhere.csv: no such manifest"),
        (1, "crossval config.yaml --set data.manifest=edited.csv", "the split hash differs"),
        (2, "crossval config.yaml --set data.manifest=rootless.csv", "rootless.csv: the folder of its images is not"),
        (1, "crossval config.yaml --set data.manifest=lost.csv", "expected the folder or .zip archive.*found nothing"),
        (1, "crossval config.yaml --tracking-uri mlruns", "mlruns is not a tracking store"),
        (2, "crossval config.yaml --address 127.0.0.1:9", "--address 127.0.0.1:9: this is for --launcher ray"),
        (2, "crossval config.yaml --slurm gres=gpu:1", "--slurm gres: this is for --launcher slurm"),
        (2, "crossval config.yaml --jobs-per-device 0", "--jobs-per-device 0: write a number from 1, or auto"),
        (2, "tune config.yaml", "tiny states no grid; add grid: to the config, or --grid"),
        (2, "tune config.yaml --grid training.epochs", "--grid training.epochs: write key=value,value"),
        (2, "tune config.yaml --grid training.epochs=1,[", r"--grid .*: '1,\[' is not a list of YAML values"),
        (2, "tune config.yaml --grid training.epochs=1,0", "no valid config\n  - training.epochs=0: training.epochs"),
        (2, "tune config.yaml --launcher local", "--launcher local: allowed are inline, ray and slurm"),
        (1, "benchmark config.yaml", "nothing to compare tiny with|--baseline cosen: none of tiny fits"),
        (2, "benchmark config.yaml config.yaml", "config.yaml: every config needs a name of its own"),
        (2, "benchmark config.yaml --budget 0", "'--budget'"),
        (2, "benchmark config.yaml --launcher local", "--launcher local: allowed are inline, ray and slurm"),
        (1, "compare nothing other", "nothing: no experiment of that name under runs; there is none"),
        (2, "compare", "Missing argument"),
        (2, "ui --port 99999", "'--port': Input should be less than or equal to 65535"),
        (2, "crossval config.yaml --fold 1", "No such option: --fold"),
    ],
)  # fmt: skip
def test_a_mistake_gets_one_clear_message(commands, desk, code, words, message):
    done = commands.run(*words.split(), folder=desk)
    assert done.code == code, done.stderr
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stdout == ""
    assert not (desk / "runs").exists()  # nothing was begun


def test_images_that_have_vanished_are_named_and_the_same_command_works_when_they_are_back(
    commands, desk, fresh_folder, phantom_manifest
):
    folder = fresh_folder("vanished")
    options = ("crossval", str(desk / "config.yaml"), "--folds", "0", "--set", "training.epochs=1", "--set")
    done = commands.run(*options, f"data.manifest={desk / 'vanished.csv'}", folder=folder)
    assert done.code == 1
    assert read_manifest(phantom_manifest).rows["image"][3] in done.stderr
    assert "Traceback" not in done.stderr
    done = commands.run(*options, f"data.manifest={desk / 'good.csv'}", folder=folder)
    assert done.code == 0, done.stderr


@pytest.fixture(scope="module")
def compared(commands, fresh_folder, phantom_library, tiny_config):
    """Prepared, verified, trained with two losses, and compared."""
    folder = fresh_folder("whole")
    prepared = commands.run(
        "prepare", "dermofit", str(phantom_library), "--experiment", "5-class", "--partial", folder=folder
    )
    assert prepared.code == 0, prepared.stderr
    (manifest,) = (folder / "data_manifests").glob("*.csv")
    assert f"Next: dermaffinity verify data_manifests/{manifest.name}" in prepared.stdout
    verified = commands.run("verify", str(manifest), folder=folder)
    assert verified.code == 0, verified.stdout + verified.stderr

    config = yaml.safe_load(tiny_config.read_text())
    config["data"]["manifest"] = f"data_manifests/{manifest.name}"
    config["training"]["epochs"] = 1
    (folder / "my_cosen.yaml").write_text(yaml.safe_dump({**config, "name": "my_cosen"}))
    loss = {"class": "dermaffinity.losses.CrossEntropyLoss"}
    (folder / "my_softmax.yaml").write_text(yaml.safe_dump({**config, "name": "my_softmax", "loss": loss}))
    trained = commands.run("crossval", "my_cosen.yaml", "my_softmax.yaml", "--quiet", folder=folder)
    assert trained.code == 0, trained.stderr
    assert trained.stderr == ""
    return folder, trained


def test_a_library_is_prepared_verified_trained_on_and_compared(compared):
    folder, trained = compared
    assert "Gain over my_cosen" in trained.stdout
    assert trained.stdout.splitlines()[-1].startswith("Next: dermaffinity ui")
    assert "Write a report to share: dermaffinity report runs/my_softmax --baseline my_cosen" in trained.stdout
    assert trained.stdout.count("Balanced accuracy ") == 2  # the measures once, the gains once
    written = {path.name for path in (folder / "runs/compare-with-my_cosen").iterdir()}
    assert written == {"comparison.md", "measures.csv", "gains.csv", "tests.csv", "recall.png", "gain.png"}


def test_compare_refuses_what_cannot_be_paired(commands, compared):
    folder, _ = compared
    assert commands.run("compare", "my_cosen", "my_softmax", folder=folder).code == 0
    missing = commands.run("compare", "my_cosen", "my_softmax", "--baseline", "ldam", folder=folder)
    assert missing.code == 1
    assert "--baseline ldam: none of my_cosen, my_softmax fits" in missing.stderr
    alone = commands.run("compare", "my_cosen", "--baseline", "my_cosen", folder=folder)
    assert alone.code == 1
    assert "name at least two experiments" in alone.stderr
    unknown = commands.run("compare", "my_cosen", "my_sofmax", folder=folder)
    assert unknown.code == 1
    assert "there is my_cosen, my_softmax" in unknown.stderr

    description = json.loads((folder / "runs/my_softmax/experiment.json").read_text())
    description["split_hash"] = "0" * 64
    (folder / "runs/other").mkdir()
    (folder / "runs/other/experiment.json").write_text(json.dumps(description))
    differing = commands.run("compare", "my_cosen", "other", folder=folder)
    assert differing.code == 1
    assert "were run on different splits" in differing.stderr
    assert "  - other: " in differing.stderr
    for done in (missing, alone, unknown, differing):
        assert "Traceback" not in done.stderr


def test_a_report_stands_beside_its_baseline_and_names_the_license_of_its_images(commands, compared):
    folder, _ = compared
    done = commands.run("report", "my_softmax", "--quiet", folder=folder)
    assert done.code == 0, done.stderr
    assert done.stdout.startswith("runs/my_softmax/report.html: one file, needs no network")
    assert re.search(r"It shows \d+ images of the library, whose license is .+: pass it on only", done.stdout)
    report = (folder / "runs/my_softmax/report.html").read_text()
    assert "Gain over the baseline my_cosen" in report
    assert report.count("data:image/jpeg") > 12
    bare = commands.run("report", "runs/my_softmax", "--no-images", "--out", "bare.html", folder=folder)
    assert bare.code == 0, bare.stderr
    assert "license" not in bare.stdout
    assert "data:image/" not in (folder / "bare.html").read_text()
    missing = commands.run("report", "my_softmax", "--baseline", "ldam", folder=folder)
    assert missing.code == 1
    assert "--baseline ldam: none of my_softmax, my_cosen fits" in missing.stderr
    assert "Traceback" not in missing.stderr


def test_two_libraries_in_one_command_are_each_compared_on_their_own(commands, compared):
    folder, _ = compared
    manifest = next((folder / "data_manifests").glob("*.csv"))
    library = manifest.with_suffix(".root").read_text().strip()
    again = ["prepare", "phantom", library, "--experiment", "5-class", "--protocol", "image", "--out", "image.csv"]
    assert commands.run(*again, folder=folder).code == 0
    for name in ("my_cosen", "my_softmax"):
        config = yaml.safe_load((folder / f"{name}.yaml").read_text())
        config["data"]["manifest"] = "image.csv"
        (folder / f"image_{name}.yaml").write_text(yaml.safe_dump({**config, "name": f"image_{name}"}))
    configs = ["my_cosen.yaml", "my_softmax.yaml", "image_my_cosen.yaml", "image_my_softmax.yaml"]
    done = commands.run("crossval", *configs, "--resume", "--quiet", folder=folder)
    assert done.code == 0, done.stderr
    assert "Gain over my_cosen" in done.stdout
    assert "Gain over image_my_cosen" in done.stdout


def test_settings_are_chosen_and_methods_ranked_in_two_commands(commands, compared):
    folder, _ = compared
    grid = ("--grid", "training.learning_rate=0.01,0.02", "--folds", "0", "--quiet")
    tuned = commands.run("tune", "my_softmax.yaml", *grid, "--set", "training.epochs=1", folder=folder)
    assert tuned.code == 0, tuned.stderr
    assert tuned.stderr == ""
    assert "training.learning_rate=0.0" in tuned.stdout
    assert "chosen" in tuned.stdout
    *_, file, following = tuned.stdout.splitlines()
    assert file == "runs/my_softmax.tuning/chosen.yaml"
    chosen = yaml.safe_load((folder / file).read_text())["overrides"]
    assert following == (
        "Next: dermaffinity crossval my_softmax.yaml --set training.epochs=1 --set "
        f"training.learning_rate={chosen['training.learning_rate']} --set name=my_softmax.tuned"
    )
    ranked = commands.run("benchmark", "my_cosen.yaml", "my_softmax.yaml", "--quiet", folder=folder)
    assert ranked.code == 0, ranked.stderr
    assert ranked.stderr == ""
    assert "Gain over my_cosen" in ranked.stdout
    assert "Gain over the best rival" in ranked.stdout
    assert ranked.stdout.splitlines()[-1].startswith("Next: dermaffinity report")
    again = commands.run("benchmark", "my_cosen.yaml", "my_softmax.yaml", "--no-train", folder=folder)
    assert again.stdout == ranked.stdout
    missing = commands.run("benchmark", "my_cosen.yaml", "my_softmax.yaml", "--seeds", "5", "--no-train", folder=folder)
    assert missing.code == 1
    assert "no method has all of its folds and seeds" in missing.stderr


def test_verify_ends_with_one_when_something_would_spoil_a_run(commands, desk):
    done = commands.run("verify", "vanished.csv", folder=desk)
    assert done.code == 1
    assert "Traceback" not in done.stderr
    assert "error" in done.stdout
    assert "Next:" not in done.stdout


def test_a_manifest_that_cannot_be_written_is_refused_in_words(commands, desk, phantom_library):
    done = commands.run("prepare", "phantom", str(phantom_library), "--out", "config.yaml/sub.csv", folder=desk)
    assert done.code == 1
    assert "sub.csv: cannot be written" in done.stderr


@pytest.fixture(scope="module")
def stranger(fresh_folder):
    """A folder with a library of two classes called 1 and no: six patients, an image of each in each."""
    folder = fresh_folder("stranger")
    for k, label in enumerate(("1", "no")):
        for i in range(6):
            path = folder / "my lib" / label / f"P{i}_{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng([k, i]).integers(0, 255, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(path)
    return folder


def test_every_command_that_is_printed_next_can_be_pasted(commands, stranger):
    out = "it's ours; #1: ä.csv"
    options = ("--set", "classes=[no, 1]", "--set", "malignant=1", "--set", r"group_pattern=^(P[0-9])_")
    done = commands.run("prepare", "image_folder", "my lib", *options, "--out", out, "--folds", "2", folder=stranger)
    assert done.code == 0, done.stderr
    assert "(no 6, 1 6)" in done.stdout
    program, *words = shlex.split(done.stdout.splitlines()[-1].removeprefix("Next: "))
    assert program == "dermaffinity"
    manifest = read_manifest(stranger / out)
    assert (manifest.classes, manifest.malignant) == (("no", "1"), ("1",))
    done = commands.run(*words, folder=stranger)
    assert done.code == 0, done.stderr + done.stdout
    program, verb, *words = shlex.split(done.stdout.splitlines()[-1].removeprefix("Next: "))
    assert (program, verb, words[3]) == ("dermaffinity", "crossval", "--set")
    assert read_config(words[0], [words[4]]).data.manifest == Path(out)


def test_what_was_taken_for_granted_is_printed(commands, stranger):
    lines = "".join(f"P{i}_{k}.png;p{i}\n" for i in range(6) for k in range(2))
    (stranger / "groups.csv").write_text(f"image;group\n{lines}", encoding="utf-16")
    words = ("prepare", "image_folder", "my lib", "--folds", "2", "--set", "groups=groups.csv")
    done = commands.run(*words, folder=stranger)
    assert done.stdout.splitlines()[0] == "groups.csv: read as 12 lines, semicolon-separated, UTF-16"
    (stranger / "groups.csv").write_text(f"image;group\n{lines.replace('p5', 'P4')}")
    done = commands.run(*words, folder=stranger)
    assert (done.code, done.stdout) == (1, "groups.csv: read as 12 lines, semicolon-separated, UTF-8\n")
    assert "group names that differ only in case, blanks, leading zeros or a trailing .0: 'P4' and 'p4'" in done.stderr
    assert commands.run(*words, "--exact-ids", folder=stranger).code == 0
    assert read_manifest(stranger / "data_manifests/my-lib.csv").exact_ids


def test_configs_are_listed_shown_and_copied(commands, fresh_folder):
    folder = fresh_folder("configs")
    listed = commands.run("configs", folder=folder)
    assert listed.code == 0
    assert re.search(r"Datasets.*hamfit7 +Which method.*Methods.*cosen +What does CoSen", listed.stdout, re.DOTALL)
    shown = commands.run("configs", "show", "hamfit7_cosen", "--set", "training.epochs=2", folder=folder)
    assert yaml.safe_load(shown.stdout)["training"]["epochs"] == 2
    assert yaml.safe_load(shown.stdout)["grid"]["loss.sigma"] == [0.5, 1.0]
    assert "methods:\n" in commands.run("configs", "show", "hamfit7", folder=folder).stdout

    copied = commands.run("configs", "copy", "hamfit7_cosen", folder=folder)
    assert copied.stdout.splitlines()[-1] == "Next: dermaffinity crossval my_hamfit7_cosen.yaml"
    assert read_config(folder / "my_hamfit7_cosen.yaml").name == "my_hamfit7_cosen"
    schema = json.loads((folder / "dermaffinity.schema.json").read_text())
    assert json.loads(commands.run("configs", "schema", folder=folder).stdout) == schema
    again = commands.run("configs", "copy", "hamfit7_cosen", folder=folder)
    assert (again.code, "my_hamfit7_cosen.yaml exists already" in again.stderr) == (2, True)

    half = commands.run("configs", "copy", "library", "clinic.yaml", folder=folder)
    assert half.stdout.splitlines()[-1] == "Next: name it in a config, dataset: clinic.yaml"
    (folder / "ours.yaml").write_text("dataset: clinic.yaml\nmethod: cosen\n")
    ours = read_config(folder / "ours.yaml").resolved()
    assert ours == read_config("library_cosen").resolved() | {"name": "ours"}


CLINIC = """
from dermaffinity.data.adapters.phantom import PhantomAdapter
from dermaffinity.heads import LinearHead

class OurAdapter(PhantomAdapter):
    name = "clinic"

class OurHead(LinearHead):
    "Our own."
"""


def test_parts_of_ones_own_are_used_by_every_verb_that_is_told_to_trust_them(
    commands, fresh_folder, phantom_library, tiny_config
):
    folder = fresh_folder("clinic")
    (folder / "clinic.py").write_text(CLINIC)
    source = (str(phantom_library), "--experiment", "5-class", "--out", "clinic.csv")
    prepared = commands.run("prepare", "clinic.OurAdapter", *source, folder=folder)
    assert prepared.code == 0, prepared.stderr
    assert read_manifest(folder / "clinic.csv").adapter == "clinic"

    config = yaml.safe_load(tiny_config.read_text()) | {"name": "ours", "head": {"class": "clinic.OurHead"}}
    (folder / "ours.yaml").write_text(yaml.safe_dump(config))
    words = ("crossval", "ours.yaml", "--set", "data.manifest=clinic.csv", "--set", "training.epochs=1")
    refused = commands.run(*words, folder=folder)
    assert (refused.code, "if you trust it, add --plugins clinic" in refused.stderr) == (2, True)
    trained = commands.run(*words, "--plugins", "clinic", folder=folder)
    assert trained.code == 0, trained.stderr

    image = str(next(phantom_library.rglob("*.png")))
    for verb in (("predict", "runs/ours", image), ("explain", "runs/ours", image)):
        refused = commands.run(*verb, folder=folder)
        assert (refused.code, "add --plugins clinic" in refused.stderr) == (1, True)
        assert commands.run(*verb, "--plugins", "clinic", folder=folder).code == 0
    # An experiment keeps what it was trained with; a model that is passed on is not trusted by itself.
    assert commands.run("report", "ours", "--no-images", folder=folder).code == 0
