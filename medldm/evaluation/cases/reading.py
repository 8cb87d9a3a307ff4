"""Bring the three cohorts of an evaluation to one grid and one intensity scale.

The grid: the real training set's median spacing, coarser where its median volume would be larger than a
limit. Every volume keeps its own field of view; measures that need one shape for all take the centre,
cropped or padded to the real training set's median size. The scale: CT stays in Hounsfield units; anything
else is mapped volume by volume from its 0.5th to 99.5th percentile onto 0 to 1, because the units of MR
differ from scan to scan.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor

from medldm.configs import Config, read_switch
from medldm.data.case_checks import main_file, only_image
from medldm.data.checks import require_sound
from medldm.data.cohort import Cohort, read_cohort
from medldm.data.file_info import inspect_header
from medldm.data.issues import Issue
from medldm.data.labels import LabelSchema
from medldm.data.listing import Case
from medldm.data.partly_labelled import STRUCTURES_IN_MAP
from medldm.evaluation.cases.sets import CaseSet, CaseSets, Image, Known, Labels, count_equal, make_noise
from medldm.evaluation.errors import NotMeasurableError
from medldm.latent_diffusion.recorded_split import SPLIT, read_as_trained
from medldm.transforms import LoadVolume, ResampleToSpacing
from medldm.transforms.load import share_grid
from medldm.transforms.orientation import to_ras_affine
from medldm.transforms.raw_volume import spacing_of

logger = logging.getLogger(__name__)

Read = Callable[..., tuple[Image | None, Labels | None, npt.NDArray[np.float64]]]
CHOSE_EPOCH = "chose epoch"
NO_TEST_CASES = (
    "The cohort has no test cases: the real test set is its validation cases, which also chose the epoch of "
    "the model, so that figures may look a little better than they are."
)
CT_BELOW = -200.0
"""A real training set whose images typically reach below this many units is taken for CT."""


@dataclass(kw_only=True)
class GridConfig(Config):
    """The common grid and scale.

    Args:
        spacing_mm: of the grid; None takes the real training set's median.
        max_voxels: of the real training set's median volume; above it the grid becomes coarser.
        intensity: "ct" keeps the units, "mr" scales each volume by its percentiles, "auto" looks at the real
            training set.
        n_workers: volumes read at a time.
    """

    spacing_mm: tuple[float, float, float] | None = None
    max_voxels: int = 2_000_000
    intensity: Literal["auto", "ct", "mr"] = "auto"
    n_workers: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("[1000, inf)", "max_voxels")
        self.require("[1, inf)", "n_workers")


class Cohorts(NamedTuple):
    """The three cohorts of an evaluation, all of them sound.

    Attributes:
        train: cohort that the model was trained on.
        test: real cases of subjects that it never saw.
        synthetic: cohort that it made.
    """

    train: Cohort
    test: Cohort
    synthetic: Cohort

    @property
    def without_images(self) -> list[str]:
        """Return which cohorts hold label maps alone; where any does, only anatomy can be compared."""
        names = ("real training", "real test", "synthetic")
        return [
            name
            for name, cohort in zip(names, self, strict=True)
            if not all("image" in case for case in cohort.cases)
        ]


def open_cohort(
    dataset: str | Path | Cohort, *, channels: Sequence[str] | None = None, drop_incomplete: bool = False
) -> Cohort:
    """Read a cohort of images, label maps or both, and refuse it if it is not sound.

    Args:
        dataset: folder, datalist, or a cohort that was read already.
        channels: contrasts to take of a folder or datalist; None for all that it names.
        drop_incomplete: leave out cases that lack one of them.

    Raises:
        CohortError: naming each file that cannot be used.
    """
    if not isinstance(dataset, Cohort):
        dataset = read_cohort(
            dataset,
            validation_fraction=0.0,
            require_labels=False,
            require_images=False,
            channels=channels,
            drop_incomplete=drop_incomplete,
            strict=False,
        )
    require_sound(dataset)
    return dataset


def load_case_sets(
    cohorts: Cohorts,
    *,
    config: GridConfig | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> CaseSets:
    """Read the volumes of three sound cohorts and bring them to one grid and scale.

    Args:
        cohorts: of the evaluation.
        config: of grid and scale.
        seed: of the noise.
        progress: told what is being read.

    Raises:
        NotMeasurableError: where train and test share a volume.
    """
    config = config or GridConfig()
    n_shared = len({c["subject"] for c in cohorts.train.cases} & {c["subject"] for c in cohorts.test.cases})
    spacing = config.spacing_mm or _choose_spacing(cohorts.train, max_voxels=config.max_voxels)
    schema = cohorts.train.schema or cohorts.test.schema
    read = []
    for name, cohort in zip(("real training", "real test", "synthetic"), cohorts, strict=True):
        if progress is not None:
            progress(f"reading the {name} set")
        read_one: Read = _read_label_map if cohorts.without_images else read_case
        part = _read_set(cohort, partial(read_one, spacing_mm=spacing), n_workers=config.n_workers)
        read.append(replace(part, known=known_structures(cohort.cases, schema)))
    if n_equal := count_equal(*(each.images or each.labels or () for each in (read[1], read[0]))):
        raise NotMeasurableError(
            f"{n_equal} volumes of the real test set are in the real training set too, voxel by voxel; the "
            "test set must hold subjects that the model never saw. Take them out of one of the two"
        )
    is_ct = config.intensity == "ct" or (config.intensity == "auto" and read[0].file_range[0] < CT_BELOW)
    train, test, made = read if is_ct else [scale_set(each) for each in read]
    shape = np.median([each.shape for each in train.images or train.known_labels()], axis=0).astype(int)
    sets = CaseSets(
        train=train,
        test=test,
        synthetic=made,
        noise=make_noise(test, schema=schema, seed=seed),
        schema=schema,
        spacing_mm=spacing,
        shape=(int(shape[0]), int(shape[1]), int(shape[2])),
        is_ct=is_ct,
        issues=(),
    )
    of_split = [issue.message for issue in cohorts.test.issues if issue.check in (CHOSE_EPOCH, SPLIT)]
    return replace(sets, issues=(*dict.fromkeys(of_split), *sets.find_issues(n_shared=n_shared)))


def split_cohort(
    dataset: str | Path,
    *,
    validation_fraction: float,
    seed: int,
    test_fraction: float = 0.0,
    checkpoint: str | Path | None = None,
    channels: Sequence[str] | None = None,
    drop_incomplete: bool = False,
) -> tuple[Cohort, Cohort]:
    """Split a cohort as training does: into its training cases, and those to compare with.

    These are the test cases, which chose nothing. Where there are none, they are the validation cases, which
    chose the epoch of the model; log and report say so.

    Args:
        dataset: folder or datalist.
        validation_fraction: as in training, like the following; what the model recorded comes before them.
        seed: of the split.
        test_fraction: of the subjects.
        checkpoint: of the model, see `read_as_trained`.
        channels: contrasts to take; None for all that the cohort names.
        drop_incomplete: leave out cases that lack one of them, as in training.
    """
    cohort = read_as_trained(
        dataset,
        checkpoint=checkpoint,
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        seed=seed,
        require_labels=False,
        channels=channels,
        drop_incomplete=read_switch(drop_incomplete, name="drop_incomplete"),
    )
    compared = _labelled_where_some_are(cohort.test, is_labelled=any("label" in c for c in cohort.training))
    issues = cohort.issues
    if not compared:
        logger.warning("%s", NO_TEST_CASES)
        issues = (*issues, Issue.warning(CHOSE_EPOCH, cohort.root.name, NO_TEST_CASES))
        compared = cohort.validation
    train = replace(cohort, validation=[], test=[])
    return train, replace(train, training=compared, issues=issues)


def _labelled_where_some_are(cases: list[Case], *, is_labelled: bool) -> list[Case]:
    """Return the test cases to compare with a cohort: all, or those with a label map where it has some."""
    kept = [case for case in cases if "label" in case] if is_labelled else cases
    if len(kept) < len(cases):
        message = "%d of %d test cases have no label map: they are left out"
        logger.warning(message, len(cases) - len(kept), len(cases))
    return kept


def known_structures(cases: Sequence[Case], schema: LabelSchema | None) -> Known | None:
    """Return (N, K) bool, which structures of the schema each case's map covers; None where all cover all."""
    if schema is None or not any(STRUCTURES_IN_MAP in case for case in cases):
        return None
    known = np.array(
        [[name in case.get(STRUCTURES_IN_MAP, (name,)) for name in schema.names] for case in cases]
    )
    return None if known.all() else known


