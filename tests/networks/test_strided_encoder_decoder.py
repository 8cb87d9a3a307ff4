from __future__ import annotations

import torch
import torch.nn.functional as F

from medldm.networks import VQVAEConfig
from medldm.networks.strided_encoder_decoder import ResidualUnit, StridedDecoder, StridedEncoder


def test_residual_unit_is_its_equation(generator: torch.Generator) -> None:
    unit = ResidualUnit(4, 3, activation="tanh", spatial_dims=3)
    x = torch.randn(1, 4, 3, 4, 5, generator=generator)
    expected = F.relu(x + unit.conv2(torch.tanh(unit.conv1(x))))
    assert torch.equal(unit(x), expected)


def test_decoder_mirrors_the_encoder() -> None:
    config = VQVAEConfig(trunk="strided", down_channels=[5, 7], n_res_blocks=[1, 2], res_channels=[3, 4])
    encoder, decoder = StridedEncoder(config), StridedDecoder(config)
    latents = encoder(torch.zeros(1, 1, 8, 12, 4))
    assert latents.shape == (1, 4, 2, 3, 1)
    assert decoder(latents).shape == (1, 1, 8, 12, 4)
    for level, n_units in ((encoder.levels[0], 1), (encoder.levels[1], 2), (decoder.levels[0], 2)):
        assert sum(isinstance(block, ResidualUnit) for block in level) == n_units


def test_output_activation_bounds_the_output(generator: torch.Generator) -> None:
    config = VQVAEConfig(trunk="strided", down_channels=[4], output_activation="sigmoid")
    output = StridedDecoder(config)(100 * torch.randn(1, 4, 2, 2, 2, generator=generator))
    assert bool(((output >= 0) & (output <= 1)).all())
