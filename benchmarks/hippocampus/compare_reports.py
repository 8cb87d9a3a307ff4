"""Lay reports of `medldm evaluate` side by side in one Markdown table.

python benchmarks/hippocampus/compare_reports.py medldm=report/report.json monai=monai_report/report.json

The columns of real training cases and of noise are the first report's; the reports must stand on the same
real sets, grid and settings, or the table would compare the unlike.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SAME = ("sets.real_training", "sets.real_test", "grid", "settings", "medldm_version")
"""What two reports must share to be compared."""


def main() -> None:
    """Read the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("reports", nargs="+", metavar="NAME=REPORT_JSON")
    parser.add_argument("--only", nargs="+", default=[""], help="beginnings of the keys to show")
    options = parser.parse_args()
    reports = {}
    for each in options.reports:
        name, _, file = each.partition("=")
        if not file:
            parser.error(f"{each!r} is not NAME=REPORT_JSON")
        reports[name] = json.loads(Path(file).read_text(encoding="utf-8"))
    sys.stdout.write(compare(reports, only=options.only) + "\n")


def compare(reports: Mapping[str, Mapping[str, Any]], *, only: Sequence[str] = ("",)) -> str:
    """Return the table: a row for each figure, a column for each report, then real and noise.

    Args:
        reports: contents of report.json by the name of their column.
        only: beginnings of the keys of the figures to show.

    Raises:
        ValueError: naming what differs between the reports that must be the same.
    """
    first_name, first = next(iter(reports.items()))
    for name, report in reports.items():
        for path in SAME:
            if _look_up(report, path) != _look_up(first, path):
                raise ValueError(
                    f"{path} of {name} and of {first_name} differ: evaluate both with the same real sets, "
                    "settings and version"
                )
    figures = {
        name: {figure["key"]: figure for figure in report["figures"]} for name, report in reports.items()
    }
    keys = list(dict.fromkeys(key for each in figures.values() for key in each))
    lines = [_line(["figure", "better", *reports, "real", "noise"]), _line(["---"] * (len(reports) + 4))]
    for key in keys:
        if key.startswith(tuple(only)):
            lines.append(_line(_cells(key, figures)))
    lines += ["", *(_copies(name, report) for name, report in reports.items())]
    return "\n".join(lines)


def _cells(key: str, figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    known = [each[key] for each in figures.values() if key in each]
    unit = f" ({known[0]['unit']})" if known[0]["unit"] else ""
    own = [_format(each.get(key), "synthetic") for each in figures.values()]
    return [
        known[0]["title"] + unit,
        known[0]["better"],
        *own,
        *(_format(known[0], c) for c in ("real", "noise")),
    ]


def _format(figure: Mapping[str, Any] | None, column: str) -> str:
    estimate = None if figure is None else figure[column]
    if estimate is None or estimate["value"] is None:
        return "not computed" if column == "synthetic" else "-"
    value = f"{estimate['value']:.3g}"
    ends = [estimate["lower"], estimate["upper"]]
    if None in ends or ends[0] == ends[1]:
        return value
    return f"{value} ({ends[0]:.3g} to {ends[1]:.3g})"


def _copies(name: str, report: Mapping[str, Any]) -> str:
    return "\n".join(
        f"- {name}, {kind}: {each['sentence']}" for kind, each in report["copies"].items() if each
    )


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _look_up(report: Mapping[str, Any], path: str) -> Any:
    value: Any = report
    for part in path.split("."):
        value = value[part]
    return value


if __name__ == "__main__":
    main()
