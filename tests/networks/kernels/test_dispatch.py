from __future__ import annotations

import copy
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from medldm.networks import VAE, LatentUNet, LatentUNetConfig, VAEConfig
from medldm.networks.blocks import Upsample
from medldm.networks.kernels import dispatch
from medldm.networks.kernels.cached_weights import _CACHE, clear_cached_weights
from medldm.networks.kernels.convolution import convolve, double_and_convolve, transposed_kernel
from medldm.networks.kernels.dispatch import compute_dtype
from medldm.networks.kernels.products import attend_to, project
from medldm.networks.layers import (
    Convolution,
    Linear,
    PlaneConvolution,
    PlaneTransposedConvolution,
    TransposedConvolution,
)

Randomise = Callable[[nn.Module], nn.Module]
SIZES = [(1, 1, 1), (3, 5, 4), (2, 1, 7), (9, 8, 10)]


def upsample_plainly(x: Tensor, layer: nn.Conv3d) -> Tensor:
    """Repeat each voxel, then convolve, in float64."""
    doubled = x.double()
    for axis in (2, 3, 4):
        doubled = doubled.repeat_interleave(2, axis)
    bias = None if layer.bias is None else layer.bias.double()
    return F.conv3d(doubled, layer.weight.double(), bias, padding=1)


