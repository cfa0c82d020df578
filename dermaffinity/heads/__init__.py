"""Heads turn embeddings into class scores; what prediction needs lives here. One file per head."""

from dermaffinity.heads.affinity import AffinityHead
from dermaffinity.heads.affinity_mixture import AffinityMixtureHead
from dermaffinity.heads.base import Head, HeadOutput, Predictions, ScoreKind
from dermaffinity.heads.cosine import CosineHead
from dermaffinity.heads.linear import LinearHead

__all__ = [
    "AffinityHead",
    "AffinityMixtureHead",
    "CosineHead",
    "Head",
    "HeadOutput",
    "LinearHead",
    "Predictions",
    "ScoreKind",
]
