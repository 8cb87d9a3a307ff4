"""Real test cases through the autoencoder come back on their own grid, in their own units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medldm.evaluation.cases.ceiling import AutoencodedCases, make_ceiling, reconstruct_case
from medldm.evaluation.cases.model_cases import EvaluatedModel
from medldm.evaluation.cases.reading import Cohorts, load_case_sets, open_cohort, read_case
from medldm.latent_diffusion.texture import TABLE_SHAPE, Texture
from medldm.latent_diffusion.volume_space import require_volume_space
from medldm.seeds import texture_seed
from medldm.transforms import LoadVolume, ResampleToSpacing
from tests.evaluation.cases.test_model_cases import load

SPACING = (1.0, 1.25, 1.0)
"""Of the cohort's files, in RAS+."""


@pytest.fixture
def make_evaluated(
    make_model: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[EvaluatedModel, list[tuple[int, ...]]]]:
    """Make a model with another autoencoder, and the list of the shapes that it is given."""

    def make(
        change: Callable[[torch.Tensor], torch.Tensor] = lambda volume: volume,
        *,
        size: tuple[int, int, int] = (8, 8, 8),
        **options: Any,
    ) -> tuple[EvaluatedModel, list[tuple[int, ...]]]:
        evaluated = load(make_model((), **options), tmp_path / "m.safetensors")
        model = evaluated.model
        model.space = require_volume_space(model.space).copy(spacing_mm=SPACING, size=size)
        shapes: list[tuple[int, ...]] = []

        def reconstruct(volume: torch.Tensor) -> torch.Tensor:
            shapes.append(tuple(volume.shape))
            return change(volume)

        monkeypatch.setattr(model, "reconstruct", reconstruct)
        return evaluated, shapes

    return make


@pytest.mark.parametrize("size", [(8, 8, 8), (17, 20, 15), (32, 24, 24)])
def test_an_autoencoder_that_changes_nothing_gives_the_case_back(
    size: tuple[int, int, int], make_cohort: Callable[..., Path], make_evaluated: Callable[..., Any]
) -> None:
    evaluated, shapes = make_evaluated(size=size)
    for case in open_cohort(make_cohort(2)).cases:
        own, _, _ = read_case(case, SPACING)
        found = ResampleToSpacing(SPACING)(reconstruct_case(case, evaluated))[0].numpy()
        space = require_volume_space(evaluated.model.space)
        low, high = space.intensities[0].case_limits(torch.from_numpy(own))
        assert shapes[-1][2:] == tuple(np.maximum(own.shape, size))
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
    ceiling = make_ceiling(AutoencodedCases(evaluated, test), sets, progress=told.append)
    assert ceiling.subjects == sets.test.subjects and ceiling.labels is sets.test.labels
    assert [image.shape for image in ceiling.images] == [image.shape for image in sets.test.images]
    assert len(told) == 3 and "case 3 of 3" in told[-1]
    for image, own in zip(ceiling.images, sets.test.images, strict=True):
        assert np.percentile(image, (0.5, 99.5)) == pytest.approx([0.0, 1.0], abs=1e-5)
        assert not np.allclose(image, own, atol=0.05)


def test_the_model_s_texture_is_drawn_as_in_sampling(
    make_cohort: Callable[..., Path], make_evaluated: Callable[..., Any]
) -> None:
    evaluated, _ = make_evaluated()
    model = evaluated.model
    cases = AutoencodedCases(evaluated, open_cohort(make_cohort(2)), seed=3)
    plain = [cases.load(place) for place in range(2)]
    model.texture = Texture(torch.ones(1, 1, 1, 1), torch.full((1, *TABLE_SHAPE), 0.02))
    own = require_volume_space(model.space).intensities[0]
    low, high = own.case_limits(LoadVolume()(cases.cohort.cases[1]["image"]))
    volume = (plain[1].as_tensor() - low) / (high - low) * 2 - 1
    expected = model.texture.draw(volume[None], [texture_seed(3, 1)])[0]
    drawn = (cases.load(1).as_tensor() - low) / (high - low) * 2 - 1
    torch.testing.assert_close(drawn, expected, atol=1e-4, rtol=0)
    assert torch.equal(cases.load(1), cases.load(1)) and not torch.equal(cases.load(0), plain[0])


def test_a_case_of_several_channels_goes_through_the_autoencoder_once_and_whole(
    make_cohort: Callable[..., Path], make_evaluated: Callable[..., Any]
) -> None:
    one = open_cohort(make_cohort(2))
    two = replace(
        one, training=[{**case, "image": [case["image"]] * 2} for case in one.cases], channels=("a", "b")
    )
    evaluated, shapes = make_evaluated(
        lambda volume: torch.cat([volume[:, :1], 0.5 * volume[:, 1:]], dim=1), channels=("a", "b")
    )
    other = open_cohort(make_cohort(2, shape=(16, 18, 15), name="other"))
    sets, cases = load_case_sets(Cohorts(other, one, one)), AutoencodedCases(evaluated, two)
    first, second = (make_ceiling(cases, sets, channel=channel) for channel in (0, 1))
    assert [shape[:2] for shape in shapes] == [(1, 2)] * 2
    spans = [each.file_range[1] - each.file_range[0] for each in (first, second)]
    assert spans[1] == pytest.approx(0.5 * spans[0], rel=0.1)
