"""Intensities with further fields, the value outside of the body, and words on the source."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from medldm.data.cohort import read_cohort
from medldm.errors import ConfigError
from medldm.latent_diffusion.volume_space import VolumeSpace
from medldm.training import measure_space
from medldm.transforms import IntensityMapping

GRID = {"spacing_mm": (1, 1, 1), "size": (16, 20, 16)}
CT = {"kind": "ct_window", "lower": -1000, "upper": 1000, "dense_upper": 3071}


def test_fields_of_a_mapping_stand_beside_its_kind(make_cohort) -> None:
    cohort = read_cohort(make_cohort(3))
    space = measure_space(cohort, **GRID, intensity=CT)
    assert space.intensity == IntensityMapping.from_dict(CT)
    hu = np.array([-1000, -300, 40, 1000, 3071], dtype=np.int16)
    assert np.array_equal(space.intensity.from_model(space.intensity.to_model(hu)), hu)
    measured = measure_space(cohort, **GRID, intensity={"kind": "mr_percentile", "percentiles": [10, 90]})
    plain = measure_space(cohort, **GRID, intensity="mr_percentile")
    assert measured.intensity.percentiles == (10, 90)
    assert plain.intensity.lower < measured.intensity.lower < measured.intensity.upper < plain.intensity.upper
    with pytest.raises(ConfigError, match="dense_uper"):
        measure_space(cohort, **GRID, intensity={"kind": "ct_window", "dense_uper": 3000})


def test_channels_may_have_fields_too(make_cohort) -> None:
    cohort = read_cohort(make_cohort(3, channels=("t1n", "ct")))
    space = measure_space(cohort, **GRID, intensity={"t1n": "mr_percentile", "ct": CT})
    assert [mapping.kind for mapping in space.intensities] == ["mr_percentile", "ct_window"]
    assert space.intensities[1].dense_upper == 3071


def test_what_is_not_said_is_not_in_the_card() -> None:
    plain = VolumeSpace(**GRID, intensity=CT)
    assert not {"outside_value", "intensity_note", "channels"} & set(plain.to_dict())
    said = VolumeSpace(**GRID, intensity=CT, outside_value=-1000, intensity_note="the source's minus 1000")
    card = said.to_dict()
    assert VolumeSpace.from_dict(
        {n: card[n] for n in ("spacing_mm", "size", "intensity", "outside_value")}
    ) == (VolumeSpace(**GRID, intensity=CT, outside_value=-1000))
    assert card["intensity_note"] == "the source's minus 1000"


@pytest.mark.parametrize(
    "given",
    [{"intensity": {"kind": "mr_percentile"}}, {"intensity": {"a": CT, "b": CT}, "channels": ("a", "b")}],
)
def test_a_value_outside_is_for_one_channel_of_ct(given) -> None:
    with pytest.raises(ConfigError, match="one channel of CT"):
        VolumeSpace(**GRID, outside_value=-1000, **given)


def test_the_value_outside_is_looked_for_in_the_training_cases(make_cohort) -> None:
    folder = make_cohort(3)
    assert (
        measure_space(read_cohort(folder), **GRID, intensity="ct_window", outside_value="auto").outside_value
        is None
    )
    for file in (folder / "images").iterdir():
        image = nib.load(file)
        values = np.asarray(image.dataobj)
        cut = np.where(values > 60, values, -1000.0)
        nib.save(nib.Nifti1Image(cut, image.affine), file)
    cohort = read_cohort(folder)
    found = {
        kind: measure_space(cohort, **GRID, intensity=kind, outside_value="auto").outside_value
        for kind in ("ct_window", "mr_percentile")
    }
    assert found == {"ct_window": -1000, "mr_percentile": None}
