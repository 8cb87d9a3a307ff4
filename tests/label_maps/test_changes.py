"""Changed label maps: volume laws of balls in millimetres, and who may be overwritten."""

from __future__ import annotations

import numpy as np
import pytest

from medldm.label_maps.changes import LabelChange, change_labels, count_changes

SHAPE = (41, 61, 31)
SPACING_MM = (1.0, 0.7, 1.4)
CENTRE = (20, 30, 15)
VOXEL_MM3 = float(np.prod(SPACING_MM))


def ball(radius_mm: float, *, value: int = 3, dtype: type = np.uint8) -> np.ndarray:
    grids = np.indices(SHAPE).T - np.asarray(CENTRE)
    distance = np.linalg.norm(grids * np.asarray(SPACING_MM), axis=-1).T
    return np.where(distance <= radius_mm, value, 0).astype(dtype)


def changed(labels: np.ndarray, operation: str, amount_mm: float | None = None, **options) -> np.ndarray:
    change = LabelChange(operation=operation, structure=3, amount_mm=amount_mm, **options)
    return change_labels(labels, change, spacing_mm=SPACING_MM)


def volume_mm3(labels: np.ndarray, value: int = 3) -> float:
    return float((labels == value).sum()) * VOXEL_MM3


def radius_mm(labels: np.ndarray) -> float:
    """Radius of the ball of the same volume."""
    return (volume_mm3(labels) * 3 / (4 * np.pi)) ** (1 / 3)


@pytest.mark.parametrize(("radius", "amount"), [(8, 2), (8, 4.5), (5, 6)])
def test_growing_a_ball_gives_the_ball_of_the_larger_radius(radius, amount) -> None:
    """Up to a voxel's diagonal; in volume up to a third of a voxel of radius, too little if anything."""
    grown = changed(ball(radius), "grow", amount)
    diagonal = float(np.linalg.norm(SPACING_MM))
    assert not (grown[ball(radius + amount) == 0]).any()
    assert (grown[ball(radius + amount - diagonal) == 3] == 3).all()
    assert -0.35 < radius_mm(grown) - (radius + amount) < 0.05


@pytest.mark.parametrize(("radius", "amount"), [(10, 2), (10, 4.5)])
def test_shrinking_a_ball_gives_the_ball_of_the_smaller_radius(radius, amount) -> None:
    shrunk = changed(ball(radius), "shrink", amount)
    diagonal = float(np.linalg.norm(SPACING_MM))
    assert not (shrunk[ball(radius - amount + diagonal) == 0]).any()
    assert (shrunk[ball(radius - amount - diagonal) == 3] == 3).all()
    assert -0.05 < radius_mm(shrunk) - (radius - amount) < 0.35


def test_shrinking_what_was_grown_gives_the_ball_back() -> None:
    """Exactly: a digital ball is closed under the ball of the same metric."""
    for amount in (1.0, 3.3):
        back = changed(changed(ball(8), "grow", amount), "shrink", amount)
        assert (back[ball(8) == 3] == 3).all()
        assert volume_mm3(back) == pytest.approx(volume_mm3(ball(8)), rel=0.02)


def test_growing_in_two_steps_never_exceeds_one_step_of_their_sum() -> None:
    rng = np.random.default_rng(0)
    labels = (3 * (rng.random(SHAPE) > 0.9995)).astype(np.uint8)
    twice = changed(changed(labels, "grow", 2), "grow", 3)
    assert not (twice.astype(bool) & ~changed(labels, "grow", 5).astype(bool)).any()


