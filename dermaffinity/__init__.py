"""dermaffinity: skin-lesion classifiers for small, strongly imbalanced image libraries."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dermaffinity.inference.classifier import LesionClassifier

__all__ = ["LesionClassifier"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # Importing the package costs nothing until something of it is used.
    if name == "LesionClassifier":
        from dermaffinity.inference.classifier import LesionClassifier

        return LesionClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
