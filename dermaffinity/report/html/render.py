"""An experiment's report as one HTML file that needs nothing else: no network, no script, no other file.

`render` fills the template. All text is escaped; figures are inline SVG whose
black follows the page's text color, so that they can be read in light and in dark.
"""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

_HERE = Path(__file__).parent
# What figures.py draws in black and gray becomes colors of the page, which has one set for light and one for dark.
_COLORS = {
    "#000000": "currentColor",
    "#666666": "var(--muted)",
    "#dddddd": "var(--line)",
    "#eeeeee": "var(--line)",
    "#b0b0b0": "var(--line)",
}
_THUMBNAIL = 160  # pixels of the longer side


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Args:
        caption: What it shows.
        columns: The head; its first entry stands above the row heads.
        rows: Each as long as the head; the first entry is the row's head.
        breaks: Rows that begin a new part.
        wraps: Whether cells are sentences rather than numbers.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    breaks: frozenset[int] = frozenset()
    wraps: bool = False


@dataclass(frozen=True)
class Picture:
    """A figure: inline SVG, what it shows, and a text for those who cannot see it."""

    svg: "Markup"
    caption: str
    width: int  # CSS pixels at full size


@dataclass(frozen=True)
class Case:
    """One image that the reader may want to look at."""

    image: str
    true: str
    predicted: str
    facts: Sequence[str]
    thumbnail: str | None  # a data URI


@dataclass(frozen=True)
class CaseGroup:
    """Cases that were chosen for one reason."""

    title: str
    lead: str
    cases: Sequence[Case]


def render(report: Mapping[str, Any], template: str = "report.html.jinja") -> str:
    """The page.

    Args:
        report: What the template asks for. Texts are plain; a list of texts is one paragraph or list item each.
        template: One beside this module.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = Markup((_HERE / "report.css").read_text(encoding="utf-8"))
    page = environment.get_template(template).render(report=report, style=style)
    page = page.replace(" %", "\N{NO-BREAK SPACE}%")  # or a line may begin with it
    return page.lstrip()  # what the definitions of macros leave would stand before the doctype


def table_of(content: pd.DataFrame, caption: str, corner: str) -> Table:
    """A table of `dermaffinity.report.tables` with its parts.

    Args:
        content: From `results_table`, `gains_table` or `p_value_table`.
        caption: What it shows.
        corner: Stands above the row heads.
    """
    parts = list(content.index.get_level_values("part"))
    breaks = frozenset(index for index in range(1, len(parts)) if parts[index] != parts[index - 1])
    rows = [[str(row), *map(str, values)] for (_, row), values in zip(content.index, content.to_numpy(), strict=True)]
    return Table(caption, [corner, *map(str, content.columns)], rows, breaks)


def picture(figure: "Figure", name: str, alt: str, caption: str) -> Picture:
    """A figure as inline SVG in the page's colors.

    Args:
        figure: Of `dermaffinity.report.figures`.
        name: Begins every id within the picture, so that no two pictures of a page share one.
        alt: What it shows, for those who cannot see it.
        caption: What stands below.
    """
    from markupsafe import Markup, escape

    figure.suptitle("")  # the page has headings and captions of its own
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    for clutter in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<!--.*?-->", r' xmlns(:\w+)?="[^"]*"'):
        svg = re.sub(clutter, "", svg, flags=re.DOTALL)
    # matplotlib's ids are random, and glyphs have the same id in every figure.
    ids = {old: f"{name}-{index}" for index, old in enumerate(dict.fromkeys(re.findall(r' id="([^"]+)"', svg)))}
    svg = re.sub(r' id="([^"]+)"', lambda match: f' id="{ids[match[1]]}"', svg)
    svg = re.sub(r'xlink:href="#([^"]+)"', lambda match: f'href="#{ids[match[1]]}"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", lambda match: f"url(#{ids[match[1]]})", svg)
    for color, page_color in _COLORS.items():
        svg = svg.replace(color, page_color)
    width = round(96 * figure.get_figwidth())
    label = escape(alt)
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', "", svg, count=1)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    return Picture(Markup(svg.strip()), caption, width)


def thumbnail(image: np.ndarray) -> str:
    """A small JPEG of an image (H, W, 3) uint8, as a data URI; nothing of the original file's own facts is in it."""
    from PIL import Image

    small = Image.fromarray(image)
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
