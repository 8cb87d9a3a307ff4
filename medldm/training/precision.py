"""Automatic mixed precision, seeds and weight averaging, the same for both stages."""

from __future__ import annotations

import random
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PRECISIONS = ("auto", *DTYPES)


def choose_precision(device: torch.device, precision: str) -> str:
    """Return what "auto" stands for: bfloat16 where the device computes in it natively, else float32.

    A CPU without AVX-512 BF16 or AMX emulates bfloat16 and is slower with it than in float32. Other names are
    returned as they are.

    Raises:
        ValueError: for an unknown name, and for float16 without CUDA, where torch has no gradient scaling.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}: choose from {list(PRECISIONS)}")
    if precision == "float16" and device.type != "cuda":
        raise ValueError("precision 'float16' needs a CUDA device: use 'auto' or 'float32' on this one")
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


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch for a training; called by the workflows, never on import."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def average_weights(module: nn.Module, decay: float) -> AveragedModel:
    """Return an exponential moving average of a module's weights; its `.module` is the averaged network.

    The decay rises with the number of updates n as min(decay, (1 + n) / (10 + n)), so that early averages
    forget the initialisation. Buffers are copied.

    Args:
        module: the module that is trained.
        decay: of the average, in [0, 1); 0 keeps the latest weights.
    """

    def update(average: Tensor, current: Tensor, n_updates: Tensor | int) -> Tensor:
        n = int(n_updates)
        return average.lerp(current, 1 - min(decay, (1 + n) / (10 + n)))

    return AveragedModel(module, avg_fn=update)
