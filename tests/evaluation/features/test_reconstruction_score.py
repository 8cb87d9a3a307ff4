"""The autoencoder's error is judged against the volume's own detail."""

from __future__ import annotations

import math

import pytest
import torch

from medldm.evaluation.features.reconstruction_score import reconstruction_score


def test_the_score_is_the_ratio_of_errors_whatever_the_volume_s_detail() -> None:
    generator = torch.Generator().manual_seed(0)
    volume = torch.randn((1, 2, 8, 6, 4), generator=generator)
    means = volume.reshape(1, 2, 4, 2, 3, 2, 2, 2).mean(dim=(3, 5, 7), keepdim=True)
    coarse = means.expand(1, 2, 4, 2, 3, 2, 2, 2).reshape(volume.shape)
    for detail in (1.0, 0.1):
        hard = detail * volume
        half = hard + 0.5 * (detail * coarse - hard)
        assert reconstruction_score(hard, half, cell=(2, 2, 2)) == pytest.approx(math.log(4), rel=1e-4)


def test_cells_that_reach_beyond_the_volume_take_what_is_inside() -> None:
    volume = torch.randn((1, 1, 5, 7, 3), generator=torch.Generator().manual_seed(1))
    coarse = volume.clone()
    coarse[..., 4:, :, :] = volume[..., 4:, :, :]
    score = reconstruction_score(volume, torch.zeros_like(volume), cell=(4, 4, 1))
    assert math.isfinite(score) and score < 0.5
    assert reconstruction_score(volume, volume, cell=(4, 4, 1)) > 10


def test_a_memoriser_stands_out_and_a_hard_case_does_not() -> None:
    generator = torch.Generator().manual_seed(2)
    easy, hard = (scale * torch.randn((1, 1, 8, 8, 8), generator=generator) for scale in (0.1, 1.0))
    plain = [reconstruction_score(each, 0.5 * each, cell=(2, 2, 2)) for each in (easy, hard)]
    assert plain[0] == pytest.approx(plain[1], abs=0.1)
    assert reconstruction_score(hard, 0.9 * hard, cell=(2, 2, 2)) > max(plain) + 1
