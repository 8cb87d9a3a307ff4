"""The command `medldm package`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "make a bundle of a trained model that can be given away"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `medldm package`."""
    parser.add_argument("checkpoint", help="latent_diffusion.safetensors of the second stage")
    parser.add_argument("output_dir", help="receives the bundle; absent or empty")
    parser.add_argument(
        "--licence", required=True, help="of the weights: Apache-2.0, or the file of another licence's text"
    )
    parser.add_argument(
        "--report", help="report.json of this model; its figures are not measured if not given"
    )
    parser.add_argument(
        "--half",
        choices=("float16", "bfloat16"),
        help="store weights in half the bytes; float32 if not given",
    )
    parser.add_argument("--label-maps", help="checkpoint of labelmap_ldm to go along; none if not given")
    parser.add_argument(
        "--bundle",
        help="whose configs go along; mri_label_ldm or labelmap_ldm, as the model is, if not given",
    )
    parser.add_argument("--name", help="of the package; that of its folder if not given")
    parser.add_argument("--version", default="1.0.0", help="of the package (default: %(default)s)")
    parser.add_argument(
        "--data", default="", help="the cohort, its licence and whom to name; not stated if not given"
    )
    parser.add_argument(
        "--notes",
        help="text file with the commands of the training, minutes and machine; not stated if not given",
    )
    parser.add_argument(
        "--torchscript",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="add model.pt and the traced decoder and denoiser that MONAI's zoo asks for (default: yes)",
    )
    parser.add_argument(
        "--max-file-mb", type=float, default=25.0, metavar="MB", help="largest file (default: %(default)g)"
    )


def run_command(options: argparse.Namespace) -> int:
    """Make the package and print what is in it."""
    from medldm.errors import ConfigError, MissingFileError
    from medldm.sharing.package import PackageConfig, package_model

    if options.notes is not None and not Path(options.notes).is_file():
        raise MissingFileError(f"no notes at {options.notes}: give a text file, or leave --notes out")
    own = {
        name: getattr(options, name)
        for name in (
            *("licence", "report", "half", "label_maps", "bundle", "name", "version", "data"),
            *("torchscript", "max_file_mb"),
        )
    }
    try:
        notes = "" if options.notes is None else Path(options.notes).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise ConfigError(f"the notes {options.notes} are not in UTF-8: save them so") from error
    package = package_model(options.checkpoint, options.output_dir, PackageConfig(notes=notes, **own))
    sys.stdout.write(package.table() + "\n")
    return 0
