"""Backbones, necks, and the network that joins them with a head."""

from dermaffinity.models.backbones import VIEWS, Backbone, DigitNet, ResNet18, SmallConvNet, views_of
from dermaffinity.models.necks import BatchNormNeck, IdentityNeck, LinearNeck, Neck, UnitNeck
from dermaffinity.models.network import LesionNetwork
from dermaffinity.models.timm_backbone import TimmBackbone

__all__ = [
    "VIEWS",
    "Backbone",
    "BatchNormNeck",
    "DigitNet",
    "IdentityNeck",
    "LesionNetwork",
    "LinearNeck",
    "Neck",
    "ResNet18",
    "SmallConvNet",
    "TimmBackbone",
    "UnitNeck",
    "views_of",
]
