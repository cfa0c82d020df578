"""The classifier in MLflow: its tables in this process, its address in another one, and a real server over HTTP."""

import base64
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dermaffinity import LesionClassifier
from dermaffinity.errors import DataError
from dermaffinity.inference.mlflow.model import write_mlflow_model
from dermaffinity.tracking.mlflow_tracker import MlflowTracker

PROJECT = Path(__file__).resolve().parents[3]


def picture(seed: int) -> bytes:
    content = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (40 + seed, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, format="PNG")
    return content.getvalue()


PICTURES = [picture(seed) for seed in range(4)]


@pytest.fixture(scope="module")
def classifier(toy_model):
    return LesionClassifier.load(toy_model)


@pytest.fixture(scope="module")
def written(toy_model, tmp_path_factory):
    target = tmp_path_factory.mktemp("written") / "model"
    write_mlflow_model(toy_model / "classifier", target)
    return target


@pytest.fixture(scope="module")
def loaded(written):
    import mlflow

    return mlflow.pyfunc.load_model(str(written))


def environment(**given: str) -> dict[str, str]:
    """This process's, with this package to be found, and without a store of its own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    # MLflow starts its server by the name uvicorn, as in an activated environment.
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    mine = {"PYTHONPATH": path, "PATH": programs, "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return {**kept, **mine, **given}


def check_rows(rows: list[dict], classifier: LesionClassifier, images: list[bytes], coverage: float) -> None:
    """Compares a served answer with the classifier's own."""
    assessed = classifier.assess(images)
    names = [f"p.{name}" for name in classifier.classes_]
    assert list(rows[0]) == ["predicted", *names, "novelty", "novel", "disagreement", "set"]
    assert [[row[name] for name in names] for row in rows] == [
        pytest.approx(list(own), abs=1e-6) for own in assessed.probabilities
    ]
    assert [row["predicted"] for row in rows] == classifier.predict(images).tolist()
    assert [row["novelty"] for row in rows] == pytest.approx(list(assessed.novelty), abs=1e-5)
    assert [row["novel"] for row in rows] == (assessed.novelty > classifier.novelty_threshold).tolist()
    assert [row["disagreement"] for row in rows] == pytest.approx(list(assessed.disagreement))
    assert [tuple(row["set"]) for row in rows] == classifier.predict_sets(images, coverage=coverage)


def test_the_model_answers_what_the_classifier_does(loaded, classifier):
    table = pd.DataFrame({"image": PICTURES})
    check_rows(loaded.predict(table).to_dict("records"), classifier, PICTURES, 0.9)
    narrow = loaded.predict(table, params={"coverage": 0.6})
    check_rows(narrow.to_dict("records"), classifier, PICTURES, 0.6)
    assert narrow["set"].map(len).sum() < loaded.predict(table)["set"].map(len).sum()


def test_the_signature_describes_the_answers_exactly(loaded):
    from mlflow.models import infer_signature

    answers = loaded.predict(pd.DataFrame({"image": PICTURES}))
    assert loaded.metadata.signature.outputs == infer_signature(answers).inputs
    assert loaded.metadata.signature.inputs.to_dict() == [{"type": "binary", "name": "image", "required": True}]
    (coverage,) = loaded.metadata.signature.params.params
    assert (coverage.name, coverage.dtype.name, coverage.default) == ("coverage", "double", 0.9)


def test_the_example_is_an_image_that_the_model_answers(loaded, written):
    example = json.loads((written / "serving_input_example.json").read_text())["dataframe_split"]["data"]
    image = base64.b64decode(example[0][0])
    assert Image.open(io.BytesIO(image)).size == (32, 32)
    assert loaded.input_example["image"].tolist() == [image]
    assert len(loaded.predict(loaded.input_example)) == 1


def refusal(loaded, images: list, **params: float) -> str:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException) as error:
        loaded.predict(pd.DataFrame({"image": pd.Series(images, dtype=object)}), params=params)
    assert error.value.error_code == "BAD_REQUEST"
    return error.value.message


def test_every_bad_row_is_named_at_once(loaded):
    message = refusal(loaded, [b"", PICTURES[0], b"%PDF-1.7", PICTURES[1][:300]])
    first, second, third = message.split("; row ")
    assert first.startswith("row 0: the file is empty")
    assert second.startswith("2: not an image in any of the formats JPEG, PNG")
    assert third.startswith("3: damaged or truncated")


def test_a_path_is_not_opened_for_a_client(loaded, tmp_path):
    (tmp_path / "a.png").write_bytes(PICTURES[0])
    assert refusal(loaded, [PICTURES[0], str(tmp_path / "a.png"), None]) == "row 1, 2: an image is the bytes of a file"


def test_no_rows_and_an_impossible_coverage_are_refused(loaded):
    assert refusal(loaded, []) == "there are no images to predict: the table has no rows"
    assert refusal(loaded, PICTURES, coverage=1.0) == "coverage must be in (0, 1), got 1.0"


