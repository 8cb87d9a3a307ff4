"""Lay what was measured out as a table and plots, and write them into a page."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rows import GROWTH, ROWS, Row

START, END = "<!-- networks: start -->", "<!-- networks: end -->"
HEADER = (
    "work", "precision", "first", "second", "times faster", "target", "n", "spread", "GFLOP", "share of peak",
    "memory, first", "memory, second", "ratio", "target",
)  # fmt: skip


def write_page(page: Path, results: dict[str, Any]) -> None:
    """Replace what stands between the marks of a page, and draw its plot beside it."""
    growth = growth_of(results)
    if growth:
        draw_growth(page.parent / "images" / "benchmark_growth.png", growth)
    old = page.read_text(encoding="utf-8")
    head, _, rest = old.partition(START)
    _, mark, tail = rest.partition(END)
    if not mark:
        raise ValueError(f"{page} has no lines {START} and {END}: the table goes between them")
    page.write_text(f"{head}{START}\n{describe(results, growth)}{END}{tail}", encoding="utf-8")


def describe(results: dict[str, Any], growth: dict[str, dict[str, list[float]]]) -> str:
    """The machine, the table, what MONAI gains by allocating as medldm does, and the growth."""
    machine = results["machine"]
    rates = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {name}" for name, rate in machine["peaks"].items())
    lines = [f"Machine: {machine['text']}; fastest product or convolution {rates}.", ""]
    if machine["quick"]:
        lines += ["Small sizes (`--quick`): these figures say nothing about speed.", ""]
    lines += ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    thirds = []
    for name, row in ROWS.items():
        for precision in row.precisions:
            measured = results.get(f"{name} {precision}")
            if measured is not None:
                lines += table_lines(row, precision, measured, machine["peaks"])
                thirds += third_lines(row, precision, measured)
    if thirds:
        lines += ["", "MONAI with memory allocated as in medldm, in turns with the others:", ""]
        lines += ["| work | precision | MONAI | medldm | times faster |", "|---|---|---|---|---|", *thirds]
    lines += share_lines(results)
    if growth:
        lines += ["", *growth_lines(growth)]
    return "\n".join(lines) + "\n"


def table_lines(row: Row, precision: str, measured: dict[str, Any], peaks: dict[str, float]) -> list[str]:
    """The line of a row, and that of its memory with checkpoints."""
    second = measured["sides"][0 if row.only_second else 1]
    first = None if row.only_second else measured["sides"][0]
    title = row.title if row.sides == ("MONAI", "medldm") else f"{row.title}: {' / '.join(row.sides)}"
    wanted = row.speed[0 if precision == "float32" else 1]
    rate = measured["operations"] / second["median"] / peaks.get(precision, math.inf)
    cells = [
        title,
        precision,
        "-" if first is None else format_seconds(first["median"]),
        format_seconds(second["median"]) + ("" if second["warm"] else " (first run)"),
        "-" if first is None else f"**{first['median'] / second['median']:.2f}**",
        "-" if wanted is None else f"{wanted}",
        str(second["n"]),
        "-" if second["n"] < 3 else f"{100 * max(s['spread'] for s in measured['sides'][:2]):.0f} %",
        f"{measured['operations'] / 1e9:.0f}" if measured["operations"] else "-",
        f"{100 * rate:.0f} %" if rate else "-",
        "-" if first is None else format_bytes(first["bytes"]),
        format_bytes(second["bytes"]),
        "-" if first is None else f"**{second['bytes'] / first['bytes']:.2f}**",
        row.note or ("-" if row.memory is None else f"{row.memory}"),
    ]
    lines = ["| " + " | ".join(cells) + " |"]
    if "checkpoints" in measured:
        monai, medldm = measured["checkpoints"]
        cells = [f"{row.title}, both with checkpoints", precision]
        cells += [format_seconds(side["seconds"]) for side in (monai, medldm)]
        cells += [f"**{monai['seconds'] / medldm['seconds']:.2f}**", "-", "1", "-", "-", "-"]
        cells += [format_bytes(side["bytes"]) for side in (monai, medldm)]
        cells += [
            f"**{medldm['bytes'] / monai['bytes']:.2f}**",
            "0.4" if row.kind == "autoencoder" else "0.5",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def third_lines(row: Row, precision: str, measured: dict[str, Any]) -> list[str]:
    """The line of MONAI that allocates as medldm does, where it was measured."""
    if not row.has_third:
        return []
    _, second, third = (side["median"] for side in measured["sides"])
    cells = [row.title, precision, format_seconds(third), format_seconds(second), f"{third / second:.2f}"]
    return ["| " + " | ".join(cells) + " |"]


def share_lines(results: dict[str, Any]) -> list[str]:
    """A table of where the time goes, in percent."""
    lines: list[str] = []
    for name, row in ROWS.items():
        for precision in row.precisions:
            shares = results.get(f"{name} {precision}", {}).get("shares", [])
            for side, kinds in zip(row.sides, shares, strict=False):
                if not lines:
                    lines = ["", "Where the time goes, in percent of one run under the profiler:", ""]
                    lines += ["| work | precision | side | " + " | ".join(kinds) + " |"]
                    lines += ["|" + "---|" * (3 + len(kinds))]
                values = " | ".join(f"{100 * share:.0f}" for share in kinds.values())
                lines.append(f"| {row.title} | {precision} | {side} | {values} |")
    return lines


def growth_of(results: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Voxels of an axis, seconds and bytes of each side's decoding."""
    growth: dict[str, dict[str, list[float]]] = {}
    for name in GROWTH:
        for side in results.get(f"{name} float32", {"sides": []})["sides"]:
            found = growth.setdefault(side["side"], {"size": [], "seconds": [], "bytes": []})
            found["size"].append(4 * (ROWS[name].quick if side["quick"] else ROWS[name].size)[0])
            found["seconds"].append(side["median"])
            found["bytes"].append(side["bytes"])
    return {side: found for side, found in growth.items() if len(set(found["size"])) > 2}


