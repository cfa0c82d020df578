"""The prototype app in a real browser: what it shows is what the classifier says, and nothing leaves the machine."""

import io
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")

ROOT = Path(__file__).resolve().parents[2]
APP = ROOT / "examples" / "prototype_app.py"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome"),
]

# Runs a script and notes every address that it looks up or connects to.
WATCHED = """
import runpy, sys
notes = open(sys.argv[1], "a", buffering=1)
def note(event, details):
    if event == "socket.connect" and isinstance(details[1], tuple):
        notes.write(f"{details[1][0]}\\n")
    elif event == "socket.getaddrinfo":
        notes.write(f"{details[0]}\\n")
sys.addaudithook(note)
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def model(uninterrupted) -> Path:
    return uninterrupted / "runs" / "tiny"


@pytest.fixture(scope="module")
def classifier(model):
    from dermaffinity import LesionClassifier

    return LesionClassifier.load(model)


@pytest.fixture(scope="module")
def lesions() -> list[np.ndarray]:
    from dermaffinity.data.adapters.phantom import draw_lesion

    return [draw_lesion(("ML", "AK")[number % 2], f"P{number}", image_size=48, seed=3)[0] for number in range(60)]


@pytest.fixture(scope="module")
def served(model, phantom_library, tmp_path_factory):
    """The app's address, the folder it keeps uploads in, and the addresses that it has called."""
    folder = tmp_path_factory.mktemp("app")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    watched = [sys.executable, "-c", WATCHED, folder / "called.txt", APP, model]
    options = ["--port", str(port), "--samples", folder / "samples", "--library", phantom_library]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GRADIO_")},
        "GRADIO_TEMP_DIR": str(folder / "uploads"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    with (folder / "log.txt").open("w") as log:
        app = subprocess.Popen(
            list(map(str, watched + options)), cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        wait_for(port, app, folder / "log.txt")
        yield f"http://127.0.0.1:{port}", folder
    finally:
        app.terminate()
        app.wait(timeout=30)


def wait_for(port: int, app: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and app.poll() is None:
        with socket.socket() as knocking:
            if knocking.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    pytest.fail(f"the app did not start: {log.read_text()}")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(request, browser, served):
    """The app's page, and on it `asked`, the hosts that it asked for anything."""
    width, height = getattr(request, "param", (1280, 800))
    opened = browser.new_page(viewport={"width": width, "height": height})
    opened.set_default_timeout(120_000)
    opened.asked = set()
    opened.on("request", lambda asking: opened.asked.add(asking.url.split("/")[2] if "//" in asking.url else ""))
    opened.goto(served[0])
    opened.get_by_text("Drop an image to begin.").wait_for()
    yield opened
    opened.close()


def png(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(array).save(content, format="PNG")
    return content.getvalue()


def upload(page, content: bytes) -> None:
    """Hands over a file by the page's file chooser."""
    page.locator("input[type=file]").first.set_input_files(
        files=[{"name": "lesion.png", "mimeType": "image/png", "buffer": content}]
    )


def assert_fits(page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.parametrize("page", [(1280, 800), (390, 844)], ids=["laptop", "phone"], indirect=True)
def test_an_upload_gets_the_classifiers_own_answer_and_reasons(page, classifier, lesions):
    content = png(next(array for array in lesions if classifier.novelty(array)[0] <= classifier.novelty_threshold))
    upload(page, content)
    page.get_by_text("not unlike the training images").wait_for()
    (expected,) = classifier.predict(content)
    assert page.get_by_test_id("label-output-value").inner_text().strip() == expected
    for name, probability in zip(classifier.classes_, classifier.predict_proba(content)[0], strict=True):
        assert page.get_by_test_id(f"{name}-confidence-set").inner_text().split() == [name, f"{100 * probability:.0f}%"]
    (members,) = classifier.predict_sets(content)
    assert page.get_by_text(f"90% of the time: {', '.join(members)}.").is_visible()
    sheet = page.locator("#why img")
    sheet.wait_for()
    assert sheet.evaluate("image => image.complete && image.naturalWidth") > 600
    assert_fits(page)
    assert page.get_by_text("Research use only. Not a medical device").is_visible()


@pytest.mark.parametrize("page", [(1280, 800), (390, 844)], ids=["laptop", "phone"], indirect=True)
def test_a_novel_image_says_so_and_names_no_class_in_large_letters(page, classifier, lesions):
    weird = max(lesions, key=lambda array: classifier.novelty(array)[0])
    assert classifier.novelty(weird)[0] > classifier.novelty_threshold
    upload(page, png(weird))
    page.get_by_text("unlike the training images. Do not rely on the classes.").wait_for()
    assert page.get_by_test_id("label-output-value").count() == 0
    assert_fits(page)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: content[: len(content) // 2], "damaged or truncated"),
        (lambda content: b"hello", "not an image in any of the formats"),
        (lambda content: b"", "empty"),
    ],
    ids=["truncated", "text", "empty"],
)
def test_a_broken_file_gets_one_sentence_and_the_last_answer_is_gone(page, served, lesions, spoil, message):
    upload(page, png(lesions[0]))
    page.locator("#why img").wait_for()
    page.get_by_label("Remove Image").click()
    page.get_by_text("Drop an image to begin.").wait_for()
    upload(page, spoil(png(lesions[1])))
    page.get_by_text(message).wait_for()
    assert page.locator("#why img").count() == 0
    assert page.get_by_test_id("label-output-value").count() == 0
    assert str(served[1]) not in page.locator("body").inner_text()
    assert "Traceback" not in (served[1] / "log.txt").read_text()


def test_a_sample_is_a_click_away(page, served, classifier):
    page.get_by_text("Synthetic samples").wait_for()
    page.locator("button.gallery-item, .gallery button").nth(1).click()
    page.locator("#why img").wait_for()
    novelty = classifier.novelty(served[1] / "samples" / "BCC.png")[0]
    assert page.get_by_text(f"Novelty {novelty:.1f}, limit {classifier.novelty_threshold:.1f}").is_visible()


def test_nothing_leaves_the_machine_and_nothing_stays_in_the_browser(page, served, lesions):
    upload(page, png(lesions[2]))
    page.locator("#why img").wait_for()
    assert page.asked == {served[0].removeprefix("http://")}
    called = set((served[1] / "called.txt").read_text().split())
    assert called <= {"127.0.0.1", "localhost", "::1"}
    assert page.evaluate("indexedDB.databases().then(found => found.length)") == 0
    assert page.context.cookies() == [] or {c["domain"] for c in page.context.cookies()} == {"127.0.0.1"}
