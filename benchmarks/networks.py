"""The networks beside MONAI's: equal weights, equal outputs, in turns in one run.

    python benchmarks/networks.py                                  # about 20 minutes on two idle cores
    python benchmarks/networks.py --rows unet_forward_16,sampling
    python benchmarks/networks.py --quick                          # small sizes: that it runs, not how fast
    python benchmarks/networks.py --write docs/benchmarks.md

Times are medians over repetitions in turns, bfloat16 is autocast on both sides. Memory is the peak of a fresh
process over what it held with the network built, weights that are kept in another order included. A training
step is forward, loss, backward and Adam; its memory includes the gradients and Adam's state. Before anything
is measured the outputs (of a training step: loss and norm of the gradient) are compared in float32.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from network_work import ROWS, SIDES, Setting, make_work
from side_by_side import count_operations, describe_machine, measure_in_turns, measure_memory, peak_rate

START, END = "<!-- networks: start -->", "<!-- networks: end -->"
HEADER = (
    "work", "precision", "MONAI", "medldm", "times faster", "n", "spread", "GFLOP", "share of peak",
    "MONAI memory", "medldm memory", "ratio", "target",
)  # fmt: skip
GROWTH = {False: (32, 48, 64, 96), True: (8, 16)}


def main() -> None:
    """Measure the chosen rows; print the table, or write it into a page."""
    options = read_options()
    warnings.filterwarnings("ignore")
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.memory_of:
        report_memory(options)
        return
    peaks = {name: peak_rate(getattr(torch, name), device=options.device) for name in ("float32", "bfloat16")}
    lines = [describe_run(options, peaks), "", *table_head()]
    for name in options.rows.split(","):
        for precision in ROWS[name].precisions:
            lines.append(table_row(name, precision, options, peaks))
            sys.stderr.write(lines[-1] + "\n")
    if options.growth:
        lines += ["", describe_growth(options)]
    text = "\n".join(lines) + "\n"
    if options.write:
        write_between_marks(options.write, text)
    sys.stdout.write(text)


def read_options() -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default=",".join(ROWS), help="names, joined by commas: " + ", ".join(ROWS))
    parser.add_argument("--quick", action="store_true", help="small sizes, one repetition")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; 0 for its own choice")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-growth", dest="growth", action="store_false", help="skip the growth with size")
    parser.add_argument("--write", type=Path, help="page whose table is replaced")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = sorted(set(options.rows.split(",")) - set(ROWS))
    if unknown:
        parser.error(f"unknown rows {unknown}: choose from {', '.join(ROWS)}")
    return options


def table_head() -> list[str]:
    """The first two lines of the table."""
    return ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]


def table_row(name: str, precision: str, options: argparse.Namespace, peaks: dict[str, float]) -> str:
    """Measure one row in one precision."""
    row, setting = ROWS[name], Setting(options.device, precision, options.quick)
    check_equality(name, Setting(options.device, "float32", options.quick))
    works = {side: make_work(name, side, setting) for side in SIDES}
    repeats = 1 if options.quick else options.repeats
    seconds = measure_in_turns(works, repeats=repeats, device=options.device)
    operations = count_operations(works["medldm"])
    del works
    monai, medldm = (seconds[side] for side in SIDES)
    memory = [memory_of(name, side, setting, options) for side in SIDES]
    speed_target = row.targets[0 if precision == "float32" else 1]
    cells = [
        row.title if not options.quick else f"{row.title} (quick: {'x'.join(map(str, row.quick))})",
        precision,
        format_seconds(monai.median),
        format_seconds(medldm.median),
        f"{monai.median / medldm.median:.2f}",
        str(medldm.n),
        f"{100 * monai.spread:.0f} / {100 * medldm.spread:.0f} %",
        f"{operations / 1e9:.1f}",
        f"{100 * operations / medldm.median / peaks[precision]:.0f} %",
        format_bytes(memory[0]),
        format_bytes(memory[1]),
        f"{memory[1] / memory[0]:.2f}",
        f"{'-' if speed_target is None else f'{speed_target}x'}, memory {row.targets[2]}",
    ]
    lines = ["| " + " | ".join(cells) + " |"]
    if row.is_step:
        saving = Setting(options.device, precision, options.quick, checkpointing=True)
        memory = [memory_of(name, side, saving, options) for side in SIDES]
        cells = [f"{row.title}, both with checkpoints", precision, *[""] * 7]
        cells += [format_bytes(memory[0]), format_bytes(memory[1]), f"{memory[1] / memory[0]:.2f}", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def check_equality(name: str, setting: Setting) -> None:
    """Raise unless both sides compute the same in float32."""
    expected, found = (make_work(name, side, setting)() for side in SIDES)
    scale = float(expected.abs().max())
    difference = float((found - expected).abs().max()) / scale
    # Guidance 7.5 over 50 steps with random weights multiplies rounding errors.
    allowed = 1e-2 if ROWS[name].kind == "sampling" else 2e-4
    if not difference <= allowed:
        raise RuntimeError(f"{name}: outputs differ by {difference:.1e} of their largest value, not compared")


def memory_of(name: str, side: str, setting: Setting, options: argparse.Namespace) -> int:
    """Measure the memory of one side in a fresh process."""
    what = {"name": name, "side": side, "setting": vars(setting)}
    command = [sys.executable, __file__, "--memory-of", json.dumps(what), "--threads", str(options.threads)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(output.strip().splitlines()[-1])


def report_memory(options: argparse.Namespace) -> None:
    """Measure and print; the process that `memory_of` starts."""
    what: dict[str, Any] = json.loads(options.memory_of)
    setting = Setting(**what["setting"])
    # A first small computation loads the libraries, whose memory is nobody's.
    make_work("unet_forward_16", what["side"], Setting(setting.device, setting.precision, quick=True))()
    work = make_work(what["name"], what["side"], setting)
    sys.stdout.write(f"{measure_memory(work, device=setting.device)}\n")


def describe_growth(options: argparse.Namespace) -> str:
    """Fit how time and memory of an autoencoder's forward pass grow with the voxels of an axis."""
    sizes = GROWTH[options.quick]
    row = ROWS["autoencoder_forward"]
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for size in sizes:
        ROWS["growth"] = type(row)(row.title, (size,) * 3, (size,) * 3, row.kind)
        works = {
            side: make_work("growth", side, Setting(options.device, "float32", quick=False)) for side in SIDES
        }
        measured = measure_in_turns(works, repeats=1 if options.quick else 3, device=options.device)
        for side in SIDES:
            seconds[side].append(measured[side].median)
    exponents = {side: fit_exponent(sizes, seconds[side]) for side in SIDES}
    shown = ", ".join(f"{side} {exponent:.2f}" for side, exponent in exponents.items())
    return (
        f"Time of the autoencoder's forward pass from {sizes[0]}^3 to {sizes[-1]}^3 in float32 grows with "
        f"the length of an axis to the power of: {shown} (3 is proportional to the voxels)."
    )


