"""What the site says that no page holds by hand: catalogues and references made from the package, and its formulas.

MkDocs calls the functions whose names begin with ``on_``; see mkdocs.yml.
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
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

import dermaffinity
from dermaffinity import heads, losses
from dermaffinity.cli import app
from dermaffinity.config import compose, import_class, question, shipped
from dermaffinity.data.adapter_options import adapter_options
from dermaffinity.data.adapters import adapter_class, adapter_names
from dermaffinity.data.manifest import Manifest

ROOT = Path(__file__).resolve().parents[1]
METHODS_OF = "hamfit7"  # the dataset with which methods are shown
_FORMULA = re.compile(r"^\.\. math::(.*(?:\n(?:[ \t]+\S.*))*)", flags=re.MULTILINE)
_INLINE_FORMULA = re.compile(r":math:`([^`]+)`")
_ROLE = re.compile(r":(?:class|meth|func|attr|mod):`~?([^`]+)`")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the formulas' extension, and the packages' pages to the navigation."""
    config.markdown_extensions.append(Formulas())
    (reference,) = (section["Reference"] for section in config.nav if "Reference" in section)
    reference[0] = {"Python": ["reference/index.md", *(f"reference/{name}.md" for name in packages())]}
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds every page that is made."""
    pages = {
        "catalogue/methods.md": methods_page(),
        "catalogue/losses.md": parts_page(losses, losses.Loss, "loss", LOSSES, OF_LOSS),
        "catalogue/heads.md": parts_page(heads, heads.Head, "head", HEADS, OF_HEAD),
        "catalogue/datasets.md": datasets_page(),
        "reference/commands.md": commands_page(),
        "reference/index.md": packages_page(),
        **{f"reference/{name}.md": package_page(name, package) for name, package in packages().items()},
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
        followed = tag != "link" or given.get("rel") in ("canonical", "prev", "next")
        loads = [given.get("src", ""), "" if followed else given.get("href", "")]
        self.found += [address for address in loads if address.startswith(("http:", "https:", "//"))]


class Formulas(Extension):
    """Turns the formulas and references of docstrings (``.. math::``, ``:class:``) into MathML and code."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802, a name of Python-Markdown
        """Registers the step, after code in fences is put away."""
        md.preprocessors.register(_FormulaStep(md), "formulas", 24)


