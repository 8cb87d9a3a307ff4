from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medldm.errors import ConfigError
from medldm.networks.block_transform import (
    BlockMoments,
    BlockTransform,
    cosine_transform,
    depth_to_space,
    space_to_depth,
)

FACTORS = [(2, 2, 2), (4, 4, 1), (2, 1, 4), (4, 2)]


def smooth_volumes(
    generator: torch.Generator, factors: tuple[int, ...], *, channels: int = 2, n: int = 6
) -> torch.Tensor:
    """Correlated noise, so that components differ in variance."""
    size = [8 * factor for factor in factors]
    noise = torch.randn(n, channels, *size, generator=generator, dtype=torch.float64)
    for axis in range(2, noise.ndim):
        noise = noise + 0.8 * noise.roll(1, axis)
    return noise + 0.3 * noise.roll(1, 1)


def stacked_blocks(volumes: torch.Tensor, factors: tuple[int, ...]) -> np.ndarray:
    """Cut blocks by loops, one row for each."""
    array, rows = volumes.numpy(), []
    counts = [size // factor for size, factor in zip(array.shape[2:], factors, strict=True)]
    for volume in array:
        for place in product(*map(range, counts)):
            window = tuple(slice(i * f, (i + 1) * f) for i, f in zip(place, factors, strict=True))
            rows.append(volume[(slice(None), *window)].ravel())
    return np.stack(rows)


def fit(volumes: torch.Tensor, factors: tuple[int, ...]) -> BlockTransform:
    moments = BlockMoments(volumes.shape[1], factors)
    for volume in volumes:
        moments.add(volume[None])
    return moments.fit()


@pytest.mark.parametrize("factors", FACTORS)
def test_blocks_become_channels_and_come_back(factors: tuple[int, ...], generator: torch.Generator) -> None:
    volumes = smooth_volumes(generator, factors, n=2)
    blocks = space_to_depth(volumes, factors)
    rows = blocks.flatten(2).movedim(1, 2).reshape(-1, blocks.shape[1]).numpy()
    assert np.array_equal(rows, stacked_blocks(volumes, factors))
    assert torch.equal(depth_to_space(blocks, factors), volumes)


@pytest.mark.parametrize("factors", FACTORS)
def test_basis_is_that_of_a_singular_value_decomposition_of_stacked_blocks(
    factors: tuple[int, ...], generator: torch.Generator
) -> None:
    volumes = smooth_volumes(generator, factors)
    rows, transform = stacked_blocks(volumes, factors), fit(volumes, factors)
    np.testing.assert_allclose(transform.mean.numpy(), rows.mean(0), atol=1e-12)
    _, values, vectors = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    np.testing.assert_allclose(transform.variances.numpy(), values**2 / len(rows), rtol=1e-9)
    # The same up to a sign, which is that of the largest value.
    np.testing.assert_allclose(np.abs((vectors * transform.basis.numpy()).sum(1)), 1, rtol=1e-6)
    largest = np.abs(transform.basis.numpy()).argmax(1)
    assert (transform.basis.numpy()[np.arange(len(largest)), largest] > 0).all()


@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize("k", [1, 3, 7])
def test_energy_kept_is_the_sum_of_the_kept_variances(
    factors: tuple[int, ...], k: int, generator: torch.Generator
) -> None:
    volumes = smooth_volumes(generator, factors)
    transform = fit(volumes, factors)
    blocks = space_to_depth(volumes, factors).movedim(1, -1).reshape(-1, len(transform.mean))
    centred = blocks - transform.mean
    kept = centred @ transform.basis[:k].mT
    n = len(blocks)
    torch.testing.assert_close(kept.square().sum() / n, transform.variances[:k].sum(), rtol=1e-6, atol=0)
    lost = (centred - kept @ transform.basis[:k]).square().sum() / n
    torch.testing.assert_close(lost, transform.variances[k:].sum(), rtol=1e-6, atol=1e-12)


def test_moments_of_parts_add_up_to_those_of_all(generator: torch.Generator) -> None:
    volumes = smooth_volumes(generator, (2, 2, 2))
    whole = fit(volumes, (2, 2, 2))
    parts = [BlockMoments(2, (2, 2, 2)) for _ in range(3)]
    for place, volume in enumerate(volumes):
        parts[place % 3].add(volume[None])
    joined = BlockMoments(2, (2, 2, 2))
    for own, *others in zip(joined.tensors(), *(part.tensors() for part in parts), strict=True):
        own.copy_(sum(others))  # type: ignore[arg-type]
    for found, expected in zip(vars(joined.fit()).values(), vars(whole).values(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("factors", FACTORS)
def test_cosine_transform_is_orthonormal_and_begins_with_the_means_of_channels(
    factors: tuple[int, ...],
) -> None:
    basis = cosine_transform(2, factors).basis
    torch.testing.assert_close(basis @ basis.mT, torch.eye(len(basis), dtype=torch.float64))
    half = len(basis) // 2
    expected = torch.zeros(2, len(basis), dtype=torch.float64)
    expected[0, :half] = expected[1, half:] = half**-0.5
    torch.testing.assert_close(basis[:2], expected)


def test_encoding_is_a_convolution_whose_kernel_is_its_stride(generator: torch.Generator) -> None:
    volumes = smooth_volumes(generator, (4, 2, 1), n=1)
    basis = fit(volumes, (4, 2, 1)).basis[:5]
    by_blocks = basis @ space_to_depth(volumes, (4, 2, 1)).flatten(2)
    convolved = F.conv3d(volumes, basis.view(5, 2, 4, 2, 1), stride=(4, 2, 1))
    torch.testing.assert_close(by_blocks.view_as(convolved), convolved)
    back = depth_to_space((basis.mT @ by_blocks).view(1, -1, *convolved.shape[2:]), (4, 2, 1))
    transposed = F.conv_transpose3d(convolved, basis.view(5, 2, 4, 2, 1), stride=(4, 2, 1))
    torch.testing.assert_close(back, transposed)


def test_no_volume_is_refused() -> None:
    with pytest.raises(ConfigError, match="no volume to fit the linear path"):
        BlockMoments(1, (2, 2, 2)).fit()
