"""Views keep the patient, follow their seed, and change what they say they change."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medldm.evaluation.features.augmentation import AugmentationConfig, augment, change_contrast, move

STILL = {"shift": 0.0, "smallest_crop": 1.0, "flip_probability": 0.0, "contrast": 0.0, "noise": 0.0}


def volumes(n: int = 4) -> Tensor:
    return torch.randn((n, 1, 9, 8, 7), generator=torch.Generator().manual_seed(3))


def test_nothing_switched_on_changes_nothing(generator: torch.Generator) -> None:
    x = volumes()
    torch.testing.assert_close(
        augment(x, AugmentationConfig(**STILL), generator=generator), x, atol=1e-5, rtol=0
    )


def test_flip_mirrors_the_first_spatial_axis_alone(generator: torch.Generator) -> None:
    x = volumes()
    flipped = move(x, AugmentationConfig(**STILL | {"flip_probability": 1.0}), generator=generator)
    torch.testing.assert_close(flipped, x.flip(2), atol=1e-5, rtol=0)


def test_shift_moves_a_point_by_no_more_than_its_share(generator: torch.Generator) -> None:
    x = torch.zeros((64, 1, 20, 20, 20))
    x[:, :, 10, 10, 10] = 1.0
    moved = move(x, AugmentationConfig(**STILL | {"shift": 0.2}), generator=generator)
    where = moved.flatten(1).argmax(1)
    offsets = torch.stack([where // 400, where // 20 % 20, where % 20], dim=1) - 10
    assert offsets.abs().max() == 4 or offsets.abs().max() == 3
    assert (offsets.float().std(0) > 1).all()


def test_contrast_keeps_the_order_of_intensities(generator: torch.Generator) -> None:
    x = volumes()
    changed = change_contrast(x, AugmentationConfig(**STILL | {"contrast": 0.5}), generator=generator)
    order = x.flatten(1).argsort(1)
    assert (changed.flatten(1).gather(1, order).diff(dim=1) >= -1e-5).all()
    assert (changed - x).abs().amax((1, 2, 3, 4)).min() > 0.05


def test_noise_is_at_most_as_strong_as_said(generator: torch.Generator) -> None:
    x = torch.zeros((200, 1, 8, 8, 8))
    sd = augment(x, AugmentationConfig(**STILL | {"noise": 0.3}), generator=generator).std((1, 2, 3, 4))
    assert 0.25 < sd.max() < 0.34 and sd.min() < 0.05


def test_same_seed_gives_the_same_views() -> None:
    views = [
        augment(volumes(), AugmentationConfig(), generator=torch.Generator().manual_seed(s))
        for s in (1, 1, 2)
    ]
    assert torch.equal(views[0], views[1]) and not torch.equal(views[0], views[2])


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="smallest_crop is 0"):
        AugmentationConfig(smallest_crop=0)
    with pytest.raises(ValueError, match="contrast is 1"):
        AugmentationConfig(contrast=1)
