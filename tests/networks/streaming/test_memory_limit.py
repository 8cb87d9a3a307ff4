from __future__ import annotations

import logging
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medldm.networks import VAE, VQVAE, VAEConfig, VQVAEConfig
from medldm.networks.downsampling import latent_size
from medldm.networks.streaming import memory_limit as memory
from medldm.networks.streaming.encode_decode import stream_decode, stream_encode_moments
from medldm.networks.streaming.memory_limit import (
    choose_plan,
    decode_within,
    encode_moments_within,
    estimate_bytes,
)

PLAIN = VAEConfig(down_channels=(8, 16, 32), n_groups=4, mid_attention=False)
STRIDED = VQVAEConfig(down_channels=(8, 16), n_groups=4, trunk="strided", n_codes=64)
LINEAR = VAEConfig(down_channels=(8, 16), n_groups=4, mid_attention=False, linear_path=True)
SMALL = VAEConfig(down_channels=(4, 8), n_groups=2, n_res_blocks=1)


class PeakMemory(TorchDispatchMode):
    """Count the bytes of all tensors that are made inside and exist at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.known: set[int] = set()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for x in tree_leaves((args, kwargs)):
            if isinstance(x, torch.Tensor) and id(x.untyped_storage()) not in self.known:
                self._follow(x.untyped_storage(), 0)
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor) and id(x.untyped_storage()) not in self.known:
                self._follow(x.untyped_storage(), x.untyped_storage().nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _follow(self, storage: torch.UntypedStorage, n_bytes: int) -> None:
        self.known.add(id(storage))
        self.now += n_bytes
        weakref.finalize(storage, self._forget, id(storage), n_bytes)

    def _forget(self, key: int, n_bytes: int) -> None:
        self.known.discard(key)
        self.now -= n_bytes


def count_peak(function: Callable[[], Any]) -> int:
    with torch.no_grad(), PeakMemory() as counter:
        function()
    return counter.peak


@pytest.mark.parametrize(("tile", "recompute"), [(None, False), (4, False), (4, True)])
@pytest.mark.parametrize(
    "config",
    [
        PLAIN,
        replace(PLAIN, downsampling=(4, 4, 1)),
        VAEConfig(down_channels=(16, 16), n_groups=4, mid_attention=False),
        STRIDED,
        LINEAR,
        replace(LINEAR, linear_path="lapped"),
    ],
    ids=["narrowing", "thick slices", "equal", "strided", "linear path", "lapped path"],
)
def test_estimates_hold_and_are_near(config: Any, tile: int | None, recompute: bool) -> None:
    autoencoder: Any = VAE(config) if isinstance(config, VAEConfig) else VQVAE(config)
    size = latent_size((48, 32, 32), config.downsampling)
    latents, volume = torch.zeros(1, 4, *size), torch.zeros(1, 1, 48, 32, 32)
    options: dict[str, Any] = {"tile": tile, "recompute": recompute}
    if tile is None:
        decoded = count_peak(lambda: autoencoder.decode(latents))
        encoded = count_peak(lambda: autoencoder.encode_moments(volume))
    else:
        decoded = count_peak(lambda: stream_decode(autoencoder, latents, **options))
        encoded = count_peak(lambda: stream_encode_moments(autoencoder, volume, **options))
    for counted, estimate in (
        (decoded, estimate_bytes(config, latents.shape[2:], is_decoder=True, **options)),
        (encoded, estimate_bytes(config, volume.shape[2:], is_decoder=False, **options)),
    ):
        assert counted <= estimate - memory.OVERHEAD <= 2 * counted


def test_estimates_grow_with_batch_and_halve_with_bfloat16() -> None:
    size = (16, 16, 16)
    one = estimate_bytes(PLAIN, size, is_decoder=True) - memory.OVERHEAD
    two = estimate_bytes(PLAIN, size, is_decoder=True, batch_size=2) - memory.OVERHEAD
    half = estimate_bytes(PLAIN, size, is_decoder=True, dtype=torch.bfloat16) - memory.OVERHEAD
    assert two == pytest.approx(2 * one)
    assert half == pytest.approx(one / 2)


@pytest.mark.parametrize("is_decoder", [True, False])
def test_a_smaller_budget_takes_a_leaner_plan(is_decoder: bool, caplog: pytest.LogCaptureFixture) -> None:
    size = (64, 48, 48) if is_decoder else (256, 192, 192)
    whole_gb = estimate_bytes(PLAIN, size, is_decoder=is_decoder) / 1e9
    budgets = [1000.0, *(whole_gb * share for share in (0.9, 0.6, 0.4))]
    plans = [choose_plan(PLAIN, size, max_memory_gb=budget, is_decoder=is_decoder) for budget in budgets]
    assert plans[0].tile is None
    assert plans[-1].recompute
    for plan, budget in zip(plans, budgets, strict=True):
        assert plan.n_bytes <= budget * 1e9
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        leanest = choose_plan(PLAIN, size, max_memory_gb=1e-3, is_decoder=is_decoder)
    assert (leanest.tile, leanest.recompute) == (1, True)
    assert "does not fit max_memory_gb = 0.001" in caplog.text


def test_a_decode_of_256_cubed_takes_less_than_6_gb() -> None:
    config = VAEConfig(down_channels=(32, 64, 128), mid_attention=False)
    plan = choose_plan(config, (64, 64, 64), max_memory_gb=6, is_decoder=True)
    assert plan.tile is not None
    assert not plan.recompute
    wide = VAEConfig(down_channels=(64, 128, 256), mid_attention=False)
    assert choose_plan(wide, (64, 64, 64), max_memory_gb=7, is_decoder=True).recompute


def test_a_budget_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="max_memory_gb is 0: give a positive number"):
        choose_plan(PLAIN, (4, 4, 4), max_memory_gb=0, is_decoder=True)


@torch.no_grad()
def test_the_result_does_not_depend_on_the_budget(generator: torch.Generator) -> None:
    vae = VAE(SMALL)
    latents = torch.randn(1, 4, 5, 4, 3, generator=generator)
    volume = torch.randn(1, 1, 9, 8, 7, generator=generator)
    decoded = [decode_within(vae, latents, budget) for budget in (None, 100, 1e-6)]
    encoded = [encode_moments_within(vae, volume, budget) for budget in (None, 100, 1e-6)]
    assert torch.equal(decoded[0], decoded[1])
    assert not torch.equal(decoded[0], decoded[2])
    torch.testing.assert_close(decoded[0], decoded[2], rtol=1e-4, atol=1e-5)
    for whole, streamed in zip(encoded[1], encoded[2], strict=True):
        torch.testing.assert_close(whole, streamed, rtol=1e-4, atol=1e-5)


def test_gradients_are_followed_where_it_runs_whole(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "PLANS", ((None, False), (2, True)))
    monkeypatch.setattr(memory, "OVERHEAD", 0)
    vae = VAE(SMALL)
    latents = torch.randn(1, 4, 8, 2, 2, generator=generator, requires_grad=True)
    assert decode_within(vae, latents, 100).requires_grad
    whole = estimate_bytes(SMALL, latents.shape[2:], is_decoder=True)
    assert not decode_within(vae, latents, 0.99 * whole / 1e9).requires_grad


@torch.no_grad()
def test_a_whole_decode_is_written_to_the_given_tensor(generator: torch.Generator) -> None:
    vae = VAE(SMALL)
    latents = torch.randn(1, 4, 2, 2, 2, generator=generator)
    out = torch.empty(1, 1, 4, 4, 4)
    assert decode_within(vae, latents, None, out=out) is out
    assert torch.equal(out, vae.decode(latents))


MEASURE = """
import sys, torch
from medldm.networks import VAE, VAEConfig
from medldm.networks.streaming.memory_limit import estimate_bytes
from medldm.networks.streaming.encode_decode import stream_decode
def status(name):
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))
torch.set_num_threads(1)
config = VAEConfig(down_channels=(32, 64), n_groups=4, n_res_blocks=1, mid_attention=False)
vae, tile = VAE(config), int(sys.argv[1]) or None
run = vae.decode if tile is None else lambda z: stream_decode(vae, z, tile=tile)
with torch.no_grad():
    run(torch.zeros(1, 4, 2, 2, 2))
    before = status("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")
    run(torch.zeros(1, 4, 40, 40, 40))
print((status("VmHWM") - before) / estimate_bytes(config, (40, 40, 40), is_decoder=True, tile=tile))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs the peak that Linux keeps")
@pytest.mark.parametrize("tile", [0, 4])
def test_resident_memory_is_within_a_factor_of_the_estimate(tile: int) -> None:
    command = [sys.executable, "-c", MEASURE, str(tile)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0.5 < float(found.stdout) < 1.2
