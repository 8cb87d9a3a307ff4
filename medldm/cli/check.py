"""The command `medldm check`."""

from __future__ import annotations

import argparse
import sys

HELP = "check a cohort before training on it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `medldm check`."""
    parser.add_argument("dataset_dir", help="folder with images/ and labels/, or a MONAI datalist JSON")
    parser.add_argument("--fast", action="store_true", help="read headers only, not every voxel")
    parser.add_argument(
        "--channels", help="contrasts that a case must have, such as t1n,t2w; all if not given"
    )
    parser.add_argument(
        "--drop-incomplete", action="store_true", help="leave out cases that lack one of the contrasts"
    )
    parser.add_argument("--json", action="store_true", help="print the issues as JSON")


def run_command(options: argparse.Namespace) -> int:
    """Print what is wrong with a cohort; 1 if something is."""
    from medldm.data.channels import split_names
    from medldm.data.checks import run_check

    text, code = run_check(
        options.dataset_dir,
        full=not options.fast,
        as_json=options.json,
        channels=split_names(options.channels),
        drop_incomplete=options.drop_incomplete,
    )
    sys.stdout.write(text + "\n")
    return code
