"""Normalisation transforms record what they did, and the cohort's mapping is measured."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from medldm.transforms import (
    IntensityMapping,
    NormaliseIntensity,
    NormaliseIntensityd,
    measure_intensity_mapping,
)


def volumes(count: int) -> list[torch.Tensor]:
    return [
        torch.rand(1, 12, 12, 12, generator=torch.Generator().manual_seed(seed)) * 100 * (seed + 1) + 50
        for seed in range(count)
    ]


def test_inverse_restores_what_was_not_clipped() -> None:
    transform = NormaliseIntensity(
        {"kind": "mr_percentile", "percentiles": [0.0, 100.0], "foreground_only": False}
    )
    volume = MetaTensor(volumes(1)[0])
    result = transform(volume)
    assert float(result.min()) == -1 and float(result.max()) == 1
    assert float((transform.inverse(result) - volume).abs().max()) < 1e-3


def test_limits_and_clipped_shares_are_recorded_and_each_file_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    transform = NormaliseIntensity(IntensityMapping(kind="ct_window"))
    volume = MetaTensor(torch.tensor([-2000.0, 0.0, 0.0, 2000.0]).reshape(1, 4, 1, 1))
    volume.meta["filename_or_obj"] = "folder/Doe/ct_1.nii.gz"
    for _ in range(3):
        result = transform(volume)
    assert result.meta["intensity_limits"] == (-1000.0, 1000.0)
    assert result.meta["clipped_fractions"] == (0.25, 0.25)
    assert caplog.text.count("ct_1.nii.gz: 25.00 % of voxels below and 25.00 % above") == 1
    assert "Doe" not in caplog.text


def test_dictionary_form_is_undone_through_compose() -> None:
    chain = Compose([NormaliseIntensityd("image", {"kind": "identity_range", "lower": 0.0, "upper": 200.0})])
    case = {"image": MetaTensor(volumes(1)[0])}
    back = chain.inverse(chain(case))
    assert float((back["image"] - case["image"]).abs().max()) < 1e-3


def test_cohort_mapping_is_the_median_of_the_cases() -> None:
    cases = volumes(5)
    per_case = IntensityMapping(kind="mr_percentile", percentiles=(1.0, 99.0))
    limits = np.array([per_case.case_limits(volume) for volume in cases])
    mapping = measure_intensity_mapping([{"image": volume} for volume in cases], percentiles=(1.0, 99.0))
    np.testing.assert_allclose([mapping.lower, mapping.upper], np.median(limits, axis=0))
    assert mapping.percentiles == (1.0, 99.0)


def test_range_mapping_spans_the_cohort() -> None:
    cases = volumes(3)
    mapping = measure_intensity_mapping(cases, kind="identity_range")
    assert mapping.lower == min(float(volume.min()) for volume in cases)
    assert mapping.upper == max(float(volume.max()) for volume in cases)


def test_ct_needs_no_measurement() -> None:
    assert measure_intensity_mapping([], kind="ct_window") == IntensityMapping(kind="ct_window")


def test_empty_cohort_is_refused() -> None:
    with pytest.raises(ValueError, match="no cases"):
        measure_intensity_mapping([])


MAPPINGS = [
    IntensityMapping(kind="mr_percentile"),
    IntensityMapping(kind="ct_window"),
    IntensityMapping(kind="identity_range", lower=0.0, upper=400.0),
]


def test_each_channel_is_mapped_as_if_it_were_alone() -> None:
    channels = volumes(3)
    joined = NormaliseIntensity(MAPPINGS)(MetaTensor(torch.cat(channels)))
    for channel, mapping, own, limits in zip(
        channels, MAPPINGS, joined.split(1), joined.meta["intensity_limits"], strict=True
    ):
        alone = NormaliseIntensity(mapping)(MetaTensor(channel))
        assert torch.equal(own.as_tensor(), alone.as_tensor())
        assert limits == alone.meta["intensity_limits"]


def test_the_way_back_is_each_channel_s_own() -> None:
    channels = volumes(3)
    transform = NormaliseIntensity(MAPPINGS)
    back = transform.inverse(transform(MetaTensor(torch.cat(channels))))
    for channel, mapping, own in zip(channels, MAPPINGS, back.split(1), strict=True):
        single = NormaliseIntensity(mapping)
        assert torch.equal(own.as_tensor(), single.inverse(single(MetaTensor(channel))).as_tensor().float())
    of_ct = NormaliseIntensity([MAPPINGS[1]] * 2)
    assert of_ct.inverse(of_ct(MetaTensor(torch.cat(channels[:2])))).dtype == torch.int16


@pytest.mark.parametrize("n_channels", [1, 2, 4])
def test_another_number_of_channels_than_of_mappings_is_refused(n_channels: int) -> None:
    with pytest.raises(ValueError, match=f"{n_channels} channels and there are 3 intensity mappings"):
        NormaliseIntensity(MAPPINGS)(MetaTensor(torch.rand(n_channels, 4, 4, 4)))


def test_clipped_channels_are_logged_by_their_own_files(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    volume = MetaTensor(torch.tensor([0.0, 1.0, 1.0, 9.0, 0.0, 1.0, 1.0, 1.0]).reshape(2, 4, 1, 1))
    volume.meta["channel_files"] = ["x/a_t1n.nii.gz", "x/a_t2w.nii.gz"]
    mapping = {"kind": "identity_range", "lower": 0.0, "upper": 1.0}
    NormaliseIntensity([mapping, mapping])(volume)
    assert "a_t1n.nii.gz: 0.00 % of voxels below and 25.00 % above" in caplog.text
    assert "a_t2w" not in caplog.text
