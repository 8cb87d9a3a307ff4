"""The command `medldm run`."""

from __future__ import annotations

import argparse

HELP = "check a bundle's config and run it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `medldm run`."""
    parser.description = (
        "Further arguments are those of `python -m monai.bundle run`: --config_file, --KEY ..."
    )
    parser.allow_abbrev = False
    parser.add_argument(
        "--trusted-bundle", action="store_true", help="do not check; the config can run any code it names"
    )


def check_options(options: argparse.Namespace) -> None:
    """Refuse keys that the bundle's config does not have, before torch and MONAI are imported."""
    from medldm.bundle_sandbox.reading import read_config_file
    from medldm.runtime.bundle_keys import check_command_line, read_plain

    check_command_line(options.rest, read=read_plain if options.trusted_bundle else read_config_file)


def run_command(options: argparse.Namespace) -> int:
    """Run a bundle; everything that argparse left over belongs to it."""
    from medldm import bundle_sandbox

    bundle_sandbox.run_command(options.rest, is_trusted=options.trusted_bundle)
    return 0
