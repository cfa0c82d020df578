"""What the site says that no page holds by hand: catalogues and references made from the package, and its formulas.

MkDocs calls the functions whose names begin with ``on_``; see mkdocs.yml.
"""

import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import yaml
from latex2mathml.converter import convert
from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from typer.main import get_command
from typer.testing import CliRunner

from dermaffinity import heads, losses
from dermaffinity.cli import app
from dermaffinity.config import shipped_pages
from dermaffinity.data.adapter_options import adapter_options
from dermaffinity.data.adapters.base import adapter_class, adapter_names

ROOT = Path(__file__).resolve().parents[1]
# The rooms of the package whose names a person imports, in the order in which they are needed.
ROOMS = ("heads", "losses", "models", "refit", "classic")
_FORMULA = re.compile(r"^\.\. math::(.*(?:\n(?:[ \t]+\S.*))*)", flags=re.MULTILINE)
_INLINE = re.compile(r":math:`([^`]+)`")
_ROLE = re.compile(r":(?:class|meth|func|attr|mod):`~?([^`]+)`")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the formulas' extension, and the rooms' pages to the navigation."""
    config.markdown_extensions.append(Formulas())
    (reference,) = (section["Reference"] for section in config.nav if "Reference" in section)
    reference[0] = {"Python": ["reference/index.md", *(f"reference/{room}.md" for room in ROOMS)]}
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds every page that is made."""
    pages = {
        "catalogue/methods.md": methods(),
        "catalogue/losses.md": losses_and_heads("losses"),
        "catalogue/heads.md": losses_and_heads("heads"),
        "catalogue/datasets.md": datasets(),
        "reference/commands.md": commands(),
        "reference/index.md": rooms(),
        **{f"reference/{room}.md": room_page(room) for room in ROOMS},
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_post_page(output: str, page: object, config: MkDocsConfig) -> str:
    """Refuses a page that would load something from another host."""
    if found := loaded_from_elsewhere(output):
        raise PluginError(f"{page}: a reader without a network would miss {', '.join(found)}")
    return output


def loaded_from_elsewhere(page: str) -> list[str]:
    """What a browser would fetch from another host to show this HTML; links that a person follows do not count."""
    finder = _Loaded()
    finder.feed(page)
    return finder.found


class _Loaded(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        loads = [given.get("src", "")]
        loads += (
            [given.get("href", "")] if tag == "link" and given.get("rel") not in ("canonical", "prev", "next") else []
        )
        self.found += [address for address in loads if address.startswith(("http:", "https:", "//"))]


class Formulas(Extension):
    """Turns the formulas and references of docstrings (``.. math::``, ``:class:``) into MathML and code."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802, a name of Python-Markdown
        """Registers the step, after code in fences is put away."""
        md.preprocessors.register(_FormulaStep(md), "formulas", 24)


class _FormulaStep(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        text = _FORMULA.sub(lambda found: self._stashed(found[1], "block"), "\n".join(lines))
        text = _INLINE.sub(lambda found: self._stashed(found[1], "inline"), text)
        return _ROLE.sub(r"`\1`", text).split("\n")

    def _stashed(self, formula: str, display: str) -> str:
        math = convert(" ".join(formula.split()), display=display)
        # A wide formula scrolls on a phone.
        return self.md.htmlStash.store(f'<div class="formula">{math}</div>' if display == "block" else math)


def methods() -> str:
    """The methods of the benchmark, from the configs of one dataset."""
    lines = [
        "# Methods",
        "",
        "Every method is a config. All methods of one dataset share folds, images, network and augmentation; they differ "
        "in what this table names. A star marks what a config does not change. [The benchmark](../benchmark.md) says how "
        "they compare and [Which method should I use?](../which_method.md) what follows from it.",
        "",
        "| method | question | head | loss | also |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, path in shipped_pages().items():
        text = path.read_text(encoding="utf-8")
        if name.startswith("hamfit7_") and (question := re.match(r"# Question: (.*\n(?:# .*\n)*?)", text)):
            page = settings(path)
            also = [short(page[part]["class"]) for part in ("neck", "mixing", "refit", "estimator") if page.get(part)]
            head, loss = (link(part, page[part]["class"]) if part in page else "" for part in ("head", "loss"))
            shown = ", ".join(name for name in also if name != "IdentityNeck")
            lines.append(f"| `{name.removeprefix('hamfit7_')}` | {question[1].strip()} | {head} | {loss} | {shown} |")
    return "\n".join(lines) + "\n"


def link(part: str, path: str) -> str:
    room = {"head": "heads", "loss": "losses"}[part]
    return f"[{short(path)}]({room}.md#{anchor(path)})"


def anchor(path: str) -> str:
    return short(path).lower()


def short(path: str) -> str:
    return path.rpartition(".")[2]


def losses_and_heads(room: str) -> str:
    """A section for each loss or head: what it is, who uses it, its docstring."""
    package = {"losses": losses, "heads": heads}[room]
    base = {"losses": losses.Loss, "heads": heads.Head}[room]
    found = [getattr(package, name) for name in package.__all__]
    found = [part for part in found if inspect.isclass(part) and issubclass(part, base) and part is not base]
    users = used_by()
    lines = [
        f"# {room.capitalize()}",
        "",
        _INTRODUCTION[room],
        "",
        "| class | in one line | scores |",
        "| --- | --- | --- |",
    ]
    for part in found:
        first = inspect.getdoc(part).partition("\n")[0]
        lines.append(f"| [{part.__name__}](#{part.__name__.lower()}) | {first} | {part.score_kind.value} |")
    for part in found:
        configs = ", ".join(f"`{name}`" for name in sorted(users.get(part.__name__, ()))) or "no shipped config"
        key = {"losses": "loss", "heads": "head"}[room]
        lines += [
            "",
            f"## {part.__name__} {{: #{part.__name__.lower()} }}",
            "",
            f"Used by the methods {configs}." if users.get(part.__name__) else "Used by no shipped config.",
            "",
            "```yaml",
            f"{key}:",
            f"  class: {package.__name__}.{part.__name__}",
            *hyper_parameters(part),
            "```",
            "",
            f"::: {package.__name__}.{part.__name__}",
            "    options: {show_root_heading: false, show_root_toc_entry: false, members: false}",
        ]
    return "\n".join(lines) + "\n"


_INTRODUCTION = {
    "losses": "A loss is what training minimizes. A config names one in its section `loss`; it works with the heads whose "
    "scores are of the same kind. To write your own, see [Add a loss](../extend/loss.md).",
    "heads": "A head turns embeddings into class scores, and holds all that prediction needs. A config names one in its "
    "section `head`; it works with the losses whose scores are of the same kind. To write your own, see "
    "[Add a head](../extend/head.md).",
}


def hyper_parameters(part: type) -> Iterator[str]:
    """``  name: default`` of each keyword-only argument, as a config writes it."""
    for name, parameter in inspect.signature(part).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            value = yaml.safe_dump(parameter.default, default_flow_style=True).removesuffix("...\n").strip()
            yield f"  {name}: {value}"


def used_by() -> dict[str, set[str]]:
    """Methods by the name of each class that their configs take."""
    found: dict[str, set[str]] = {}
    for name, path in shipped_pages().items():
        if "_" in name:
            for part in ("head", "loss"):
                if part in (page := settings(path)):
                    found.setdefault(short(page[part]["class"]), set()).add(name.partition("_")[2])
    return found


def settings(path: Path) -> dict[str, Any]:
    """The sections of a config, of which those that it does not have come from its base."""
    page = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {**settings(path.parent / page["base"]), **page} if "base" in page else page


def datasets() -> str:
    """A section for each adapter, then what may be published of each dataset."""
    lines = [
        "# Datasets",
        "",
        "An adapter reads one dataset as it is distributed and writes a manifest; nothing else ever looks at its folders. "
        "To read another dataset, see [Add a dataset](../extend/dataset.md); for a folder of your own images, see "
        "[Your own library](../own_library.md).",
    ]
    options = adapter_options()
    for name in adapter_names():
        adapter = adapter_class(name)
        lines += ["", f"## {name}", "", inspect.getdoc(adapter).partition("\n\nArgs:")[0], ""]
        lines += [f"- **Classes:** {', '.join(adapter.classes)}" + ("." if adapter.classes else "the folders.")]
        lines += [f"- **Malignant:** {', '.join(adapter.malignant)}."] if adapter.malignant else []
        lines += [f"- **Citation:** {adapter.citation}", f"- **License:** {adapter.license}"]
        lines += ["", "```", f"dermaffinity prepare {name} SOURCE", "```"]
        if options[name]:
            lines += ["", "| option | values | default | what it does |", "| --- | --- | --- | --- |"]
        for option in options[name]:
            lines.append(f"| `--set {option.name}=` | {option.kind} | {option.default} | {option.description} |")
    published = (ROOT / "data_manifests/README.md").read_text(encoding="utf-8")
    return (
        "\n".join(lines) + "\n\n" + published.replace("\n#", "\n##").replace("# Data manifests", "## Data manifests", 1)
    )


def commands() -> str:
    """The help of every command, as it is printed."""
    lines = ["# Command line", "", "`dermaffinity COMMAND --help` prints the same."]
    for name in get_command(app).commands:
        text = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "88", "NO_COLOR": "1"}).output
        lines += ["", f"## dermaffinity {name}", "", "```", textwrap.dedent(text).strip(), "```"]
    return "\n".join(lines) + "\n"


def rooms() -> str:
    """The rooms of the package, each with its first line."""
    lines = ["# Python reference", "", "| package | what is in it |", "| --- | --- |"]
    for room in ROOMS:
        package = importlib.import_module(f"dermaffinity.{room}")
        lines.append(f"| [dermaffinity.{room}]({room}.md) | {inspect.getdoc(package).partition(chr(10))[0]} |")
    return "\n".join(lines) + "\n"


def room_page(room: str) -> str:
    """Everything public of a package."""
    package = importlib.import_module(f"dermaffinity.{room}")
    lines = [f"# dermaffinity.{room}", "", inspect.getdoc(package)]
    for name in package.__all__:
        lines += ["", f"::: dermaffinity.{room}.{name}"]
    return "\n".join(lines) + "\n"
