"""One file for each dataset: each knows its own layout, and nothing else does."""
