"""Write a report: report.json and report.html, each whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medldm.files import write_atomically
from medldm.runtime.distributed import is_main_process


def write_report(folder: Path, report: Mapping[str, Any], page: str) -> None:
    """Write both files, in the first process."""
    text = json.dumps(report, indent=1, allow_nan=False) + "\n"
    if is_main_process():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "report.json", text.encode())
        write_atomically(folder / "report.html", page.encode())
