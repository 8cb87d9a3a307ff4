"""The command `medldm models`."""

from __future__ import annotations

import argparse
import json
import sys

HELP = "list the bundles that are installed, with what is known of their weights"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `medldm models`."""
    parser.add_argument("--json", action="store_true", help="print JSON; a table if not given")


def run_command(options: argparse.Namespace) -> int:
    """Print the bundles; 0 also where none has weights."""
    from medldm.sharing.listing import describe_bundle, write_table
    from medldm.sharing.shipped import list_bundles

    models = [describe_bundle(bundle) for bundle in list_bundles()]
    text = json.dumps([each.to_dict() for each in models], indent=1) if options.json else write_table(models)
    sys.stdout.write(text + "\n")
    return 0
