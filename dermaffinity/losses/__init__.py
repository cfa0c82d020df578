"""Losses: what only training needs. One file per loss."""

from dermaffinity.losses.affinity import AffinityLoss
from dermaffinity.losses.affinity_posterior import AffinityPosteriorLoss
from dermaffinity.losses.arcface import ArcFaceLoss
from dermaffinity.losses.base import Loss
from dermaffinity.losses.center import CenterLoss
from dermaffinity.losses.class_balanced import ClassBalancedLoss
from dermaffinity.losses.cosen import CoSenLoss
from dermaffinity.losses.cosface import CosFaceLoss
from dermaffinity.losses.cross_entropy import CrossEntropyLoss
from dermaffinity.losses.focal import FocalLoss
from dermaffinity.losses.ldam import LDAMLoss
from dermaffinity.losses.logit_adjustment import LogitAdjustedLoss
from dermaffinity.losses.proxy_anchor import ProxyAnchorLoss
from dermaffinity.losses.softtriple import SoftTripleLoss
from dermaffinity.losses.vector_scaling import VectorScalingLoss

__all__ = [
    "AffinityLoss",
    "AffinityPosteriorLoss",
    "ArcFaceLoss",
    "CenterLoss",
    "ClassBalancedLoss",
    "CoSenLoss",
    "CosFaceLoss",
    "CrossEntropyLoss",
    "FocalLoss",
    "LDAMLoss",
    "LogitAdjustedLoss",
    "Loss",
    "ProxyAnchorLoss",
    "SoftTripleLoss",
    "VectorScalingLoss",
]
