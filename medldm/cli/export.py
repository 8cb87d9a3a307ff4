"""The command `medldm export`."""

from __future__ import annotations

import argparse
import sys

from medldm.errors import ConfigError

HELP = "write a cohort as nnU-Net, MSD, BIDS, 3D Slicer or DICOM"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `medldm export`."""
    parser.add_argument("cohort", help="cohort, or the output folder of `medldm generate`")
    parser.add_argument("output_dir", help="a folder that is absent or empty")
    parser.add_argument("--format", required=True, help="nnunet, msd, bids, slicer or dicom")
    parser.add_argument(
        "--synthetic",
        action="append",
        default=[],
        metavar="COHORT",
        help="add synthetic cases, kept apart from the real ones; may be given several times",
    )
    parser.add_argument("--name", default="medldm", help="of the data set, in its description")
    parser.add_argument("--modality", help="CT or MR; seen from the intensities if not given")
    parser.add_argument(
        "--link",
        default="copy",
        help="how files that are right as they are get there: copy, hard or symbolic",
    )
    parser.add_argument(
        "--suffix",
        action="append",
        default=[],
        metavar="[CHANNEL=]SUFFIX",
        help="bids: contrast of the images, such as T1w, or of a channel, such as t1=T1w",
    )
    parser.add_argument("--enhanced", action="store_true", help="dicom: one multi-frame object a series")
    parser.add_argument("--channels", help="channels to export, such as t1n,t2w; all if not given")
    parser.add_argument(
        "--validation-fraction", type=float, default=0.1, help="where the cohort has no lists"
    )
    parser.add_argument("--test-fraction", type=float, default=0.1, help="the same for the test")
    parser.add_argument("--seed", type=int, default=0, help="of that split")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")


def run_command(options: argparse.Namespace) -> int:
    """Export the cohort and print what was made."""
    from medldm.data.export import ExportOptions, export_cohort

    settings = ExportOptions(
        name=options.name,
        modality=options.modality,
        link=options.link,
        suffixes=_read_suffixes(options.suffix),
        enhanced=options.enhanced,
        validation_fraction=options.validation_fraction,
        test_fraction=options.test_fraction,
        seed=options.seed,
        channels=tuple(options.channels.split(",")) if options.channels else (),
        overwrite=options.overwrite,
    )
    result = export_cohort(
        options.cohort,
        options.output_dir,
        format=options.format,
        synthetic=options.synthetic,
        options=settings,
    )
    sys.stdout.write(result.table() + "\n")
    return 0


def _read_suffixes(texts: list[str]) -> dict[str, str]:
    """Read T1w as the suffix of the only channel, and t1=T1w as that of a channel."""
    suffixes: dict[str, str] = {}
    for text in texts:
        channel, _, suffix = text.rpartition("=")
        if suffixes.setdefault(channel, suffix) != suffix:
            raise ConfigError(f"--suffix gives the channel {channel!r} two suffixes")
    return suffixes
