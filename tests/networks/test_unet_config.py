from __future__ import annotations

import pytest

from medldm.networks import LatentUNetConfig
from medldm.networks.unet_config import UNetConfig


def test_defaults_are_those_of_the_design() -> None:
    config = LatentUNetConfig()
    assert config.down_channels == (320, 640, 1280, 1280)
    assert (config.time_emb_dim, config.n_heads, config.cross_attention) == (320, 8, True)
    assert config.attention_levels == (False, True, True, True)
    assert config.heads_of_level(1) == (8, 80)


def test_head_channels_take_the_place_of_heads() -> None:
    config = LatentUNetConfig(n_head_channels=64)
    assert [config.heads_of_level(i) for i in range(4)] == [(5, 64), (10, 64), (20, 64), (20, 64)]


def test_a_single_level_has_attention() -> None:
    assert LatentUNetConfig(down_channels=[64]).attention_levels == (True,)


def test_heads_matter_only_where_there_is_attention() -> None:
    LatentUNetConfig(down_channels=[6, 8], n_groups=2, n_heads=4)
    with pytest.raises(ValueError, match="level 0 has 6 channels, not divisible into 4 heads"):
        LatentUNetConfig(down_channels=[6, 8], n_groups=2, n_heads=4, attention_levels=[True, True])


def test_configuration_survives_plain_values() -> None:
    for config in (LatentUNetConfig(n_head_channels=[8, 8, 16, 16], n_class_embeds=4), UNetConfig()):
        assert type(config).from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_groups": 7}, r"down_channels has \[8, 16\], no multiples of n_groups = 7"),
        ({"n_heads": 3}, "level 1 has 16 channels, not divisible into 3 heads"),
        ({"n_head_channels": 5, "cross_attention": False}, "not divisible into heads of 5 channels"),
        ({"n_head_channels": [8]}, "n_head_channels has 1 values for 2 levels"),
        ({"n_head_channels": 0}, "n_head_channels.*is 0"),
        ({"context_dim": None}, "cross_attention is True but context_dim is None"),
        ({"n_class_embeds": 0}, "n_class_embeds is 0"),
        ({"time_emb_dim": -1}, "time_emb_dim is -1"),
        ({"n_res_blocks": [1, 0]}, r"n_res_blocks\[1\] is 0"),
        ({"spatial_dims": 1}, "spatial_dims is 1: choose from"),
        ({"norm_eps": 0.0}, "norm_eps is 0.0"),
        ({"attention_levels": [True]}, "attention_levels has 1 values for 2 levels"),
    ],
)
def test_wrong_values_are_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LatentUNetConfig(**{"down_channels": [8, 16], "n_groups": 4, "n_heads": 2, **wrong})  # type: ignore[arg-type]


def test_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"Unknown LatentUNetConfig key 'n_head'\. Did you mean 'n_heads'"):
        LatentUNetConfig.from_dict({"n_head": 4})
