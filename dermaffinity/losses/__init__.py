"""Losses: what only training needs. One file per loss."""

from dermaffinity.losses.affinity import AffinityLoss
from dermaffinity.losses.affinity_posterior import AffinityPosteriorLoss
from dermaffinity.losses.base import Loss
from dermaffinity.losses.center import CenterLoss
from dermaffinity.losses.cosen import CoSenLoss
from dermaffinity.losses.cross_entropy import CrossEntropyLoss

__all__ = ["AffinityLoss", "AffinityPosteriorLoss", "CenterLoss", "CoSenLoss", "CrossEntropyLoss", "Loss"]
