"""What a notebook shows in place of an object: tables, and a figure below them."""

import base64
import html
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def shown(tables: Mapping[str, pd.DataFrame], figure: "Figure | None" = None) -> str:
    """HTML of tables by title, and of a figure."""
    parts = [f"<p><b>{html.escape(title)}</b></p>{table.to_html()}" for title, table in tables.items()]
    if figure is not None:
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=80)
        parts.append(f'<img src="data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}">')
    return "\n".join(parts)
