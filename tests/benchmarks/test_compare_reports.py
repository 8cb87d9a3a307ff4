"""Reports stand side by side only where they compare the like."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "hippocampus" / "compare_reports.py"


@pytest.fixture(scope="module")
def compare_reports() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare_reports", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_report(value: float | None, *, n_train: int = 180) -> dict[str, Any]:
    def estimate(number: float | None, spread: float = 0.0) -> dict[str, Any] | None:
        if number is None:
            return None
        return {"value": number, "lower": number - spread, "upper": number + spread}

    figure = {
        "key": "fidelity.mmd",
        "title": "MMD",
        "unit": "",
        "better": "lower",
        "synthetic": estimate(value, 0.25),
        "real": estimate(0.5),
        "noise": estimate(9.0),
    }
    return {
        "sets": {"real_training": {"n_cases": n_train}, "real_test": {"n_cases": 20}},
        "grid": {},
        "settings": {"seed": 0},
        "medldm_version": "1",
        "figures": [figure, figure | {"key": "privacy.copies_a", "title": "Copies"}],
        "copies": {"a": {"sentence": "No copies found."}, "b": None},
    }


def test_each_figure_is_a_row_and_each_report_a_column(compare_reports: ModuleType) -> None:
    table = compare_reports.compare({"ours": make_report(1.0), "monai": make_report(None)}, only=["fidelity"])
    assert table.splitlines() == [
        "| figure | better | ours | monai | real | noise |",
        "| --- | --- | --- | --- | --- | --- |",
        "| MMD | lower | 1 (0.75 to 1.25) | not computed | 0.5 | 9 |",
        "",
        "- ours, a: No copies found.",
        "- monai, a: No copies found.",
    ]


def test_reports_on_other_real_sets_are_refused(compare_reports: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"sets\.real_training of monai and of ours differ"):
        compare_reports.compare({"ours": make_report(1.0), "monai": make_report(1.0, n_train=90)})
