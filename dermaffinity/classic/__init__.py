"""Classifiers from before deep networks: features of the masked lesion, and scikit-learn.

A method is an `Estimator`, what it works on comes from a `Features`; a config names one of each.
"""

from dermaffinity.classic.base import Estimator, Features
from dermaffinity.classic.color_texture import ColorTexture
from dermaffinity.classic.flat import FlatKNN
from dermaffinity.classic.hierarchical import HierarchicalBayes, HierarchicalKNN

__all__ = ["ColorTexture", "Estimator", "Features", "FlatKNN", "HierarchicalBayes", "HierarchicalKNN"]
