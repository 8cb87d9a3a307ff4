"""The networks, and what is around them, beside MONAI's: equal weights, equal outputs, in turns in one run.

    python benchmarks/networks.py                                  # about 18 minutes on two idle cores
    python benchmarks/networks.py --rows unet_forward_16,sampling  # the others keep what was measured before
    python benchmarks/networks.py --quick                          # small sizes: that it runs, not how fast
    python benchmarks/networks.py --page docs/results/benchmarks.md  # writes table and plots into the page

Each side runs in a process of its own. Its first run warms up and measures memory: the peak over what the
process held with the network built, weights that are kept in another order included. Then the sides run in
turns, as often as the time of a row allows; times are medians. bfloat16 is autocast on both sides. A training
step is forward, loss, backward and Adam; its memory includes the gradients and Adam's state. medldm's side
allocates memory and fuses Adam as its commands do. The outputs (of a training step: loss and norm of the
gradient) are compared in float32 before a figure counts. Each row is saved as soon as it is measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from page import write_page
from rows import NETWORKS, ROWS, Row, Setting
from side_by_side import describe_machine, peak_rate
from worker import Side

from medldm.networks.kernels.dispatch import has_bfloat16

SECONDS = {"float32": 30.0, "bfloat16": 20.0}
"""For the repetitions of a row; its first runs come on top."""

MOST_REPEATS = 5

PROFILED = ("autoencoder", "unet")
LONGEST_RERUN = 30.0
"""Seconds; a run that takes longer is not done again for its operations and its profile."""


def main() -> None:
    """Measure the chosen rows; print, save and write each as soon as it is known."""
    options = read_options()
    results = read_results(options.results)
    results["machine"] = describe_run(options)
    for name in options.rows.split(","):
        for precision in precisions_of(ROWS[name], options):
            start = time.perf_counter()
            measured = measure_row(name, precision, options)
            results[f"{name} {precision}"] = measured
            options.results.parent.mkdir(parents=True, exist_ok=True)
            options.results.write_text(json.dumps(results, indent=1), encoding="utf-8")
            seconds = time.perf_counter() - start
            sys.stdout.write(f"{name} {precision} ({seconds:.0f} s): {json.dumps(measured)}\n")
            sys.stdout.flush()
            if options.page:
                write_page(options.page, results)


def read_options() -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default=",".join(ROWS), help="names, joined by commas: " + ", ".join(ROWS))
    parser.add_argument("--quick", action="store_true", help="small sizes, one repetition")
    parser.add_argument("--precision", choices=list(SECONDS), help="one only")
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; 0 for its own choice")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, help="for the repetitions of a row, in place of 30 or 20")
    parser.add_argument("--results", type=Path, default=Path("bench_output/results.json"))
    parser.add_argument("--page", type=Path, help="page whose table and plots are replaced")
    options = parser.parse_args()
    unknown = sorted(set(options.rows.split(",")) - set(ROWS))
    if unknown:
        parser.error(f"unknown rows {unknown}: choose from {', '.join(ROWS)}")
    if options.threads:
        torch.set_num_threads(options.threads)
    return options


def read_results(path: Path) -> dict[str, Any]:
    """What earlier runs have measured."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def precisions_of(row: Row, options: argparse.Namespace) -> list[str]:
    """The precisions to measure a row in.

    A CPU without bfloat16 computes it hundreds of times slower in MONAI, so that only small sizes end.
    """
    chosen = [p for p in row.precisions if options.precision in (None, p)]
    if options.device == "cpu" and not has_bfloat16() and not options.quick:
        chosen = [p for p in chosen if p != "bfloat16"]
    return chosen


def measure_row(name: str, precision: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run the sides of a row in turns."""
    row = ROWS[name]
    setting = Setting(options.device, precision, options.quick)
    tuned = Setting(**asdict(setting) | {"is_tuned": True})
    chosen = [(row.sides[0], setting), (row.sides[1], tuned)]
    chosen += [(row.sides[0], tuned)] if row.has_third else []
    chosen = chosen[1:] if row.only_second else chosen
    with ExitStack() as stack:
        sides = [stack.enter_context(Side(name, side, how, threads=options.threads)) for side, how in chosen]
        if row.sides == NETWORKS and not row.only_second and precision == "float32":
            check_equality(name, sides)
        seconds = run_in_turns(sides, precision, options)
        measured: dict[str, Any] = {
            "sides": [
                {"side": side, "bytes": process.n_bytes, **values, **asdict(how)}
                for (side, how), process, values in zip(chosen, sides, seconds, strict=True)
            ],
            "operations": 0,
        }
        is_short = max(side.first_seconds for side in sides) < LONGEST_RERUN
        if is_short and not row.only_second:
            measured["operations"] = sides[1].count_operations()
        if is_short and row.kind in PROFILED:
            measured["shares"] = [side.share_of_time() for side in sides[:2]]
    if row.has_checkpoints:
        measured["checkpoints"] = memory_with_checkpoints(name, chosen[:2], options)
    return measured


def run_in_turns(sides: list[Side], precision: str, options: argparse.Namespace) -> list[dict[str, float]]:
    """Run all sides in turns as often as the time allows; what takes minutes counts its first run."""
    once = sum(side.first_seconds for side in sides)
    repeats = 1 if options.quick else min(MOST_REPEATS, int((options.seconds or SECONDS[precision]) / once))
    if repeats == 0:
        return [{"median": side.first_seconds, "spread": 0.0, "n": 1, "warm": False} for side in sides]
    seconds: list[list[float]] = [[] for _ in sides]
    for _ in range(repeats):
        for side, values in zip(sides, seconds, strict=True):
            values.append(side.run())
    return [summarise(values) for values in seconds]


def summarise(values: list[float]) -> dict[str, float]:
    """Median, half the distance of the quartiles over the median, and number."""
    median = statistics.median(values)
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (median,) * 3
    return {"median": median, "spread": (high - low) / 2 / median, "n": len(values), "warm": True}


def memory_with_checkpoints(
    name: str, chosen: list[tuple[str, Setting]], options: argparse.Namespace
) -> list[dict[str, float]]:
    """Memory and time of one step of both sides with their own checkpoints."""
    found = []
    for side, how in chosen:
        saving = Setting(**asdict(how) | {"checkpointing": True})
        with Side(name, side, saving, threads=options.threads) as process:
            found.append({"bytes": process.n_bytes, "seconds": process.run()})
    return found


def check_equality(name: str, sides: list[Side]) -> None:
    """Raise unless both sides have computed the same."""
    expected, found = (side.output for side in sides[:2])
    difference = float(np.abs(found - expected).max() / np.abs(expected).max())
    # Guidance 7.5 over 50 steps with random weights multiplies rounding errors; files are interpolated in
    # different orders.
    allowed = {"sampling": 1e-2, "reading": 1e-2}.get(ROWS[name].kind, 2e-4)
    if not difference <= allowed:
        raise RuntimeError(f"{name}: outputs differ by {difference:.1e} of their largest value, not compared")


def describe_run(options: argparse.Namespace) -> dict[str, Any]:
    """The machine and the most operations per second that were seen on it."""
    precisions = ["float32"]
    precisions += ["bfloat16"] if options.device == "cuda" or has_bfloat16() else []
    peaks = {name: peak_rate(getattr(torch, name), device=options.device) for name in precisions}
    return {"text": describe_machine(options.device), "peaks": peaks, "quick": options.quick}


if __name__ == "__main__":
    main()
