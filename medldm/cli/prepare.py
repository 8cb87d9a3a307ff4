"""The command `medldm prepare`."""

from __future__ import annotations

import argparse
import sys

HELP = "make a cohort from DICOM trees and volume files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `medldm prepare`."""
    parser.add_argument("input_dir", help="tree of DICOM files, NIfTI, NRRD, MHA, NumPy volumes")
    parser.add_argument("output_dir", help="receives images/, labels/, cohort.json, labels.json")
    parser.add_argument(
        "--table", help="CSV or TSV of the subjects: id, age, sex, diagnosis, text, split, ..."
    )
    parser.add_argument(
        "--strict-table",
        action="store_true",
        help="refuse a table with rows that match no case, or without a row for a case",
    )
    parser.add_argument(
        "--scalars",
        help="columns of numbers of the table that go into cohort.json: age,sex,weight; none if not given",
    )
    parser.add_argument("--labels", help="label table, or a preset: totalsegmentator, freesurfer")
    parser.add_argument("--priority", help="structures that win where masks overlap, strongest first: a,b,c")
    parser.add_argument("--channels", help="contrasts that become channels of one case: t1n,t2w")
    parser.add_argument("--drop-incomplete", action="store_true", help="leave out cases that lack a contrast")
    parser.add_argument(
        "--subject-from",
        choices=["folder", "top-folder", "name"],
        help="what names the subject, where names leave it open",
    )
    parser.add_argument("--key-file", help="secret key of the subject hashes; made where it is missing")
    parser.add_argument(
        "--private-list",
        nargs="?",
        const=True,
        default=False,
        metavar="FILE",
        help="write which identifier is which file to a list only you can read: beside the key, or to FILE",
    )
    parser.add_argument("--modality", help="only DICOM series of this modality, such as CT")
    parser.add_argument("--description", help="only DICOM series whose description matches this expression")
    parser.add_argument(
        "--segmentation", help="only DICOM SEG and RTSTRUCT whose description matches this expression"
    )
    parser.add_argument(
        "--regularise", action="store_true", help="resample irregular DICOM stacks, not refuse them"
    )
    parser.add_argument(
        "--spacing", type=float, nargs=3, metavar="MM", help="voxel spacing of .npy files in mm"
    )
    parser.add_argument(
        "--affine", choices=("sform", "qform"), help="which counts in NIfTI files whose two are at odds"
    )
    parser.add_argument("--validation-fraction", type=float, default=0.1)
    parser.add_argument(
        "--test-fraction", type=float, default=0.1, help="of the subjects, to compare with in the end"
    )
    parser.add_argument("--workers", type=int, help="processes; one for each core if not given")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in the output")


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def run_command(options: argparse.Namespace) -> int:
    """Make the cohort and print its table; the exit code tells of cases that were refused."""
    from medldm.data.preparation.prepare import PrepareOptions, prepare

    settings = PrepareOptions(
        labels=options.labels,
        priority=_names(options.priority),
        channels=_names(options.channels),
        drop_incomplete=options.drop_incomplete,
        subject_from=options.subject_from,
        strict_table=options.strict_table,
        scalars=_names(options.scalars),
        key_file=options.key_file,
        private_list=options.private_list,
        modality=options.modality,
        description=options.description,
        segmentation=options.segmentation,
        regularise=options.regularise,
        spacing_mm=tuple(options.spacing) if options.spacing else None,
        affine=options.affine,
        validation_fraction=options.validation_fraction,
        test_fraction=options.test_fraction,
        workers=options.workers,
        overwrite=options.overwrite,
    )
    result = prepare(options.input_dir, options.output_dir, table=options.table, options=settings)
    sys.stdout.write(result.table() + "\n")
    return result.exit_code
