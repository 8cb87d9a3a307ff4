"""What TensorBoard shows."""

from __future__ import annotations

import torch

from medldm.training.previews import middle_slices


def test_every_channel_is_shown_below_the_one_before() -> None:
    volume = torch.rand(3, 7, 9, 5) * 2 - 1
    shown = middle_slices(volume)
    alone = [middle_slices(channel[None]) for channel in volume]
    assert shown.shape[1] == 3 * alone[0].shape[1]
    assert torch.equal(shown, torch.cat(alone, dim=1))
