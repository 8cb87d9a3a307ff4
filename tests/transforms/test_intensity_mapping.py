"""Intensities go to [-1, 1] and back."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from medldm.transforms import IntensityMapping, foreground_mask


def head(seed: int = 0, *, gain: float = 1.0) -> torch.Tensor:
    """Rician-like background noise around bright tissue."""
    generator = torch.Generator().manual_seed(seed)
    volume = torch.randn(1, 30, 30, 30, generator=generator).abs() * 8
    volume[0, 5:25, 5:25, 5:25] += 300 + 60 * torch.randn(20, 20, 20, generator=generator)
    return volume * gain


@pytest.mark.parametrize("dense_upper", [None, 3000.0])
def test_every_hounsfield_unit_inside_the_window_comes_back_within_one(dense_upper: float | None) -> None:
    mapping = IntensityMapping(kind="ct_window", dense_upper=dense_upper)
    units = torch.arange(-1000, int(dense_upper or 1000) + 1)
    model = mapping.to_model(units)
    assert model.dtype == torch.float32
    assert float(model.min()) == -1 and float(model.max()) == 1
    assert bool((model.diff() > 0).all())
    back = mapping.from_model(model)
    assert back.dtype == torch.int16
    assert int((back.int() - units).abs().max()) <= 1


def test_dense_bone_survives_only_the_piecewise_window() -> None:
    bone = torch.tensor([2500.0])
    assert (
        int(IntensityMapping(kind="ct_window").from_model(IntensityMapping(kind="ct_window").to_model(bone)))
        == 1000
    )
    piecewise = IntensityMapping(kind="ct_window", dense_upper=3000.0)
    assert abs(int(piecewise.from_model(piecewise.to_model(bone))) - 2500) <= 1
    assert float(piecewise.to_model(torch.tensor([1000.0]))) == pytest.approx(0.8)


def test_percentile_mapping_does_not_depend_on_the_unit_of_intensity() -> None:
    mapping = IntensityMapping(kind="mr_percentile")
    first, second = mapping.to_model(head()), mapping.to_model(head(gain=37.5) + 12)
    assert float((first - second).abs().max()) < 1e-4
    assert float(first.min()) == -1 and float(first.max()) == 1


def test_percentiles_are_taken_inside_the_foreground() -> None:
    volume = head()
    inside = volume[foreground_mask(volume)].numpy()
    lower, upper = IntensityMapping(kind="mr_percentile").case_limits(volume)
    np.testing.assert_allclose(
        [lower, upper], np.percentile(inside.astype(np.float64), [0.5, 99.5]), rtol=1e-6
    )
    whole = IntensityMapping(kind="mr_percentile", foreground_only=False).case_limits(volume)
    np.testing.assert_allclose(
        whole, np.percentile(volume.numpy().astype(np.float64), [0.5, 99.5]), rtol=1e-6
    )


def test_given_mask_replaces_the_foreground() -> None:
    volume = head()
    mask = torch.zeros_like(volume, dtype=torch.bool)
    mask[..., 12:14] = True
    limits = IntensityMapping(kind="mr_percentile", percentiles=(0, 100)).case_limits(volume, mask=mask)
    assert limits == (float(volume[mask].min()), float(volume[mask].max()))


def test_foreground_is_the_tissue_not_the_noise() -> None:
    mask = foreground_mask(head())
    truth = torch.zeros_like(mask)
    truth[0, 5:25, 5:25, 5:25] = True
    assert float((mask == truth).float().mean()) > 0.99


def test_case_comes_back_by_its_own_limits_and_synthetic_ones_by_the_cohorts() -> None:
    volume = head()
    mapping = IntensityMapping(kind="mr_percentile", lower=100.0, upper=500.0)
    limits = mapping.case_limits(volume)
    back = mapping.from_model(mapping.to_model(volume, limits=limits), limits=limits)
    kept = (volume >= limits[0]) & (volume <= limits[1])
    assert float((back - volume)[kept].abs().max()) < 1e-3
    assert mapping.from_model(torch.tensor([-1.0, 0.0, 1.0, 9.0])).tolist() == [100.0, 300.0, 500.0, 500.0]


def test_numpy_arrays_stay_numpy_arrays() -> None:
    mapping = IntensityMapping(kind="identity_range", lower=0.0, upper=4.0)
    result = mapping.to_model(np.array([0, 1, 4, 9]))
    assert isinstance(result, np.ndarray)
    np.testing.assert_allclose(result, [-1, -0.5, 1, 1])
    np.testing.assert_allclose(mapping.from_model(result), [0, 1, 4, 4])


def test_input_is_never_changed() -> None:
    volume = head()
    before = volume.clone()
    IntensityMapping(kind="mr_percentile").to_model(volume)
    assert torch.equal(volume, before)


def test_clipped_shares_are_counted() -> None:
    mapping = IntensityMapping(kind="ct_window", dense_upper=3000.0)
    volume = torch.tensor([-1200.0, -1000.0, 0.0, 2999.0, 3001.0])
    assert mapping.clipped_fractions(volume, limits=mapping.case_limits(volume)) == (0.2, 0.2)


@pytest.mark.parametrize(
    "mapping",
    [
        IntensityMapping(kind="ct_window", dense_upper=2500.0),
        IntensityMapping(kind="mr_percentile", lower=1.0, upper=2.0, percentiles=(1.0, 99.0)),
        IntensityMapping(kind="identity_range", lower=0.0, upper=1.0),
    ],
)
def test_mapping_survives_the_way_through_json(mapping: IntensityMapping) -> None:
    assert IntensityMapping.from_dict(json.loads(json.dumps(mapping.to_dict()))) == mapping


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "ct"}, "choose from"),
        ({"kind": "ct_window", "lower": 5.0}, "give both or neither"),
        ({"kind": "ct_window", "lower": 5.0, "upper": 5.0}, "increasing"),
        ({"kind": "ct_window", "dense_upper": 900.0}, "above upper"),
        ({"kind": "ct_window", "dense_share": 1.0}, "between 0 and 1"),
        ({"kind": "mr_percentile", "dense_upper": 900.0}, "belongs to ct_window"),
        ({"kind": "mr_percentile", "percentiles": (99.0, 1.0)}, "increasing numbers"),
        ({"kind": "identity_range"}, "needs lower and upper"),
    ],
)
def test_impossible_mappings_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IntensityMapping(**options)  # type: ignore[arg-type]


def test_unknown_key_names_the_nearest_known_one() -> None:
    with pytest.raises(ValueError, match="Did you mean 'upper'"):
        IntensityMapping.from_dict({"kind": "ct_window", "uper": 3.0})


def test_flat_image_and_missing_cohort_limits_are_refused() -> None:
    mapping = IntensityMapping(kind="mr_percentile")
    with pytest.raises(ValueError, match="no contrast"):
        mapping.case_limits(torch.full((4, 4, 4), 7.0))
    with pytest.raises(ValueError, match="measure_intensity_mapping"):
        mapping.from_model(torch.zeros(3))
