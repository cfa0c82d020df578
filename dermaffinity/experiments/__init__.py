"""Experiments: configs trained on all their folds and seeds, and what is made of their results."""

__all__: list[str] = []
