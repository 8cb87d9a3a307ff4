"""The wavelet baseline: its transform is orthogonal, and a step of training and sampling works."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch.nn import functional as F

from benchmarks.hippocampus.monai_recipe import Recipe
from benchmarks.wavelet.wavelet_recipe import RECIPE, HaarTransform, make_model, sample, train


def test_the_haar_transform_is_orthogonal_and_inverts_itself() -> None:
    transform = HaarTransform()
    volume = torch.randn(2, 1, 6, 8, 4)
    bands, std = transform.encode_moments(volume)
    assert bands.shape == (2, 8, 3, 4, 2) and not std.any()
    torch.testing.assert_close(transform.decode(bands), volume)
    torch.testing.assert_close(bands.square().sum(), volume.square().sum())
    torch.testing.assert_close(bands[:, :1], F.avg_pool3d(volume, 2) * 8**0.5)


def test_it_trains_and_samples_in_the_range_of_images() -> None:
    recipe = Recipe(**{**vars(RECIPE), "unet_channels": (16, 16), "precision": "float32"})
    model = make_model(recipe, {1: "a"})
    maps = torch.randint(0, 2, (3, 8, 8, 8))
    before = model.denoiser.unet.conv_out.weight.clone()
    train(model, (torch.rand(3, 1, 8, 8, 8), maps), recipe, 0.5)
    assert not torch.equal(before, model.denoiser.unet.conv_out.weight)
    options = SimpleNamespace(solver="ddim", num_steps=2, precision="float32")
    volume = sample(model, (4, 4, 4), maps[:1], options, seed=3)
    assert volume.shape == (1, 8, 8, 8) and volume.isfinite().all()
