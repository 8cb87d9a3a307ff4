"""Write a report: report.json, then report.html, each whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medldm.files import write_atomically
from medldm.runtime.distributed import is_main_process


def write_report(folder: Path, report: Mapping[str, Any], make_page: Callable[[], str]) -> None:
    """Write both files, in the first process.

    The figures come first: where a picture cannot be drawn, the work of hours is on disk.

    Args:
        folder: receives both.
        report: of `make_report`.
        make_page: returns the page's HTML.
    """
    text = json.dumps(report, indent=1, allow_nan=False) + "\n"
    if is_main_process():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "report.json", text.encode())
    page = make_page()
    if is_main_process():
        write_atomically(folder / "report.html", page.encode())
