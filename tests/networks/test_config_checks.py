from __future__ import annotations

from typing import Any

import pytest
import torch

from medldm.networks.config_checks import (
    LevelsConfig,
    check_channels,
    check_positive,
    check_shape,
    per_level,
)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3", None])
def test_only_whole_numbers_from_one_are_positive(value: Any) -> None:
    with pytest.raises(ValueError, match="Owner: n is"):
        check_positive("Owner", n=value)
    check_positive("Owner", n=1)


def test_a_value_stands_for_each_level_and_a_sequence_for_itself() -> None:
    assert per_level("Owner", "n", 2, 3) == (2, 2, 2)
    assert per_level("Owner", "n", (1, 2, 3), 3) == (1, 2, 3)
    with pytest.raises(ValueError, match="Owner: n has 2 values for 3 levels"):
        per_level("Owner", "n", (1, 2), 3)


def test_choice_lists_what_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"LevelsConfig: spatial_dims is 4: choose from \[2, 3\]"):
        LevelsConfig(down_channels=[8], n_groups=8, spatial_dims=4)


def test_channels_are_multiples_of_the_groups() -> None:
    check_channels("Owner", "channels", (4, 8), 4)
    with pytest.raises(
        ValueError, match=r"channels has \[6\], no multiples of n_groups = 4: change the channels"
    ):
        check_channels("Owner", "channels", (4, 6), 4)


@pytest.mark.parametrize("value", [0.0, -1e-6, float("nan")])
def test_eps_is_positive(value: float) -> None:
    with pytest.raises(ValueError, match="norm_eps is"):
        LevelsConfig(down_channels=[8], n_groups=8, norm_eps=value)


def test_shape_says_what_is_needed() -> None:
    check_shape("x has", torch.zeros(1, 2, 3, 4), channels=2, spatial_dims=2)
    with pytest.raises(ValueError, match=r"x has shape \(1, 2, 3\): \(B, 2, X, Y\) is needed"):
        check_shape("x has", torch.zeros(1, 2, 3), channels=2, spatial_dims=2)
