"""The optimizer and its learning-rate schedule."""

import math

import torch
from torch import nn

from dermaffinity.config import TrainingSettings
from dermaffinity.losses import Loss
from dermaffinity.models import Backbone, LesionNetwork


def build_optimizer(
    network: LesionNetwork, loss: Loss, settings: TrainingSettings, device: torch.device
) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW; only matrices and kernels decay.

    Neck, head and loss learn at their own rate, and each stage of the backbone at its share of the next one's. On a GPU
    the rates are tensors and a step is one kernel, so that steps can be captured.
    """
    parts = [(list(part.named_parameters()), settings.head_rate_factor) for part in (network.neck, network.head, loss)]
    if isinstance(network.backbone, Backbone):  # and no features in its place
        named = dict(network.backbone.named_parameters())
        for later, stage in enumerate(reversed(network.backbone.stages())):
            parts.append(([(name, named[name]) for name in stage], settings.stage_rate_decay**later))
    groups = []
    for own, factor in parts:
        for decays in (True, False):
            parameters = [p for name, p in own if p.requires_grad and _decays(name, p) == decays]
            if parameters:
                rate = settings.learning_rate * factor
                decay = settings.weight_decay if decays else 0.0
                groups.append({"params": parameters, "lr": rate, "initial_lr": rate, "weight_decay": decay})
    optimizer: torch.optim.Optimizer
    on_gpu = device.type == "cuda"
    if settings.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, fused=on_gpu or None, capturable=on_gpu)
    else:
        optimizer = torch.optim.SGD(groups, momentum=settings.momentum, fused=on_gpu or None)
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
    # Normalization and biases are vectors; decay would pull centers to the origin, onto one another. The tokens and
    # positions of a transformer are no map of anything.
    return parameter.ndim > 1 and not name.endswith(("centers", "_token", "pos_embed"))
