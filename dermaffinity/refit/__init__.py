"""What is done to a head when the network is trained: decoupled training and adjustments after it. One file each."""

from dermaffinity.refit.base import Refit
from dermaffinity.refit.classifier_retraining import ClassifierRetraining
from dermaffinity.refit.gaussian_affinity import GaussianAffinity
from dermaffinity.refit.learnable_scaling import LearnableScaling
from dermaffinity.refit.posthoc_logit_adjustment import PosthocLogitAdjustment
from dermaffinity.refit.tau_normalization import TauNormalization

__all__ = [
    "ClassifierRetraining",
    "GaussianAffinity",
    "LearnableScaling",
    "PosthocLogitAdjustment",
    "Refit",
    "TauNormalization",
]