def test_millimetres_follow_the_spacing_of_each_axis() -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[CENTRE] = 3
    grown = changed(labels, "grow", 2.9)
    extents = [np.ptp(axis) // 2 for axis in np.nonzero(grown)]
    assert extents == [2, 4, 2]


def test_removing_leaves_none_and_fills_with_the_nearest() -> None:
    labels = ball(8, value=1)
    labels[ball(4) == 3] = 3
    removed = changed(labels, "remove")
    assert np.array_equal(removed, ball(8, value=1))
    assert np.array_equal(changed(labels, "remove", fill=0) == 0, (ball(8, value=1) == 0) | (ball(4) == 3))


def test_shrinking_fills_with_the_nearest_or_what_is_said() -> None:
    labels = ball(8, value=1)
    labels[ball(5) == 3] = 3
    freed = (labels == 3) & (changed(labels, "shrink", 2) != 3)
    assert freed.any()
    assert (changed(labels, "shrink", 2)[freed] == 1).all()
    assert (changed(labels, "shrink", 2, fill=7)[freed] == 7).all()
    assert np.array_equal(changed(labels, "shrink", 2)[~freed], labels[~freed])


@pytest.mark.parametrize("centre", [CENTRE, (20.5, 30.5, 15.5)])
def test_an_added_ball_has_its_volume(centre) -> None:
    added = changed(np.zeros(SHAPE, np.uint8), "add", 8, centre=centre)
    assert volume_mm3(added) == pytest.approx(4 / 3 * np.pi * 8**3, rel=0.02)
    middle = [axis.mean() for axis in np.nonzero(added)]
    assert middle == pytest.approx(centre, abs=1e-9)


@pytest.mark.parametrize(
    ("operation", "options"), [("grow", {"amount_mm": 4}), ("add", {"amount_mm": 9, "centre": CENTRE})]
)
def test_other_structures_are_overwritten_only_where_said(operation, options) -> None:
    labels = ball(6)
    labels[:, :28] = np.where(labels[:, :28] == 0, 1, labels[:, :28])
    labels[:, 32:] = np.where(labels[:, 32:] == 0, 5, labels[:, 32:])
    careful = changed(labels, operation, **options)
    assert (careful[labels == 1] == 1).all()
    assert (careful[labels == 5] == 5).all()
    assert (careful[labels == 0] == 3).any()
    bold = changed(labels, operation, overwrite=(5,), **options)
    assert (bold[labels == 1] == 1).all()
    assert (bold[labels == 5] == 3).any()
    untouched = careful == labels
    assert np.array_equal(careful[~untouched], np.full((~untouched).sum(), 3))


def test_the_input_stays_and_the_type_is_widened_only_where_needed() -> None:
    labels = ball(6)
    before = labels.copy()
    assert changed(labels, "grow", 2).dtype == np.uint8
    assert np.array_equal(labels, before)
    change = LabelChange(operation="add", structure=1000, amount_mm=3, centre=(2, 2, 2))
    added = change_labels(labels, change, spacing_mm=SPACING_MM)
    assert added.dtype == np.uint16
    assert added.max() == 1000


def test_changes_are_counted_per_value() -> None:
    labels = ball(6)
    grown = changed(labels, "grow", 2)
    won = int((grown == 3).sum() - (labels == 3).sum())
    assert count_changes(labels, grown) == {0: -won, 3: won}
    assert count_changes(labels, labels) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"operation": "melt", "structure": 3}, "operation is 'melt'"),
        ({"operation": "remove", "structure": 0}, "structure is 0"),
        ({"operation": "remove", "structure": 3, "amount_mm": 2}, "leave it out"),
        ({"operation": "grow", "structure": 3}, "needs a length above 0 mm"),
        ({"operation": "shrink", "structure": 3, "amount_mm": -1}, "amount_mm is -1"),
        ({"operation": "add", "structure": 3, "amount_mm": 2}, "centre is None"),
        ({"operation": "grow", "structure": 3, "amount_mm": 2, "centre": (1, 1, 1)}, "none for the others"),
        ({"operation": "remove", "structure": 3, "fill": 3}, "the structure itself"),
    ],
)
def test_wrong_changes_are_named(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        LabelChange(**options)


def test_maps_that_a_change_does_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"value 3: it has \[1\]"):
        changed(ball(4, value=1), "grow", 2)
    with pytest.raises(ValueError, match="fills the whole map"):
        changed(np.full(SHAPE, 3, np.uint8), "shrink", 2)
    with pytest.raises(ValueError, match=r"centre is \(20.0, 70.0, 15.0\)"):
        changed(ball(4), "add", 2, centre=(20.0, 70.0, 15.0))
    with pytest.raises(ValueError, match="float32"):
        changed(ball(4).astype(np.float32), "grow", 2)
