"""dermaffinity: skin-lesion classifiers for small, strongly imbalanced image libraries."""

__version__ = "0.1.0"
