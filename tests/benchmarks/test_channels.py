"""The second channel of the benchmark's cohort is the function that its report looks for."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from medldm.data import read_cohort

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "channels"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    found = [importlib.import_module(name) for name in ("cohort", "report")]
    yield found
    for name in ("cohort", "report"):
        sys.modules.pop(name)


def test_real_channels_keep_the_function_and_swapped_ones_do_not(modules, make_cohort, tmp_path) -> None:
    cohort, report = modules
    assert cohort.make_cohort(make_cohort(5), tmp_path / "two", n_cases=4) == 4
    found = read_cohort(tmp_path / "two", validation_fraction=0.0)
    assert found.channels == ("first", "second") and len(found.cases) == 4
    pairs, maps = report.read_pairs(found)
    assert report.correlations(pairs).min() > 0.9999
    assert report.correlations(report.swap(pairs)).max() < 0.95
    assert [labels.shape for labels in maps] == [first.shape for first, _ in pairs]
    # Bright where the first is dark, in other units.
    first, second = pairs[0]
    assert (
        np.corrcoef(first.ravel(), second.ravel())[0, 1] < -0.8 and 40 <= second.min() < second.max() <= 2000
    )
