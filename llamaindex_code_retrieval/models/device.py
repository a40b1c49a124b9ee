"""Choose the device and the precision of a model."""

from __future__ import annotations

from typing import Literal

import torch

from llamaindex_code_retrieval.models.catalog import PRECISIONS, Precision


def resolve_device(device: str | None) -> torch.device:
    """Return the device with this name; ``None`` means CUDA if there is one, else the CPU.

    Raises:
        ValueError: this machine has no such device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA raises an AssertionError
        raise ValueError(f"this machine has no device {device!r}; use 'cpu', or leave device out") from error
    return resolved


def resolve_precision(precision: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """Return the precision that ``auto`` means: bf16 where the device computes it natively, fp32 elsewhere.

    Raises:
        ValueError: an unknown precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be 'auto', 'fp32' or 'bf16', got {precision!r}")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    native = device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return "bf16" if native else "fp32"