def assert_equal_gradients(output: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    """Compare the gradients of one weighted sum of either output."""
    weights = torch.linspace(-1, 1, expected.numel(), dtype=expected.dtype).view(expected.shape)
    found, wanted = (torch.autograd.grad((weights.to(y.dtype) * y).sum(), inputs) for y in (output, expected))
    for first, second in zip(found, wanted, strict=True):
        torch.testing.assert_close(
            first, second.to(first.dtype), rtol=1e-4, atol=1e-5 * float(second.abs().max())
        )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("batch", [1, 2])
def test_one_transposed_convolution_doubles_and_convolves(
    size: tuple[int, ...], batch: int, generator: torch.Generator
) -> None:
    layer = Convolution(3, 5, 3, padding=1).double()
    x = torch.randn(batch, 3, *size, generator=generator, dtype=torch.float64)
    kernel = transposed_kernel(layer.weight)
    found = F.conv_transpose3d(x, kernel, layer.bias, stride=2, padding=1)
    torch.testing.assert_close(found, upsample_plainly(x, layer), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("has_bias", [True, False])
def test_doubling_is_equal_in_training_and_inference(
    size: tuple[int, ...], has_bias: bool, generator: torch.Generator
) -> None:
    layer = Convolution(4, 4, 3, padding=1, bias=has_bias).eval()
    x = torch.randn(2, 4, *size, generator=generator, requires_grad=True)
    expected = upsample_plainly(x, layer)
    trained = double_and_convolve(x, layer)
    torch.testing.assert_close(trained.double(), expected, rtol=1e-5, atol=1e-5)
    assert_equal_gradients(trained, expected, [x, *layer.parameters()])
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(double_and_convolve(x, layer).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kernel_size", "stride"), [(1, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize("size", [(3, 3, 3), (8, 9, 10)])
@pytest.mark.parametrize("channels", [(1, 8), (32, 24), (96, 4)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_convolution_is_equal_in_training_and_inference(
    kernel_size: int,
    stride: int,
    size: tuple[int, ...],
    channels: tuple[int, int],
    has_bias: bool,
    generator: torch.Generator,
) -> None:
    padding = kernel_size // 2
    layer = Convolution(*channels, kernel_size, stride=stride, padding=padding, bias=has_bias).eval()
    x = torch.randn(1, channels[0], *size, generator=generator)
    bias = None if layer.bias is None else layer.bias.double()
    expected = F.conv3d(x.double(), layer.weight.double(), bias, stride=stride, padding=padding).float()
    for given in (x, x.contiguous(memory_format=torch.channels_last_3d)):
        torch.testing.assert_close(layer(given), expected, rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(layer(given), expected, rtol=1e-5, atol=1e-5)


def test_both_kinds_of_grid_are_tested() -> None:
    weight = torch.empty(24, 32, 3, 3, 3)
    assert not dispatch.is_fine_grid(torch.empty(1, 32, 3, 3, 3), weight)
    assert dispatch.is_fine_grid(torch.empty(1, 32, 8, 9, 10), weight)
    assert dispatch.use_transposed(torch.empty(1, 4, 9, 8, 10), torch.empty(4, 4, 3, 3, 3))
    assert not dispatch.use_transposed(torch.empty(1, 4, 1, 1, 1), torch.empty(4, 4, 3, 3, 3))


def test_what_pytorch_computes_alone_is_left_to_it(generator: torch.Generator) -> None:
    x = torch.randn(1, 4, 3, 3, 3, generator=generator)
    layer = Convolution(4, 4, 3, padding=1)
    assert not dispatch.use_onednn(x.double(), layer.weight.double())
    assert not dispatch.use_onednn(x[0], layer.weight)
    with pytest.raises(RuntimeError, match=r"dtype|type"), torch.no_grad():
        convolve(x.bfloat16(), layer)
    with torch.no_grad():
        assert layer.double()(x.double()).dtype == torch.float64


def change_in_place(layer: nn.Conv3d) -> None:
    with torch.no_grad():
        layer.weight.mul_(-2)


def change_data(layer: nn.Conv3d) -> None:
    layer.train()
    layer.weight.data.mul_(-2)
    layer.eval()


def change_parameter(layer: nn.Conv3d) -> None:
    layer.weight = nn.Parameter(-2 * layer.weight.detach())


def change_state(layer: nn.Conv3d) -> None:
    layer.load_state_dict({"weight": -2 * layer.weight, "bias": layer.bias})


@pytest.mark.parametrize("change", [change_in_place, change_data, change_parameter, change_state])
@pytest.mark.parametrize("compute", [convolve, double_and_convolve])
@torch.no_grad()
def test_nothing_cached_outlives_its_weight(
    compute: Callable[[Tensor, nn.Conv3d], Tensor],
    change: Callable[[nn.Conv3d], None],
    generator: torch.Generator,
) -> None:
    layer = Convolution(32, 32, 3, padding=1).eval()
    x = torch.randn(1, 32, 3, 3, 3, generator=generator)
    before = compute(x, layer)
    change(layer)
    assert layer.bias is not None
    bias = layer.bias.view(1, -1, 1, 1, 1)
    torch.testing.assert_close(compute(x, layer) - bias, -2 * (before - bias), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_other_sizes_and_dtypes_do_not_meet_what_was_cached(generator: torch.Generator) -> None:
    layer = Convolution(32, 32, 3, padding=1).eval()
    for size, batch, low in product(((3, 3, 3), (2, 4, 3)), (1, 2), (False, True)):
        x = torch.randn(batch, 32, *size, generator=generator)
        expected = F.conv3d(x, layer.weight, layer.bias, padding=1)
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            found = layer(x)
        assert found.dtype == (torch.bfloat16 if low else torch.float32)
        torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.02 if low else 1e-5)


@torch.no_grad()
def test_a_network_lets_go_all_that_was_cached(generator: torch.Generator) -> None:
    network = nn.Sequential(Convolution(32, 32, 3, padding=1), Upsample(32, spatial_dims=3)).eval()
    x = torch.randn(1, 32, 3, 3, 3, generator=generator)
    before = network(x)
    assert any(layer in _CACHE for layer in network.modules())
    clear_cached_weights(network)
    assert not any(layer in _CACHE for layer in network.modules())
    torch.testing.assert_close(network(x), before)


@torch.no_grad()
def test_a_network_in_use_can_be_copied_and_pickled(randomise: Randomise, generator: torch.Generator) -> None:
    network = randomise(VAE(VAEConfig(down_channels=[16, 32], n_groups=4, n_res_blocks=1))).eval()
    x = torch.randn(1, 1, 6, 4, 4, generator=generator)
    names, output = list(network.state_dict()), network.decode(network.encode(x).mean)
    assert list(network.state_dict()) == names
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(other.decode(other.encode(x).mean), output)


@torch.no_grad()
def test_a_weight_that_is_computed_is_never_cached(generator: torch.Generator) -> None:
    layer = spectral_norm(Convolution(32, 32, 3, padding=1)).eval()
    x = torch.randn(1, 32, 3, 3, 3, generator=generator)
    before = layer(x)
    layer.parametrizations.weight.original.copy_(torch.randn(layer.weight.shape, generator=generator))
    torch.testing.assert_close(
        layer(x), F.conv3d(x, layer.weight, layer.bias, padding=1), rtol=1e-5, atol=1e-4
    )
    assert not torch.allclose(layer(x), before)


@pytest.mark.parametrize("shape", [(5, 6), (2, 40, 6), (1, 2, 3, 7, 6)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_linear_layer_is_a_matrix_product(
    shape: tuple[int, ...], has_bias: bool, generator: torch.Generator
) -> None:
    layer = Linear(6, 10, bias=has_bias)
    x = torch.randn(shape, generator=generator)
    expected = F.linear(
        x.double(), layer.weight.double(), None if layer.bias is None else layer.bias.double()
    )
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(project(x, layer).double(), expected, rtol=1e-5, atol=1e-5)
        strided = x.transpose(0, -2)
        torch.testing.assert_close(project(strided, layer), F.linear(strided, layer.weight, layer.bias))


def claim_bfloat16(patch: pytest.MonkeyPatch, has_bfloat16: bool) -> None:
    """Let the rules believe that the CPU computes bfloat16, or that it does not."""
    patch.setattr("medldm.networks.kernels.dispatch.has_bfloat16", lambda: has_bfloat16)


@pytest.mark.parametrize("has_bfloat16", [True, False])
@pytest.mark.parametrize("n_queries", [1, 256, 300])
@torch.no_grad()
def test_attention_in_bfloat16_is_that_of_float32(
    n_queries: int, has_bfloat16: bool, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_bfloat16(monkeypatch, has_bfloat16)
    queries = torch.randn(2, 2, n_queries, 8, generator=generator)
    keys, values = torch.randn(2, 2, 2, 37, 8, generator=generator)
    low = [t.bfloat16() for t in (queries, keys, values)]
    assert dispatch.use_matrix_products(low[0], low[1]) is has_bfloat16
    assert not dispatch.use_matrix_products(queries, keys)
    expected = torch.softmax(queries @ keys.transpose(2, 3) / 8**0.5, dim=-1) @ values
    torch.testing.assert_close(attend_to(*low).float(), expected, rtol=0, atol=0.05)
    torch.testing.assert_close(attend_to(queries, keys, values), expected, rtol=1e-5, atol=1e-5)


def compute_all_layers(x: Tensor, seed: int) -> list[Tensor]:
    """What each kind of layer makes of the same values, with gradients of the input."""
    torch.manual_seed(seed)
    layers = [Convolution(8, 8, 3, padding=1), Upsample(8, spatial_dims=3), TransposedConvolution(8, 8, 2)]
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


def test_upsampling_block_doubles_and_convolves(generator: torch.Generator) -> None:
    block = Upsample(4, spatial_dims=3)
    x = torch.randn(1, 4, 5, 6, 7, generator=generator)
    torch.testing.assert_close(block(x), upsample_plainly(x, block.conv).float(), rtol=1e-5, atol=1e-5)
