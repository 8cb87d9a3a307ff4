"""The table of what was drawn and what came out gives the slope and the correlation of a known relation."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "fidelity" / "appearance.py"
spec = importlib.util.spec_from_file_location("appearance", FILE)
assert spec is not None and spec.loader is not None
appearance = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = appearance
spec.loader.exec_module(appearance)


def test_a_known_slope_and_correlation_are_found() -> None:
    told, rest, real = torch.randn(3, 20_000, 2, generator=torch.Generator().manual_seed(0))
    slopes, spreads = torch.tensor([0.5, 1.0]), torch.tensor([0.5, 0.0])
    found = appearance.compare(told, slopes * told + spreads * rest, 3 * real)
    assert [each.slope for each in found] == pytest.approx([0.5, 1.0], abs=0.02)
    assert [each.correlation for each in found] == pytest.approx([0.5**0.5, 1.0], abs=0.02)
    assert [each.made_spread for each in found] == pytest.approx([0.5**0.5, 1.0], abs=0.02)
    assert [each.real_spread for each in found] == pytest.approx([3.0, 3.0], abs=0.06)


def test_volumes_for_maps_follow_from_their_seed_and_are_measured_as_cases_are(make_model) -> None:
    model = make_model(("label_map",))
    maps = torch.zeros(2, 1, 15, 20, 16)
    sampler = appearance.LatentDiffusionSampler(model)
    first, again = (appearance.make_volumes(sampler, maps, seed=seed, num_steps=2) for seed in (1, 1))
    assert first.shape == maps.shape and torch.equal(first, again)
