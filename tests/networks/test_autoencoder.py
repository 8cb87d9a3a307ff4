"""What VAE and VQVAE share: made from a configuration or its fields, and a reconstruction of any size."""

from __future__ import annotations

import pytest
import torch

from medldm import VAE, VQVAE, VAEConfig, VQVAEConfig
from medldm.networks.autoencoder import Autoencoder

SMALL = {"down_channels": [4, 8], "n_groups": 2, "n_res_blocks": 1}
NETWORKS = pytest.mark.parametrize(("network", "config"), [(VAE, VAEConfig), (VQVAE, VQVAEConfig)])


@NETWORKS
def test_fields_make_the_network_that_their_configuration_makes(network, config) -> None:
    found, expected = network(in_channels=1, **SMALL), network(config(in_channels=1, **SMALL))
    assert found.config == expected.config
    assert {name: value.shape for name, value in found.state_dict().items()} == {
        name: value.shape for name, value in expected.state_dict().items()
    }


@NETWORKS
def test_a_reconstruction_has_the_size_of_its_volume(network, config, generator: torch.Generator) -> None:
    autoencoder = network(**SMALL).eval()
    assert isinstance(autoencoder, Autoencoder)
    volume = torch.randn(1, 1, 7, 8, 5, generator=generator)
    found = autoencoder.reconstruct(volume)
    expected = autoencoder.decode(autoencoder.encode_moments(volume)[0])[..., :7, :8, :5]
    assert torch.equal(found, expected)


@NETWORKS
def test_a_range_of_its_own_is_that_of_encoder_and_decoder_alone(
    network, config, generator: torch.Generator
) -> None:
    plain, own = network(**SMALL).eval(), network(**SMALL, value_range=(0.0, 4.0)).eval()
    own.load_state_dict(plain.state_dict())
    volume = 2 * torch.rand(1, 1, 7, 8, 5, generator=generator) - 1
    latents = own.encode_moments(volume)[0]
    torch.testing.assert_close(latents, plain.encode_moments(2 * volume + 2)[0])
    torch.testing.assert_close(own.decode(latents), plain.decode(latents) / 2 - 1)
