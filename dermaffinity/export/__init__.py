"""A trained classifier in the file formats of other tools, each checked to give the same numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from dermaffinity.errors import ConfigError

__all__ = ["export"]


def export(
    model: str | Path,
    out: str | Path,
    *,
    format: Literal["onnx", "bundle"] = "onnx",
    plugins: Sequence[str] = (),
) -> list[Path]:
    """Writes a trained classifier in the format of another tool, checked to give the same numbers.

    Args:
        model: Folder of an experiment, a fold or a classifier, or ``models:/NAME@ALIAS``.
        out: Folder to write to.
        format: ``"onnx"``: one file that runs without PyTorch; ``"bundle"``: a folder for MONAI's tools.
        plugins: See `LesionClassifier.load`.

    Returns:
        What was written.

    Examples:
        >>> from dermaffinity.export import export
        >>> [path.name for path in export("runs/library_affinity_plus", "exported", format="bundle")]
        ['toy_classification']
    """
    if format not in ("onnx", "bundle"):
        raise ConfigError(f"--format {format}: allowed are onnx and bundle")
    from dermaffinity.inference.classifier import LesionClassifier

    classifier = LesionClassifier.load(model, plugins=plugins)
    if format == "onnx":
        from dermaffinity.export.onnx import export_onnx

        return export_onnx(classifier, Path(out))
    from dermaffinity.export.bundle import export_bundle

    return [export_bundle(classifier, Path(out))]
