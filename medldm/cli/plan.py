"""The command `medldm plan`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medldm.errors import ConfigError

HELP = "what fits a memory, and how long it takes, without a run"
BUNDLE = Path(__file__).parents[1] / "bundles" / "mri_label_ldm"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `medldm plan`."""
    parser.add_argument("--memory-gb", type=float, required=True, help="10^9 bytes of the GPU or computer")
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--gpus", type=int, default=1, help="devices that train together")
    parser.add_argument(
        "--size", type=int, nargs=3, metavar="VOXELS", help="of the volumes; the bundle's if not given"
    )
    parser.add_argument(
        "--spacing",
        type=float,
        nargs=3,
        metavar="MM",
        help="of the volumes; thick slices are compressed less, by the downsampling that is printed",
    )
    parser.add_argument(
        "--bundle", default=BUNDLE, help="folder of a bundle; that of mri_label_ldm if not given"
    )
    parser.add_argument("--checkpoint", help="of either stage, whose networks take the place of the bundle's")
    for stage in ("autoencoder", "diffusion"):
        parser.add_argument(
            f"--{stage}",
            nargs="+",
            default=[],
            metavar="KNOB=VALUE",
            help=f"knobs of train_{stage}.yaml, such as down_channels=[32,64] batch_size=2",
        )
    parser.add_argument(
        "--cases", type=int, default=100, help="training cases, for the time and the denoiser"
    )
    parser.add_argument("--tflops", type=float, help="10^12 operations that a device sustains each second")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def run_command(options: argparse.Namespace) -> int:
    """Print a plan; 1 if something does not fit."""
    from medldm.planning.durations import training_seconds
    from medldm.planning.networks import networks_of_bundle, networks_of_checkpoint
    from medldm.planning.plan import Budget, make_plan
    from medldm.planning.report import report_plan

    # The dry runs' engines would tell of epochs that nobody trains.
    logging.getLogger("ignite").setLevel(logging.WARNING)
    spacing = {} if options.spacing is None else {"spacing_mm": options.spacing}
    networks = networks_of_bundle(
        options.bundle,
        size=options.size,
        autoencoder_knobs=spacing | read_knobs(options.autoencoder),
        diffusion_knobs=read_knobs(options.diffusion),
        n_cases=options.cases,
    )
    if options.checkpoint:
        networks = networks_of_checkpoint(options.checkpoint, networks)
    plan = make_plan(
        networks, Budget(memory_gb=options.memory_gb, device=options.device, n_devices=options.gpus)
    )
    rate, assumptions = _rate(options, networks)
    seconds = None if rate is None else training_seconds(plan, rate=rate, n_cases=options.cases)
    if options.json:
        content = {**asdict(plan), "operations_per_second": rate, "training_seconds": seconds}
        text = json.dumps(content | {"assumptions": assumptions}, indent=1)
    else:
        text = report_plan(plan, networks, seconds=seconds, assumptions=assumptions)
    sys.stdout.write(text + "\n")
    stages = [plan.autoencoder, plan.diffusion, *([plan.decoder] if plan.decoder else [])]
    return 0 if plan.sampling_fits and all(stage.fits for stage in stages) else 1


def read_knobs(words: Sequence[str]) -> dict[str, Any]:
    """Read KNOB=VALUE words; values are YAML, as in a bundle.

    Raises:
        ConfigError: if a word has no "=".
    """
    import yaml

    knobs = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign:
            raise ConfigError(f"{word!r} is no KNOB=VALUE: write for example batch_size=2")
        try:
            knobs[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(
                f"{word!r} has a value that is no YAML: write for example down_channels=[32,64]"
            ) from error
    return knobs


def _rate(options: argparse.Namespace, networks: Any) -> tuple[float | None, list[str]]:
    """Return operations per second of a device, and what is assumed."""
    from medldm.planning.durations import measure_rate

    if options.tflops is not None:
        rate, source = options.tflops * 1e12, f"{options.tflops:g} * 10^12 operations a second, as given"
    elif options.device == "cpu":
        rate = measure_rate(networks)
        source = f"{rate / 1e9:.1f} * 10^9 operations a second, measured here in steps on 32x32x32 voxels"
    else:
        return None, []
    devices = "" if options.gpus == 1 else f"; {options.gpus} devices are that many times as fast as one"
    return rate, [f"{source}{devices}", f"{options.cases} cases; reading, validation and saving take no time"]
