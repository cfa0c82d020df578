"""Why a classifier says what it says about one image: the evidence, and a sheet that a person can read."""

from dermaffinity.explanation.evidence import nearest_centers, nearest_examples, occlusion_map
from dermaffinity.explanation.explanation import Explanation

__all__ = ["Explanation", "nearest_centers", "nearest_examples", "occlusion_map"]
