"""Label maps and images on the latent grid."""

from __future__ import annotations

import pytest
import torch

from medldm.conditioning.spatial_conditioners import ImageConditioner


@pytest.mark.parametrize("downsampling", [(1, 1, 1), (2, 2, 2), (4, 4, 4), (8, 8, 8), (4, 4, 2), (2, 1, 8)])
def test_sizes_round_up_to_the_latent_grid(downsampling) -> None:
    conditioner = ImageConditioner(channels=3, downsampling=downsampling, token_grid=0, context_dim=8)
    encoded = conditioner.encode(torch.randn(2, 1, 17, 16, 9))
    assert encoded.tokens is None
    assert encoded.spatial.shape == (
        *(2, 3),
        *(-(-n // factor) for n, factor in zip((17, 16, 9), downsampling, strict=True)),
    )


def test_an_image_may_also_give_tokens_and_both_have_a_null() -> None:
    conditioner = ImageConditioner(channels=3, downsampling=(4, 4, 4), token_grid=2, context_dim=8)
    encoded = conditioner.encode(torch.randn(2, 1, 16, 16, 12))
    null = conditioner.expand_null(2, (4, 4, 3))
    assert encoded.tokens.shape == null.tokens.shape == (2, 8, 8)
    assert encoded.spatial.shape == null.spatial.shape == (2, 3, 4, 4, 3)
    replaced = conditioner.with_null(encoded, torch.tensor([False, True]))
    assert torch.equal(replaced.tokens[0], encoded.tokens[0])
    assert torch.equal(replaced.tokens[1], null.tokens[1])
    assert torch.equal(replaced.spatial[1], null.spatial[1])


def test_every_voxel_of_an_image_reaches_the_latent_grid() -> None:
    torch.manual_seed(0)
    conditioner = ImageConditioner(channels=4, downsampling=(4, 4, 4), token_grid=0, context_dim=8)
    image = torch.zeros(1, 1, 16, 16, 16, requires_grad=True)
    (conditioner.encode(image).spatial * torch.randn(1, 4, 4, 4, 4)).sum().backward()
    assert (image.grad != 0).all()
