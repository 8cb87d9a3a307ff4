"""Volumes and spacing measured from a case's files, and the ranges that go into checkpoints."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from medldm.data.cohort import read_cohort
from medldm.data.measured_scalars import outer_range, with_measured_scalars


def test_volumes_are_voxels_times_their_size(make_cohort, tmp_path) -> None:
    cohort = with_measured_scalars(read_cohort(make_cohort(3)))
    for case in cohort.cases:
        image = nib.load(case["label"])
        voxel_ml = abs(np.linalg.det(image.affine[:3, :3])) / 1000
        labels = np.asarray(image.dataobj)
        for value, name in cohort.schema.structures.items():
            volume_ml = (labels == value).sum() * voxel_ml
            assert case["scalars"][f"volume_ml:{name}"] == pytest.approx(volume_ml, rel=1e-5)
            assert volume_ml > 0
        assert case["scalars"]["spacing_mm"] == pytest.approx(max(image.header.get_zooms()))


def test_a_value_of_the_list_is_kept(make_cohort, tmp_path) -> None:
    cohort = read_cohort(make_cohort(2))
    name = f"volume_ml:{cohort.schema.names[0]}"
    cohort.training[0]["scalars"] = {name: 7.0, "age": 50.0}
    scalars = with_measured_scalars(cohort).training[0]["scalars"]
    assert (scalars[name], scalars["age"]) == (7.0, 50.0)


@pytest.mark.parametrize("values", [[20.3, 97.2, 50.0], [0.0012, 0.0034], [-5.0, 1e6], [1.0, 1.0001]])
def test_a_range_holds_all_values_and_repeats_none(values) -> None:
    low, high = outer_range(values)
    width = max(values) - min(values)
    assert low <= min(values)
    assert high >= max(values)
    assert high - low <= 1.25 * width


def test_a_range_is_round() -> None:
    assert outer_range([20.3, 97.2]) == (20.0, 100.0)


@pytest.mark.parametrize("values", [[], [3.0, 3.0]])
def test_a_scalar_that_does_not_vary_is_refused(values) -> None:
    with pytest.raises(ValueError, match="does not vary"):
        outer_range(values)
