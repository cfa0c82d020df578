"""Backbones, necks, and the network that joins them with a head."""

from dermaffinity.models.backbones import Backbone, DigitNet, ResNet18, SmallConvNet
from dermaffinity.models.necks import BatchNormNeck, IdentityNeck, LinearNeck, Neck, UnitNeck
from dermaffinity.models.network import LesionNetwork
from dermaffinity.models.timm_backbone import TimmBackbone

__all__ = [
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
]
