"""What tests of solvers share: paths, and runs of a solver by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from medldm.diffusion import SOLVERS, DDPMPath, FlowPath, make_solver, run_solver

VP = DDPMPath()
ZERO_SNR = DDPMPath(zero_terminal_snr=True)
COSINE = DDPMPath(schedule="cosine")
FLOW = FlowPath()
PATHS = pytest.mark.parametrize("path", [VP, ZERO_SNR, FLOW], ids=["vp", "zero_snr", "flow"])
EVERY_SOLVER = pytest.mark.parametrize("solver", list(SOLVERS))


def no_noise() -> Tensor:
    """A source of noise that must not be asked."""
    raise AssertionError("fresh noise was drawn")


def run(
    name: str,
    denoise: Any,
    x: Tensor,
    steps: Any,
    *,
    noise: Any = no_noise,
    eta: float = 0.0,
    callback: Any = None,
) -> Tensor:
    """Run a solver by name, without noise unless told."""
    return run_solver(make_solver(name, noise=noise, eta=eta), denoise, x, steps, callback=callback)


def seeded_noise(x: Tensor, seed: int = 0) -> Callable[[], Tensor]:
    """Fresh normal noise like x."""
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(x.shape, generator=generator, dtype=x.dtype)
