"""The command line: `medldm prepare | check | plan | init | train | run | generate | ...`.

Each command has a file of its own, which imports what it needs when it runs: `--help` loads no torch.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from types import ModuleType

from medldm.cli import (
    check,
    demo,
    evaluate,
    export,
    generate,
    import_weights,
    init,
    models,
    package,
    plan,
    prepare,
    run,
    train,
)
from medldm.runtime.endings import report_error
from medldm.version import __version__

COMMANDS: dict[str, ModuleType] = {
    command.__name__.rpartition(".")[2].replace("_", "-"): command
    for command in (
        *(prepare, check, plan, models, init, import_weights, train, run),
        *(generate, evaluate, export, package, demo),
    )
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code, of `report_error` where the command raises."""
    parser = _make_parser()
    options, rest = parser.parse_known_args(arguments)
    takes_rest = hasattr(options.command, "check_options")
    if rest and not takes_rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        if takes_rest:
            options.command.check_options(options)
        from medldm.runtime.allocation import tune_allocation

        tune_allocation()
        return int(options.command.run_command(options))
    except Exception as error:
        return report_error(error)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="medldm", description="3D latent diffusion for medical images")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True)
    for name, command in COMMANDS.items():
        own = commands.add_parser(name, help=command.HELP)
        command.add_arguments(own)
        own.set_defaults(command=command)
    return parser
