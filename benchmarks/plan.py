"""The peaks that `medldm plan` predicts beside measured ones, on a CPU.

    python benchmarks/plan.py
    python benchmarks/plan.py --write docs/results/planning.md

What is measured is the peak of the resident set over what the process held before the networks were built.
Each configuration runs in a process of its own, forked, which has run the same on 24^3 voxels before. glibc
keeps the gaps that freed blocks leave, in an amount that depends on the order of all allocations; here it is
asked to give blocks back, as MALLOC_MMAP_THRESHOLD_=65536 in the environment does.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import torch
from pages import table, write_between_marks
from side_by_side import describe_machine, measure_memory

import medldm
from medldm.planning import workloads
from medldm.planning.networks import PlannedNetworks, networks_of_bundle
from medldm.planning.plan import predict

M_MMAP_THRESHOLD = -3
"""Of mallopt(3)."""

BUNDLE = Path(medldm.__file__).parent / "bundles" / "mri_label_ldm"
FIRST = {"down_channels": [8, 16, 32], "n_groups": 8}
SECOND = {"down_channels": [32, 64], "attention_levels": [False, True], "n_heads": 4, "n_groups": 16}


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
        "sampling, decoding, 96^3", workloads.decode, (96, 96, 96), first={"down_channels": [16, 32, 64]}
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
    running = [start(configuration) for configuration in CONFIGURATIONS]
    header = ("work", "predicted", "measured", "predicted / measured")
    rows = [row_of(*pair) for pair in zip(CONFIGURATIONS, running, strict=True)]
    text = f"{describe_machine('cpu')}\n\n{table(header, rows)}"
    if options.write:
        write_between_marks(options.write, "plan", text)
    sys.stdout.write(text + "\n")


def row_of(configuration: Configuration, running: TextIO) -> tuple[str, ...]:
    """Predict one configuration, and wait for what was measured."""
    predicted = predict(configuration.work(configuration.networks())).peak_bytes
    measured = float(running.read())
    row = (
        configuration.title,
        f"{predicted / 1e6:.0f} MB",
        f"{measured / 1e6:.0f} MB",
        f"{predicted / measured:.2f}",
    )
    sys.stderr.write(" | ".join(row) + "\n")
    return row


def start(configuration: Configuration) -> TextIO:
    """Fork a process that measures; its number comes through the pipe that is returned."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        status = 1
        try:
            os.close(reader)
            configuration.work(configuration.networks((24, 24, 24)))()
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**16)
            peak = measure_memory(configuration.work(configuration.networks()), device="cpu")
            os.write(writer, str(peak).encode())
            status = 0
        except Exception:
            traceback.print_exc()
        finally:
            # Neither the parent's buffers nor its exit handlers are this process's to run.
            os._exit(status)
    os.close(writer)
    return os.fdopen(reader)


if __name__ == "__main__":
    main()
