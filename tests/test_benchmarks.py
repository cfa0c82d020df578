"""The table of measured ratios that ``make bench`` writes."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
MEASURES = """\
import sys
sys.path.insert(0, {folder!r})
from side_by_side import ratios, result
print("for people")
result("ours over theirs", ratios([2.0, 3.0, 9.0], [1.0, 1.0, 3.0]), "at least 2")
"""


@pytest.fixture
def results(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("results", BENCHMARKS / "results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "HERE", tmp_path)
    return module


def run(results, monkeypatch, **scripts: str) -> str:
    paths = [results.HERE / f"{name}.py" for name in scripts]
    for path, text in zip(paths, scripts.values(), strict=True):
        path.write_text(text)
    monkeypatch.setattr(sys, "argv", ["results.py", *map(str, paths)])
    results.main()
    return (results.HERE / "results.md").read_text()


def test_the_figure_is_the_median_of_the_rounds_beside_their_spread(results, monkeypatch, capfd):
    written = run(results, monkeypatch, one=MEASURES.format(folder=str(BENCHMARKS)))
    assert "| ours over theirs | 3.00 | 2.00 to 3.00 | at least 2 | one.py |" in written
    assert "Did not end well" not in written
    assert capfd.readouterr().out.count("for people") == 1


def test_what_a_failing_script_and_the_others_measured_is_kept(results, monkeypatch):
    measures = MEASURES.format(folder=str(BENCHMARKS))
    with pytest.raises(SystemExit, match=r"failed: bad\.py$"):
        run(results, monkeypatch, good=measures, bad=f"{measures}\nsys.exit('no room')", last=measures)
    written = (results.HERE / "results.md").read_text()
    assert [name in written for name in ("good.py |", "bad.py |", "last.py |")] == [True] * 3
    assert written.endswith("\nDid not end well: bad.py.\n")


def test_what_was_measured_before_an_interruption_is_kept(results, monkeypatch):
    def interrupted(command, **options):
        if command[1].name == "slow.py":
            raise KeyboardInterrupt
        return popen(command, **options)

    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(results, monkeypatch, good=MEASURES.format(folder=str(BENCHMARKS)), slow="")
    written = (results.HERE / "results.md").read_text()
    assert "good.py |" in written
    assert written.endswith("\nDid not end well: slow.py.\n")


@pytest.mark.parametrize(
    "script", [path for path in BENCHMARKS.glob("*.py") if path.name not in ("results.py", "side_by_side.py")]
)
def test_every_script_prints_a_figure(script):
    assert "result(" in script.read_text(encoding="utf-8"), script.name
