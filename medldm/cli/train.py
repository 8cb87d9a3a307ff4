"""The command `medldm train`."""

from __future__ import annotations

import argparse
import logging

HELP = "train a bundle's stages on a cohort, through medldm run"

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `medldm train`."""
    parser.description = (
        "Further arguments are knobs of the bundle, --NAME VALUE, given after OUT; `medldm init` copies the "
        "files that list them. The same command goes on from the last saved state."
    )
    parser.allow_abbrev = False
    parser.add_argument(
        "stage",
        choices=("autoencoder", "diffusion", "all", "labelmap"),
        help="autoencoder, then diffusion; all for both; labelmap for both stages of labelmap_ldm",
    )
    parser.add_argument("cohort", help="folder with images/ and labels/, or a MONAI datalist JSON")
    parser.add_argument("output_dir", help="receives the checkpoints, logs and saved states")
    parser.add_argument(
        "--bundle",
        help="name of a bundle that is installed, or a folder of `medldm init`; mri_label_ldm if not given, "
        "labelmap_ldm for labelmap",
    )
    for stage in ("autoencoder", "diffusion"):
        parser.add_argument(
            f"--{stage}",
            nargs="+",
            default=[],
            metavar="KNOB=VALUE",
            help="knobs of this stage alone, such as batch_size=2; none if not given",
        )


def check_options(options: argparse.Namespace) -> None:
    """Refuse what the bundle does not have, before torch and MONAI are imported."""
    from medldm.bundle_sandbox.reading import read_config_file
    from medldm.runtime.bundle_keys import check_command_line
    from medldm.sharing.trainings import TrainingRequest, list_runs

    request = TrainingRequest(
        choice=options.stage,
        cohort=options.cohort,
        output_dir=options.output_dir,
        bundle=options.bundle,
        knobs=options.rest,
        stage_knobs={"autoencoder": options.autoencoder, "diffusion": options.diffusion},
    )
    options.runs = list_runs(request, read=read_config_file)
    for arguments in options.runs:
        check_command_line(arguments, read=read_config_file)


def run_command(options: argparse.Namespace) -> int:
    """Run the stages one after the other; what stops one stops the command."""
    from medldm import bundle_sandbox

    for number, arguments in enumerate(options.runs, start=1):
        logger.info("stage %d of %d: %s", number, len(options.runs), arguments[1])
        bundle_sandbox.run_command(arguments, is_trusted=False)
    return 0
