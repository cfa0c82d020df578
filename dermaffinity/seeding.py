"""The only place that seeds."""

import hashlib
import random

import numpy as np
import torch


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2³¹) that depends on every part, for independent random streams of one run."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch on all devices, and asks cuDNN for deterministic kernels."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
