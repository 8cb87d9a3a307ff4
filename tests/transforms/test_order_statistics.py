"""Order statistics equal a full sort."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medldm.transforms.order_statistics import OrderStatistics

finite = st.floats(-(2.0**100), 2.0**100, width=32)
few = st.sampled_from([-3.5, -0.0, 0.0, 1e-40, -1e-40, 1.0, 1.0000001, 400.0])


@settings(max_examples=300, deadline=None)
@given(values=arrays(np.float32, st.integers(1, 60), elements=finite | few), percent=st.floats(0, 100))
def test_percentile_equals_numpys(values: np.ndarray, percent: float) -> None:
    ours = OrderStatistics(values).percentile(percent)
    assert ours == pytest.approx(
        float(np.percentile(values.astype(np.float64), percent)), rel=1e-6, abs=1e-30
    )


@settings(max_examples=300, deadline=None)
@given(values=arrays(np.float32, st.integers(1, 60), elements=few), threshold=few)
def test_count_equals_a_comparison(values: np.ndarray, threshold: float) -> None:
    assert OrderStatistics(values).count_at_most(threshold) == (values <= np.float32(threshold)).sum()


@settings(max_examples=200, deadline=None)
@given(values=arrays(np.float32, st.integers(2, 60), elements=finite | few), percent=st.floats(0, 100))
def test_percentile_above_a_threshold_equals_that_of_the_selection(
    values: np.ndarray, percent: float
) -> None:
    threshold = float(np.sort(values)[len(values) // 2])
    selected = values[values > np.float32(threshold)].astype(np.float64)
    statistics = OrderStatistics(values)
    if selected.size == 0:
        with pytest.raises(ValueError, match="no value is above"):
            statistics.percentile(percent, above=threshold)
    else:
        ours = statistics.percentile(percent, above=threshold)
        assert ours == pytest.approx(float(np.percentile(selected, percent)), rel=1e-6, abs=1e-30)


def test_values_over_several_pieces_are_counted() -> None:
    values = np.random.default_rng(0).normal(0, 300, 2_300_000).astype(np.float32)
    for percent in (0.0, 0.5, 50.0, 99.5, 100.0):
        expected = np.percentile(values.astype(np.float64), percent)
        assert OrderStatistics(values).percentile(percent) == pytest.approx(expected, rel=1e-7)


def test_empty_selection_is_refused() -> None:
    with pytest.raises(ValueError, match="empty selection"):
        OrderStatistics(np.zeros(0, dtype=np.float32))
