"""Regions of an edit: which latents they free, how deep they are, how they are put into the original."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from medldm.editing.regions import blend_region, dilate_region, editable_latents, feather_weights

SIZE = (15, 20, 13)


@pytest.mark.parametrize("downsampling", [(2, 2, 2), (4, 4, 4), (4, 4, 2), (1, 8, 2)])
@pytest.mark.parametrize("margin", [0, 1, 2])
def test_editable_latents_are_those_with_a_voxel_of_the_region(generator, downsampling, margin) -> None:
    """Against a loop over blocks, with sizes that are no multiples."""
    region = torch.rand((1, 1, *SIZE), generator=generator) > 0.997
    blocks = np.zeros([-(-n // factor) for n, factor in zip(SIZE, downsampling, strict=True)], dtype=bool)
    for voxel in np.argwhere(region[0, 0].numpy()):
        blocks[tuple(voxel // np.array(downsampling))] = True
    expected = ndimage.maximum_filter(blocks, size=2 * margin + 1) if margin else blocks
    found = editable_latents(region, downsampling=downsampling, margin=margin)
    assert found.dtype == torch.bool
    assert np.array_equal(found[0, 0].numpy(), expected)


def test_weights_rise_with_the_depth_in_millimetres() -> None:
    region = np.zeros((1, 1, 20), dtype=bool)
    region[..., 5:15] = True
    weights = feather_weights(region, feather_mm=2.0, spacing_mm=(1, 1, 0.5))
    assert weights[0, 0, 4:11].tolist() == [0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert np.array_equal(feather_weights(region, feather_mm=0, spacing_mm=(1, 1, 1)), region.astype(float))


def test_widening_is_by_millimetres() -> None:
    region = np.zeros((9, 9, 9), dtype=bool)
    region[4, 4, 4] = True
    wide = dilate_region(region, margin_mm=2.0, spacing_mm=(2.0, 1.0, 0.5))
    assert [int(np.ptp(axis)) for axis in np.nonzero(wide)] == [2, 4, 8]
    assert np.array_equal(dilate_region(region, margin_mm=0.0, spacing_mm=(1, 1, 1)), region)


def test_composition_leaves_no_edge_where_the_model_changes_nothing(generator) -> None:
    """With the redrawn volume equal to the reconstruction, the border blends into the original."""
    original = torch.rand((12, 12, 12), generator=generator).numpy()
    reconstruction = ndimage.gaussian_filter(original, 1.0)
    region = np.zeros(original.shape, dtype=bool)
    region[3:9, 3:9, 3:9] = True
    weights = feather_weights(region, feather_mm=3.0, spacing_mm=(1, 1, 1))
    result = blend_region(original, reconstruction, reconstruction, region=region, weights=weights)
    assert np.array_equal(result[~region], original[~region])
    expected = weights * reconstruction + (1 - weights) * original
    assert np.allclose(result[region], expected[region], atol=1e-6)


def test_texture_takes_the_place_of_the_originals_with_the_same_variance_at_every_depth() -> None:
    rng = np.random.default_rng(0)
    shape = (200, 20, 20)
    smooth = np.zeros(shape, dtype=np.float32)
    original, textured = (rng.normal(0, 0.1, shape).astype(np.float32) for _ in range(2))
    weights = np.broadcast_to(np.linspace(0, 1, 200, dtype=np.float32)[:, None, None], shape)
    region = np.ones(shape, dtype=bool)
    edited = blend_region(original, smooth, smooth, region=region, weights=weights, textured=textured)
    assert np.allclose(edited[0], original[0]) and np.allclose(edited[-1], textured[-1])
    # A standard deviation of 4000 values has the relative error 1 / sqrt(8000).
    assert np.abs(edited.reshape(10, -1).std(axis=1) / 0.1 - 1).max() < 0.05
