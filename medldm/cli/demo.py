"""The command `medldm demo`."""

from __future__ import annotations

import argparse
import sys

HELP = "from nothing to labelled synthetic brains in ten minutes on a CPU"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `medldm demo`."""
    parser.add_argument("--output-dir", default="demo_output", help="folder that receives everything")
    parser.add_argument("--seed", type=int, default=0)


def run_command(options: argparse.Namespace) -> int:
    """Run all of it and print where to look."""
    from medldm.demo.run import run_demo

    sys.stdout.write(run_demo(options.output_dir, seed=options.seed) + "\n")
    return 0
