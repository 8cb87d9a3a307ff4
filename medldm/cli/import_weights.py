"""The command `medldm import-weights`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from medldm.errors import ConfigError

HELP = "make a checkpoint of the weights of a MONAI or MAISI network"
KINDS = ("maisi-autoencoder", "monai-autoencoder", "monai-vqvae", "monai-unet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `medldm import-weights`."""
    parser.add_argument("file", help="safetensors, or .pt read through torch's restricted loader")
    parser.add_argument("output", help="the checkpoint to write, such as autoencoder.safetensors")
    parser.add_argument("--as", dest="kind", required=True, choices=KINDS, help="the network they are of")
    parser.add_argument(
        "--arguments",
        metavar="JSON",
        help="what its constructor was called with, or the config of its bundle; the shapes tell most of it",
    )
    parser.add_argument(
        "--spacing", type=float, nargs=3, metavar="MM", help="of the volumes that an autoencoder is for"
    )
    parser.add_argument("--size", type=int, nargs=3, metavar="VOXELS", help="of the volumes to train on")
    parser.add_argument(
        "--intensity",
        help='mapping of intensities: ct_window, or "{kind: identity_range, lower: 0, upper: 800}"; with '
        'several channels "{t1: {kind: ...}, t2: {kind: ...}}"',
    )
    parser.add_argument(
        "--value-range",
        type=float,
        nargs=2,
        metavar="VALUE",
        help="values of the darkest and brightest voxels in the network's own training; 0 1 if not given",
    )
    parser.add_argument("--licence", help="of the weights, in words; kept in the checkpoint")
    parser.add_argument("--overwrite", action="store_true", help="replace a checkpoint that is there")


def run_command(options: argparse.Namespace) -> int:
    """Import the weights and print what they are of."""
    from pathlib import Path

    from medldm.errors import OutputExistsError
    from medldm.latent_diffusion.import_weights import import_weights

    if Path(options.output).exists() and not options.overwrite:
        raise OutputExistsError(f"{options.output} is there: choose another name, or add --overwrite")
    own = {} if options.value_range is None else {"value_range": tuple(options.value_range)}
    found = import_weights(
        options.file,
        options.output,
        kind=options.kind,
        arguments=options.arguments,
        space=_read_space(options),
        licence=options.licence,
        **own,
    )
    n_weights = sum(weight.numel() for weight in found.network.state_dict().values())
    lines = [f"{options.output}: {options.kind}, {n_weights} values, {found.weights_sha256[:12]}"]
    lines += [f"  {name}: {value}" for name, value in found.arguments.items() if name not in found.assumed]
    if found.assumed:
        lines.append("not told by the weights, so MONAI's defaults are taken; --arguments changes them:")
        lines += [f"  {name}: {value}" for name, value in found.assumed.items()]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _read_space(options: argparse.Namespace) -> Any:
    """Return the space that the options describe; None without any of them."""
    from medldm.latent_diffusion.volume_space import VolumeSpace

    given = {name: getattr(options, name) for name in ("spacing", "size", "intensity")}
    if all(value is None for value in given.values()):
        return None
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if missing:
        raise ConfigError(f"{' and '.join(missing)} is missing: give spacing, size and intensity together")
    intensity = _read_intensity(options.intensity)
    channels = () if "kind" in intensity else tuple(intensity)
    space = VolumeSpace(
        spacing_mm=tuple(options.spacing), size=tuple(options.size), intensity=intensity, channels=channels
    )
    if any(mapping.lower is None for mapping in space.intensities):
        raise ConfigError(
            f"--intensity is {options.intensity!r}: give lower and upper too, since no cohort tells them, as "
            'in "{kind: mr_percentile, lower: 0, upper: 800}"'
        )
    return space


def _read_intensity(text: str) -> dict[str, Any]:
    """Read the kind of a mapping, or YAML of its fields, or of a mapping for each channel."""
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--intensity is {text!r}, which is no YAML: write {{kind: ct_window}}") from error
    if isinstance(value, str):
        return {"kind": value}
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ConfigError(
            f"--intensity is {text!r}: write ct_window, or {{kind: ..., lower: ..., upper: ...}}"
        )
    return value
