from __future__ import annotations

from typing import Any

import pytest

from medldm.networks import VQVAEConfig


def test_strided_channels_need_no_groups() -> None:
    config = VQVAEConfig(trunk="strided", down_channels=[5, 7, 9])
    assert config.downsampling == (8, 8, 8)
    assert config.hidden_channels == (5, 7, 9)
    assert config.down_parameters == ((2, 4, 1, 1),) * 3


def test_residual_trunk_has_one_halving_less_than_levels() -> None:
    assert VQVAEConfig(down_channels=[32, 64, 128]).downsampling == (4, 4, 4)


def test_strides_make_the_downsampling() -> None:
    config = VQVAEConfig(
        trunk="strided",
        down_channels=[4, 6],
        down_parameters=[[4, 8, 1, 2], [1, 3, 1, 1]],
        up_parameters=[[1, 3, 1, 1, 0], [4, 8, 1, 2, 0]],
    )
    assert config.downsampling == (4, 4, 4)


def test_configuration_survives_plain_values() -> None:
    for config in (VQVAEConfig(), VQVAEConfig(trunk="strided", down_channels=[4, 6], res_channels=3)):
        assert VQVAEConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"up_channels": [4, 6]}, "leave up_channels out"),
        ({"res_channels": [1]}, "res_channels has 1 values for 2 levels"),
        ({"res_channels": 0}, r"res_channels\[0\] is 0"),
        ({"down_parameters": [2, 4, 1]}, "give 4 whole numbers for each level"),
        ({"up_parameters": [[2, 4, 1, 1, 0]]}, "up_parameters has 1 values for 2 levels"),
        ({"up_parameters": [2, 4, 1, 0, 0]}, "choose paddings that restore the size"),
        ({"activation": "swish"}, "activation is 'swish': choose from"),
    ],
)
def test_wrong_strided_values_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VQVAEConfig(**{"trunk": "strided", "down_channels": [4, 6], **wrong})
