from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medldm.networks.lapped_transform import BorderMoments, turn_borders

SHAPES = [((12, 8, 12), (4, 4, 4)), ((16, 6, 5), (4, 2, 1)), ((24, 4, 8), (8, 4, 8)), ((12, 6), (4, 2))]
ANGLES = torch.tensor([-0.3, 0.7, -0.45], dtype=torch.float64)


def volumes_of(
    size: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    return torch.randn(2, 2, *size, generator=generator, dtype=dtype)


def matrix_of(n: int, factor: int, angle: float) -> np.ndarray:
    """Write T for n voxels of an axis as its definition has it, window by window."""
    whole, c, s = np.eye(n), math.cos(angle), math.sin(angle)
    turn = np.array([[c, s], [-s, c]])
    for border in range(factor, n, factor):
        if factor == 2:
            window = turn
        else:
            unit, mirror = np.eye(2), np.eye(2)[::-1]
            sums, differences = np.hstack([unit, mirror]) / 2**0.5, np.hstack([unit, -mirror]) / 2**0.5
            window = sums.T @ sums + differences.T @ turn @ differences
        half = len(window) // 2
        whole[border - half : border + half, border - half : border + half] = window
    return whole


@pytest.mark.parametrize(("size", "factors"), SHAPES)
def test_windows_are_those_of_the_definition(size, factors, generator: torch.Generator) -> None:
    x = volumes_of(size, generator)
    expected, angles = x.numpy(), ANGLES[: len(size)]
    for axis, (n, factor) in enumerate(zip(size, factors, strict=True), start=2):
        if factor > 1:
            turned = np.tensordot(matrix_of(n, factor, float(angles[axis - 2])), expected, axes=(1, axis))
            expected = np.moveaxis(turned, 0, axis)
    np.testing.assert_allclose(turn_borders(x, factors, angles=angles).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize(("size", "factors"), SHAPES)
def test_the_transpose_inverts_it_and_energy_stays(
    size, factors, dtype: torch.dtype, rtol: float, generator: torch.Generator
) -> None:
    x, y = volumes_of(size, generator, dtype), volumes_of(size, generator, dtype)
    angles, kept = ANGLES[: len(size)], x.clone()
    turned = turn_borders(x, factors, angles=angles)
    assert torch.equal(x, kept)
    assert not torch.allclose(turned, x, atol=0.1)
    back = turn_borders(turned, factors, angles=angles, is_back=True)
    torch.testing.assert_close(back, x, rtol=0, atol=3 * rtol)
    torch.testing.assert_close(turned.square().sum(), x.square().sum(), rtol=rtol, atol=0)
    # The way back is the transpose: <T x, y> = <x, T^T y>.
    adjoint = turn_borders(y, factors, angles=angles, is_back=True)
    torch.testing.assert_close((turned * y).sum(), (x * adjoint).sum(), rtol=10 * rtol, atol=10 * rtol)


def test_constants_and_outer_borders_stay(generator: torch.Generator) -> None:
    constant = torch.full((1, 1, 12, 16, 8), -1.0)
    torch.testing.assert_close(turn_borders(constant, (4, 8, 4), angles=ANGLES), constant)
    x = volumes_of((12, 16, 8), generator)
    turned = turn_borders(x, (4, 8, 4), angles=ANGLES)
    corners = (..., [0, 1, -2, -1], slice(0, 6), [0, 1, -1])
    rows = (..., slice(0, 6), [0, 1, -1])
    assert torch.equal(turned[..., [0, 1, -2, -1], :, :][rows], x[corners[0], corners[1], :, :][rows])
    one_block = volumes_of((4, 8, 4), generator)
    assert torch.equal(turn_borders(one_block, (4, 8, 4), angles=ANGLES), one_block)


def test_a_level_is_taken_before_and_added_after(generator: torch.Generator) -> None:
    x, level = volumes_of((8, 6, 4), generator), torch.tensor([2.0, -1.0])
    options = {"angles": ANGLES, "level": level}
    turned = turn_borders(x, (2, 2, 4), **options)
    by_hand = turn_borders(x - level.view(2, 1, 1, 1), (2, 2, 4), angles=ANGLES)
    torch.testing.assert_close(turned, by_hand, rtol=0, atol=0)
    torch.testing.assert_close(turn_borders(turned, (2, 2, 4), is_back=True, **options), x)
    # Background does not show where the volume ends.
    background = level.view(1, 2, 1, 1, 1).expand(1, 2, 8, 6, 4)
    assert not turn_borders(background, (2, 2, 4), **options).any()


def test_the_level_is_the_mean_of_outermost_voxels_of_halved_axes(generator: torch.Generator) -> None:
    moments = BorderMoments(2, (4, 2, 2))
    x = volumes_of((8, 6, 4), generator)
    moments.add(x)
    outer = torch.cat(
        [x[:, :, :, [0, -1]].transpose(0, 1).flatten(1), x[..., [0, -1]].transpose(0, 1).flatten(1)], 1
    )
    torch.testing.assert_close(moments.fit_level(), outer.mean(1))
    assert not BorderMoments(2, (4, 4, 1)).fit_level().any()


def test_gradients_are_those_of_the_transpose(generator: torch.Generator) -> None:
    x, y = volumes_of((8, 8, 6), generator), volumes_of((8, 8, 6), generator)
    x.requires_grad_()
    (turn_borders(x, (4, 4, 2), angles=ANGLES) * y).sum().backward()
    torch.testing.assert_close(x.grad, turn_borders(y, (4, 4, 2), angles=ANGLES, is_back=True))


def test_two_voxels_give_the_filter_of_daubechies() -> None:
    root = 3**0.5
    taps = torch.tensor([1 + root, 3 + root, 3 - root, 1 - root], dtype=torch.float64) / (4 * 2**0.5)
    units = torch.eye(6, dtype=torch.float64)[None]
    angle = torch.tensor([-math.pi / 6], dtype=torch.float64)
    rows = turn_borders(units, (2,), angles=angle)[0, 1:5, 2:4].mT
    # Both rows of a block span the filter and its mirror image in frequency.
    found = (rows @ taps).square().sum()
    mirrored = (rows @ taps.flip(0)).square().sum()
    torch.testing.assert_close(torch.maximum(found, mirrored), torch.ones(()).double())


def correlated(n: int, correlation: float, generator: torch.Generator) -> torch.Tensor:
    """Lines (1, 1, 4000, n) of a first-order autoregressive process of unit variance along the last axis."""
    values = [torch.randn(4000, generator=generator, dtype=torch.float64)]
    for _ in range(n - 1):
        fresh = torch.randn(4000, generator=generator, dtype=torch.float64)
        values.append(correlation * values[-1] + (1 - correlation**2) ** 0.5 * fresh)
    return torch.stack(values, dim=1)[None, None]


@pytest.mark.parametrize(("factor", "k"), [(4, 1), (4, 2), (2, 1), (8, 3)])
def test_the_angle_is_the_best_of_a_process_whose_covariance_is_known(
    factor: int, k: int, generator: torch.Generator
) -> None:
    moments = BorderMoments(1, (1, factor))
    moments.add(correlated(8 * factor, 0.9, generator))
    angles = moments.fit(k)
    places = np.arange(3 * factor)
    covariance = 0.9 ** np.abs(places[:, None] - places)

    def kept(angle: float) -> float:
        block = matrix_of(3 * factor, factor, angle)[factor : 2 * factor]
        values = np.linalg.eigvalsh(block @ covariance @ block.T)
        return float(values[-k:].sum() + 0.5 * values[-math.ceil(k / 2) :].sum())

    tried = np.linspace(-1.57, 0.78, 400)
    assert angles[0] == 0
    assert kept(float(angles[1])) > max(map(kept, tried)) - 1e-3 * factor
    assert kept(float(angles[1])) > kept(0) + 0.003 * factor


def test_components_are_shared_by_axes_and_channels(generator: torch.Generator) -> None:
    lines = correlated(32, 0.9, generator)[:, :, :3200].reshape(100, 1, 32, 32)
    volume = lines.expand(100, 1, 32, 32)
    one, two = BorderMoments(1, (4, 4)), BorderMoments(2, (4, 4))
    one.add(volume)
    two.add(torch.cat([volume, 2 * volume + 3], dim=1))
    torch.testing.assert_close(one.fit(3), two.fit(6))
    assert not torch.equal(one.fit(1), one.fit(9))


def test_moments_of_parts_add_up_to_those_of_all(generator: torch.Generator) -> None:
    volumes = correlated(24, 0.8, generator)[0, 0, :24].view(3, 1, 8, 24).repeat(1, 1, 3, 1)
    whole, parts = BorderMoments(1, (4, 2)), [BorderMoments(1, (4, 2)) for _ in range(2)]
    whole.add(volumes)
    for place, volume in enumerate(volumes):
        parts[place % 2].add(volume[None])
    for expected, *found in zip(whole.tensors(), *(part.tensors() for part in parts), strict=True):
        torch.testing.assert_close(sum(found), expected)


@pytest.mark.parametrize("size", [(8, 8, 4), (4, 4, 4)])
def test_without_inner_blocks_or_without_variance_nothing_is_turned(
    size: tuple[int, ...], generator: torch.Generator
) -> None:
    moments = BorderMoments(2, (4, 4, 4))
    moments.add(volumes_of(size, generator))
    assert torch.equal(moments.fit(8), torch.zeros(3).double())
    flat = BorderMoments(1, (4, 4, 4))
    flat.add(torch.full((1, 1, 16, 16, 16), -1.0))
    assert torch.equal(flat.fit(8), torch.zeros(3).double())
