"""What options the adapters take, read from their source: to import them would make ``--help`` wait for pandas."""

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

_IN_WORDS = {
    "bool": "true or false",
    "float": "a number",
    "str": "a text",
    "Path": "a file",
    "Sequence[str]": "a text, or several as [a, b]",
    "Sequence[Path]": "a file, or several as [a, b]",
}


class Option(NamedTuple):
    """One keyword-only parameter of an adapter, in words."""

    name: str
    kind: str
    default: str
    description: str


def adapter_options() -> dict[str, list[Option]]:
    """The options of every adapter, by the adapter's name."""
    files = sorted((Path(__file__).parent / "adapters").glob("[!_]*.py"))
    classes = {file.stem: _adapter(ast.parse(file.read_text("utf-8"))) for file in files}
    by_name = {adapter.name: adapter for adapter in classes.values()}
    return {
        name: list(_options(adapter, by_name)) for name, adapter in classes.items() if name not in ("base", "tabled")
    }


def _adapter(module: ast.Module) -> ast.ClassDef:
    (found,) = (node for node in module.body if isinstance(node, ast.ClassDef) and node.name.endswith("Adapter"))
    return found


def _options(adapter: ast.ClassDef, by_name: Mapping[str, ast.ClassDef]) -> Iterator[Option]:
    """Those of the constructor, which may be that of a class above."""
    if not any(isinstance(member, ast.FunctionDef) and member.name == "__init__" for member in adapter.body):
        adapter = by_name[ast.unparse(adapter.bases[0])]
    described = _described(ast.get_docstring(adapter) or "")
    for member in adapter.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__":
            for argument, default in zip(member.args.kwonlyargs, member.args.kw_defaults, strict=True):
                assert argument.annotation is not None, "an option without a type"
                assert default is not None, "an option without a default"
                yield Option(argument.arg, _kind(argument.annotation), _value(default), described.get(argument.arg, ""))


def _kind(annotation: ast.expr) -> str:
    match annotation:
        case ast.Subscript(value=ast.Name(id="Literal"), slice=ast.Tuple(elts=values)):
            return " or ".join(map(_value, values))
        case ast.BinOp(left=kind, right=ast.Constant(value=None)):
            return _kind(kind)
    return _IN_WORDS.get(text := ast.unparse(annotation), text)


def _value(node: ast.expr) -> str:
    value = ast.literal_eval(node)
    return "none" if value in (None, ()) else str(value).lower() if isinstance(value, bool) else str(value)


def _described(docstring: str) -> dict[str, str]:
    """The Args section of a docstring, by argument."""
    arguments = inspect.cleandoc(docstring).partition("Args:\n")[2].partition("\n\n")[0]
    parts = re.findall(r"^    (\w+): (.*?)(?=^    \w|^\S|\Z)", arguments, flags=re.MULTILINE | re.DOTALL)
    return {name: " ".join(text.replace("``", "").split()) for name, text in parts}
