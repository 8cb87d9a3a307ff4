"""The fit of a texture: what smooth volumes and noise of known spectrum and scale give back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from medldm.errors import ConfigError
from medldm.latent_diffusion.texture import INTENSITY_NODES, TABLE_SHAPE, Texture
from medldm.training.texture_fit import autocovariance, fit_texture, is_flat

SIZE = (40, 36, 38)


def smooth_volume(seed: int, size: tuple[int, ...] = SIZE) -> Tensor:
    """Smooth blobs (1, X, Y, Z) in [-0.6, 0.6]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 1, 5, 5, 5, generator=generator) * 1.2 - 0.6
    return F.interpolate(coarse, size=size, mode="trilinear", align_corners=True)[0]


def known_texture() -> Texture:
    """Anisotropic grain whose strength grows with the intensity from 0.04 to 0.08, over [-0.6, 0.6]."""
    part = (
        torch.tensor([0.8, 0.3])[:, None, None] * torch.tensor([1.0, 0.0])[:, None] * torch.tensor([0.9, 0.2])
    )
    part = part / make_kernel(part).square().sum().sqrt()
    scales = (0.06 + 0.02 * INTENSITY_NODES[:, None] / 0.6).clamp(min=0.01).expand(TABLE_SHAPE)
    return Texture(part[None], scales.clone()[None])


def make_kernel(part: Tensor) -> Tensor:
    return Texture(part[None], torch.zeros(1, *TABLE_SHAPE)).kernel()


def power(volumes: list[Tensor]) -> Tensor:
    """Mean power of volumes in coarse bands of each axis' frequency."""
    mean = torch.stack([torch.fft.fftn(v[0]).abs().square() / v.numel() for v in volumes]).mean(0)
    return F.adaptive_avg_pool3d(torch.fft.fftshift(mean)[None, None], 6)[0, 0]


def test_a_known_spectrum_and_scale_are_recovered() -> None:
    truth, decoded = known_texture(), [smooth_volume(seed) for seed in range(6)]
    real = [y + truth.draw_field(y, seed) for seed, y in enumerate(decoded)]
    fitted = fit_texture(list(zip(real, decoded, strict=True)))
    found = torch.cat([fitted.scale_of(y).flatten() for y in decoded])
    expected = torch.cat([truth.scale_of(y).flatten() for y in decoded])
    assert (found / expected - 1).abs().mean() < 0.03
    wanted, got = (torch.fft.fftn(each.kernel(), s=(16, 16, 16)).abs().square() for each in (truth, fitted))
    # The window of the autocovariance takes a little of the correlation between neighbours.
    assert (got - wanted).abs().mean() / wanted.mean() < 0.08


def test_volumes_with_texture_have_the_power_of_real_ones_also_for_a_decoder_of_low_contrast() -> None:
    truth, inside = known_texture(), [smooth_volume(seed) for seed in range(8)]
    real = [y + truth.draw_field(y, seed) for seed, y in enumerate(inside)]
    decoded = [0.98 * y + 0.3 * (x - y) for x, y in zip(real, inside, strict=True)]
    fitted = fit_texture(list(zip(real, decoded, strict=True))[:6])
    drawn = [y + fitted.draw_field(y, 100 + number) for number, y in enumerate(decoded)]
    # In decibels; the lowest band holds the volumes' own power.
    gap = 10 * (power(drawn) / power(real)).log10().abs()
    before = 10 * (power(decoded) / power(real)).log10().abs()
    assert before.median() > 5 and gap.median() < 0.35 and gap.max() < 1.0


def test_lost_edges_are_not_made_up_for_by_noise_unless_asked_for() -> None:
    real = torch.zeros(1, 32, 32, 32)
    real[:, 8:24, 8:24, 8:24] = 0.8
    decoded = F.avg_pool3d(F.pad(real[None], (1,) * 6, mode="replicate"), 3, 1)[0]
    noise = 0.02 * torch.randn(real.shape, generator=torch.Generator().manual_seed(0))
    limited, free = (fit_texture([(real + noise, decoded)], limit=limit) for limit in (2.0, None))
    assert limited.scales.max() == pytest.approx(2 * 0.02, rel=0.1) and free.scales.max() > 0.1
    assert limited.draw_field(decoded, 1)[0, 12:20, 12:20, 12:20].std() == pytest.approx(0.02, rel=0.25)


def test_where_real_volumes_are_flat_nothing_is_drawn() -> None:
    pairs = []
    for seed in range(2):
        y = smooth_volume(seed)
        x = y + 0.1 * torch.randn(y.shape, generator=torch.Generator().manual_seed(seed))
        y[:, :10], x[:, :10] = -0.999, -1.0
        pairs.append((x, y))
    fitted = fit_texture(pairs)
    assert (fitted.draw_field(pairs[0][1], 5)[:, :8] == 0).all()
    assert fitted.draw_field(pairs[0][1], 5)[:, 15:].std() == pytest.approx(0.1, rel=0.1)


def test_a_perfect_decoder_gets_no_texture() -> None:
    volume = smooth_volume(0)
    fitted = fit_texture([(volume, volume)])
    assert torch.equal(fitted.draw(volume[None], [0]), volume[None])


def test_channels_are_fitted_alone_and_small_volumes_too() -> None:
    first, second = smooth_volume(0, (12, 6, 9)), smooth_volume(1, (12, 6, 9))
    generator = torch.Generator().manual_seed(0)
    x = [
        each + sd * torch.randn(each.shape, generator=generator)
        for each, sd in ((first, 0.02), (second, 0.1))
    ]
    fitted = fit_texture([(torch.cat(x), torch.cat([first, second]))])
    stds = fitted.draw_field(torch.cat([first, second]), 0).flatten(1).std(1)
    assert stds[0] == pytest.approx(0.02, rel=0.25) and stds[1] == pytest.approx(0.1, rel=0.25)


def test_the_autocovariance_is_that_of_its_definition() -> None:
    x = torch.randn(11, 5, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = autocovariance(x)
    assert found[0, 0, 0] == pytest.approx(float((x**2).sum()))
    one = (x[3:] * x[:-3]).sum()
    assert found[3, 0, 0] == pytest.approx(float(one))
    both = [(x[3:, 1:] * x[:-3, :-1]).sum(), (x[3:, :-1] * x[:-3, 1:]).sum()]
    assert found[3, 1, 0] == pytest.approx(float(sum(both) / 2))
    assert found[0, 5, 0] == pytest.approx(0.0, abs=1e-10)


def test_flat_voxels_have_equal_neighbours() -> None:
    x = torch.zeros(7, 7, 7)
    x[3, 3, 3] = 1.0
    expected = torch.ones(7, 7, 7, dtype=torch.bool)
    expected[2:5, 2:5, 2:5] = False
    assert torch.equal(is_flat(x), expected)


def test_pairs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="on no volumes"):
        fit_texture([])
    with pytest.raises(ConfigError, match=r"\(1, 4, 4, 4\) and its decoded one of \(1, 4, 4, 5\)"):
        fit_texture([(torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, 5))])
