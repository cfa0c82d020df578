"""Using trained classifiers: loading, predicting, explaining, serving. Nothing here trains or tracks."""