def growth_lines(growth: dict[str, dict[str, list[float]]]) -> list[str]:
    """State the fitted exponents."""
    lines = []
    for side, found in growth.items():
        time, memory = (fit_exponent(found["size"], found[what]) for what in ("seconds", "bytes"))
        sizes = f"{found['size'][0]:.0f}^3 to {found['size'][-1]:.0f}^3"
        lines.append(
            f"- {side}, decoding to {sizes}: time grows with the length of an axis to the power of "
            f"{time:.2f}, memory to the power of {memory:.2f}; 3 is proportional to the voxels."
        )
    plot = "![Time and memory of decoding over the size of the volume](images/benchmark_growth.png)"
    return ["How decoding grows with the volume:", "", *lines, "", plot]


def fit_exponent(sizes: list[float], values: list[float]) -> float:
    """Fit the slope of log(value) over log(size) by least squares."""
    x, y = ([math.log(v) for v in values] for values in (sizes, values))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum(
        (a - mean_x) ** 2 for a in x
    )


def draw_growth(path: Path, growth: dict[str, dict[str, list[float]]]) -> None:
    """Draw seconds and megabytes over the length of an axis, both logarithmic."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, what, label, unit in zip(
        figure.subplots(1, 2), ("seconds", "bytes"), ("time in s", "peak memory in MB"), (1, 1e6), strict=True
    ):
        for side, found in growth.items():
            exponent = fit_exponent(found["size"], found[what])
            values = [value / unit for value in found[what]]
            axes.loglog(found["size"], values, "o-", label=f"{side}, power {exponent:.2f}")
        sizes = sorted({size for found in growth.values() for size in found["size"]})
        axes.set_xticks(sizes, [f"{size:.0f}" for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel("voxels of an axis")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)


def format_seconds(seconds: float) -> str:
    """Write a time in milliseconds or seconds."""
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def format_bytes(number: float) -> str:
    """Write a memory in MB."""
    return f"{number / 1e6:.0f} MB"
