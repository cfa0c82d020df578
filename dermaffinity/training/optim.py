"""The optimizer and its learning-rate schedule."""

import math

import torch
from torch import nn

from dermaffinity.config import TrainingSettings
from dermaffinity.losses import Loss
from dermaffinity.models import LesionNetwork


def build_optimizer(
    network: LesionNetwork, loss: Loss, settings: TrainingSettings, device: torch.device
) -> torch.optim.SGD:
    """SGD with momentum; neck, head and loss learn at their own rate, and only matrices and kernels decay.

    On a GPU the rates are tensors and a step is one kernel, so that steps can be captured.
    """
    groups = []
    parts: list[tuple[nn.Module, float]] = [(network.backbone, 1.0)]
    parts += [(part, settings.head_rate_factor) for part in (network.neck, network.head, loss)]
    for part, factor in parts:
        for decays in (True, False):
            parameters = [p for name, p in part.named_parameters() if p.requires_grad and _decays(name, p) == decays]
            if parameters:
                rate = settings.learning_rate * factor
                decay = settings.weight_decay if decays else 0.0
                groups.append({"params": parameters, "lr": rate, "initial_lr": rate, "weight_decay": decay})
    optimizer = torch.optim.SGD(groups, momentum=settings.momentum, fused=device.type == "cuda" or None)
    rates_to(optimizer, device)
    return optimizer


def rates_to(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Makes the learning rates tensors on a GPU, which a captured step reads anew; on the CPU they stay numbers."""
    if device.type == "cuda":
        for group in optimizer.param_groups:
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=device)


def set_learning_rate(optimizer: torch.optim.Optimizer, progress: float, settings: TrainingSettings) -> float:
    """Linear warm-up, then one cosine from the full rate to zero.

    Args:
        optimizer: Its groups carry ``initial_lr``.
        progress: Epochs done so far, with fractions.
        settings: For ``epochs`` and ``warmup_epochs``.

    Returns:
        The factor that was applied, in (0, 1].
    """
    warmup = min(settings.warmup_epochs, settings.epochs / 2)
    if progress < warmup:
        factor = max(progress / warmup, 1e-2)
    else:
        factor = 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (settings.epochs - warmup)))
    for group in optimizer.param_groups:
        rate = group["initial_lr"] * factor
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
    return factor


def _decays(name: str, parameter: nn.Parameter) -> bool:
    # Normalization and biases are vectors; decay would pull centers to the origin, onto one another.
    return parameter.ndim > 1 and not name.endswith("centers")
