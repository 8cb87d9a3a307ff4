"""Diversity of a set: one brightness, contrast or grain for all volumes shows in its own figure alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medldm.evaluation.cases.sets import CaseSet, CaseSets, Image, make_noise
from medldm.evaluation.sections.comparison import Comparison
from medldm.evaluation.sections.diversity import spread_results

Draw = Callable[[np.random.Generator], float]
SPREAD: dict[str, Draw] = {
    "brightness": lambda generator: generator.normal(0, 0.2),
    "contrast": lambda generator: generator.uniform(0.5, 1.5),
    "grain": lambda generator: generator.uniform(0.6, 1.2),
}
ALIKE = {"brightness": 0.0, "contrast": 1.0, "grain": 0.9}


def draw_volumes(n: int, *, seed: int, alike: frozenset[str] = frozenset()) -> list[Image]:
    """Smooth noise whose mean, deviation and smoothness differ from case to case, but for some of them."""
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        own = {name: ALIKE[name] if name in alike else draw(generator) for name, draw in SPREAD.items()}
        volume = gaussian_filter(generator.normal(size=(12, 13, 10)), own["grain"])
        volume = (volume - volume.mean()) / volume.std()
        made.append((own["contrast"] * volume + own["brightness"]).astype(np.float32))
    return made


def case_set(images: list[Image]) -> CaseSet:
    return CaseSet(
        images=tuple(images),
        labels=None,
        subjects=tuple(range(len(images))),
        file_spacing_mm=(1.0, 1.0, 1.0),
        file_range=(0.0, 1.0),
    )


@pytest.mark.parametrize("alike", [(), ("brightness",), ("contrast", "grain")])
def test_what_is_alike_in_all_synthetic_volumes_shows_in_its_own_figure(alike: tuple[str, ...]) -> None:
    """Grain is measured in the units of the volume: it is alike where smoothness and contrast are."""
    test = case_set(draw_volumes(30, seed=1))
    sets = CaseSets(
        train=case_set(draw_volumes(30, seed=2)),
        test=test,
        synthetic=case_set(draw_volumes(30, seed=3, alike=frozenset(alike))),
        noise=make_noise(test, schema=None),
        schema=None,
        spacing_mm=(1.0, 1.0, 1.0),
        shape=(12, 13, 10),
        is_ct=False,
        issues=(),
        ceiling=None,
    )
    results = spread_results(Comparison(sets=sets, n_resamples=200, seed=0))
    assert [each.description.key for each in results] == [f"diversity.spread_{name}" for name in SPREAD]
    below = set()
    for name, result in zip(SPREAD, results, strict=True):
        assert result.synthetic is not None and result.real is not None
        if result.synthetic.upper < result.real.lower:
            below.add(name)
    assert below == set(alike)
