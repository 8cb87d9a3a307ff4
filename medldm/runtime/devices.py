"""Which device to run on."""

from __future__ import annotations

import torch


def choose_device(name: str = "auto") -> torch.device:
    """Return the device of that name; "auto" is the current CUDA device, or the CPU where there is none.

    Raises:
        ValueError: if CUDA is asked for where there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {name!r}, but torch sees no CUDA device: use 'cpu' or 'auto'")
    return device
