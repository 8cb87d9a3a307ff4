"""The page of benchmarks: what it states follows from what was measured."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module benchmarks/page.py, whose folder is no package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("page", "rows"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return __import__("page")


def side(name: str, seconds: float, n_bytes: float, *, n: int = 5) -> dict[str, Any]:
    values = {"median": seconds, "spread": 0.02, "n": n, "warm": True, "quick": False}
    return {"side": name, "bytes": n_bytes, **values}


def results() -> dict[str, Any]:
    """Decoding that grows with the voxels in time, and with the voxels of a plane in memory."""
    found: dict[str, Any] = {
        "machine": {"text": "two cores", "peaks": {"float32": 1e11}, "quick": False},
        "unet_forward_16 float32": {
            "sides": [side("MONAI", 3.0, 100e6), side("medldm", 1.5, 40e6)],
            "operations": 75e9,
            "shares": [{"convolutions": 0.8, "rest": 0.2}, {"convolutions": 0.7, "rest": 0.3}],
        },
    }
    for length, name in ((32, "decode_32"), (64, "decode_64"), (96, "decode_96")):
        sides = [
            side("MONAI", 2e-6 * length**3, 9e3 * length**3),
            side("medldm", 1e-6 * length**3, length**2),
        ]
        found[f"{name} float32"] = {"sides": sides, "operations": 1e9}
    return found


@pytest.mark.parametrize("power", [0.5, 2.0, 3.0])
def test_a_power_law_has_its_exponent(page: Any, power: float) -> None:
    sizes = [32.0, 48.0, 64.0]
    assert page.fit_exponent(sizes, [7 * size**power for size in sizes]) == pytest.approx(power)


def test_the_table_states_ratios_shares_and_exponents(page: Any, tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.md"
    path.write_text(f"before\n{page.START}\nold\n{page.END}\nafter\n", encoding="utf-8")
    page.write_page(path, results())
    text = path.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith(f"{page.END}\nafter\n") and "old" not in text
    row = next(line for line in text.splitlines() if line.startswith("| U-Net forward, 4 x 16^3"))
    assert "| **2.00** | 2.0 |" in row and "| 75 | 50 % |" in row and "| **0.40** | 0.6 |" in row
    assert (
        "medldm, decoding to 32^3 to 96^3: time grows with the length of an axis to the power of 3.00" in text
    )
    assert "memory to the power of 2.00" in text
    assert "| U-Net forward, 4 x 16^3 | float32 | medldm | 70 | 30 |" in text
    assert (tmp_path / "images" / "benchmark_growth.png").stat().st_size > 1000


def test_rows_that_were_not_measured_are_left_out(page: Any, tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.md"
    path.write_text(f"{page.START}\n{page.END}\n", encoding="utf-8")
    few = copy.deepcopy(results())
    del few["decode_96 float32"], few["unet_forward_16 float32"]
    page.write_page(path, few)
    text = path.read_text(encoding="utf-8")
    assert "U-Net" not in text and "grows" not in text and "decode to 64^3" in text


def test_a_page_without_marks_is_refused(page: Any, tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.md"
    path.write_text("no marks", encoding="utf-8")
    with pytest.raises(ValueError, match="has no lines"):
        page.write_page(path, results())
