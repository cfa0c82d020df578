"""Where results are recorded: a small protocol, and MLflow behind it."""
