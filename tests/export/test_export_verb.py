"""The export verb: files where they were asked for, and one clear message for what cannot work."""

import pytest


@pytest.mark.parametrize(
    ("kind", "extras", "written"),
    [
        ("onnx", ["onnx", "onnxscript", "onnxruntime"], "out/model.onnx"),
        ("bundle", ["ignite", "fire"], "out/toy_classification/models/model.pt"),
    ],
)
def test_export_writes_the_files_and_says_what_is_next(kind, extras, written, commands, toy_model, tmp_path):
    for extra in extras:
        pytest.importorskip(extra)
    done = commands.run("export", str(toy_model), "--format", kind, "--out", "out", folder=tmp_path)
    assert done.code == 0, done.stderr
    assert done.stderr == "", "no noise"
    assert (tmp_path / written).is_file()
    assert "Next" in done.stdout
    assert "Research use only" in done.stdout
    named = [line for line in done.stdout.splitlines() if (tmp_path / line).exists()]
    assert named[0] == written or written.startswith(named[0])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("nowhere --out out", 1, "nowhere: expected the folder of a trained classifier"),
        ("{model} --format pickle --out out", 2, "--format pickle: allowed are onnx and bundle"),
        ("{model}", 2, "Missing option '--out'"),
    ],
)
def test_export_refuses_what_cannot_work(commands, toy_model, tmp_path, words, code, message):
    done = commands.run("export", *words.format(model=toy_model).split(), folder=tmp_path)
    assert done.code == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
