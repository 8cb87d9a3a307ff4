"""The overview picture, read back."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from medldm.data.labels import LabelSchema
from medldm.evaluation.report.overview import COLOURS, draw_overview

Case = tuple[np.ndarray, np.ndarray, tuple[float, float, float]]


def make_case(
    *,
    gain: float = 1.0,
    shape: tuple[int, int, int] = (12, 15, 11),
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0),
) -> Case:
    labels = np.zeros(shape, dtype=np.int64)
    labels[3:8, 4:9, 3:8] = 1
    labels[3:8, 9:12, 3:8] = 2
    noise = np.random.default_rng(0).normal(size=shape)
    return gain * (labels + 0.2 * noise), labels, spacing  # type: ignore[return-value]


def count_pixels(picture: np.ndarray, colour: str) -> int:
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return int((np.abs(picture[..., :3] - rgb).max(axis=-1) < 0.02).sum())


def test_picture_grows_by_a_column_for_each_case_and_by_a_block_for_synthetic_ones(tmp_path: Path) -> None:
    one = imread(draw_overview([make_case()], [], tmp_path / "one.png"))
    three = imread(draw_overview([make_case()] * 3, [], tmp_path / "three.png"))
    both = imread(draw_overview([make_case()], [make_case()], tmp_path / "both.png"))
    assert three.shape[0] == one.shape[0] and three.shape[1] > one.shape[1]
    assert both.shape[0] > 1.8 * one.shape[0] and both.shape[1] == one.shape[1]


def test_cases_beyond_max_cases_are_left_out(tmp_path: Path) -> None:
    two = imread(draw_overview([make_case()] * 2, [], tmp_path / "two.png"))
    cut = imread(draw_overview([make_case()] * 5, [], tmp_path / "cut.png", max_cases=2))
    assert np.array_equal(two, cut)


def test_contours_have_the_colours_of_the_schema(tmp_path: Path) -> None:
    schema = LabelSchema(structures={1: "one", 2: "two"}, colours={1: "#00ff00"})
    picture = imread(draw_overview([make_case()], [], tmp_path / "a.png", schema=schema))
    picture = picture[:-60]  # without the legend
    assert count_pixels(picture, "#00ff00") > 20
    assert count_pixels(picture, COLOURS[1]) > 20
    assert count_pixels(picture, COLOURS[0]) == 0


def test_grey_window_of_each_case_undoes_its_gain(tmp_path: Path) -> None:
    plain = imread(draw_overview([make_case()], [], tmp_path / "plain.png"))
    bright = imread(draw_overview([make_case(gain=500.0)], [], tmp_path / "bright.png"))
    assert np.abs(plain - bright).max() < 0.02


def test_panels_show_millimetres_not_voxels(tmp_path: Path) -> None:
    image, labels, _ = make_case(shape=(12, 12, 12))
    coarse = draw_overview([(image, labels, (1.0, 1.0, 3.0))], [], tmp_path / "coarse.png")
    repeated = [np.repeat(array, 3, axis=2) for array in (image, labels)]
    fine = draw_overview([(repeated[0], repeated[1], (1.0, 1.0, 1.0))], [], tmp_path / "fine.png")
    coarse_black, fine_black = (
        float((imread(path)[..., :3].max(axis=-1) == 0.0).mean()) for path in (coarse, fine)
    )
    assert coarse_black == pytest.approx(fine_black, abs=0.02)


@pytest.mark.parametrize("value", [0, 1])
def test_unlabelled_and_fully_labelled_constant_volumes_are_drawn(tmp_path: Path, value: int) -> None:
    case = (np.zeros((6, 5, 7)), np.full((6, 5, 7), value), (1.0, 2.0, 0.5))
    assert draw_overview([], [case], tmp_path / "deep" / "flat.png", title="flat").stat().st_size > 1000


def test_many_structures_fit_into_the_legend(tmp_path: Path) -> None:
    labels = np.arange(6 * 6 * 6).reshape(6, 6, 6) % 40
    draw_overview([(labels.astype(float), labels, (1.0, 1.0, 1.0))], [], tmp_path / "many.png")
    assert [path.name for path in tmp_path.iterdir()] == ["many.png"]


def test_mistakes_are_refused_by_case_and_shape(tmp_path: Path) -> None:
    image, labels, spacing = make_case()
    with pytest.raises(ValueError, match="no case"):
        draw_overview([], [], tmp_path / "x.png")
    with pytest.raises(ValueError, match="max_cases is 0"):
        draw_overview([make_case()], [], tmp_path / "x.png", max_cases=0)
    with pytest.raises(ValueError, match=r"synthetic case 1 .*\(12, 15, 10\)"):
        draw_overview([], [make_case(), (image, labels[..., :10], spacing)], tmp_path / "x.png")
    with pytest.raises(ValueError, match="spacing"):
        draw_overview([(image, labels, (1.0, 0.0, 1.0))], [], tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_drawing_leaves_pyplot_alone(tmp_path: Path) -> None:
    draw_overview([make_case()], [], tmp_path / "a.png")
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        assert pyplot.get_fignums() == []
