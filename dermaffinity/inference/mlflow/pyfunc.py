"""The code that MLflow runs to predict with a classifier; `write_mlflow_model` puts a copy of it into the model.

Nothing of the package imports it; MLflow executes the copy when a model is saved, loaded or served.
"""

from collections.abc import Sequence
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from mlflow.pyfunc import PythonModel, PythonModelContext

from dermaffinity import LesionClassifier
from dermaffinity.errors import DataError


class ServedClassifier(PythonModel):
    """A LesionClassifier that takes and gives tables, whose columns the model's signature describes."""

    def load_context(self, context: PythonModelContext) -> None:
        """Reads the classifier, of which no code is run."""
        plugins = (context.model_config or {}).get("plugins", ())
        self.classifier = LesionClassifier.load(context.artifacts["classifier"], plugins=plugins)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """One row of answers for each image.

        Args:
            context: Not used.
            model_input: Column ``image``, the bytes of image files.
            params: ``coverage``, of the sets.

        Raises:
            MlflowException: Which a server answers with status 400; it names every row that is no image.
        """
        coverage, images = (params or {}).get("coverage", 0.9), list(model_input["image"])
        if not 0 < coverage < 1:
            raise _refusal(f"coverage must be in (0, 1), got {coverage}")
        if not images:
            raise _refusal("there are no images to predict: the table has no rows")
        # Anything else would be taken for a path, and a server must not open files that its clients name.
        if strangers := [str(row) for row, image in enumerate(images) if not isinstance(image, bytes)]:
            raise _refusal(f"row {', '.join(strangers)}: an image is the bytes of a file")
        try:
            assessed = self.classifier.assess(images)
        except DataError as error:
            raise _refusal("; ".join(self._problems(images))) from error
        classes = self.classifier.classes_
        probabilities = {f"p.{name}": assessed.probabilities[:, c] for c, name in enumerate(classes)}
        return pd.DataFrame(
            {
                "predicted": classes[assessed.probabilities.argmax(axis=1)],
                **{name: column.astype(float) for name, column in probabilities.items()},
                "novelty": assessed.novelty,
                "novel": assessed.novelty > self.classifier.novelty_threshold,
                "disagreement": assessed.disagreement,
                "set": [list(members) for members in self.classifier.sets(assessed, coverage)],
            }
        )

    def _problems(self, images: Sequence[bytes]) -> list[str]:
        problems = []
        for row, image in enumerate(images):
            try:
                self.classifier.prepare(image, f"row {row}")
            except DataError as error:
                problems.append(str(error))
        return problems


def _refusal(message: str) -> MlflowException:
    return MlflowException(message, error_code=BAD_REQUEST)


mlflow.models.set_model(ServedClassifier())
