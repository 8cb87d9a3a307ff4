"""The best linear estimate of the mean reaches the figures that the table calls best."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "fidelity" / "brightness.py"
spec = importlib.util.spec_from_file_location("brightness", FILE)
assert spec is not None and spec.loader is not None
brightness = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = brightness
spec.loader.exec_module(brightness)

SPREAD = 0.2


def draw_latents(n: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    means = SPREAD * torch.randn(n, 2, 1, 1, 1, generator=generator)
    return means + torch.randn(n, 2, 6, 6, 6, generator=generator)


def test_the_best_linear_estimate_has_the_best_spread_and_correlation() -> None:
    latents = draw_latents(4000)
    own = brightness.spread_of(latents[:, 0]) ** 2

    def estimate(clean: Tensor, noise: Tensor, level: float) -> Tensor:
        gain = own / (own + level**2 / 216)
        return gain * (clean + level * noise)

    for found in brightness.measure(latents, estimate):
        assert found.spread == pytest.approx(found.best_spread, rel=0.08)
        assert found.correlation == pytest.approx(found.best_correlation, abs=0.05)


def test_an_estimate_that_knows_no_case_has_no_spread() -> None:
    found = brightness.measure(draw_latents(50), lambda clean, noise, level: 0 * clean + clean.mean())
    assert max(each.spread for each in found) < 1e-6 < min(each.best_spread for each in found)
