"""Every generator of the process: Python, NumPy, torch, CUDA."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from medldm.runtime.distributed import world_size


def capture_random_state() -> dict[str, Any]:
    """Return the states of the generators of Python, NumPy, torch and each CUDA device."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Set the generators to captured states; those of CUDA devices that are not here are left out.

    Of several processes each takes, for its GPU, the state of the first process's GPU: all draw for the whole
    batch.
    """
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if not torch.cuda.is_available():
        return
    if world_size() > 1:
        torch.cuda.set_rng_state(state["cuda"][0])
    else:
        for device, own in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(own, device)
