from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from medldm.networks import VAE, VAEConfig
from medldm.networks.blocks import Upsample
from medldm.networks.kernels.cached_weights import _CACHE, clear_cached_weights
from medldm.networks.kernels.convolution import convolve, double_and_convolve
from medldm.networks.layers import (
    Convolution,
)

Randomise = Callable[[nn.Module], nn.Module]


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
    network = nn.Sequential(Convolution(32, 32, 3, padding=1), Upsample(32, strides=(2, 2, 2))).eval()
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
