"""The size of a denoiser grows with the cohort and the latents, and the user's own wins."""

from __future__ import annotations

import pytest
import torch

from medldm.errors import ConfigError
from medldm.networks import LatentUNet, LatentUNetConfig
from medldm.planning.networks import networks_of_bundle
from medldm.training.denoiser_size import SIZES, choose_denoiser_size, fit_denoiser_size

BUNDLE = "medldm/bundles/mri_label_ldm"


def n_weights(n_cases: int, *, is_augmented: bool = False) -> int:
    size = choose_denoiser_size(n_cases, is_augmented=is_augmented, latents=(12, 14, 16))
    config = LatentUNetConfig(
        in_channels=20,
        down_channels=size.down_channels,
        attention_levels=size.attention_levels,
        n_groups=size.n_groups,
        cross_attention=False,
        context_dim=None,
    )
    with torch.device("meta"):
        return sum(weight.numel() for weight in LatentUNet(config).parameters())


def test_weights_grow_with_the_cohort_and_augmentation_counts_as_cases() -> None:
    counts = [n_weights(n) for n in (20, 180, 900, 3000, 10**6)]
    assert [round(count / 1e6) for count in counts] == [6, 10, 23, 42, 94]
    assert len(counts) == len(SIZES)
    assert n_weights(180, is_augmented=True) == n_weights(360)
    assert n_weights(300) < n_weights(300, is_augmented=True)


@pytest.mark.parametrize(
    ("latents", "n_levels"),
    [((4, 5, 4), 2), ((11, 15, 12), 3), ((60, 60, 8), 3), ((24, 28, 32), 4), ((1, 9, 9), 2)],
)
def test_levels_follow_the_shortest_axis(latents: tuple[int, ...], n_levels: int) -> None:
    size = choose_denoiser_size(180, is_augmented=True, latents=latents)
    assert len(size.down_channels) == len(size.attention_levels) == n_levels
    assert not size.attention_levels[0]


def test_attention_is_left_out_where_it_would_see_too_many_voxels() -> None:
    size = choose_denoiser_size(180, is_augmented=True, latents=(64, 64, 64))
    assert size.attention_levels == (False, False, True, True)


def test_the_users_own_list_wins() -> None:
    own = {"down_channels": [8, 16], "attention_levels": "auto", "n_groups": 4}
    options = {"n_cases": 10, "is_augmented": True, "latents": (4, 4, 4)}
    assert fit_denoiser_size(own, **options) == (own | {"attention_levels": None}, "")
    both = own | {"attention_levels": [True, True]}
    assert fit_denoiser_size(both, **options) == (both, "")
    with pytest.raises(ConfigError, match="down_channels is 'large': auto, or channels"):
        fit_denoiser_size(own | {"down_channels": "large"}, **options)


def test_a_plan_says_which_size_is_chosen_and_why() -> None:
    found = networks_of_bundle(BUNDLE, size=(44, 60, 48), n_cases=180)
    assert found.unet.down_channels == (32, 64, 128, 128)
    assert "180 training cases, which are augmented" in found.denoiser_choice
    plain = networks_of_bundle(
        BUNDLE, size=(44, 60, 48), n_cases=30, diffusion_knobs={"augmentation": "none"}
    )
    assert plain.unet.down_channels == (24, 48, 96, 96)
    own = networks_of_bundle(BUNDLE, diffusion_knobs={"down_channels": [32, 64], "attention_levels": "auto"})
    assert (own.unet.down_channels, own.denoiser_choice) == ((32, 64), "")
