from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from medldm.networks import LatentUNet, LatentUNetConfig
from medldm.networks.blocks import Upsample
from medldm.networks.kernels import dispatch
from medldm.networks.kernels.dispatch import compute_dtype
from medldm.networks.layers import (
    Convolution,
    Linear,
    PlaneConvolution,
    PlaneTransposedConvolution,
    TransposedConvolution,
)
from tests.networks.kernels.test_convolution import assert_equal_gradients

Randomise = Callable[[nn.Module], nn.Module]


def test_both_kinds_of_grid_are_tested() -> None:
    weight = torch.empty(24, 32, 3, 3, 3)
    assert not dispatch.is_fine_grid(torch.empty(1, 32, 3, 3, 3), weight)
    assert dispatch.is_fine_grid(torch.empty(1, 32, 8, 9, 10), weight)
    assert dispatch.use_transposed(torch.empty(1, 4, 9, 8, 10), torch.empty(4, 4, 3, 3, 3))
    assert not dispatch.use_transposed(torch.empty(1, 4, 1, 1, 1), torch.empty(4, 4, 3, 3, 3))


def claim_bfloat16(patch: pytest.MonkeyPatch, has_bfloat16: bool) -> None:
    """Let the rules believe that the CPU computes bfloat16, or that it does not."""
    patch.setattr("medldm.networks.kernels.dispatch.has_bfloat16", lambda: has_bfloat16)


def compute_all_layers(x: Tensor, seed: int) -> list[Tensor]:
    """What each kind of layer makes of the same values, with gradients of the input."""
    torch.manual_seed(seed)
    layers = [Convolution(8, 8, 3, padding=1), Upsample(8, strides=(2, 2, 2)), TransposedConvolution(8, 8, 2)]
    flat = [PlaneConvolution(8, 8, 3), PlaneTransposedConvolution(8, 8, 2, stride=2), Linear(8, 8)]
    inputs = [x, x, x, x[..., 0], x[..., 0], x.movedim(1, -1)]
    outputs = [layer(given) for layer, given in zip([*layers, *flat], inputs, strict=True)]
    gradients = [torch.autograd.grad(y.float().square().sum(), x)[0] for y in outputs]
    return [y.detach() for y in (*outputs, *gradients)]


@pytest.mark.parametrize("size", [(3, 5, 4), (9, 8, 10)])
def test_a_cpu_without_bfloat16_computes_it_in_float32(
    size: tuple[int, ...], generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(2, 8, *size, generator=generator, requires_grad=True)
    expected = compute_all_layers(x, seed=3)
    claim_bfloat16(monkeypatch, False)
    with torch.autocast("cpu", torch.bfloat16):
        found = compute_all_layers(x, seed=3)
    assert [y.dtype for y in found[:6]] == [torch.bfloat16] * 6
    for low, wanted in zip(found, expected, strict=True):
        # Half a unit in the last of 8 binary places: the result was rounded once, from float32.
        torch.testing.assert_close(low.float(), wanted, rtol=2**-8, atol=2**-7 * float(wanted.abs().max()))


@torch.no_grad()
def test_only_bfloat16_without_instructions_is_widened(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.zeros(1, 2, 3, 3, 3), torch.zeros(2, 2, 3, 3, 3)
    for has_bfloat16 in (True, False):
        claim_bfloat16(monkeypatch, has_bfloat16)
        assert dispatch.computes_in_float32(x.bfloat16(), weight.bfloat16()) is not has_bfloat16
        assert not dispatch.computes_in_float32(x, weight)
        assert not dispatch.computes_in_float32(x.bfloat16(), weight)


def test_training_keeps_no_large_products(monkeypatch: pytest.MonkeyPatch) -> None:
    claim_bfloat16(monkeypatch, True)
    small, large = (torch.empty(1, 4, n, 8, dtype=torch.bfloat16, requires_grad=True) for n in (512, 1024))
    assert dispatch.use_matrix_products(small, small)
    assert not dispatch.use_matrix_products(large, large)
    assert dispatch.use_matrix_products(large.detach(), large.detach())


def test_autocast_decides_the_dtype() -> None:
    x = torch.zeros(1)
    assert compute_dtype(x) == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert compute_dtype(x) == torch.bfloat16


UNET = LatentUNetConfig(down_channels=[16, 32], n_groups=4, n_heads=2, context_dim=5, n_res_blocks=1)


@pytest.mark.parametrize("residual_resampling", [False, True])
@pytest.mark.parametrize("size", [(3, 4, 5), (8, 10, 9)])
def test_denoiser_is_equal_in_its_plain_form(
    residual_resampling: bool,
    size: tuple[int, ...],
    randomise: Randomise,
    generator: torch.Generator,
) -> None:
    unet = randomise(LatentUNet(replace(UNET, residual_resampling=residual_resampling))).eval()
    inputs = (
        torch.randn(1, 4, *size, generator=generator),
        torch.tensor([300]),
        torch.randn(1, 3, 5, generator=generator),
    )
    trained = unet(*inputs)
    with torch.no_grad():
        inferred = unet(*inputs)
    with dispatch.plain_form():
        plain = unet(*inputs)
    scale = float(plain.detach().abs().max())
    assert inferred.is_contiguous()
    torch.testing.assert_close(trained, plain, rtol=0, atol=1e-5 * scale)
    torch.testing.assert_close(inferred, plain, rtol=0, atol=1e-5 * scale)
    assert_equal_gradients(trained, plain, list(unet.parameters()))


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
@torch.no_grad()
def test_compiled_network_is_equal(backend: str, randomise: Randomise, generator: torch.Generator) -> None:
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    unet = randomise(LatentUNet(UNET)).eval()
    inputs = (
        torch.randn(1, 4, 3, 4, 4, generator=generator),
        torch.tensor([300]),
        torch.randn(1, 3, 5, generator=generator),
    )
    compiled = torch.compile(unet, backend=backend, fullgraph=True)(*inputs)
    torch.testing.assert_close(compiled, unet(*inputs), rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()
