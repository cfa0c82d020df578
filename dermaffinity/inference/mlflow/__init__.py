"""A trained classifier as an MLflow model."""
