from __future__ import annotations

import pytest
import torch

from medldm.networks.autoencoder_config import AutoencoderConfig
from medldm.networks.encoder_decoder import Decoder, Encoder


def test_one_number_stands_for_all_levels() -> None:
    config = AutoencoderConfig(down_channels=[8, 16, 16], n_groups=8, n_res_blocks=1)
    assert config.n_res_blocks == (1, 1, 1)
    assert config == AutoencoderConfig(down_channels=(8, 16, 16), n_groups=8, n_res_blocks=[1, 1, 1])


def test_decoder_has_the_blocks_of_the_encoder_in_reverse() -> None:
    config = AutoencoderConfig(
        down_channels=[4, 8, 12], n_groups=2, n_res_blocks=[1, 2, 3], attention_levels=[False, False, True]
    )
    encoder, decoder = Encoder(config), Decoder(config)
    assert [len(level.layers) for level in encoder.levels] == [1, 2, 3]
    assert [len(level.layers) for level in decoder.levels] == [3, 2, 1]
    assert [level.layers[0].attention is not None for level in decoder.levels] == [True, False, False]


@pytest.mark.parametrize("n_levels", [1, 2, 3])
def test_each_level_but_the_last_halves_the_size(n_levels: int) -> None:
    config = AutoencoderConfig(down_channels=[4] * n_levels, n_groups=2, n_res_blocks=1, mid_attention=False)
    latents = Encoder(config)(torch.zeros(1, 1, 8, 12, 4))
    factor = 2 ** (n_levels - 1)
    assert config.downsampling == (factor,) * 3
    assert latents.shape == (1, 4, 8 // factor, 12 // factor, 4 // factor)
    assert Decoder(config)(latents).shape == (1, 1, 8, 12, 4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_groups": 3}, r"down_channels has \[8, 16\], no multiples of n_groups = 3"),
        ({"up_channels": [16, 9]}, r"up_channels has \[9\], no multiples"),
        ({"up_channels": [16]}, "up_channels has 1 values for 2 levels"),
        ({"attention_levels": [True]}, "attention_levels has 1 values for 2 levels"),
        ({"n_res_blocks": [1, 2, 3]}, "n_res_blocks has 3 values for 2 levels"),
        ({"n_res_blocks": 0}, r"n_res_blocks\[0\] is 0: a whole number of at least 1"),
        ({"latent_channels": 0}, "latent_channels is 0"),
        ({"latent_channels": 4.0}, "latent_channels is 4.0: a whole number"),
        ({"down_channels": []}, "give the channels of each level"),
        ({"down_channels": 8}, "down_channels is 8: a list"),
        ({"n_groups": 0}, "n_groups is 0"),
        ({"spatial_dims": 4}, r"spatial_dims is 4: choose from \[2, 3\]"),
        ({"upsampling": "linear"}, "upsampling is 'linear': choose from"),
        ({"norm_eps": -1.0}, "norm_eps is -1.0"),
        ({"value_range": (1, 0)}, r"value_range is \(1, 0\): two increasing numbers"),
        ({"value_range": (0, 1, 2)}, "two increasing numbers"),
        ({"value_range": (0, 1), "linear_path": True}, r"with linear_path it is \(-1, 1\)"),
    ],
)
def test_wrong_values_are_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AutoencoderConfig(**{"down_channels": [8, 16], "n_groups": 4, **wrong})  # type: ignore[arg-type]