def fit_exponent(sizes: tuple[int, ...], values: list[float]) -> float:
    """Fit the slope of log(value) over log(size) by least squares."""
    x, y = ([math.log(v) for v in values] for values in (sizes, values))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum(
        (a - mean_x) ** 2 for a in x
    )


def describe_run(options: argparse.Namespace, peaks: dict[str, float]) -> str:
    """State the machine and its peak."""
    rates = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {name}" for name, rate in peaks.items())
    size = " Small sizes (--quick): these figures say nothing about speed." if options.quick else ""
    return f"Machine: {describe_machine(options.device)}; fastest matrix product {rates}.{size}"


def write_between_marks(page: Path, text: str) -> None:
    """Replace what stands between the marks of a page."""
    old = page.read_text(encoding="utf-8")
    head, _, rest = old.partition(START)
    _, mark, tail = rest.partition(END)
    if not mark:
        raise ValueError(f"{page} has no lines {START} and {END}: the table goes between them")
    page.write_text(f"{head}{START}\n{text}{END}{tail}", encoding="utf-8")


def format_seconds(seconds: float) -> str:
    """Write a time in milliseconds or seconds."""
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def format_bytes(number: float) -> str:
    """Write a memory in MB."""
    return f"{number / 1e6:.0f} MB"


if __name__ == "__main__":
    main()