class _FormulaStep(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        text = _FORMULA.sub(lambda found: self._stashed(found[1], "block"), "\n".join(lines))
        text = _INLINE_FORMULA.sub(lambda found: self._stashed(found[1], "inline"), text)
        return _ROLE.sub(r"`\1`", text).split("\n")

    def _stashed(self, formula: str, display: str) -> str:
        math = convert(" ".join(formula.split()), display=display)
        # A wide formula scrolls on a phone.
        return self.md.htmlStash.store(f'<div class="formula">{math}</div>' if display == "block" else math)


METHODS = """\
# Methods

Every method is a config. All methods of one dataset share folds, images, backbone, augmentation and epochs, and
differ in what is listed here. [The benchmark](../benchmark.md) has their results, and [Which method should I
use?](../which_method.md) says what follows from them. To add one, see [Add an experiment](../extend/experiment.md).
"""

LOSSES = """\
# Losses

A loss is what training minimizes. A config names one in its section `loss`. It works with the heads whose scores
are of the same kind. To write your own, see [Add a loss](../extend/loss.md).
"""

OF_LOSS = """\
takes a [`HeadOutput`][dermaffinity.heads.base.HeadOutput] (scores (N, C), embedding (N, D), centers (C, M, D)) and
labels (N,), and returns scalars by name, whose sum is minimized."""

HEADS = """\
# Heads

A head turns embeddings into class scores and holds all that prediction needs. A config names one in its section
`head`. It works with the losses whose scores are of the same kind. To write your own, see [Add a
head](../extend/head.md).
"""

OF_HEAD = """\
takes embeddings (N, D) and returns a [`HeadOutput`][dermaffinity.heads.base.HeadOutput]: scores (N, C), embedding
(N, D), centers (C, M, D). `probabilities` makes (N, C) of it, rows of sum 1."""

DATASETS = """\
# Datasets

An adapter reads one dataset as it is distributed and writes a manifest; nothing else ever looks at its folders. For
a folder of your own images, see [Your own library](../own_library.md); to read another dataset, see [Add a
dataset](../extend/dataset.md).
"""


def methods_page() -> str:
    """A section for each method: its question, and what it is made of."""
    lines = [METHODS]
    for method, path in shipped("method").items():
        config = compose(f"{METHODS_OF}_{method}")
        (comment,) = re.findall(r"\A# Question: (.*(?:\n#.*)*)", path.read_text(encoding="utf-8"))
        first, reasons = question(path), " ".join(comment.replace("\n#", "").split()).removeprefix(question(path))
        reasons = reasons.replace("docs/benchmark.md", "[the benchmark](../benchmark.md)")
        lines += [f"## {method}", "", f"**{first[0].upper()}{first[1:]}**{reasons}", ""]
        lines += [
            f"- {kind}: {component_link(kind, config[kind])}"
            for kind in (
                "head",
                "loss",
                "neck",
                "mixing",
                "growth",
                "sharpness",
                "average",
                "refit",
                "features",
                "estimator",
            )
            if config.get(kind)
        ]
        lines += ["", "```", f"dermaffinity crossval {METHODS_OF}_{method}", "```", ""]
    return "\n".join(lines)


def component_link(kind: str, component: dict[str, Any]) -> str:
    """A class that a config names, with its settings; linked where the catalogue has it."""
    name = component["class"].rpartition(".")[2]
    given = ", ".join(f"{key} {value}" for key, value in component.items() if key != "class")
    page = {"head": "heads.md", "loss": "losses.md"}.get(kind)
    link = f"[{name}]({page}#{name.lower()})" if page else f"[{name}][{path_of(import_class(component['class']))}]"
    return link + (f" ({given})" if given else "")


def parts_page(package: ModuleType, base: type, section: str, introduction: str, takes: str) -> str:
    """A table of a package's classes, then a section for each: who uses it, settings, shapes in and out, docstring."""
    parts = [part for part in members(package) if inspect.isclass(part) and issubclass(part, base) and part is not base]
    rows = [f"| [{p.__name__}](#{p.__name__.lower()}) | {first_line(p)} | {p.score_kind.value} |" for p in parts]
    lines = [introduction, "| class | in one line | scores |", "| --- | --- | --- |", *rows]
    for part in parts:
        users = [f"[{method}](methods.md#{method})" for method in shipped("method") if uses(method, section, part)]
        lines += [
            "",
            f"## {part.__name__} {{: #{part.__name__.lower()} }}",
            "",
            f"Used by {', '.join(users)}." if users else "Used by no method of the benchmark.",
            "",
            "```yaml",
            f"{section}:",
            f"  class: {package.__name__}.{part.__name__}",
            *hyper_parameters(part),
            "```",
            "",
            f"**What it takes and returns:** [`forward`][{path_of(part.forward)}] {takes} {first_line(part.forward)}",
            "",
            f"::: {path_of(part)}",
            "    options: {show_root_heading: false, show_root_toc_entry: false, members: false}",
        ]
    return "\n".join(lines) + "\n"


def hyper_parameters(part: type) -> Iterator[str]:
    """``  name: default`` of each keyword-only argument, as a config writes it."""
    for name, parameter in inspect.signature(part).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            value = yaml.safe_dump(parameter.default, default_flow_style=True).removesuffix("...\n").strip()
            yield f"  {name}: {value}"


def datasets_page() -> str:
    """A section for each adapter, then what may be published of each dataset."""
    lines, options = [DATASETS, *datasets_table(), ""], adapter_options()
    for name in adapter_names():
        adapter = adapter_class(name)
        about = inspect.getdoc(adapter)
        lines += [f"## {name}", "", re.split(r"\n\n(?:Args|Examples):\n", about or "")[0], ""]
        lines += [f"- **What it takes and returns:** the dataset's folder; a manifest, see [`{adapter.__name__}`]"]
        lines[-1] += f"[{path_of(adapter)}] and [`Manifest`][{path_of(Manifest)}]."
        lines += [f"- **Classes:** {counted_classes(adapter) or 'as the library names them'}."]
        lines += [f"- **Malignant:** {', '.join(adapter.malignant)}."] if adapter.malignant else []
        lines += [f"- **Groups:** {', '.join(adapter.groups)}."] if adapter.groups else []
        lines += [f"- **Citation:** {adapter.citation}", f"- **License:** {adapter.license}"]
        lines += ["- **How to get it:** " + adapter.how_to_get(None)]
        lines += ["", "```", f"dermaffinity prepare {name} SOURCE", "```", ""]
        if options[name]:
            lines += ["| `--set` option | values | default | what it does |", "| --- | --- | --- | --- |"]
        lines += [f"| `{o.name}` | {o.kind} | {o.default} | {o.description} |" for o in options[name]]
        lines += [""]
    published = (ROOT / "data_manifests/README.md").read_text(encoding="utf-8")
    return "\n".join(lines) + re.sub("^#", "##", published, flags=re.MULTILINE)


def datasets_table() -> Iterator[str]:
    """All datasets: images, classes, groups, license, command."""
    yield "| dataset | images | classes | groups | license | command |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name in adapter_names():
        adapter = adapter_class(name)
        images = f"{sum(adapter.published.values()):,}" if adapter.published else "–"
        groups = ", ".join(adapter.groups) or "–"
        command = f"`dermaffinity prepare {name} SOURCE`"
        classes = len(adapter.classes) or "–"
        yield f"| [{name}](#{name}) | {images} | {classes} | {groups} | {adapter.license} | {command} |"


def counted_classes(adapter: Any) -> str:
    """The classes, with the published number of images of each."""
    counts = adapter.published
    return ", ".join(f"{code} ({counts[code]:,})" if code in counts else code for code in adapter.classes)


def commands_page() -> str:
    """The help of every command, as it is printed."""
    lines = ["# Command line", "", "`dermaffinity COMMAND --help` prints the same."]
    for words in verbs():
        environment = {"COLUMNS": "76", "NO_COLOR": "1"}
        text = CliRunner().invoke(app, [*words, "--help"], prog_name="dermaffinity", env=environment).output
        lines += ["", f"## dermaffinity {' '.join(words)}", "", "```", text.strip(), "```"]
    return "\n".join(lines) + "\n"


def verbs() -> Iterator[list[str]]:
    """The words of every command, and of every command within one."""
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        yield [name]
        yield from ([name, inner] for inner in getattr(command, "commands", {}))


def packages_page() -> str:
    """What each package holds, in one line."""
    rows = [f"| [{package.__name__}]({name}.md) | {first_line(package)} |" for name, package in packages().items()]
    head = "# Python reference\n\nEverything public, by package; each entry has an example that the tests run.\n"
    return "\n".join([head, "| package | what it holds |", "| --- | --- |", *rows]) + "\n"


def package_page(name: str, package: ModuleType) -> str:
    """Everything public of a package."""
    about = inspect.getdoc(package) if name != "dermaffinity" else "What `import dermaffinity` gives."
    entries = [f"::: {path_of(member)}\n" for member in members(package)]
    return "\n".join([f"# {package.__name__}", "", about or "", "", *entries])


def packages() -> dict[str, ModuleType]:
    """The package and those in it that have something public, by the names of their pages."""
    found = pkgutil.walk_packages(dermaffinity.__path__, "dermaffinity.")
    modules = [importlib.import_module(module.name) for module in found if module.ispkg]
    named = {module.__name__.removeprefix("dermaffinity."): module for module in [dermaffinity, *modules]}
    return {name: module for name, module in named.items() if members(module)}


def members(package: ModuleType) -> list[Any]:
    """The public classes and functions of a package."""
    found = [getattr(package, name) for name in package.__all__]
    return [member for member in found if inspect.isclass(member) or inspect.isfunction(member)]


def path_of(member: Any) -> str:
    """Where a class or function is written."""
    return f"{member.__module__}.{member.__qualname__}"


def first_line(documented: object) -> str:
    """The first line of a docstring."""
    return (inspect.getdoc(documented) or "").partition("\n")[0]


def uses(method: str, section: str, part: type) -> bool:
    """Whether a method takes a class in a section."""
    return compose(f"{METHODS_OF}_{method}").get(section, {}).get("class", "").rpartition(".")[2] == part.__name__
