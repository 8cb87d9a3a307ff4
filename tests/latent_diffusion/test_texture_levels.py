"""Levels of texture: their mean, what they follow from, their seed, and cards without them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from medldm.errors import ConfigError
from medldm.latent_diffusion import texture as module
from medldm.latent_diffusion.texture import TABLE_SHAPE, Texture
from medldm.latent_diffusion.texture_levels import DetailSum, TextureLevels


def make_levels(spread: float = 0.4, *, slope: float = 0.0, n_channels: int = 1) -> TextureLevels:
    each = torch.ones(n_channels)
    return TextureLevels(
        offset=-(spread**2) / 2 * each,
        slope=slope * each,
        centre=-3.0 * each,
        low=-4.0 * each,
        high=-2.5 * each,
        root=spread * torch.eye(n_channels),
    )


def make_texture(levels: TextureLevels | None, n_channels: int = 1) -> Texture:
    scales = torch.full((n_channels, *TABLE_SHAPE), 0.1)
    return Texture(torch.ones(n_channels, 1, 1, 1), scales, levels=levels)


def test_levels_are_log_normal_with_mean_one() -> None:
    levels, detail = make_levels(0.4), torch.tensor([-3.0])
    drawn = torch.cat([levels.draw(detail, seed) for seed in range(4000)])
    assert drawn.mean() == pytest.approx(1.0, abs=0.03) and drawn.log().std() == pytest.approx(0.4, rel=0.05)


def test_the_level_follows_detail_within_the_range_of_the_cases() -> None:
    levels = make_levels(0.0, slope=1.5)
    found = [float(levels.draw(torch.tensor([p]), 1).log()) for p in (-9.0, -4.0, -3.0, -2.8, torch.nan)]
    assert found == pytest.approx([-1.5, -1.5, 0.0, 0.3, 0.0], abs=1e-6)


def test_channels_that_are_noisy_together_are_drawn_together() -> None:
    levels = replace(make_levels(n_channels=2), root=torch.tensor([[0.4, 0.3], [0.3, 0.4]]))
    logs = torch.stack([levels.draw(torch.full((2,), -3.0), seed).log() for seed in range(3000)])
    assert torch.corrcoef(logs.T)[0, 1] == pytest.approx(2 * 0.12 / 0.25, abs=0.03)
    torch.testing.assert_close(logs.std(0), levels.spread, rtol=0.05, atol=0)


def test_the_field_is_that_of_one_level_times_the_root_of_the_volume_s_own() -> None:
    plain, texture = make_texture(None), make_texture(make_levels())
    volume = torch.rand(1, 9, 8, 10) - 0.5
    for seed in (3, 4):
        level = texture.level_of(volume, seed)
        expected = plain.draw_field(volume, seed) * level.sqrt()
        torch.testing.assert_close(texture.draw_field(volume, seed), expected)
        assert torch.equal(texture.draw_field(volume, seed), texture.draw_field(volume, seed))
        assert level != 1
    assert texture.level_of(volume, 3) != texture.level_of(volume, 4)


def test_detail_is_the_finest_diagonal_energy_where_texture_is_drawn(monkeypatch) -> None:
    texture = make_texture(make_levels())
    noise = 0.05 * torch.randn(1, 24, 22, 26, generator=torch.Generator().manual_seed(0))
    # Of white noise each of the 8 corners of the third difference adds the variance.
    assert float(texture.measure_detail(noise).exp()) == pytest.approx(8 * 0.05**2, rel=0.05)
    whole = texture.measure_detail(noise)
    monkeypatch.setattr(module, "_SLAB_VOXELS", 5 * 22 * 26)
    assert torch.equal(texture.measure_detail(noise), whole)
    texture.scales[:, 0] = texture.scales[:, 1] = 0.0
    padded = torch.cat([noise, torch.full((1, 24, 22, 26), -1.0)], dim=1)
    torch.testing.assert_close(texture.measure_detail(padded), whole, atol=0.02, rtol=0)
    assert DetailSum().value().isnan()


def test_a_card_without_levels_draws_as_before_and_one_with_keeps_them() -> None:
    volume = torch.rand(1, 9, 8, 10) - 0.5
    old = {name: value for name, value in make_texture(make_levels()).to_dict().items() if name != "levels"}
    assert torch.equal(Texture.from_dict(old).draw_field(volume, 1), make_texture(None).draw_field(volume, 1))
    again = Texture.from_dict(make_texture(make_levels()).to_dict())
    assert again.sha256 == Texture.from_dict(again.to_dict()).sha256 != make_texture(None).sha256
    assert torch.equal(again.draw_field(volume, 1), make_texture(again.levels).draw_field(volume, 1))


def test_what_describes_no_levels_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not describe the levels"):
        TextureLevels.from_dict({"offset": [0.0]})
    with pytest.raises(ConfigError, match="2 channels has levels of 1"):
        make_texture(make_levels(), n_channels=2)
    with pytest.raises(ConfigError, match="finite"):
        replace(make_levels(), offset=torch.tensor([torch.nan]))
