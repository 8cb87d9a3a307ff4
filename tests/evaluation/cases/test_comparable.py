"""What a real-or-synthetic test is shown holds no trace of files, padding or order."""

from __future__ import annotations

import numpy as np
import pytest

from medldm.evaluation.cases.comparable import make_comparable, native_step, round_at_random
from medldm.evaluation.cases.sets import CaseSet
from medldm.evaluation.errors import NotMeasurableError


def case_set(images: list[np.ndarray]) -> CaseSet:
    return CaseSet(
        images=tuple(image.astype(np.float32) for image in images),
        labels=None,
        subjects=tuple(range(len(images))),
        file_spacing_mm=(1.0, 1.0, 1.0),
        file_range=(0.0, 1.0),
    )


def draw(seed: int, n: int, shape: tuple[int, int, int] = (12, 11, 10)) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).uniform(-0.1, 1.1, size=(n, *shape)))


def test_step_of_integers_times_a_factor_is_the_factor() -> None:
    values = np.random.default_rng(0).integers(0, 90, size=(10, 10, 10))
    assert native_step(values * 0.0125) == pytest.approx(0.0125)
    assert native_step(np.random.default_rng(1).random((10, 10, 10))) < 1e-2
    assert native_step(np.ones((4, 4, 4))) == 0


def test_rounding_keeps_the_mean_and_follows_the_content() -> None:
    image = np.full((40, 40, 40), 0.3137, dtype=np.float32)
    rounded = round_at_random(image, 0.01)
    assert set(np.round(np.unique(rounded) / 0.01).astype(int)) == {31, 32}
    assert rounded.mean() == pytest.approx(0.3137, abs=1e-4)
    assert (round_at_random(image, 0.01) == rounded).all()


def test_integers_and_floats_have_the_same_values_afterwards() -> None:
    """A histogram tells 60 grey levels from floats at once; after rounding it does not."""
    floats = [image.clip(0, 1) for image in draw(0, 4, (24, 24, 24))]
    integers = [np.round(image.clip(0, 1) * 60) / 60 for image in draw(1, 4, (24, 24, 24))]
    found = make_comparable({"a": case_set(floats), "b": case_set(integers)}, limits=(0.0, 1.0))
    assert found.step == pytest.approx(1 / 60, rel=1e-4) and found.hides_rounding
    shares = []
    for name in "ab":
        levels = np.round(found.sets[name].volumes / found.step).astype(int)
        shares.append(np.bincount(levels.ravel(), minlength=62)[1:60] / levels.size)
    assert np.abs(shares[0] - shares[1]).max() < 0.25 / 60


def test_all_are_cropped_to_the_smallest_so_that_none_is_padded() -> None:
    small, large = draw(2, 3, (9, 14, 10)), draw(3, 2, (15, 12, 11))
    found = make_comparable({"a": case_set(small), "b": case_set(large)}, limits=(0.0, 1.0))
    assert found.sets["a"].volumes.shape == (3, 9, 12, 10)
    assert found.sets["b"].volumes.shape == (2, 9, 12, 10)
    inside = large[0][3:12, :, :10].clip(0, 1)
    assert np.abs(found.sets["b"].volumes[0] - inside).max() <= found.step + 1e-6
    assert "9 x 12 x 10 voxels" in found.describe()


def test_steps_that_cannot_be_hidden_are_said() -> None:
    masks = [np.round(image.clip(0, 1)) for image in draw(4, 2)]
    found = make_comparable({"a": case_set(masks), "b": case_set(draw(5, 2))}, limits=(0.0, 1.0))
    assert found.step == 1 / 32 and "coarser steps" in found.describe()


def test_which_cases_are_drawn_does_not_depend_on_their_order() -> None:
    images = draw(6, 9)
    sets = [
        make_comparable({"a": case_set(each)}, limits=(0.0, 1.0)).sets["a"] for each in (images, images[::-1])
    ]
    drawn = [set(each.take(each.draw(4, seed=1)).keys) for each in sets]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 4


def test_volumes_with_too_little_in_common_are_refused() -> None:
    with pytest.raises(NotMeasurableError, match="7 x 11 x 10 voxels in common"):
        make_comparable({"a": case_set(draw(7, 1, (7, 12, 12))), "b": case_set(draw(8, 1))}, limits=(0, 1))
