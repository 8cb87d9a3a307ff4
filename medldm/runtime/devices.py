"""Which device to run on."""

from __future__ import annotations

import torch

from medldm.errors import MedldmError


class DeviceError(MedldmError, ValueError):
    """Report a device that is not there."""


def choose_device(name: str = "auto") -> torch.device:
    """Return the device of that name; "auto" is the current CUDA device, or the CPU where there is none.

    Raises:
        DeviceError: if it is no name of a device, or torch sees no such CUDA device.
    """
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if n_gpus else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"device is {name!r}: 'auto', 'cpu', 'cuda' or 'cuda:1' would be one") from error
    if device.type == "cuda" and (device.index or 0) >= n_gpus:
        seen = f"cuda:0 to cuda:{n_gpus - 1}" if n_gpus else "no CUDA device"
        raise DeviceError(f"device is {name!r}, but torch sees {seen}: use 'cpu' or 'auto'")
    return device
