"""The command line: `medldm prepare | check | plan | init | train | run | generate | ...`.

Each command has a file of its own, which imports what it needs when it runs: `--help` loads no torch.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
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
from medldm.runtime.early_stop import ending_on_signals
from medldm.runtime.endings import report_error
from medldm.runtime.plain_names import ShowingFormatter, ShowingStream
from medldm.version import __version__

COMMANDS: dict[str, ModuleType] = {
    command.__name__.rpartition(".")[2].replace("_", "-"): command
    for command in (
        *(prepare, check, plan, models, init, import_weights, train, run),
        *(generate, evaluate, export, package, demo),
    )
}


_GO_ON = ("run", "train")
"""Commands that go on where they stopped: told to stop, they end with 75 at any moment."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code, of `report_error` where the command raises.

    Raises:
        StoppedEarly: where SIGTERM or SIGUSR1 ends a command that goes on when it is run again.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    with ending_on_signals() if words[:1] and words[0] in _GO_ON else nullcontext():
        return _run(words)


def _run(arguments: Sequence[str]) -> int:
    parser = _make_parser()
    options, rest = parser.parse_known_args(arguments)
    takes_rest = hasattr(options.command, "check_options")
    if rest and not takes_rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler and type(handler.formatter) is logging.Formatter:
            handler.setFormatter(ShowingFormatter("%(message)s"))
    try:
        if takes_rest:
            options.command.check_options(options)
        from medldm.runtime.allocation import tune_allocation

        tune_allocation()
        with redirect_stdout(ShowingStream(sys.stdout)):
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
