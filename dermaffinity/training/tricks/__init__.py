"""Tricks: what changes how a network is trained, one file each."""

from dermaffinity.training.tricks.average import MovingAverage
from dermaffinity.training.tricks.base import Trick
from dermaffinity.training.tricks.growth import GrowingImages
from dermaffinity.training.tricks.sharpness import SharpnessAware

__all__ = ["GrowingImages", "MovingAverage", "SharpnessAware", "Trick"]
