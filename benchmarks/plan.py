"""The peaks that `medldm plan` predicts beside measured ones, on a CPU.

    python benchmarks/plan.py
    python benchmarks/plan.py --write docs/planning.md

What is measured is the peak of the resident set over what the process held before the networks were built.
Each configuration runs in a process of its own, forked from one that has loaded the libraries and run each
kind of work once on 24^3 voxels.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pages import table, write_between_marks
from side_by_side import describe_machine, measure_memory

import medldm
from medldm.planning import workloads
from medldm.planning.durations import measure_rate
from medldm.planning.networks import PlannedNetworks, networks_of_bundle
from medldm.planning.plan import predict

BUNDLE = Path(medldm.__file__).parent / "bundles" / "mri_label_ldm"
FIRST = {"channels": [8, 16, 32], "n_groups": 8}
SECOND = {"channels": [32, 64], "attention_levels": [False, True], "n_heads": 4, "n_groups": 16}


class Configuration(NamedTuple):
    """A line of the table.

    Args:
        title: of the line.
        work: makes what runs.
        size: voxels of the volumes.
        first: knobs of the autoencoder.
        second: knobs of the denoiser.
    """

    title: str
    work: Callable[[PlannedNetworks], workloads.Work]
    size: tuple[int, int, int]
    first: dict[str, Any] = {}  # noqa: RUF012 (read only)
    second: dict[str, Any] = {}  # noqa: RUF012

    def networks(self, size: tuple[int, int, int] | None = None) -> PlannedNetworks:
        """Return the networks, on another size if one is given."""
        return networks_of_bundle(
            BUNDLE,
            size=size or self.size,
            autoencoder_knobs=FIRST | self.first,
            diffusion_knobs=SECOND | self.second,
        )


CONFIGURATIONS = (
    Configuration("autoencoder, two steps, 64^3", workloads.train_autoencoder, (64, 64, 64)),
    Configuration(
        "autoencoder, two steps with checkpoints, batch 2, 48 x 64 x 48",
        workloads.train_autoencoder,
        (48, 64, 48),
        first={"checkpointing": True, "batch_size": 2},
    ),
    Configuration(
        "diffusion, two steps, batch 4, label maps, 64^3",
        workloads.train_diffusion,
        (64, 64, 64),
        second={"batch_size": 4},
    ),
    Configuration(
        "sampling, decoding, 96^3", workloads.decode, (96, 96, 96), first={"channels": [16, 32, 64]}
    ),
)


def main() -> None:
    """Measure and predict; print the table, or write it into a page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", type=Path, help="page whose table is replaced")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    for configuration in CONFIGURATIONS:
        configuration.work(configuration.networks((24, 24, 24)))()
    rate = measure_rate(CONFIGURATIONS[0].networks())
    header = ("work", "predicted", "measured", "predicted / measured", "predicted time", "measured time")
    rows = [row_of(configuration, rate) for configuration in CONFIGURATIONS]
    text = f"{describe_machine('cpu')}; {rate / 1e9:.1f} GFLOP/s.\n\n{table(header, rows)}"
    if options.write:
        write_between_marks(options.write, "plan", text)
    sys.stdout.write(text + "\n")


def row_of(configuration: Configuration, rate: float) -> tuple[str, ...]:
    """Predict and measure one configuration."""
    networks = configuration.networks()
    predicted = predict(configuration.work(networks))
    measured, seconds = in_a_fork(lambda: measure(configuration.work(networks)))
    row = (
        configuration.title,
        f"{predicted.peak_bytes / 1e6:.0f} MB",
        f"{measured / 1e6:.0f} MB",
        f"{predicted.peak_bytes / measured:.2f}",
        f"{predicted.operations / rate:.1f} s",
        f"{seconds:.1f} s",
    )
    sys.stderr.write(" | ".join(row) + "\n")
    return row


def measure(work: workloads.Work) -> tuple[float, float]:
    """Return the peak bytes and the seconds of a piece of work."""
    start = time.perf_counter()
    peak = measure_memory(work, device="cpu")
    return peak, time.perf_counter() - start


def in_a_fork(work: Callable[[], tuple[float, ...]]) -> list[float]:
    """Run in a forked process, whose memory is its own, and return the numbers."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, " ".join(str(value) for value in work()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    if not text:
        raise RuntimeError("the forked process gave no numbers: see its error above")
    return [float(value) for value in text.split()]


if __name__ == "__main__":
    main()
