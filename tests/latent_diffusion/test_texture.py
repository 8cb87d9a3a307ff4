"""Texture: the spectrum and the scale that are drawn, seeds, flat regions, and what a card keeps."""

from __future__ import annotations

import itertools

import pytest
import torch

from medldm.errors import ConfigError
from medldm.latent_diffusion import texture as module
from medldm.latent_diffusion.texture import (
    INTENSITY_NODES,
    SPREAD_NODES,
    TABLE_SHAPE,
    Texture,
    place_in_table,
)


def make_texture(n_channels: int = 1, *, scale: float = 0.1) -> Texture:
    """Low-pass along X, high-pass along Z, white along Y; the scale grows with the intensity."""
    along = torch.tensor([0.6, 0.25]), torch.tensor([1.0, 0.0]), torch.tensor([0.7, -0.3])
    part = along[0][:, None, None] * along[1][:, None] * along[2]
    scales = (scale * (2 + INTENSITY_NODES[:, None])).expand(TABLE_SHAPE).clone()
    return Texture(part.repeat(n_channels, 1, 1, 1), scales.repeat(n_channels, 1, 1))


def test_the_field_has_the_spectrum_and_the_scale_asked_for() -> None:
    """In terms of its autocovariance, which a finite field shows without leakage."""
    texture = make_texture()
    volume = torch.full((1, 24, 20, 22), 0.5)  # s is 0.25 there
    fields = torch.stack([texture.draw_field(volume, seed)[0] for seed in range(60)])
    along_x = {0: 0.25**2 * 2 + 0.6**2, 1: 2 * 0.25 * 0.6, 2: 0.25**2, 3: 0.0}
    along_z = {0: 0.3**2 * 2 + 0.7**2, 1: -2 * 0.3 * 0.7, 2: 0.3**2}
    for x, y, z in itertools.product(along_x, (0, 1), along_z):
        pairs = fields[:, x:, y:, z:] * fields[:, : 24 - x, : 20 - y, : 22 - z]
        expected = 0.25**2 * along_x[x] * along_z[z] * (y == 0)
        assert pairs.mean() == pytest.approx(expected, abs=2e-4), (x, y, z)


def test_the_kernel_is_symmetric_along_each_axis() -> None:
    kernel = make_texture().kernel()
    assert kernel.shape == (3, 3, 3) and all(torch.equal(kernel, kernel.flip(axis)) for axis in range(3))
    assert kernel[1, 1, 1] == pytest.approx(0.6 * 0.7) and kernel[0, 1, 2] == pytest.approx(0.25 * -0.3)


def test_the_scale_is_interpolated_over_intensity_and_the_logarithm_of_spread() -> None:
    torch.manual_seed(0)
    table = torch.rand(TABLE_SHAPE)
    texture = Texture(torch.ones(1, 1, 1, 1), table[None])
    # A checkerboard of +-a: 14 voxels of one sign and 13 of the other have the variance a^2 (1 - 1 / 27^2).
    a = float((SPREAD_NODES[4] * SPREAD_NODES[5]).sqrt()) / (1 - 1 / 27**2) ** 0.5
    grid = torch.stack(torch.meshgrid(*[torch.arange(9)] * 3, indexing="ij")).sum(0)
    volume = a * (1 - 2 * (grid % 2).float())
    place = place_in_table(volume)
    assert place.spread[4, 4, 4] == pytest.approx(4.5, abs=1e-3)
    u = float((volume[4, 4, 4] + 1) * 4.5)
    rows = table[int(u)] * (1 - (u - int(u))) + table[int(u) + 1] * (u - int(u))
    assert texture.scale_of(volume[None])[0, 4, 4, 4] == pytest.approx(
        float((rows[4] + rows[5]) / 2), abs=1e-3
    )


def test_a_volume_has_the_same_texture_alone_in_a_batch_and_in_slabs(monkeypatch) -> None:
    texture = make_texture(2)
    volumes = torch.rand(3, 2, 11, 9, 10) - 0.5
    together = texture.draw(volumes, [5, 6, 7])
    for number in range(3):
        alone = texture.draw(volumes[number : number + 1], [5 + number])
        assert torch.equal(alone[0], together[number])
    monkeypatch.setattr(module, "_SLAB_VOXELS", 3 * 9 * 10)
    torch.testing.assert_close(texture.draw(volumes, [5, 6, 7]), together, atol=1e-6, rtol=1e-5)


def test_seeds_channels_and_half_precision_draw_what_they_should() -> None:
    texture = make_texture(2)
    volume = torch.zeros(2, 8, 8, 8)
    field = texture.draw_field(volume, 1)
    assert not torch.allclose(field, texture.draw_field(volume, 2))
    assert not torch.allclose(field[0], field[1])
    assert texture.draw(volume[None].bfloat16(), [1]).dtype == torch.bfloat16


def test_what_is_flat_stays_and_nothing_leaves_the_range() -> None:
    texture = make_texture(scale=1.0)
    texture.scales[:, 0, 0] = 0.0
    volume = torch.full((1, 1, 16, 12, 12), -1.0)
    volume[:, :, 8:] = 0.5
    drawn = texture.draw(volume, [3])
    assert (drawn[:, :, :7] == -1).all()
    assert (drawn[:, :, 9:] != volume[:, :, 9:]).any() and drawn.abs().max() <= 1


def test_a_card_keeps_a_texture_to_six_digits_and_then_to_the_bit() -> None:
    texture = Texture.from_dict(make_texture().to_dict())
    again = Texture.from_dict(texture.to_dict())
    assert torch.equal(texture.filters, again.filters) and texture.sha256 == again.sha256
    torch.testing.assert_close(texture.filters, make_texture().filters, rtol=1e-5, atol=0)


@pytest.mark.parametrize("description", [{}, {"filters": [[1]], "scales": 3}, {"filters": "a", "scales": []}])
def test_what_describes_no_texture_is_refused(description) -> None:
    with pytest.raises(ConfigError):
        Texture.from_dict(description)


def test_volumes_of_other_channels_are_refused() -> None:
    with pytest.raises(ConfigError, match="texture of 1 channels is drawn on a volume of shape"):
        make_texture().draw(torch.zeros(1, 2, 8, 8, 8), [0])
    with pytest.raises(ConfigError, match="finite"):
        Texture(torch.full((1, 2, 2, 2), torch.nan), torch.zeros(1, *TABLE_SHAPE))
