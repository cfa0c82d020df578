"""A trained classifier as an MLflow model: a folder that MLflow loads, registers and serves over HTTP.

It holds the classifier's own files and the code of `dermaffinity.inference.mlflow.pyfunc`, which needs dermaffinity.
Served with ``mlflow models serve --env-manager local`` that is the one of the environment MLflow runs in, which must be
activated: MLflow calls its server, uvicorn, by name. With ``--env-manager virtualenv`` or ``uv`` MLflow installs the
pinned requirements, dermaffinity among them: while no package index has it, build a wheel with ``pip wheel --no-deps
.`` and name its folder in ``PIP_FIND_LINKS`` (``UV_FIND_LINKS``).
"""

import io
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import dermaffinity
from dermaffinity.inference.model_folder import Description, read_description

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

# What loading and predicting import, besides dermaffinity itself.
_PACKAGES = (
    "filelock",
    "mlflow",
    "numpy",
    "pandas",
    "pillow",
    "pydantic",
    "pyyaml",
    "safetensors",
    "scipy",
    "torch",
    "torchvision",
)


def write_mlflow_model(folder: Path, target: Path, plugins: Sequence[str] = ()) -> None:
    """Writes the MLflow model of a trained classifier.

    Its input is a table with the column ``image``, the bytes of image files; its parameter ``coverage`` is that of the
    sets. Its output has the columns ``predicted``, ``p.<class>`` for each class, ``novelty``, ``novel``,
    ``disagreement`` and ``set``; see `dermaffinity.LesionClassifier`.

    Args:
        folder: Model folder, with ``classifier.json``.
        target: Where to; must not exist.
        plugins: Modules outside dermaffinity that parts of the network come from. The model imports them wherever it is
            loaded, and does not hold them.

    Raises:
        DataError: When the classifier cannot be read.

    Examples:
        >>> from pathlib import Path
        >>> from dermaffinity.inference.mlflow import write_mlflow_model
        >>> write_mlflow_model(Path("runs/library_affinity_plus/classifier"), Path("mlflow_model"))
        >>> Path("mlflow_model/MLmodel").exists()
        True
    """
    import mlflow
    import pandas as pd
    from mlflow.models import Model

    description, model = read_description(folder), Model()
    mlflow.pyfunc.save_model(
        path=str(target),
        mlflow_model=model,
        python_model=Path(__file__).with_name("pyfunc.py"),
        artifacts={"classifier": str(folder)},
        model_config={"plugins": list(plugins)} if plugins else None,
        signature=_signature(description),
        input_example=pd.DataFrame({"image": [_example_image()]}),
        pip_requirements=_requirements(),
        metadata={"intended_use": description.intended_use, "digest": description.digest},
    )
    # MLflow notes where the files came from on this machine, and reads none of it again.
    flavor = model.flavors["python_function"]
    flavor["model_code_path"] = "pyfunc.py"
    flavor["artifacts"]["classifier"]["uri"] = flavor["artifacts"]["classifier"]["path"]
    model.save(str(target / "MLmodel"))


def _signature(description: Description) -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array, DataType

    outputs: dict[str, DataType | Array] = {
        "predicted": DataType.string,
        **{f"p.{name}": DataType.double for name in description.classes},
        "novelty": DataType.double,
        "novel": DataType.boolean,
        "disagreement": DataType.double,
        "set": Array(DataType.string),
    }
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, "image")]),
        outputs=Schema([ColSpec(kind, name) for name, kind in outputs.items()]),
        params=ParamSchema([ParamSpec("coverage", DataType.double, 0.9)]),
    )


def _example_image() -> bytes:
    """A drawn color gradient: no lesion, nobody's."""
    from PIL import Image

    ramp = Image.linear_gradient("L").resize((32, 32))
    content = io.BytesIO()
    Image.merge("RGB", (ramp, ramp.rotate(90), ramp.rotate(180))).save(content, format="PNG")
    return content.getvalue()


def _requirements() -> list[str]:
    # Without what comes after +, such as the kind of a torch build, which no package index lists.
    versions = {name: metadata.version(name).partition("+")[0] for name in _PACKAGES}
    return [f"{name}=={version}" for name, version in {"dermaffinity": dermaffinity.__version__, **versions}.items()]
