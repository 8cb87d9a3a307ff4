"""Write each volume as a DICOM series, and its label map as a DICOM segmentation.

A volume stays on its own grid: columns, rows and slices are its three axes. The image and its segmentation
share study, patient and frame of reference. Where DICOM asks for a date, it is 1 January 1900.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom import Dataset

from medldm.data.export.cases import ExportCase, ExportSet
from medldm.data.export.dicom_header import SeriesHeader
from medldm.data.export.dicom_image import make_classic, make_enhanced, slice_order
from medldm.data.export.dicom_pixels import store_pixels
from medldm.data.export.dicom_segmentation import make_segmentation
from medldm.data.export.files import read_labels
from medldm.data.export.options import ExportOptions
from medldm.data.export.structures import plain_name
from medldm.errors import ConfigError, MissingPackageError
from medldm.files import atomic_file
from medldm.transforms.errors import naming
from medldm.transforms.readers import read_raw_volume


def check_dicom(cases: ExportSet, _: Path, __: ExportOptions) -> None:
    """Refuse what DICOM cannot hold, before anything is written.

    Raises:
        MissingPackageError: without highdicom.
        ConfigError: for a volume of one slice, and for cases that come to have one folder.
        GeometryError: for axes that are not orthogonal.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            "highdicom, which writes DICOM segmentations, is not installed: pip install 'medldm[dicom]'"
        ) from error
    folders: dict[str, str] = {}
    for case in cases.cases:
        if min(case.shape) < 2:
            size = " x ".join(str(n) for n in case.shape)
            raise ConfigError(
                f"{case.id} has {size} voxels; a DICOM series needs 2 or more along each axis, so that its "
                "slices say how far apart they are: leave the case out"
            )
        with naming(case.images[0]):
            slice_order(case.affine)
        if folders.setdefault(_folder_of(case).casefold(), case.id) != case.id:
            raise ConfigError(f"the case {case.id!r} comes to have the folder of another one: rename it")


def write_dicom(cases: ExportSet, folder: Path, options: ExportOptions) -> list[str]:
    """Write real/<case>/ and synthetic/<case>/ with a folder for each series.

    Returns:
        What is worth saying: how exact voxels are that do not fit 16 bits.
    """
    steps: list[float] = []
    for case in cases.cases:
        place = folder / ("synthetic" if case.is_synthetic else "real") / _folder_of(case)
        steps += _write_case(case, cases, place, enhanced=options.enhanced)
    if not steps:
        return ["every voxel is exact: integers are stored as they are"]
    return [
        f"{len(steps)} images hold other numbers than 16-bit integers: they are stored in steps of at most "
        f"{max(steps):.3g}, and come back within half a step"
    ]


def _folder_of(case: ExportCase) -> str:
    return plain_name(case.id) or "case"


def _write_case(case: ExportCase, cases: ExportSet, place: Path, *, enhanced: bool) -> list[float]:
    first, steps = None, []
    for number, (image, channel) in enumerate(
        zip(case.images, cases.channels or ("",), strict=True), start=1
    ):
        raw = read_raw_volume(image)
        pixels = store_pixels(raw.array)
        if pixels.step is not None:
            steps.append(pixels.step)
        header = SeriesHeader(
            case=case, channel=channel, number=number, modality=cases.modality, content=pixels.content_hash
        )
        make = make_enhanced if enhanced else make_classic
        series = make(pixels, raw.affine, header=header)
        name = f"image_{plain_name(channel)}" if channel else "image"
        for index, item in enumerate(series, start=1):
            _save(item, place / name / f"{index:04d}.dcm")
        first = first or (series, header)
    if case.label is not None and cases.schema is not None and first is not None:
        labels = np.asarray(
            cases.schema.index_map(np.ascontiguousarray(read_labels(case.label).array, np.int64))
        )
        segmentation = make_segmentation(
            labels, case.affine, source=first[0], header=first[1], schema=cases.schema
        )
        _save(segmentation, place / "segmentation" / "0001.dcm")
    return steps


def _save(item: Dataset, path: Path) -> None:
    with atomic_file(path) as temporary:
        item.save_as(temporary, enforce_file_format=True)
