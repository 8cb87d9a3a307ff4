"""How a cohort is prepared."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from medldm.data.channels import check_channel_names
from medldm.data.layouts.subjects import SUBJECT_FROM
from medldm.data.splits import TEST_FRACTION, VALIDATION_FRACTION, check_fractions
from medldm.errors import ConfigError
from medldm.transforms.nifti_affine import AffineChoice, check_affine_choice
from medldm.transforms.raw_volume import DEFAULT_MAX_BYTES


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """How to prepare a cohort.

    Args:
        labels: label table; see `read_label_table`.
        priority: structures that win where masks of single structures overlap, the strongest first; overlaps
            of all others are refused.
        channels: contrasts that become the channels of one case, in this order, such as ("t1n", "t2w"); ()
            leaves every contrast a case of its own.
        drop_incomplete: leave out cases that lack one of `channels`; else they are refused by name.
        subject_from: where names do not say which scans are of one subject; see `decide_subjects`.
        strict_table: refuse, before anything is converted, a subject table with a row that matches no case or
            without a row for a case; else both are said.
        scalars: columns of numbers of the subject table that go into the cohort's list; see
            `read_subject_table`.
        key_file: key of the subject hashes; see `load_key`.
        private_list: write which identifier stands for which file, refused ones among them, to a list that
            only its owner can read: True for private_list.json beside the key, or a file outside input and
            output. It grows with each cohort.
        modality: only DICOM series of this modality, such as "CT".
        description: only DICOM series whose description matches this regular expression.
        segmentation: only DICOM segmentations and structure sets whose series description or own label
            matches this regular expression.
        min_slices: only DICOM series of at least so many slices.
        regularise: resample irregular DICOM stacks instead of refusing them.
        spacing_mm: voxel spacing of .npy files.
        affine: "sform" or "qform", which counts in NIfTI files whose two are at odds; None refuses these.
        validation_fraction: share of the subjects set aside, where the table does not say.
        test_fraction: share of the subjects set aside as a test set, where the table does not say.
        seed: of that split.
        workers: processes; None takes one for each core, up to eight.
        overwrite: replace what is in the output.
        progress: show a progress bar.
        max_bytes: cap on a volume as float32.

    Raises:
        ValueError: for a value out of bounds.
    """

    labels: str | Path | None = None
    priority: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    drop_incomplete: bool = False
    subject_from: str | None = None
    strict_table: bool = False
    scalars: tuple[str, ...] = ()
    key_file: str | Path | None = None
    private_list: bool | str | Path = False
    modality: str | None = None
    description: str | None = None
    segmentation: str | None = None
    min_slices: int = 2
    regularise: bool = False
    spacing_mm: tuple[float, float, float] | None = None
    affine: AffineChoice | None = None
    validation_fraction: float = VALIDATION_FRACTION
    test_fraction: float = TEST_FRACTION
    seed: int = 0
    workers: int | None = None
    overwrite: bool = False
    progress: bool = True
    max_bytes: int = DEFAULT_MAX_BYTES

    def __post_init__(self) -> None:
        check_affine_choice(self.affine)
        check_fractions(validation_fraction=self.validation_fraction, test_fraction=self.test_fraction)
        for name, least in (("min_slices", 2), ("max_bytes", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; at least {least} is needed")
        for name in ("description", "segmentation"):
            _check_pattern(name, getattr(self, name))
        if self.channels:
            check_channel_names(self.channels)
        if self.subject_from not in (None, *SUBJECT_FROM):
            raise ConfigError(f"subject_from is {self.subject_from!r}; {', '.join(SUBJECT_FROM)} are allowed")
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"workers is {self.workers}; at least 1 is needed")


def _check_pattern(name: str, pattern: str | None) -> None:
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise ConfigError(f"{name} is {pattern!r}, which is no regular expression: {error}") from None
