"""Real test cases through the autoencoder come back on their own grid, in their own units."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medldm.evaluation.cases.ceiling import make_ceiling, reconstruct_case
from medldm.evaluation.cases.reading import Cohorts, load_case_sets, open_cohort, read_case
from medldm.latent_diffusion.volume_space import require_volume_space
from tests.evaluation.cases.test_model_cases import load

SPACING = (1.0, 1.25, 1.0)
"""Of the cohort's files, in RAS+."""


@pytest.mark.parametrize("size", [(8, 8, 8), (17, 20, 15), (32, 24, 24)])
def test_an_autoencoder_that_changes_nothing_gives_the_case_back(
    size: tuple[int, int, int],
    make_cohort: Callable[..., Path],
    make_model: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evaluated = load(make_model(()), tmp_path / "m.safetensors")
    model = evaluated.model
    model.space = require_volume_space(model.space).copy(spacing_mm=SPACING, size=size)
    shapes: list[tuple[int, ...]] = []

    def reconstruct(volume: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(volume.shape[2:]))
        return volume

    monkeypatch.setattr(model, "reconstruct", reconstruct)
    for case in open_cohort(make_cohort(2)).cases:
        own, _, _ = read_case(case, SPACING)
        found = reconstruct_case(case, evaluated, spacing_mm=SPACING)
        low, high = require_volume_space(model.space).intensities[0].case_limits(torch.from_numpy(own))
        assert shapes[-1] == tuple(np.maximum(own.shape, size))
        assert found.shape == own.shape
        assert found == pytest.approx(own.clip(low, high), abs=1e-4 * (high - low))


def test_the_set_keeps_labels_and_subjects_and_has_the_decoders_images(
    make_cohort: Callable[..., Path], make_model: Callable[..., Any], tmp_path: Path
) -> None:
    train, test = (
        open_cohort(make_cohort(3, shape=shape, name=name))
        for name, shape in (("train", (17, 20, 15)), ("test", (16, 18, 15)))
    )
    sets = load_case_sets(Cohorts(train, test, train))
    told: list[str] = []
    evaluated = load(make_model(()), tmp_path / "m.safetensors")
    ceiling = make_ceiling(evaluated, test, sets, progress=told.append)
    assert ceiling.subjects == sets.test.subjects and ceiling.labels is sets.test.labels
    assert [image.shape for image in ceiling.images] == [image.shape for image in sets.test.images]
    assert len(told) == 3 and "case 3 of 3" in told[-1]
    for image, own in zip(ceiling.images, sets.test.images, strict=True):
        assert np.percentile(image, (0.5, 99.5)) == pytest.approx([0.0, 1.0], abs=1e-5)
        assert not np.allclose(image, own, atol=0.05)
