"""Structure volumes against values worked out by hand and against scipy-free definitions."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from medldm.data.labels import LabelSchema

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "paired" / "volumes.py"
spec = importlib.util.spec_from_file_location("volumes", FILE)
assert spec is not None and spec.loader is not None
volumes = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = volumes
spec.loader.exec_module(volumes)

SCHEMA = LabelSchema(structures={2: "box", 7: "bar"})


def make_map(n_box: int, n_bar: int) -> np.ndarray:
    labels = np.zeros((10, 10, 10), dtype=np.uint8)
    labels.reshape(-1)[:n_box] = 2
    labels.reshape(-1)[500 : 500 + n_bar] = 7
    return labels


def test_a_table_holds_mean_deviation_and_share_in_range() -> None:
    real = [(make_map(n, 100), (10.0, 10.0, 10.0)) for n in (10, 20, 30)]
    synthetic = [(make_map(n, 100), (10.0, 10.0, 10.0)) for n in (10, 40, 25, 45)]
    box, bar = volumes.compare_volumes(real, synthetic, schema=SCHEMA)
    assert (box.name, box.value, box.real_mean, box.real_sd) == ("box", 2, 20.0, 10.0)
    assert (box.synthetic_mean, box.in_range) == (30.0, 0.5)
    assert box.synthetic_sd == pytest.approx(math.sqrt((400 + 100 + 25 + 225) / 3))
    # The distribution functions are 1 and 2/4 at 30 and above, up to 40.
    assert box.ks == pytest.approx(0.5)
    assert (bar.ks, bar.p_value, bar.in_range, bar.real_sd) == (0.0, 1.0, 1.0, 0.0)


def test_the_statistic_is_the_largest_gap_of_the_distribution_functions() -> None:
    generator = np.random.default_rng(3)
    first, second = generator.integers(1, 400, 23), generator.integers(50, 500, 17)
    row = volumes.compare_volumes(
        [(make_map(n, 0), (1, 1, 1)) for n in first],
        [(make_map(n, 0), (1, 1, 1)) for n in second],
        schema=SCHEMA,
    )[0]
    points = np.concatenate([first, second])
    gaps = [abs((first <= x).mean() - (second <= x).mean()) for x in points]
    assert row.ks == pytest.approx(max(gaps))


def test_disjoint_distributions_are_told_apart() -> None:
    low = [(make_map(n, n), (1, 1, 1)) for n in range(10, 30)]
    high = [(make_map(n, n), (1, 1, 1)) for n in range(200, 220)]
    for row in volumes.compare_volumes(low, high, schema=SCHEMA):
        assert (row.ks, row.in_range) == (1.0, 0.0)
        # Exact: both tails of 1 / (40 choose 20).
        assert row.p_value == pytest.approx(2 / math.comb(40, 20))


def test_spacings_may_differ_from_map_to_map() -> None:
    row = volumes.compare_volumes(
        [(make_map(8, 0), (1, 1, 1))], [(make_map(1, 0), (2, 2, 2))], schema=SCHEMA
    )[0]
    assert row.real_mean == row.synthetic_mean == 0.008
    assert math.isnan(row.real_sd)


def test_an_empty_side_is_refused() -> None:
    with pytest.raises(ValueError, match="0 real and 1 synthetic"):
        volumes.compare_volumes([], [(make_map(1, 1), (1, 1, 1))], schema=SCHEMA)


def test_the_printed_table_has_one_line_for_each_structure() -> None:
    row = volumes.VolumeRow(
        value=1,
        name="liver",
        real_mean=1500.0,
        real_sd=200.0,
        synthetic_mean=1450.4,
        synthetic_sd=180.0,
        ks=0.125,
        p_value=0.8,
        in_range=1.0,
    )
    lines = volumes.format_volume_table([row]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[2].split() == ["liver", "1500", "+-", "200", "1450", "+-", "180", "0.12", "0.8", "100%"]
