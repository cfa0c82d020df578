"""The first notebook is stored clean and runs to its end as a user would run it, in a folder of its own."""

import json
import sys
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "examples" / "first_steps.ipynb"


def test_it_is_stored_without_results_and_with_names_for_its_cells():
    text = NOTEBOOK.read_text(encoding="utf-8")
    stored = nbformat.reads(text, as_version=4)
    nbformat.validate(stored)
    assert text == json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n"
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert all(cell.metadata == {} for cell in stored.cells)
    # Named by hand; an editor would number new cells in hexadecimal.
    assert [cell.id for cell in stored.cells if len(cell.id) == 8 and not set(cell.id) - set("0123456789abcdef")] == []


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook with its outputs, and the folder it ran in."""
    folder = tmp_path_factory.mktemp("first-steps")
    kernel = folder / "jupyter" / "kernels" / "this"
    kernel.mkdir(parents=True)
    environment = {
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "IPYTHONDIR": str(folder / "ipython"),
    }
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    described = {"argv": command, "display_name": "this", "language": "python", "env": environment}
    (kernel / "kernel.json").write_text(json.dumps(described))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
        resources = {"metadata": {"path": str(folder)}}
        nbclient.NotebookClient(notebook, kernel_name="this", timeout=300, resources=resources).execute()
    return notebook, folder / "first_steps"


def shown(notebook, cell_id: str, kind: str) -> list[str]:
    """What a cell shows, in one MIME type."""
    (cell,) = [cell for cell in notebook.cells if cell.id == cell_id]
    return [output.data[kind] for output in cell.outputs if kind in output.get("data", {})]


@pytest.mark.slow
def test_it_runs_to_the_end_and_shows_every_step(executed):
    notebook, folder = executed
    printed = {
        cell.id: "".join(o.get("text", "") for o in cell.outputs) for cell in notebook.cells if "outputs" in cell
    }
    assert "no test image has another image of its group in training" in printed["verify"]
    (compared,) = shown(notebook, "compare", "text/html")
    assert "AK (n=14)" in compared
    assert "Gain over phantom-5_cosen" in compared
    assert len(compared.partition("data:image/png;base64,")[2]) > 10_000
    assert "<th>external</th>" not in shown(notebook, "manifest", "text/html")[0]
    assert "value" in shown(notebook, "train", "text/html")[0]
    for name in ("phantom-5_softmax", "phantom-5_cosen", "phantom-5_affinity"):
        assert (folder / "runs" / name / "classifier" / "classifier.json").exists()
    assert "predicted" in shown(notebook, "classifier", "text/html")[0]
    assert "always" in shown(notebook, "sets", "text/html")[1]
    assert "above the limit" in shown(notebook, "novelty", "text/html")[0]
    assert len(shown(notebook, "explain", "image/png")[0]) > 10_000
    # Warnings and progress bars would greet a beginner.
    complaints = [o.text for cell in notebook.cells for o in cell.get("outputs", []) if o.get("name") == "stderr"]
    assert complaints == []


@pytest.mark.slow
def test_its_classifier_is_the_one_it_leaves_behind(executed):
    from dermaffinity import LesionClassifier
    from dermaffinity.data.adapters.phantom import draw_lesion

    notebook, folder = executed
    classifier = LesionClassifier.load(folder / "runs" / "phantom-5_affinity")
    shown_text = shown(notebook, "classifier", "text/plain")[0]
    for number, label in enumerate(classifier.classes_, start=1):
        (line,) = [line for line in shown_text.splitlines() if line.startswith(f"{label} ")]
        image = draw_lesion(label, f"P{number}", image_size=64, seed=1)[0]
        assert line.split()[1] == classifier.predict(image)[0]
        told = [float(number) for number in line.split()[2:]]
        assert told == pytest.approx(classifier.predict_proba(image)[0], abs=0.0051)
