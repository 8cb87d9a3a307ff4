"""Automatic mixed precision, the same for both stages."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from medldm.errors import ConfigError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PRECISIONS = ("auto", *DTYPES)


def choose_precision(device: torch.device, precision: str) -> str:
    """Return what "auto" stands for: bfloat16 where the device computes in it natively, else float32.

    A CPU without AVX-512 BF16 or AMX emulates bfloat16 and is slower with it than in float32. Other names are
    returned as they are.

    Raises:
        ConfigError: for an unknown name, and for float16 without CUDA, where torch has no gradient scaling.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}: choose from {list(PRECISIONS)}")
    if precision == "float16" and device.type != "cuda":
        raise ConfigError("precision 'float16' needs a CUDA device: use 'auto' or 'float32' on this one")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        is_native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        is_native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if is_native else "float32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Return the autocast context of a precision, on CPU and CUDA alike.

    Raises:
        ValueError: see `choose_precision`.
    """
    precision = choose_precision(device, precision)
    return torch.autocast(device.type, dtype=DTYPES[precision], enabled=precision != "float32")


def make_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Return a gradient scaler that acts for float16 only (the other precisions need none)."""
    return torch.amp.GradScaler(device.type, enabled=precision == "float16")
