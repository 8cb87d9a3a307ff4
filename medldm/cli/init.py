"""The command `medldm init`."""

from __future__ import annotations

import argparse
import sys

HELP = "copy a bundle, to change its settings for your own cohort"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `medldm init`."""
    parser.add_argument(
        "bundle", help="name of a bundle that is installed, such as mri_label_ldm, or a folder"
    )
    parser.add_argument("output_dir", help="receives configs/, docs/ and LICENSE; absent or empty")
    parser.add_argument(
        "--with-weights", action="store_true", help="copy the weights of models/ too; not done if not given"
    )


def run_command(options: argparse.Namespace) -> int:
    """Copy the bundle and say what comes next."""
    from medldm.sharing.copies import copy_bundle
    from medldm.sharing.shipped import find_bundle

    bundle = find_bundle(options.bundle)
    folder = copy_bundle(bundle, options.output_dir, with_weights=options.with_weights)
    sys.stdout.write(
        f"{bundle.name} is copied to {folder}\n"
        f"its settings stand at the top of the files in {folder / 'configs'}; then train:\n"
        f"medldm train all COHORT OUT --bundle {folder}\n"
    )
    return 0
