"""The body in a CT volume: what is inside, what is outside, and that the outside becomes one value."""

from __future__ import annotations

import numpy as np
import pytest

from medldm.errors import ConfigError
from medldm.transforms.body_mask import body_mask, body_threshold, find_outside_value, set_outside


def make_head() -> np.ndarray:
    """A cylinder of water along Z with an airway through it and a couch below, in air with noise."""
    rng = np.random.default_rng(0)
    x, y = np.indices((24, 20))
    volume = np.full((24, 20, 10), -1000.0) + rng.integers(0, 12, (24, 20, 10))
    volume[(x - 12) ** 2 + (y - 9) ** 2 < 36] = 20.0
    volume[11:13, 8:10] = -990.0
    volume[4:20, 18] = -300.0
    return volume.astype(np.int16)


def test_airways_are_inside_and_the_couch_is_outside() -> None:
    x, y = np.indices((24, 20))
    disc = (x - 12) ** 2 + (y - 9) ** 2 < 36
    mask = body_mask(make_head(), threshold=-500, n_rim=0)
    assert np.array_equal(mask, np.broadcast_to(disc[..., None], mask.shape))
    rim = body_mask(make_head(), threshold=-500, n_rim=1)
    assert (rim & ~mask)[..., 1:-1].any()
    assert rim[mask].all()
    assert not rim[4:20, 18].any()


def test_a_volume_of_air_has_no_body() -> None:
    assert not body_mask(np.full((4, 4, 4), -1000), threshold=-500).any()


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_the_outside_is_one_value_whatever_the_axes_of_the_file(axes) -> None:
    head = make_head()
    affine = np.eye(4)
    affine[:3, :3] = np.diag([-4.0, 4.0, 3.0])[:, axes]
    found = set_outside(np.transpose(head, axes), affine, value=-1000)
    assert found.dtype == np.int16
    back = np.transpose(found, np.argsort(axes))
    inside = body_mask(head, threshold=-500)
    assert np.array_equal(back[inside], head[inside])
    assert (back[~inside] == -1000).all()


def test_a_cut_out_cohort_has_a_value_outside_and_a_scan_has_none() -> None:
    head = make_head()
    assert find_outside_value(head) is None
    assert find_outside_value(set_outside(head, np.eye(4), value=-1000)) == -1000
    assert find_outside_value(np.abs(head)) is None


@pytest.mark.parametrize("value", [0.0, -200.0, -5000.0])
def test_a_value_that_is_not_that_of_air_is_refused(value) -> None:
    with pytest.raises(ConfigError, match="HU of air"):
        body_threshold(value)