def number_subjects(cases: Sequence[Case]) -> tuple[int, ...]:
    """Return the number of each case's subject, in order of appearance; no identifier is kept."""
    numbers: dict[str, int] = {}
    return tuple(numbers.setdefault(case["subject"], len(numbers)) for case in cases)


def _choose_spacing(cohort: Cohort, *, max_voxels: int) -> tuple[float, float, float]:
    spacings, extents = [], []
    for case in cohort.cases:
        info = inspect_header(main_file(case))
        affine, _, _ = to_ras_affine(np.asarray(info.affine), info.shape)
        spacings.append(spacing_of(affine))
        extents.append(math.prod(info.shape) * spacings[-1].prod())
    spacing, extent = np.median(spacings, axis=0), float(np.median(extents))
    spacing = spacing * max((extent / spacing.prod() / max_voxels) ** (1 / 3), 1.0)
    return float(spacing[0]), float(spacing[1]), float(spacing[2])


def _read_set(cohort: Cohort, read_one: Read, *, n_workers: int) -> CaseSet:
    with ThreadPoolExecutor(n_workers) as pool:
        read = list(pool.map(read_one, cohort.cases))
    images = [each[0] for each in read if each[0] is not None]
    labels = [each[1] for each in read if each[1] is not None]
    ranges = np.zeros(2)
    if images:
        ranges = np.median([np.percentile(image, (0.5, 99.5)) for image in images], axis=0)
    return CaseSet(
        images=tuple(images),
        labels=tuple(labels) if len(labels) == len(read) else None,
        subjects=number_subjects(cohort.cases),
        file_spacing_mm=tuple(np.median([each[2] for each in read], axis=0).tolist()),
        file_range=(float(ranges[0]), float(ranges[1])),
    )


