"""What is known of an image besides its pixels, as evidence for classes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from dermaffinity.config import Section

if TYPE_CHECKING:
    import pandas as pd  # a classifier answers sooner without it

_BINS = 5


class ColumnEvidence(Section):
    """What one column of a table says."""

    edges: tuple[float, ...]  # of a column of numbers, between its bins; empty for texts
    evidence: dict[str, tuple[float, ...]]  # by value, or number of the bin, for each class


class MetadataEvidence(Section):
    r"""How much more likely each class is, in logarithms, for what a table says of an image.

    .. math:: e_c(v) = \log \frac{p(v \mid c)}{p(v)}, \qquad p(v \mid c) = \frac{n_{cv} + m \, p(v)}{n_c + m}

    for the value v of a column, shares p of the training images, and counts n of those whose value is known. The m
    images of every class that are added to its own, in the mix of all classes, keep few images from saying much. The
    evidence of several columns is added, as if they were independent of one another, and of the picture, within a
    class. A value that is missing, ``unknown`` or never seen says nothing: 0. Numbers are cut into five bins with as
    many training images in each.

    Examples:
        >>> import pandas as pd
        >>> from dermaffinity.inference import MetadataEvidence
        >>> rows = pd.DataFrame({"label": ["mel"] * 10 + ["nv"] * 10, "site": ["face"] * 10 + ["back"] * 10})
        >>> known = MetadataEvidence.of(rows, ["site"], ("mel", "nv"), smoothing=10)
        >>> known(pd.DataFrame({"site": ["face", "sole"]})).round(2)  # 1.5 times as likely, and half
        array([[ 0.41, -0.69],
               [ 0.  ,  0.  ]])
    """

    columns: dict[str, ColumnEvidence] = Field(min_length=1)

    @classmethod
    def of(
        cls, rows: "pd.DataFrame", columns: Sequence[str], classes: Sequence[str], *, smoothing: float = 60
    ) -> "MetadataEvidence":
        """That of training images.

        Args:
            rows: A row per image, with its ``label``.
            columns: Whose evidence counts.
            classes: The C class codes.
            smoothing: m, positive.
        """
        return cls(columns={name: _of_column(rows[["label", name]], name, classes, smoothing) for name in columns})

    def __call__(self, rows: "pd.DataFrame") -> np.ndarray:
        """(N, C) of a table with the columns; one that it lacks says nothing."""
        total = np.zeros((len(rows), len(next(iter(next(iter(self.columns.values())).evidence.values())))))
        for name, known in self.columns.items():
            if name in rows:
                values = _values(rows[name], known.edges).map(known.evidence)
                seen = values.notna().to_numpy()
                total[seen] += np.array(values[seen].tolist()).reshape(-1, total.shape[1])
        return total


def _of_column(rows: "pd.DataFrame", name: str, classes: Sequence[str], smoothing: float) -> ColumnEvidence:
    import pandas as pd

    known = rows[_values(rows[name], ()).notna()]
    numbers = pd.to_numeric(known[name], errors="coerce")
    edges: tuple[float, ...] = ()
    if len(known) and numbers.notna().all():
        edges = tuple(np.unique(np.quantile(numbers, np.arange(1, _BINS) / _BINS)).tolist())
    counts = pd.crosstab(_values(known[name], edges), known["label"]).reindex(columns=list(classes), fill_value=0)
    share = counts.sum(axis=1) / counts.to_numpy().sum()  # (V,)
    smoothed = counts.add(smoothing * share, axis=0) / (counts.sum() + smoothing)  # (V, C)
    evidence = np.log(smoothed.div(share, axis=0).to_numpy())
    return ColumnEvidence(edges=edges, evidence={str(v): tuple(e) for v, e in zip(counts.index, evidence, strict=True)})


def _values(column: "pd.Series", edges: Sequence[float]) -> "pd.Series":
    """The values as texts, numbers as that of their bin; missing where nothing is known."""
    import pandas as pd

    if edges:
        numbers = pd.to_numeric(column, errors="coerce")
        return pd.Series(np.digitize(numbers, edges).astype(str), index=column.index).where(numbers.notna())
    texts = column.astype("string").str.strip()
    return texts.where(~texts.str.lower().isin(["", "unknown"]))
