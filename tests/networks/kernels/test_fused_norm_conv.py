from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medldm.networks.blocks import ResidualBlock
from medldm.networks.kernels import dispatch
from medldm.networks.kernels.fused_norm_conv import normalise, normalise_and_convolve
from medldm.networks.layers import Convolution, Norm

Randomise = Callable[[nn.Module], nn.Module]


def compute_plainly(x: Tensor, norm: nn.GroupNorm, layer: nn.Module | None, *, silu: bool) -> Tensor:
    """Normalise, activate and convolve as the formulas say, in float64."""
    x = x.double()
    groups = x.reshape(len(x), norm.num_groups, -1)
    mean, variance = groups.mean(-1, keepdim=True), groups.var(-1, keepdim=True, unbiased=False)
    shape = (1, -1, *[1] * (x.ndim - 2))
    h = ((groups - mean) / (variance + norm.eps).sqrt()).view_as(x)
    h = h * norm.weight.double().view(shape) + norm.bias.double().view(shape)
    h = h * h.sigmoid() if silu else h
    if layer is None:
        return h
    bias = None if layer.bias is None else layer.bias.double()
    convolve = F.conv3d if x.ndim == 5 else F.conv2d
    return convolve(h, layer.weight.double(), bias, padding=layer.padding)


def compare_gradients(found: Tensor, expected: Tensor, inputs: list[Tensor], *, tolerance: float) -> None:
    weights = 1 + torch.sin(torch.arange(expected.numel(), dtype=torch.float64)).view(expected.shape)
    of_found = torch.autograd.grad((weights * found).sum(), inputs, retain_graph=True)
    of_expected = torch.autograd.grad((weights * expected).sum(), inputs)
    torch.testing.assert_close(
        found.double(), expected, rtol=0, atol=tolerance * float(expected.detach().abs().max())
    )
    for first, second in zip(of_found, of_expected, strict=True):
        assert first.dtype == second.dtype
        scale = float(second.abs().max())
        torch.testing.assert_close(first, second, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("is_last", [True, False])
@pytest.mark.parametrize("size", [(3, 4, 5), (11, 10, 12)])
@pytest.mark.parametrize("batch", [1, 2])
def test_gradients_are_those_of_the_plain_form(
    silu: bool,
    is_last: bool,
    size: tuple[int, ...],
    batch: int,
    randomise: Randomise,
    generator: torch.Generator,
) -> None:
    norm, layer = randomise(Norm(2, 6, eps=1e-6)), randomise(Convolution(6, 8, 3, padding=1))
    x = 0.5 + torch.randn(batch, 6, *size, generator=generator)
    x = x.contiguous(memory_format=torch.channels_last_3d if is_last else torch.contiguous_format)
    x.requires_grad_(True)
    inputs = [x, *norm.parameters(), *layer.parameters()]
    expected = compute_plainly(x, norm, layer, silu=silu)
    compare_gradients(normalise_and_convolve(x, norm, layer, silu=silu), expected, inputs, tolerance=5e-5)
    expected = compute_plainly(x, norm, None, silu=silu)
    compare_gradients(normalise(x, norm, silu=silu), expected, inputs[:3], tolerance=5e-5)


def test_gradients_pass_a_numerical_check(randomise: Randomise, generator: torch.Generator) -> None:
    norm = randomise(Norm(2, 4, eps=1e-3)).double()
    layer = randomise(nn.Conv2d(4, 3, 3, padding=1)).double()
    x = torch.randn(2, 4, 3, 2, generator=generator, dtype=torch.float64, requires_grad=True)

    def compute(x: Tensor, *_: Tensor) -> Tensor:
        return normalise_and_convolve(x, norm, layer, silu=True) * normalise(x, norm, silu=True)[:, :3]

    assert torch.autograd.gradcheck(compute, (x, *norm.parameters(), *layer.parameters()))


def test_autocast_computes_in_low_precision_and_gives_gradients_of_the_parameters(
    randomise: Randomise, generator: torch.Generator
) -> None:
    norm, layer = randomise(Norm(2, 8, eps=1e-6)), randomise(Convolution(8, 8, 3, padding=1))
    x = torch.randn(2, 8, 12, 10, 11, generator=generator, requires_grad=True)
    expected = compute_plainly(x, norm, layer, silu=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = normalise_and_convolve(x.bfloat16(), norm, layer, silu=True)
    assert found.dtype == torch.bfloat16
    compare_gradients(found, expected, [x, *norm.parameters(), *layer.parameters()], tolerance=0.03)


@pytest.mark.parametrize("frozen", ["input", "norm", "layer", "all but the input"])
def test_what_is_frozen_gets_no_gradient(
    frozen: str, randomise: Randomise, generator: torch.Generator
) -> None:
    norm, layer = randomise(Norm(2, 4, eps=1e-6)), randomise(Convolution(4, 4, 3, padding=1))
    x = torch.randn(1, 4, 3, 4, 5, generator=generator, requires_grad=frozen != "input")
    norm.requires_grad_(frozen not in ("norm", "all but the input"))
    layer.requires_grad_(frozen not in ("layer", "all but the input"))
    tensors = [x, *norm.parameters(), *layer.parameters()]
    learning = [t for t in tensors if t.requires_grad]
    found = normalise_and_convolve(x, norm, layer, silu=True)
    compare_gradients(found, compute_plainly(x, norm, layer, silu=True), learning, tolerance=5e-5)


def saved_bytes(compute: Callable[[], Tensor]) -> int:
    """Memory of the tensors that a computation keeps for its backward pass, each storage counted once."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        compute()
    return sum(storages.values())


@pytest.mark.parametrize("low", [False, True])
def test_a_residual_block_keeps_two_maps(low: bool, randomise: Randomise, generator: torch.Generator) -> None:
    block = randomise(ResidualBlock(8, 8, n_groups=4, norm_eps=1e-6, spatial_dims=3))
    x = torch.randn(1, 8, 12, 12, 12, generator=generator, requires_grad=True)
    weights = sum(p.numel() * p.element_size() for p in block.parameters())
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        kept = saved_bytes(lambda: block(x))
    one_map = x.numel() * x.element_size()
    assert one_map < kept - weights < (1.5 if low else 2) * one_map + 2000


def test_checkpointing_and_recomputation_go_together(
    randomise: Randomise, generator: torch.Generator
) -> None:
    block = randomise(ResidualBlock(4, 4, n_groups=2, norm_eps=1e-6, spatial_dims=3))
    x = torch.randn(1, 4, 11, 10, 12, generator=generator, requires_grad=True)
    first, second = (
        torch.autograd.grad(y.square().sum(), [x, *block.parameters()])
        for y in (block(x), checkpoint(block, x, use_reentrant=False))
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("compute", ["normalise", "normalise_and_convolve"])
def test_second_derivatives_are_refused(
    compute: str, randomise: Randomise, generator: torch.Generator
) -> None:
    norm, layer = randomise(Norm(2, 4, eps=1e-6)), randomise(Convolution(4, 4, 3, padding=1))
    x = torch.randn(1, 4, 3, 4, 5, generator=generator, requires_grad=True)
    y = (
        normalise(x, norm, silu=True)
        if compute == "normalise"
        else normalise_and_convolve(x, norm, layer, silu=True)
    )
    gradient = torch.autograd.grad(y.square().sum(), x, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_inference_changes_no_input(randomise: Randomise, generator: torch.Generator) -> None:
    norm, layer = randomise(Norm(2, 4, eps=1e-6)), randomise(Convolution(4, 4, 3, padding=1))
    x = torch.randn(1, 4, 11, 10, 12, generator=generator)
    before = x.clone()
    with torch.no_grad():
        found = normalise_and_convolve(x, norm, layer, silu=True)
    assert torch.equal(x, before)
    expected = compute_plainly(x, norm, layer, silu=True).float()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(4, 3, 5), (5, 6, 7), (9, 8, 8), (16, 9, 8)])
@pytest.mark.parametrize("is_last", [True, False])
def test_a_sample_cut_in_half_has_the_gradients_of_the_whole(
    size: tuple[int, ...],
    is_last: bool,
    randomise: Randomise,
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "would_unfold", lambda x: len(x) == 1)
    norm, layer = randomise(Norm(2, 8, eps=1e-6)), randomise(Convolution(8, 6, 3, padding=1))
    x = torch.randn(1, 8, *size, generator=generator)
    x = x.contiguous(memory_format=torch.channels_last_3d if is_last else torch.contiguous_format)
    x.requires_grad_(True)
    inputs = [x, *norm.parameters(), *layer.parameters()]
    expected = compute_plainly(x, norm, layer, silu=True)
    compare_gradients(normalise_and_convolve(x, norm, layer, silu=True), expected, inputs, tolerance=5e-5)
