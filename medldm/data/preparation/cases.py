"""Convert cases, several in processes of their own, so that a decoder that crashes costs one case."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import BaseContext
from pathlib import Path

import numpy as np
from tqdm import tqdm

from medldm.data.dicom.errors import DicomError
from medldm.data.dicom.read import read_series
from medldm.data.layouts.grids import check_same_grid
from medldm.data.layouts.masks import MaskFolder
from medldm.data.layouts.records import StackedImage
from medldm.data.preparation.files import CaseRecord, OutputError, inside, write_record
from medldm.data.preparation.labels import LabelTable
from medldm.data.preparation.options import PrepareOptions
from medldm.data.preparation.source import Source
from medldm.data.preparation.structures import merge_structures
from medldm.transforms.errors import GeometryError, VolumeError, VoxelValueError
from medldm.transforms.load import round_label_values
from medldm.transforms.orientation import to_ras_affine, turn
from medldm.transforms.raw_volume import RawVolume, spacing_of
from medldm.transforms.readers import check_voxels_finite, read_raw_volume
from medldm.transforms.write_nifti import write_nifti

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CasePlan:
    """What a worker needs to convert one case.

    Args:
        record: the case as it will be remembered.
        source: where it comes from.
        root: the output folder.
        labels: how label values become those of the cohort.
        values: of structures that come as masks, by name.
        options: of the run.
    """

    record: CaseRecord
    source: Source = field(repr=False)
    root: Path = field(repr=False)
    labels: LabelTable = field(repr=False)
    options: PrepareOptions = field(repr=False)
    values: Mapping[str, int] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class CaseOutcome:
    """How a case went: a finished record, or the reason of its refusal."""

    record: CaseRecord
    reason: str = ""


def convert_case(plan: CasePlan) -> CaseOutcome:
    """Convert image and label map, or neither; a problem becomes a reason without paths or header texts."""
    try:
        return CaseOutcome(record=_convert(plan))
    except (DicomError, OutputError) as error:
        reason = str(error)
    except VolumeError as error:
        reason = f"{type(error).__name__}: {error.reason}"
    except MemoryError:
        reason = "the memory does not suffice; lower workers or crop the volume"
    except OSError as error:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        reason = f"a file cannot be read or written ({cause.strerror or 'unknown cause'})"
    return CaseOutcome(record=plan.record, reason=reason)


def _convert(plan: CasePlan) -> CaseRecord:
    if plan.source.refusal:
        raise OutputError(plan.source.refusal)
    if plan.source.missing:
        raise OutputError(
            f"it lacks {', '.join(plan.source.missing)}; add the file, leave the contrast out of --channels, "
            "or leave such cases out with --drop-incomplete"
        )
    image_paths = [inside(plan.root, "images", name) for name in plan.record.image_names]
    label_path = inside(plan.root, "labels", f"{plan.record.id}.nii.gz")
    is_own = inside(plan.root, ".prepare", f"{plan.record.id}.json").exists()
    if not (plan.options.overwrite or is_own) and any(path.exists() for path in (*image_paths, label_path)):
        raise OutputError(
            "a file of its name is in the output and was not made by this command; move it or overwrite"
        )
    images = _read_images(plan)
    image = images[0]
    label = None if plan.source.label is None else _read_label(plan, image)
    write_record(plan.root, plan.record)
    for path, channel in zip(image_paths, images, strict=True):
        write_nifti(path, channel.array, image.affine, dtype=stored_dtype(channel.array))
    if label is None:
        label_path.unlink(missing_ok=True)
    else:
        write_nifti(label_path, label.voxels, image.affine, dtype=label.voxels.dtype)
    record = replace(
        plan.record,
        is_done=True,
        has_label=label is not None,
        label_values=_structures_in(label.voxels) if label else (),
        source_values=label.source_values if label else (),
        shape=tuple(int(size) for size in image.array.shape),
        spacing_mm=tuple(round(float(size), 6) for size in spacing_of(image.affine)),
        notes=(
            *(note for channel in images for note in channel.notes),
            *_label_notes(plan),
            *(f"label map: {note}" for note in (label.notes if label else ())),
        ),
    )
    write_record(plan.root, record)
    return record


def _read_images(plan: CasePlan) -> list[RawVolume]:
    """Read the channels of a case, all on the grid of the first."""
    if plan.source.series is not None:
        options = plan.options
        volume = read_series(plan.source.series, regularise=options.regularise, max_bytes=options.max_bytes)
        return [RawVolume(array=volume.numpy()[0], affine=volume.affine.numpy(), notes=volume.meta["notes"])]
    images = [_read_file(image, plan) for image in plan.source.images.values()]
    for channel, image in zip(plan.source.images, images, strict=True):
        check_same_grid(
            image.array.shape,
            image.affine,
            shape=images[0].array.shape,
            affine=images[0].affine,
            what=f"its channel {channel}",
        )
        if _is_mask(image.array):
            raise VoxelValueError(
                "its image holds nothing but 0 and 1, as a mask does; put masks into a folder masks beside "
                "their image, or remove it"
            )
    return images


def _is_mask(voxels: np.ndarray) -> bool:
    return bool(voxels.min() == 0 and voxels.max() == 1 and ((voxels == 0) | (voxels == 1)).all())


def _label_notes(plan: CasePlan) -> tuple[str, ...]:
    label = plan.source.label
    return () if label is None or isinstance(label, Path) else label.notes


def _read_file(image: Path | StackedImage, plan: CasePlan) -> RawVolume:
    path, volume = (image, None) if isinstance(image, Path) else (image.file, image.volume)
    spacing_mm = plan.options.spacing_mm if path.suffix == ".npy" else None
    raw = read_raw_volume(
        path,
        spacing_mm=spacing_mm,
        affine=plan.options.affine,
        max_bytes=plan.options.max_bytes,
        volume=volume,
    )
    affine, axes, flips = to_ras_affine(raw.affine, raw.array.shape)
    voxels = np.ascontiguousarray(turn(raw.array, axes, flips), dtype=np.float32)
    check_voxels_finite(voxels)
    return RawVolume(array=voxels, affine=affine, notes=tuple(raw.notes))


@dataclass(frozen=True, kw_only=True)
class _LabelMap:
    """A label map with the cohort's values, and what its source said."""

    voxels: np.ndarray
    source_values: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def _structures_in(labels: np.ndarray) -> tuple[int, ...]:
    return tuple(int(value) for value in np.unique(labels) if value)


