"""Why a classifier says what it says about one image: the evidence, and a sheet that a person can read."""

from dermaffinity.inference.explain.explanation import Explanation
from dermaffinity.inference.explain.nearest import nearest_centers, nearest_examples, occlusion_map

__all__ = ["Explanation", "nearest_centers", "nearest_examples", "occlusion_map"]
