"""Pooled latents are means and deviations of cells; real halves lie near in them, noise far."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medldm.evaluation.cases.reading import Cohorts, open_cohort
from medldm.evaluation.features.extraction import standardise_sets
from medldm.evaluation.features.latent import latent_features, pool_latents
from medldm.training import volume_transforms
from tests.evaluation.measures import kernel_inception_distance


def test_cells_hold_their_mean_and_deviation(generator: torch.Generator) -> None:
    latents = torch.randn((1, 3, 4, 6, 2), generator=generator) + 1e3
    cells = latents.double().reshape(1, 3, 2, 2, 2, 3, 2, 1).permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(3, 8, -1)
    expected = np.concatenate([cells.mean(-1).flatten(), cells.std(-1, correction=0).flatten()])
    assert pool_latents(latents) == pytest.approx(expected, abs=1e-6)


def test_grid_is_no_finer_than_the_latents() -> None:
    assert pool_latents(torch.ones(1, 2, 1, 5, 3), grid=4).shape == (2 * 2 * 1 * 4 * 3,)
    assert pool_latents(torch.full((1, 1, 3, 3, 3), 7.0)) == pytest.approx([7.0] * 8 + [0.0] * 8)
    with pytest.raises(ValueError, match=r"\(1, C, x, y, z\) and at least 1"):
        pool_latents(torch.ones(2, 1, 3, 3, 3))


def test_real_halves_lie_near_and_noise_far(
    make_cohort: Callable[..., Path], make_model: Callable[..., Any]
) -> None:
    model = make_model(("label_map",))
    train, test = (open_cohort(make_cohort(n, name=str(n))) for n in (12, 13))
    found = latent_features(model, Cohorts(train, test, test), seed=1)
    assert {name: len(each) for name, each in found.items()} == {
        "train": 12,
        "test": 13,
        "synthetic": 13,
        "noise": 13,
    }
    np.testing.assert_array_equal(found["synthetic"], found["test"])
    row = volume_transforms(model.space)(test.cases[4])["image"]
    assert found["test"][4] == pytest.approx(pool_latents(model.encode(torch.as_tensor(row)[None])))
    standardised, _ = standardise_sets(found)
    half, noise = (
        kernel_inception_distance(standardised["test"], standardised[n]) for n in ("train", "noise")
    )
    assert abs(half) < 0.01 * noise
