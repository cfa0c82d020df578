"""What `import dermaffinity` offers."""

import importlib
import inspect
import subprocess
import sys

import dermaffinity as da
from dermaffinity.cli import app

# Two verbs share their name with a package, and are imported from there.
HOMES = {"report": "dermaffinity.experiments.report", "export": "dermaffinity.export"}


def test_every_public_name_is_there_and_listed():
    assert set(da.__all__) <= set(dir(da))
    assert all(callable(getattr(da, name)) for name in da.__all__)


def test_every_verb_of_the_command_line_is_a_function_of_its_name():
    verbs = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert {"prepare", "crossval", "compare", "report"} <= verbs
    for verb in verbs:
        assert callable(getattr(importlib.import_module(HOMES.get(verb, "dermaffinity")), verb)), verb


def test_whatever_takes_a_path_takes_a_text():
    found = [getattr(da, name) for name in da.__all__]
    for kind in filter(inspect.isclass, found[:]):
        found += [method for name, method in inspect.getmembers(kind, inspect.isroutine) if name[0] != "_"]
    ours = [one for one in found if inspect.isroutine(one) and (one.__module__ or "").startswith("dermaffinity")]
    assert len(ours) > 40
    for function in ours:
        for argument in inspect.signature(function).parameters.values():
            kinds = str(argument.annotation)
            assert "Path" not in kinds or "str" in kinds, f"{function.__qualname__}({argument})"


def test_importing_the_package_imports_nothing_else():
    code = "import dermaffinity, sys; print([name for name in sys.modules if name.startswith(('numpy', 'torch'))])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
