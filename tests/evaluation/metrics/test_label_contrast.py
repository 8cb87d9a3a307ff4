"""Label contrast against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medldm.data.labels import LabelSchema
from medldm.evaluation.metrics.label_contrast import (
    ContrastRow,
    compare_label_contrast,
    format_table,
    label_contrast,
    shuffle_labels,
)


def make_cube(*, at: int = 6, size: int = 16, value: int = 1) -> np.ndarray:
    labels = np.zeros((size, size, size), dtype=np.uint8)
    labels[at : at + 4, 6:10, 6:10] = value
    return labels


def test_two_constants_give_their_difference() -> None:
    labels = make_cube()
    image = np.where(labels == 1, 7.5, 2.0)
    assert label_contrast(image, labels, structure=1) == pytest.approx(5.5)


def test_shell_of_one_voxel_is_the_six_faces() -> None:
    labels = np.zeros((5, 5, 5), dtype=int)
    labels[2, 2, 2] = 4
    image = np.zeros((5, 5, 5))
    image[2, 2, 2] = 12.0
    image[1, 2, 2] = 6.0  # one of six face neighbours
    image[1, 1, 2] = 1000.0  # an edge neighbour, sqrt(2) voxels away
    assert label_contrast(image, labels, structure=4, radius=1.0) == pytest.approx(12.0 - 1.0)
    assert label_contrast(image, labels, structure=4, radius=1.5) == pytest.approx(12.0 - 1006.0 / 18.0)


@pytest.mark.parametrize("radius", [1.0, 2.0, 3.0, 3.7])
def test_shell_agrees_with_distances_between_all_pairs(radius: float) -> None:
    generator = np.random.default_rng(1)
    image, labels = generator.normal(size=(11, 13, 9)), np.zeros((11, 13, 9), dtype=int)
    labels[4:7, 5:9, 3:6] = generator.random((3, 4, 3)) < 0.3
    inside, outside = np.argwhere(labels == 1), np.argwhere(labels == 0)
    distances = np.linalg.norm(outside[:, None] - inside[None], axis=-1).min(axis=1)
    shell = outside[distances <= radius]
    expected = image[labels == 1].mean() - image[tuple(shell.T)].mean()
    assert label_contrast(image, labels, structure=1, radius=radius) == pytest.approx(expected)


def test_voxels_beyond_the_radius_do_not_count() -> None:
    labels = make_cube()
    image = np.where(labels == 1, 3.0, 1.0)
    image[:3] = image[13:] = 1e6
    assert label_contrast(image, labels, structure=1, radius=3.0) == pytest.approx(2.0)


@pytest.mark.parametrize(("surroundings", "expected"), [("unlabelled", 10.0), ("labelled", 5.0)])
def test_surroundings_choose_which_neighbours_count(surroundings: str, expected: float) -> None:
    labels = make_cube()
    labels[:6] = 2
    image = np.select([labels == 1, labels == 2], [10.0, 5.0], 0.0)
    assert label_contrast(image, labels, structure=1, surroundings=surroundings) == pytest.approx(expected)
    assert expected != pytest.approx(label_contrast(image, labels, structure=1, surroundings="all"))


def test_contrast_ignores_an_offset_and_follows_a_gain() -> None:
    image = np.random.default_rng(0).normal(size=(16, 16, 16))
    labels = make_cube()
    before = label_contrast(image, labels, structure=1)
    assert label_contrast(3.0 * image + 40.0, labels, structure=1) == pytest.approx(3.0 * before)


def test_structure_at_the_border_of_the_volume_is_measured() -> None:
    labels = make_cube(at=0)
    image = np.where(labels == 1, 4.0, 1.0)
    assert label_contrast(image, labels, structure=1) == pytest.approx(3.0)


def test_absent_or_filling_structure_has_no_contrast() -> None:
    image = np.ones((8, 8, 8))
    assert math.isnan(label_contrast(image, np.zeros((8, 8, 8), dtype=int), structure=1))
    assert math.isnan(label_contrast(image, np.ones((8, 8, 8), dtype=int), structure=1))


def test_mistakes_are_refused() -> None:
    image, labels = np.zeros((8, 8, 8)), np.zeros((8, 8, 8), dtype=int)
    with pytest.raises(ValueError, match=r"\(8, 8, 8\).*\(8, 8, 7\)"):
        label_contrast(image, labels[..., :7], structure=1)
    with pytest.raises(ValueError, match="background"):
        label_contrast(image, labels, structure=0)
    with pytest.raises(ValueError, match="radius is 0"):
        label_contrast(image, labels, structure=1, radius=0)
    with pytest.raises(ValueError, match="surroundings is 'near'"):
        label_contrast(image, labels, structure=1, surroundings="near")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scale is 'z'"):
        compare_label_contrast([], [], scale="z")  # type: ignore[arg-type]


def make_case(*, gain: float, at: int, contrast: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    labels = make_cube(at=at)
    return gain * (1.0 + contrast * (labels == 1)), labels


def test_volumes_that_follow_their_labels_differ_by_nothing_and_the_shuffled_control_shows_it() -> None:
    real = [make_case(gain=1.0, at=2), make_case(gain=300.0, at=9)]
    synthetic = [make_case(gain=10.0, at=2), make_case(gain=10.0, at=9)]
    (row,) = compare_label_contrast(real, synthetic)
    assert (row.real, row.synthetic) == pytest.approx((1.0, 1.0))
    assert row.relative_difference == pytest.approx(0.0)
    assert abs(row.shuffled) < 0.1
    assert (row.n_real, row.n_synthetic) == (2, 2)


def test_relative_difference_keeps_its_sign_for_dark_structures() -> None:
    real = [make_case(gain=1.0, at=2, contrast=-0.8)]
    synthetic = [make_case(gain=1.0, at=2, contrast=-0.4)]
    (row,) = compare_label_contrast(real, synthetic, scale="intensity")
    assert row.real == pytest.approx(-0.8)
    assert row.relative_difference == pytest.approx(0.5)
    assert math.isnan(row.shuffled)


def test_schema_names_the_rows_and_a_structure_nobody_shows_is_empty() -> None:
    schema = LabelSchema(structures={1: "cube", 5: "missing"})
    cube, missing = compare_label_contrast([make_case(gain=1.0, at=2)], [], schema=schema)
    assert (cube.name, cube.n_real, cube.n_synthetic) == ("cube", 1, 0)
    assert missing.n_real == 0
    assert math.isnan(missing.real) and math.isnan(cube.relative_difference)


@pytest.mark.parametrize("size", [7, 8, 9, 12])
def test_shuffled_labels_keep_their_middle_when_shapes_differ(size: int) -> None:
    other = np.zeros((9, 9, 9), dtype=int)
    other[4, 4, 4] = 1
    own = np.zeros((size, size, size), dtype=int)
    shuffled = shuffle_labels([(own.astype(float), own), (other.astype(float), other)])
    assert shuffled[0][1].shape == own.shape
    (position,) = np.argwhere(shuffled[0][1] == 1)
    assert np.all(np.abs(position - (size - 1) / 2) <= 0.5)
    assert shuffle_labels([(own, own)]) == []


def test_table_holds_every_row_in_columns() -> None:
    row = ContrastRow(
        value=1,
        name="hippocampus",
        real=-0.2,
        synthetic=-0.19,
        relative_difference=0.05,
        shuffled=math.nan,
        n_real=3,
        n_synthetic=3,
    )
    header, rule, line = format_table([row]).splitlines()
    assert line.split() == ["hippocampus", "-0.2", "-0.19", "+5%", "-"]
    assert len(header) == len(rule) == len(line)
