"""Segmentations and structure sets of known masks, made with highdicom and pydicom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset

from tests.data.dicom.dicom_cases import (
    STRUCTURE_SET,
    Geometry,
    make_slices,
    new_dataset,
    save,
    stored_voxels,
)

SHAPE = (24, 20, 9)
"""Columns, rows and slices of the series that tests label."""


def make_series(
    folder: Path,
    geometry: Geometry | None = None,
    *,
    patient: str = "phantom-1",
    seed: int = 0,
    **changes: Any,
) -> list[FileDataset]:
    """Write a CT series of SHAPE and return its data sets in the order of the slices."""
    columns, rows, n_slices = SHAPE
    stored = stored_voxels(n_slices=n_slices, rows=rows, columns=columns, seed=seed)
    slices = make_slices(stored, geometry, modality="CT")
    for dataset in slices:
        dataset.PatientID, dataset.SliceThickness = patient, dataset.SliceThickness
        dataset.AcquisitionNumber = None
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)
    save(slices, folder)
    return slices


def random_masks(n: int = 2, *, seed: int = 0) -> np.ndarray:
    """Return (n, columns, rows, slices) bool, not overlapping, with empty first and last slices."""
    labels = np.random.default_rng(seed).integers(0, n + 2, SHAPE)
    labels[:, :, :2] = labels[:, :, -1:] = 0
    return np.stack([labels == number for number in range(1, n + 1)])


def on_grid(mask: np.ndarray, geometry: Geometry | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Turn (columns, rows, slices) to RAS+ with nibabel: voxels and affine."""
    image = nib.Nifti1Image(mask.astype(np.uint8), (geometry or Geometry()).affine())
    turned = nib.as_closest_canonical(image)
    return np.asarray(turned.dataobj) > 0, turned.affine


def make_segmentation(
    slices: Sequence[Dataset],
    masks: np.ndarray,
    *,
    kind: str = "BINARY",
    names: Sequence[str] = ("liver", "left kidney"),
    **options: Any,
) -> FileDataset:
    """Let highdicom write (n, columns, rows, slices) masks; FRACTIONAL ones may be floats from 0 to 1."""
    highdicom = pytest.importorskip("highdicom")
    from pydicom.sr.codedict import codes

    descriptions = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type="MANUAL",
        )
        for number, name in enumerate(names, start=1)
    ]
    pixels = masks.transpose(3, 2, 1, 0)
    if kind == "LABELMAP":
        pixels = sum(pixels[..., n] * np.uint8(n + 1) for n in range(len(masks)))
    elif pixels.dtype == bool:
        pixels = pixels.astype(np.uint8)
    options = {"pixel_measures": None, "series_instance_uid": uid.generate_uid(), **options}
    segmentation = highdicom.seg.Segmentation(
        source_images=list(slices),
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_number=100,
        sop_instance_uid=uid.generate_uid(),
        instance_number=1,
        manufacturer="medldm",
        manufacturer_model_name="tests",
        software_versions="1",
        device_serial_number="1",
        **options,
    )
    return deepcopy(segmentation)  # it shares elements with its sources


def make_structure_set(
    slices: Sequence[Dataset],
    contours: Mapping[str, Sequence[np.ndarray]],
    *,
    kind: str = "CLOSED_PLANAR",
    kinds: Mapping[str, str] | None = None,
    with_images: bool = True,
) -> FileDataset:
    """Write contours, (N, 3) LPS mm each, by structure; references as PS3.3 C.8.8.5 asks for."""
    dataset = new_dataset(STRUCTURE_SET, modality="RTSTRUCT")
    first = slices[0]
    dataset.PatientID, dataset.StudyInstanceUID = first.PatientID, first.StudyInstanceUID
    dataset.StructureSetLabel = "drawn"
    del dataset.FrameOfReferenceUID
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = first.SeriesInstanceUID
    series.ContourImageSequence = [_reference(one) for one in slices]
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    study.ReferencedSOPInstanceUID = first.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = first.get("FrameOfReferenceUID", "")
    frame.RTReferencedStudySequence = [study] if with_images else []
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    for number, (name, own) in enumerate(contours.items(), start=1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ROIGenerationAlgorithm = number, name, "MANUAL"
        roi.ReferencedFrameOfReferenceUID = frame.FrameOfReferenceUID
        drawn.ReferencedROINumber = number
        drawn.ContourSequence = [_contour(points, (kinds or {}).get(name, kind)) for points in own]
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(drawn)
    return dataset


def _reference(dataset: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    return item


def _contour(points: np.ndarray, kind: str) -> Dataset:
    item = Dataset()
    item.ContourGeometricType, item.NumberOfContourPoints = kind, len(points)
    item.ContourData = [f"{value:.10g}" for value in np.asarray(points, dtype=float).ravel()]
    return item


def to_lps(points: np.ndarray, geometry: Geometry | None = None) -> np.ndarray:
    """Bring (N, 3) voxel coordinates (column, row, slice) to patient coordinates."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ (geometry or Geometry()).affine()
    return np.asarray(points, dtype=float) @ lps[:3, :3].T + lps[:3, 3]


def flat(polygon: np.ndarray, index: float) -> np.ndarray:
    """Lift a polygon (N, 2) in voxels to a slice."""
    return np.column_stack([polygon, np.full(len(polygon), index)])


def circle(centre: tuple[float, float], radius: tuple[float, float], n: int = 400) -> np.ndarray:
    """Return an ellipse as a polygon, (n, 2); points lie on it, so the polygon is inside it by a hair."""
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.column_stack([centre[0] + radius[0] * np.cos(angle), centre[1] + radius[1] * np.sin(angle)])


def box(low: tuple[float, float], high: tuple[float, float]) -> np.ndarray:
    """Return a rectangle as a polygon, (4, 2)."""
    return np.array([low, (high[0], low[1]), high, (low[0], high[1])], dtype=float)
