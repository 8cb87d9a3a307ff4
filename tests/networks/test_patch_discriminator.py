from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.networks.nets import PatchDiscriminator as MonaiPatchDiscriminator

from medldm.networks import PatchDiscriminator, PatchDiscriminatorConfig


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_features_are_those_of_monai(norm: str, spatial_dims: int, generator: torch.Generator) -> None:
    monai_norm: Any = (norm, {"affine": True})
    oracle = MonaiPatchDiscriminator(
        spatial_dims=spatial_dims, channels=4, in_channels=2, num_layers_d=2, norm=monai_norm, bias=True
    )
    network = PatchDiscriminator(
        PatchDiscriminatorConfig(channels=4, in_channels=2, n_layers=2, norm=norm, spatial_dims=spatial_dims)
    )
    ours, theirs = network.state_dict(), oracle.state_dict()
    for (name, value), other in zip(ours.items(), theirs.values(), strict=True):
        assert value.shape == other.shape, name
    network.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    volume = torch.randn(2, 2, *(16, 20, 24)[:spatial_dims], generator=generator)
    for found, expected in zip(network(volume), oracle(volume), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_smallest_size_works_and_one_less_is_refused(n_layers: int) -> None:
    network = PatchDiscriminator(PatchDiscriminatorConfig(channels=4, n_layers=n_layers))
    size = network.min_size
    features = network(torch.rand(1, 1, size, size, size))
    assert features[-1].shape == (1, 1, 1, 1, 1)
    with pytest.raises(ValueError, match=f"at least {size} per axis are needed"):
        network(torch.zeros(1, 1, size, size - 1, size))


def test_samples_of_a_batch_do_not_see_each_other(generator: torch.Generator) -> None:
    network = PatchDiscriminator(PatchDiscriminatorConfig(channels=4, n_layers=2))
    volume = torch.randn(3, 1, 16, 16, 16, generator=generator)
    for together, alone in zip(network(volume), network(volume[1:2]), strict=True):
        torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-5)


def test_spectral_norm_bounds_the_largest_singular_value() -> None:
    network = PatchDiscriminator(
        PatchDiscriminatorConfig(channels=4, n_layers=2, spectral_norm=True, norm="none")
    )
    for _ in range(50):
        network(torch.zeros(1, 1, 16, 16, 16))
    weight = network.layers[1].conv.weight
    largest = torch.linalg.matrix_norm(weight.detach().flatten(1), ord=2)
    assert largest.item() == pytest.approx(1.0, abs=0.05)


def test_weights_start_small(generator: torch.Generator) -> None:
    network = PatchDiscriminator(PatchDiscriminatorConfig(channels=16))
    assert network.layers[2].conv.weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"norm": "layer"}, "norm is 'layer': choose from"),
        ({"channels": 0}, "channels is 0"),
        ({"spatial_dims": 1}, "spatial_dims is 1"),
    ],
)
def test_wrong_values_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PatchDiscriminatorConfig(**wrong)
