"""The fit of levels: cohorts whose levels are known, cohorts of one level, and cohorts of few cases."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medldm.training.texture_fit import fit_texture
from medldm.training.texture_level_fit import LARGEST_SPREAD, energies_of, fit_levels
from tests.training.test_texture_fit import known_texture, smooth_volume

SIZE = (20, 18, 22)


def make_energies(
    n: int, *, spread: float, slope: float = 0.0, error: float = 0.03, n_channels: int = 1, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Residual, predicted, errors and detail of n cases of log-normal levels."""
    generator = torch.Generator().manual_seed(seed)
    z, e, p, m = torch.randn(4, n, n_channels, generator=generator, dtype=torch.float64)
    predicted = (0.2 * m).exp()
    logs = slope * p + spread * z - (slope**2 + spread**2) / 2 + error * e
    return predicted * logs.exp(), predicted, torch.full_like(m, error**2), p


def make_pairs(n: int, *, spread: float, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    truth, generator = known_texture(), torch.Generator().manual_seed(seed)
    levels = (spread * torch.randn(n, generator=generator)).exp()
    decoded = [smooth_volume(100 * seed + number, SIZE) for number in range(n)]
    fields = [truth.draw_field(y, number) for number, y in enumerate(decoded)]
    return [(y + level.sqrt() * field, y) for y, level, field in zip(decoded, levels, fields, strict=True)]


def test_a_known_spread_and_slope_are_recovered() -> None:
    levels = fit_levels(*make_energies(1000, spread=0.4, slope=0.5, error=0.2))
    assert float(levels.spread) == pytest.approx(0.4, rel=0.06)
    assert float(levels.slope) == pytest.approx(0.5, rel=0.06)


def test_the_expected_energy_is_that_of_the_residuals() -> None:
    residual, predicted, errors, detail = make_energies(25, spread=0.5, slope=0.4)
    levels = fit_levels(residual, predicted, errors, detail)
    drawn = torch.stack(
        [torch.stack([levels.draw(p.float(), seed) for p in detail]) for seed in range(300)]
    ).mean(0)
    assert float((predicted * drawn).sum() / predicted.sum()) == pytest.approx(1.0, abs=0.02)


def test_a_cohort_of_one_level_has_no_spread() -> None:
    levels = fit_levels(*make_energies(60, spread=0.0, error=0.1))
    assert float(levels.spread) < 0.04 and abs(float(levels.slope)) < 0.03
    found = fit_texture(make_pairs(16, spread=0.0)).levels
    assert float(found.spread) < 0.05 and float(found.offset) == pytest.approx(0.0, abs=0.05)


def test_levels_of_volumes_are_recovered_and_texture_keeps_its_energy() -> None:
    pairs = make_pairs(20, spread=0.5)
    fitted = fit_texture(pairs)
    expected = torch.tensor([float((x - y).square().mean().log()) for x, y in pairs])
    # The decoded volumes are as smooth for any level: nothing predicts it.
    assert float(fitted.levels.spread) == pytest.approx(float(expected.std()), rel=0.12)
    energies = [fitted.draw_field(y, seed).square().sum() for seed in range(3) for _, y in pairs]
    wanted = torch.stack([(x - y).square().sum() for x, y in pairs]).mean()
    assert float(torch.stack(energies).mean() / wanted) == pytest.approx(1.0, abs=0.15)
    assert fit_texture(pairs, has_levels=False).levels is None


def test_a_volume_whose_decoding_is_noisy_gets_more() -> None:
    pairs = make_pairs(16, spread=0.5)
    # The decoder keeps a third of the grain: its energy there is that of the level.
    fitted = fit_texture([(x, y + 0.3 * (x - y)) for x, y in pairs])
    assert float(fitted.levels.slope) == pytest.approx(1.0, abs=0.15) and float(fitted.levels.spread) < 0.2
    blind = fit_texture([(x, y + 0.3 * (x - y)) for x, y in pairs], sampled=[y for _, y in pairs])
    assert float(blind.levels.spread) > 0.35


def test_few_cases_give_no_slope_and_no_wide_spread() -> None:
    for n in (3, 4, 7):
        residual, predicted, errors, detail = make_energies(n, spread=0.3, slope=2.0, seed=n)
        residual[0] *= 1000
        levels = fit_levels(residual, predicted, errors, detail)
        assert float(levels.slope) == 0 and float(levels.spread) <= LARGEST_SPREAD + 1e-6
        assert math.exp(float(levels.offset)) < 1.01
    assert fit_levels(*make_energies(2, spread=0.3)) is None
    dead = make_energies(4, spread=0.3)
    dead[0][:2] = 0.0
    assert fit_levels(*dead) is None


def test_a_slope_that_chance_explains_is_none() -> None:
    slopes = []
    for seed in range(60):
        slopes.append(float(fit_levels(*make_energies(10, spread=0.3, seed=seed)).slope))
    assert sum(slope == 0 for slope in slopes) > 30 and abs(sum(slopes)) / 60 < 0.05


def test_channels_that_are_noisy_together_are_found_together() -> None:
    residual, predicted, errors, detail = make_energies(400, spread=0.3, n_channels=2)
    shared = 0.4 * torch.randn(400, 1, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    levels = fit_levels(residual * shared.exp(), predicted, errors, detail)
    covariance = levels.root @ levels.root.T
    assert covariance[0, 1] == pytest.approx(0.16, abs=0.03)
    assert covariance.diagonal().tolist() == pytest.approx([0.25, 0.25], rel=0.15)


def test_the_error_of_a_log_ratio_is_that_of_its_closed_form() -> None:
    generator, claimed = torch.Generator().manual_seed(0), []
    for _ in range(60):
        noise = torch.randn(24, 16, 20, generator=generator).square()
        total, expected, variance = energies_of(noise, torch.ones_like(noise))
        claimed.append(variance)
    assert total == pytest.approx(float(noise.double().sum())) and expected == noise.numel()
    # Of n squares of normal numbers the log mean has the variance 2 / n.
    assert float(torch.stack(claimed).mean()) == pytest.approx(2 / noise.numel(), rel=0.15)
    assert energies_of(noise[:1, :1, :1], torch.ones(1, 1, 1))[2] == 0
