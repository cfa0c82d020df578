"""What is known of an image besides its pixels, as evidence for classes."""

from collections.abc import Iterable, Mapping, Sequence
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
    class. A value that is missing, ``unknown``, ``n/a`` or never seen says nothing: 0. A column whose known values are
    numbers for 90 % or more is cut into five bins with as many training images in each; its other values say nothing.
    ``90+`` is 90, and ``007`` is no number.

    A table may call age, sex, site and skin tone as any library does, write names and values in any case, the sexes
    ``m`` and ``f``, and numbers with a decimal comma.

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
        for name, column in columns_found(self.columns, list(rows.columns)).items():
            evidence = self._evidence(name, rows[column])
            seen = evidence.notna().to_numpy()
            total[seen] += np.array(evidence[seen].tolist()).reshape(-1, total.shape[1])
        return total

    def heard(self, rows: "pd.DataFrame") -> "pd.DataFrame":
        """Of which rows each column says something: (N, columns) of bool."""
        import pandas as pd

        found = columns_found(self.columns, list(rows.columns))
        said = {name: self._evidence(name, rows[column]).notna() for name, column in found.items()}
        return pd.DataFrame(said, index=rows.index).reindex(columns=list(self.columns), fill_value=False)

    def _evidence(self, name: str, column: "pd.Series") -> "pd.Series":
        """Of each value a tuple of (C,) numbers; missing where it says nothing."""
        known = self.columns[name]
        values = _bins(column, known.edges) if known.edges else _texts(column, name)
        return values.map(_by_text(known.evidence, name))


def columns_found(asked: Iterable[str], columns: Sequence[str]) -> dict[str, str]:
    """By what a classifier was trained with: the column of a table that says it; without those that none says."""
    from dermaffinity.data.labels import column_of

    return {name: column for name in asked if (column := column_of(name, columns)) is not None}


def _of_column(rows: "pd.DataFrame", name: str, classes: Sequence[str], smoothing: float) -> ColumnEvidence:
    import pandas as pd

    from dermaffinity.data.labels import holds_numbers, known_numbers

    values = _texts(rows[name], name)
    edges: tuple[float, ...] = ()
    if holds_numbers(rows[name]):
        numbers = known_numbers(rows[name]).dropna()
        edges = tuple(np.unique(np.quantile(numbers, np.arange(1, _BINS) / _BINS)).tolist())
        values = _bins(rows[name], edges)
    if values.isna().all():  # the model says so by a value that no image has
        return ColumnEvidence(edges=(), evidence={"": (0.0,) * len(classes)})
    counts = pd.crosstab(values, rows["label"]).reindex(columns=list(classes), fill_value=0)
    share = counts.sum(axis=1) / counts.to_numpy().sum()  # (V,)
    smoothed = counts.add(smoothing * share, axis=0) / (counts.sum() + smoothing)  # (V, C)
    evidence = np.log(smoothed.div(share, axis=0).to_numpy())
    return ColumnEvidence(edges=edges, evidence={str(v): tuple(e) for v, e in zip(counts.index, evidence, strict=True)})


def _by_text(evidence: Mapping[str, tuple[float, ...]], name: str) -> dict[str, tuple[float, ...]]:
    """The evidence by values as `_texts` writes them; a model of an earlier version has them as its table did."""
    import pandas as pd

    return dict(zip(_texts(pd.Series(list(evidence)), name).fillna(""), evidence.values(), strict=True))


def _bins(column: "pd.Series", edges: Sequence[float]) -> "pd.Series":
    """The bin of each number, as text; missing where none is known."""
    import pandas as pd

    from dermaffinity.data.labels import known_numbers

    numbers = known_numbers(column)
    return pd.Series(np.digitize(numbers, edges).astype(str), index=column.index).where(numbers.notna())


def _texts(column: "pd.Series", name: str) -> "pd.Series":
    """The known values as texts in small letters, and sexes in full; missing where nothing is known."""
    from dermaffinity.data.labels import known_texts, usual_sexes

    texts = known_texts(column).str.casefold()
    return usual_sexes(texts) if name.casefold() in ("sex", "gender") else texts
