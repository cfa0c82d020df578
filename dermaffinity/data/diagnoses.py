"""One vocabulary of diagnoses: a library's labels in the classes of another library, see ``diagnoses.yaml``."""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import yaml

from dermaffinity.errors import ConfigError, count_of, did_you_mean

Vocabulary = Literal["ham7", "isic8", "dermofit10"]


class KnownClasses(NamedTuple):
    """The classes of a well-known library.

    Examples:
        >>> from dermaffinity.data import known_classes
        >>> known_classes("isic8").malignant
        ('MEL', 'BCC', 'SCC')
    """

    names: tuple[str, ...]
    malignant: tuple[str, ...]
    source: str


def known_classes(vocabulary: str) -> KnownClasses:
    """The classes that a vocabulary stands for.

    Raises:
        ConfigError: There is no such vocabulary.

    Examples:
        >>> from dermaffinity.data import known_classes
        >>> known_classes("ham7").names
        ('akiec', 'bcc', 'bkl', 'df', 'mel', 'nv', 'vasc')
    """
    if vocabulary not in (allowed := get_args(Vocabulary)):
        raise ConfigError(
            f"there are no classes {vocabulary!r}{did_you_mean(vocabulary, allowed)}; allowed are {', '.join(allowed)}"
        )
    found = _contents()["classes"][vocabulary]
    return KnownClasses(tuple(found["names"]), tuple(found["malignant"]), found["source"])


def class_in(vocabulary: str, labels: Sequence[str], adapter: str) -> str | None:
    """The class of a vocabulary that an adapter's label belongs to, or None.

    Args:
        vocabulary: ``ham7``, ``isic8`` or ``dermofit10``.
        labels: The diagnosis, from its finest name to coarser ones; the first that is known decides.
        adapter: Its own labels are looked up before those of others.

    Examples:
        >>> from dermaffinity.data import class_in
        >>> class_in("ham7", ["Nevus, Spitz", "Nevus"], "isic"), class_in("isic8", ["akiec"], "ham10000")
        ('nv', None)
    """
    known = _names(adapter)
    diagnosis = next((known[name] for label in labels if (name := _plain(label)) in known), "none")
    found: str | None = _contents()["diagnoses"].get(diagnosis, {}).get(vocabulary)
    return found


def is_malignant(label: str, adapter: str) -> bool:
    """Whether a label is known for a malignant disease in the strictest sense, that of ``isic8``."""
    return class_in("isic8", [label], adapter) in known_classes("isic8").malignant


def unmapped_note(labels: Iterable[str], vocabulary: str) -> list[str]:
    """A note that counts and names the labels without a class; empty without any."""
    counts = Counter(labels)
    if not counts:
        return []
    named = ", ".join(f"{label} {count:,}" for label, count in counts.most_common(12))
    more = f" and {len(counts) - 12} more labels" if len(counts) > 12 else ""
    return [f"left out {count_of(counts.total(), 'image')} whose label has no class of {vocabulary}: {named}{more}"]


@cache
def _contents() -> dict[str, Any]:
    contents: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("diagnoses.yaml").read_text(encoding="utf-8"))
    return contents


@cache
def _names(adapter: str) -> dict[str, str]:
    """Diagnoses by the plain names of labels; the adapter's own go before those of the sections from the first on."""
    sections = _contents()["labels"]
    names = {_plain(diagnosis): diagnosis for diagnosis in _contents()["diagnoses"]}
    for section in [*reversed(sections.values()), sections.get(adapter, {})]:
        names |= {_plain(str(label)): diagnosis for label, diagnosis in section.items() if label != "source"}
    return names


def _plain(label: str) -> str:
    return " ".join(label.casefold().replace("-", " ").replace("_", " ").split())
