"""A residual block gives the same tile by tile as whole, and inference on large maps takes less memory so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medldm.networks.blocks import ResidualBlock
from medldm.networks.kernels import dispatch
from medldm.networks.kernels.dispatch import channels_last
from medldm.networks.kernels.residual import run_residual
from medldm.networks.kernels.tiled_maps import from_stored
from tests.networks.streaming.test_memory_limit import count_peak

SIZE = (7, 5, 6)


def make_block(n_in: int, n_out: int, *, generator: torch.Generator, **options: object) -> ResidualBlock:
    block = ResidualBlock(n_in, n_out, n_groups=2, norm_eps=1e-6, spatial_dims=3, **options)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return block


@pytest.mark.parametrize("channels", [(4, 4), (8, 4), (4, 8)])
@pytest.mark.parametrize("thickness", [1, 2, 3, 16])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@torch.no_grad()
def test_tiles_give_what_the_whole_gives_and_leave_the_input(
    channels: tuple[int, int],
    thickness: int,
    dtype: torch.dtype,
    tolerance: float,
    generator: torch.Generator,
) -> None:
    block = make_block(*channels, generator=generator).to(dtype)
    x = torch.randn(2, channels[0], *SIZE, generator=generator).to(dtype)
    x = channels_last(x)
    given = x.clone()
    y = run_residual(from_stored(x, axis=2, thickness=thickness), block).tensor
    torch.testing.assert_close(y, block(x), rtol=tolerance, atol=10 * tolerance)
    assert torch.equal(x, given)


@pytest.mark.parametrize("enabled", [False, True])
@torch.no_grad()
def test_inference_on_a_large_map_runs_in_tiles_and_gives_the_same(
    enabled: bool, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = make_block(16, 8, generator=generator)
    x = channels_last(torch.randn(1, 16, 64, 64, 128 if enabled else 64, generator=generator))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
        x = x.to(torch.bfloat16) if enabled else x
        if not dispatch.use_onednn(x, block.conv1.weight):
            pytest.skip("this CPU computes without oneDNN")
        assert dispatch.run_in_tiles(x, *block.parameters())
        found, peak = block(x), count_peak(lambda: block(x))
        monkeypatch.setattr(dispatch, "run_in_tiles", lambda *_: False)
        whole, whole_peak = block(x), count_peak(lambda: block(x))
    expected = block.double()(x.double())
    errors = [float((y - expected).norm() / expected.norm()) for y in (found, whole)]
    assert found.dtype == whole.dtype
    assert errors[0] < (0.01 if enabled else 1e-6)
    # PyTorch's normalisation with channels last adds up in float32: 1e-5 on this map.
    assert errors[0] <= 1.05 * errors[1]
    assert peak < 0.9 * whole_peak


def test_trainings_small_maps_and_blocks_that_are_told_a_time_run_whole(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = make_block(4, 4, generator=generator)
    large, small = torch.zeros(1, 4, 64, 128, 128), torch.zeros(1, 4, 8, 8, 8)
    assert not dispatch.run_in_tiles(large, *block.parameters())
    with torch.no_grad():
        assert not dispatch.run_in_tiles(small, *block.parameters())
        timed = make_block(4, 4, generator=generator, embedding_dim=3)
        monkeypatch.setattr(dispatch, "run_in_tiles", lambda *_: pytest.fail("asked for tiles"))
        timed(small, torch.zeros(1, 3))
        make_block(4, 4, generator=generator, resample="down")(small)


def test_tiles_of_a_cache_have_at_least_four_planes() -> None:
    assert dispatch.planes_of_tile(torch.empty(1, 32, 64, 64, 64)) == 8
    assert dispatch.planes_of_tile(torch.empty(2, 64, 4, 128, 128, device="meta")) == 4
