"""Which arithmetic a training uses: bfloat16 where the hardware has it, else float32."""

from collections.abc import Mapping
from typing import Any

import torch

from dermaffinity.config import Config

_EMULATED = (
    "training.precision=bf16-mixed: this processor has no bfloat16 and imitates it, at 15 to 30 times the time of "
    "float32. A new experiment takes float32: --set name=NEW --set training.precision=32-true"
)


def has_bfloat16() -> bool:
    """Whether the device that trains here, a GPU or this processor, computes in bfloat16 without imitating it.

    Examples:
        >>> from dermaffinity.training import has_bfloat16
        >>> isinstance(has_bfloat16(), bool)
        True
    """
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.backends.mps.is_available() or not torch.backends.mkldnn.is_available():
        return False
    # Older versions of torch cannot tell; float32 is never slow.
    processor: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    # The library that computes may be told to use less than the processor has: ONEDNN_MAX_CPU_ISA.
    return torch.ops.mkldnn._is_mkldnn_bf16_supported() and any(
        processor.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")
    )


def with_precision(config: Config, recorded: str | None = None) -> Config:
    """The config with ``training.precision: auto`` decided: as recorded with the experiment, else for this machine."""
    if config.setting("training.precision") != "auto":
        return config
    return config.with_setting("training", "precision", recorded or ("bf16-mixed" if has_bfloat16() else "32-true"))


def slow_precision(config: Config) -> str | None:
    """What a person should know before this config trains here for hours; None where there is nothing to say."""
    on_processor = not torch.cuda.is_available() and not torch.backends.mps.is_available()
    return (
        _EMULATED
        if config.setting("training.precision") == "bf16-mixed" and on_processor and not has_bfloat16()
        else None
    )
