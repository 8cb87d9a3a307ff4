"""N4 removes a multiplicative field that was put on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medldm.transforms import N4BiasCorrection, N4BiasCorrectiond


def biased() -> tuple[MetaTensor, torch.Tensor]:
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, 32)] * 3, indexing="ij"))
    inside = (grid**2).sum(dim=0) < 0.8
    tissue = torch.where(grid[2] > 0, 400.0, 250.0) + 5 * torch.randn(
        32, 32, 32, generator=torch.Generator().manual_seed(0)
    )
    field = torch.exp(0.4 * grid[0])
    volume = torch.where(inside, tissue * field, torch.tensor(0.0))
    return MetaTensor(volume[None], affine=torch.eye(4)), inside & (grid[2] > 0.1)


def test_intensity_of_a_tissue_becomes_uniform() -> None:
    volume, tissue = biased()
    result = N4BiasCorrectiond("image", shrink_factor=2)({"image": volume})["image"]
    before = volume[0][tissue].std() / volume[0][tissue].mean()
    after = result[0][tissue].std() / result[0][tissue].mean()
    assert float(after) < 0.4 * float(before)
    assert float(result[0, 0, 0, 0]) == 0


def test_images_with_negative_foreground_are_refused() -> None:
    volume = MetaTensor(
        torch.from_numpy(np.random.default_rng(0).normal(size=(1, 8, 8, 8)).astype(np.float32))
    )
    with pytest.raises(ValueError, match="needs positive intensities"):
        N4BiasCorrection()(volume)


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ValueError, match="shrink_factor is 0"):
        N4BiasCorrection(shrink_factor=0)
    with pytest.raises(ValueError, match="n_iterations"):
        N4BiasCorrection(n_iterations=())
