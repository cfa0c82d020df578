"""Training: the loop of one fold, the jobs of a cross-validation, and how they are launched."""