def test_the_requirements_are_the_versions_in_use(written):
    wanted = dict(line.split("==") for line in (written / "requirements.txt").read_text().split())
    assert {"dermaffinity", "mlflow", "torch", "torchvision", "pillow", "numpy"} <= set(wanted)
    own = wanted.pop("dermaffinity")
    assert own == __import__("dermaffinity").__version__
    assert wanted == {name: metadata.version(name).partition("+")[0] for name in wanted}


def test_registering_leaves_no_path_of_this_machine_and_no_file_of_the_project(
    toy_model, empty_store, tmp_path, monkeypatch, capfd
):
    for name in ("uv.lock", "pyproject.toml"):
        (tmp_path / name).write_text('index = "https://private.example"')
    monkeypatch.chdir(tmp_path)
    tracker = MlflowTracker(f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}")
    run = tracker.parent("toy", "config", key="c0ffee", tags={}, description="")
    write = partial(write_mlflow_model, toy_model / "classifier")
    assert run.log_model(write, "toy", "config", digest="d", tags={}, description="x") == "models:/toy@config"
    assert capfd.readouterr() == ("", "")
    (model,) = (tracker.artifact_root / "toy/models").glob("*/artifacts")
    files = {path.relative_to(model).as_posix(): path.read_bytes() for path in model.rglob("*") if path.is_file()}
    assert files["artifacts/classifier/classifier.json"] == (toy_model / "classifier/classifier.json").read_bytes()
    assert not {"uv.lock", "pyproject.toml"} & set(files)
    for private in (tmp_path, toy_model, PROJECT, Path.home(), sys.prefix):
        assert [name for name, content in files.items() if f"{private}/".encode() in content] == []


FRESH = """
import json, sys
from dermaffinity import LesionClassifier
print(json.dumps(LesionClassifier.load(sys.argv[1]).predict_proba(sys.argv[2:]).tolist()))
"""


@pytest.mark.slow
def test_an_alias_of_a_finished_experiment_loads_in_a_fresh_process_and_from_another_folder(
    commands, uninterrupted, tmp_path
):
    image = tmp_path / "a.png"
    image.write_bytes(PICTURES[0])
    expected = LesionClassifier.load(uninterrupted / "runs/tiny").predict_proba(image)
    command = [sys.executable, "-c", FRESH, "models:/phantom-5@tiny", str(image)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=uninterrupted, env=environment())
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == pytest.approx(expected, abs=1e-6)
    elsewhere = {"MLFLOW_TRACKING_URI": f"sqlite:///{uninterrupted / 'mlflow.db'}"}
    words = ("predict", "models:/phantom-5@tiny", "a.png")
    done = commands.wait(commands.start(*words, folder=tmp_path, environment=elsewhere), tmp_path)
    assert done.code == 0, done.stderr
    found = pd.read_csv(tmp_path / "predictions.csv").filter(like="p.").to_numpy()
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_folder_without_a_store_is_named_and_gets_none(tmp_path, monkeypatch):
    import mlflow

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mlflow, "is_tracking_uri_set", lambda: False)
    with pytest.raises(DataError, match=r"no MLflow store, mlflow\.db\. Go to the folder .* MLFLOW_TRACKING_URI="):
        LesionClassifier.load("models:/hamfit-7@champion")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def server(uninterrupted, tmp_path_factory):
    """The address of the tiny experiment, served as README says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/phantom-5@tiny"]
    options = ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, *options], cwd=uninterrupted, env=environment(), stdout=file, stderr=file, start_new_session=True
        )
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 300
    try:
        while True:
            try:
                urllib.request.urlopen(f"{address}/ping", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
        yield address
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def post(address: str, images: list[str], **params: float) -> list[dict]:
    content = {"dataframe_split": {"columns": ["image"], "data": [[image] for image in images]}, "params": params}
    request = urllib.request.Request(
        f"{address}/invocations", json.dumps(content).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)["predictions"]


@pytest.mark.slow
def test_a_server_answers_a_plain_http_client_like_the_classifier(server, uninterrupted):
    classifier = LesionClassifier.load(uninterrupted / "runs/tiny")
    texts = [base64.b64encode(image).decode() for image in PICTURES[:2]]
    check_rows(post(server, texts), classifier, PICTURES[:2], 0.9)
    check_rows(post(server, texts, coverage=0.5), classifier, PICTURES[:2], 0.5)
    with urllib.request.urlopen(f"{server}/version", timeout=5) as response:
        assert response.read().decode() == metadata.version("mlflow")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (base64.b64encode(PICTURES[0][:300]).decode(), "row 1: damaged or truncated"),
        ("", "row 1: the file is empty"),
        (base64.b64encode(b"/etc/hosts").decode(), "row 1: not an image"),
        (None, "image"),
        ("abc", "image"),
    ],
)
def test_a_server_refuses_a_bad_image_as_a_bad_request(server, image, message):
    with pytest.raises(urllib.error.HTTPError) as error:
        post(server, [base64.b64encode(PICTURES[0]).decode(), image])
    answer = json.load(error.value)
    assert (error.value.code, answer["error_code"]) == (400, "BAD_REQUEST")
    assert message in answer["message"]
    assert "Traceback" not in json.dumps(answer)
