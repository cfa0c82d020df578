"""What is done to a head when the network is trained: decoupled training and adjustments after it. One file each."""

from dermaffinity.refit.base import Refit

__all__ = ["Refit"]