def _read_label(plan: CasePlan, image: RawVolume) -> _LabelMap:
    source, (x, y, z) = plan.source.label, image.array.shape
    notes: tuple[str, ...] = ()
    source_values: tuple[int, ...] = ()
    if isinstance(source, Path):
        label = _read_file(source, plan)
        check_same_grid(
            label.array.shape, label.affine, shape=(x, y, z), affine=image.affine, what="its label map"
        )
        voxels, rounding = round_label_values(label.array)
        notes = (*label.notes, *rounding)
        source_values = _structures_in(voxels)
        mapped = plan.labels.apply(voxels)
    elif source is not None:
        if isinstance(source, MaskFolder):
            source = replace(source, affine=plan.options.affine)
        mapped = merge_structures(
            source.read((x, y, z), image.affine),
            source.names,
            shape=(x, y, z),
            values=plan.values,
            priority=plan.options.priority,
        )
    else:
        raise GeometryError("the case has no label map")
    if not mapped.any():
        raise VoxelValueError("its label map holds no structure; all voxels are 0")
    return _LabelMap(voxels=mapped, source_values=source_values, notes=notes)


def stored_dtype(voxels: np.ndarray) -> np.dtype:
    """Choose int16 for whole numbers that fit and float32 for all others, so that no value changes."""
    limits = np.iinfo(np.int16)
    is_small = limits.min <= voxels.min() <= voxels.max() <= limits.max
    return np.dtype(np.int16 if is_small and (voxels == np.rint(voxels)).all() else np.float32)


def convert_cases(plans: Sequence[CasePlan], options: PrepareOptions) -> Iterator[CaseOutcome]:
    """Convert cases, in processes where there are several."""
    workers = min(options.workers or min(os.cpu_count() or 1, 8), max(1, len(plans)))
    disable = None if options.progress else True
    with tqdm(total=len(plans), desc="prepare", unit="case", disable=disable) as bar:
        outcomes = map(convert_case, plans) if workers == 1 else _run_parallel(plans, workers=workers)
        for outcome in outcomes:
            bar.update()
            for note in outcome.record.notes:
                logger.warning("%s: %s", outcome.record.id, note)
            if outcome.reason:
                logger.warning("%s was refused: %s", outcome.record.id, outcome.reason)
            yield outcome


def _run_parallel(plans: Sequence[CasePlan], *, workers: int) -> Iterator[CaseOutcome]:
    """Convert in parallel; a case that kills its process (a decoder may) is tried alone and then refused."""
    broken: list[CasePlan] = []
    context = _process_context()
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = {pool.submit(convert_case, plan): plan for plan in plans}
        for future in as_completed(futures):
            try:
                yield future.result()
            except BrokenProcessPool:
                broken.append(futures[future])
    for plan in broken:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            try:
                yield pool.submit(convert_case, plan).result()
            except BrokenProcessPool:
                yield CaseOutcome(
                    record=plan.record, reason="its decoder crashed the process; restore the file"
                )


def _process_context() -> BaseContext:
    """Start workers from a server that has imported the package once, where the system has one."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context
