"""Label maps of training cases are found, mirrored or retouched; merely similar ones are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medldm.data.labels import LabelSchema
from medldm.evaluation.cases.sets import CaseSet, CaseSets
from medldm.evaluation.errors import NotMeasurableError, TooFewCasesError
from medldm.evaluation.sections.republished import find_republished, republished_result

SHAPE = (24, 22, 20)


def make_anatomy(n: int, *, seed: int) -> list[np.ndarray]:
    """Ellipsoids whose surface is a patient's own, with a core (5)."""
    generator = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, size) for size in SHAPE], indexing="ij"))
    maps = []
    for _ in range(n):
        radius = np.sqrt((grid**2).sum(axis=0))
        own = gaussian_filter(generator.normal(size=SHAPE), 3.0)
        radius = radius + 0.12 * own / own.std()
        maps.append(np.where(radius < 0.35, 5, np.where(radius < 0.7, 1, 0)))
    return maps


def make_sets(synthetic: list[np.ndarray]) -> CaseSets:
    def part(maps: list[np.ndarray]) -> CaseSet:
        return CaseSet(
            images=(),
            labels=tuple(maps),
            subjects=tuple(range(len(maps))),
            file_spacing_mm=(1, 1, 1),
            file_range=(0, 0),
        )

    test = part(make_anatomy(12, seed=1))
    return CaseSets(
        train=part(make_anatomy(20, seed=0)),
        test=test,
        synthetic=part(synthetic),
        noise=test,
        schema=LabelSchema.from_dict({"1": "shell", "5": "core"}),
        spacing_mm=(1, 1, 1),
        shape=SHAPE,
        is_ct=False,
        issues=(),
    )


def test_copied_maps_are_found_and_new_ones_are_not() -> None:
    train = make_anatomy(20, seed=0)
    retouched = np.where(np.random.default_rng(3).random(SHAPE) < 0.01, 0, train[7])
    larger = np.pad(train[5], ((2, 2), (0, 0), (1, 1)))
    sets = make_sets([train[4], *make_anatomy(6, seed=2), larger, train[6][::-1].copy(), retouched])
    names = [f"volume_{place}" for place in range(9)] + ["volume_of_case_17"]
    found = find_republished(sets, names=names, real_names=["case_17", ""])
    assert found.sources == {0: 4, 7: 5, 8: 6, 9: 7}
    assert (found.n_equal, found.names) == (3, ("volume_0", "volume_7", "volume_8"))
    assert found.best["test"].max() < found.threshold < 1
    result = republished_result(found)
    assert result.light == "red" and result.synthetic is not None and result.synthetic.value == 0.4
    assert "4 of 10 synthetic label maps" in result.note and "labelmap_ldm" in result.note
    assert found.to_dict()["synthetic_indices"] == [0, 7, 8, 9]


@pytest.mark.parametrize("seed", range(4))
def test_new_maps_alone_are_green(seed: int) -> None:
    found = find_republished(make_sets(make_anatomy(10, seed=10 + seed)))
    assert found.places == () and republished_result(found).light == "green"
    assert "No synthetic label map" in republished_result(found).note


def test_repeated_scans_of_a_patient_do_not_lift_the_threshold() -> None:
    sets = make_sets(make_anatomy(6, seed=2))
    alone = find_republished(sets).threshold
    maps = sets.train.known_labels()
    subjects = tuple(range(len(maps)))
    twice = replace(sets.train, labels=(*maps, *maps), subjects=(*subjects, *subjects))
    assert find_republished(replace(sets, train=twice)).threshold == pytest.approx(alone, abs=0.02)


def test_sets_without_maps_or_of_one_patient_are_refused() -> None:
    sets = make_sets(make_anatomy(2, seed=2))
    with pytest.raises(TooFewCasesError, match="no label maps"):
        find_republished(replace(sets, synthetic=replace(sets.synthetic, labels=None)))
    lone = replace(sets.train, subjects=(0,) * len(sets.train))
    with pytest.raises(TooFewCasesError, match="1 subject"):
        find_republished(replace(sets, train=lone))


def test_patients_with_equal_maps_are_no_ground_to_judge_by() -> None:
    sets = make_sets(make_anatomy(2, seed=2))
    maps = sets.train.known_labels()
    with pytest.raises(NotMeasurableError, match="different real subjects are equal"):
        find_republished(replace(sets, train=replace(sets.train, labels=(maps[1], *maps[1:]))))
