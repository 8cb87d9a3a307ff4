"""The mixed picture: planes, their aspect, and which cases it takes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "fidelity" / "blind_picture.py"
spec = importlib.util.spec_from_file_location("blind_picture", FILE)
assert spec is not None and spec.loader is not None
blind_picture = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = blind_picture
spec.loader.exec_module(blind_picture)


def test_plane_shows_the_second_axis_upwards() -> None:
    image = np.arange(24).reshape(2, 3, 4)
    plane, aspect = blind_picture.plane_of(image, 1, axis=0, spacing_mm=(9.0, 2.0, 6.0))
    assert plane[3, 2] == image[1, 2, 3]
    assert aspect == 3.0


def test_middle_is_that_of_the_labels() -> None:
    labels = np.zeros((9, 9, 9), dtype=int)
    assert blind_picture.middle_of(labels) == (4, 4, 4)
    labels[2:5, 6, 7:9] = 3
    assert blind_picture.middle_of(labels)[:2] == (3, 6)


def test_cases_are_different_and_enough() -> None:
    rng = np.random.default_rng(0)
    assert sorted(blind_picture.choose(range(5), 5, rng)) == list(range(5))
    with pytest.raises(SystemExit, match="give a smaller --n"):
        blind_picture.choose(range(5), 6, rng)


def test_picture_has_a_column_for_each_volume(tmp_path: Path) -> None:
    labels = np.zeros((8, 9, 10), dtype=int)
    bright = [np.full((8, 9, 10), 100.0 * (i % 2)) for i in range(3)]
    volumes = [(image, labels, (1.0, 1.0, 1.0)) for image in bright]
    blind_picture.draw(volumes, tmp_path / "picture.png", window=(0, 100))
    picture = imread(tmp_path / "picture.png")[..., 0]
    row = picture[picture.shape[0] // 6]
    columns = [row[int((i + 0.5) * len(row) / blind_picture.COLUMNS)] for i in range(4)]
    assert columns == [0.0, 1.0, 0.0, 0.0]