def read_case(
    case: Case, spacing_mm: Sequence[float]
) -> tuple[Image, Labels | None, npt.NDArray[np.float64]]:
    """Return a case's image and labels (X, Y, Z) RAS+ on a spacing, and its file's own spacing."""
    volume = LoadVolume()(only_image(case))
    own = np.asarray(torch.as_tensor(volume.pixdim), dtype=np.float64)
    image = ResampleToSpacing(spacing_mm)(volume)[0].numpy()
    if "label" not in case:
        return image, None, own
    return image, _read_label_map(case, spacing_mm, like=volume)[1], own


def _read_label_map(
    case: Case, spacing_mm: Sequence[float], *, like: MetaTensor | None = None
) -> tuple[None, Labels | None, npt.NDArray[np.float64]]:
    """Return a case's labels as `read_case` does, and no image; no labels where the case has none."""
    if "label" not in case:
        return None, None, np.asarray(inspect_header(main_file(case)).spacing, dtype=np.float64)
    volume = LoadVolume(is_label=True)(case["label"])
    if like is not None:
        share_grid(like, volume)
    own = np.asarray(torch.as_tensor(volume.pixdim), dtype=np.float64)
    labels = ResampleToSpacing(spacing_mm, is_label=True)(volume)
    return None, labels[0].numpy().astype(np.int64), own


def scale_set(cases: CaseSet) -> CaseSet:
    """Map each image from its 0.5th to 99.5th percentile onto 0 to 1."""
    scaled = []
    for image in cases.images:
        low, high = np.percentile(image, (0.5, 99.5))
        scaled.append(((image - low) / max(high - low, 1e-12)).astype(np.float32))
    return replace(cases, images=tuple(scaled))
