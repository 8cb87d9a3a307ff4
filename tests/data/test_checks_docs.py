"""The Python blocks of docs/how-to/cohorts.md run as they stand, one after the other."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "cohorts.md"


def test_python_blocks_run_on_a_cohort(
    make_cohort: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_cohort(5)
    root.rename(root.with_name("my_cohort"))
    monkeypatch.chdir(root.parent)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 2
    scope: dict[str, Any] = {}
    for block in blocks:
        exec(block, scope)
    assert tuple(scope["case"]["image"].shape) == (1, 48, 64, 48)
    assert tuple(scope["file_geometry"]["image"].shape) == (1, 8, 7, 6)


def test_every_check_is_explained() -> None:
    folder = PAGE.parents[2] / "medldm" / "data"
    names = ("case_checks", "cohort_checks", "name_checks", "case_subjects", "channels", "listing")
    files = [*(folder / f"{name}.py" for name in names), *(folder / "layouts").glob("*.py")]
    source = "\n".join(file.read_text(encoding="utf-8") for file in files)
    named = set(re.findall(r'Issue\.(?:error|warning)\(\s*"([a-z ]+)"', source))
    table = PAGE.read_text(encoding="utf-8")
    assert len(named) > 12
    assert not [name for name in named if name not in table]
