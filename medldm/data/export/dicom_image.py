"""Make the objects of an image series: one a slice, or one of many frames.

An array index (i, j, k) is column i and row j of slice k. DICOM's coordinates are LPS+.

Source: DICOM PS3.3 A.3 and A.4 (CT, MR), A.38.1 and A.36.2 (Enhanced CT, Enhanced MR), C.7.6.2, C.7.6.16.
"""

from __future__ import annotations

import numpy as np
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.valuerep import format_number_as_ds

from medldm.data.dicom.geometry import TILT_TOLERANCE
from medldm.data.export.dicom_header import NO_DATE, NO_TIME, SeriesHeader
from medldm.data.export.dicom_pixels import StoredPixels
from medldm.transforms.errors import GeometryError
from medldm.transforms.itk_header import LPS_TO_RAS
from medldm.transforms.raw_volume import spacing_of

CLASSIC = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}
ENHANCED = {"CT": "1.2.840.10008.5.1.4.1.1.2.1", "MR": "1.2.840.10008.5.1.4.1.1.4.1"}


def slice_order(affine: np.ndarray) -> int:
    """Return 1 where slices follow each other along the normal of their plane, -1 where against it.

    Args:
        affine: (4, 4) voxel index to RAS+ millimetres.

    Raises:
        GeometryError: for axes that are not orthogonal: DICOM has no word for them.
    """
    axes = (LPS_TO_RAS @ affine)[:3, :3] / spacing_of(affine)
    cosines = np.abs(axes.T @ axes - np.eye(3)).max()
    if cosines > TILT_TOLERANCE:
        raise GeometryError(
            f"its axes are {np.degrees(np.arcsin(min(cosines, 1.0))):.2f} degrees off a right angle; DICOM "
            "holds orthogonal grids alone: resample the case"
        )
    return 1 if np.cross(axes[:, 0], axes[:, 1]) @ axes[:, 2] > 0 else -1


def make_classic(pixels: StoredPixels, affine: np.ndarray, *, header: SeriesHeader) -> list[Dataset]:
    """Return an object for each slice of a volume, in the order of their places."""
    lps = LPS_TO_RAS @ affine
    frames = list(range(pixels.stored.shape[2]))[:: slice_order(affine)]
    items = []
    for number, k in enumerate(frames, start=1):
        item = header.start(CLASSIC[header.modality], header.uid("image", number))
        item.ImageType = ["DERIVED", "SECONDARY", "AXIAL" if header.modality == "CT" else "OTHER"]
        item.InstanceNumber = number
        item.AcquisitionNumber = None
        item.PatientPosition = "HFS"
        item.ImagePositionPatient = _decimals((lps @ [0, 0, k, 1])[:3])
        item.ImageOrientationPatient = _orientation(lps)
        item.PixelSpacing, item.SliceThickness = _spacing(lps)
        item.SpacingBetweenSlices = item.SliceThickness
        _add_modality(item, header.modality)
        if header.modality == "CT" or not pixels.is_identity:
            item.RescaleSlope, item.RescaleIntercept = pixels.slope, pixels.intercept
            item.RescaleType = "HU" if header.modality == "CT" else "US"
        _add_pixels(item, pixels.stored[:, :, k].T)
        items.append(item)
    return items


def _add_modality(item: Dataset, modality: str) -> None:
    """Add what the CT and MR image modules ask for; what nobody knows is empty (PS3.3 C.8.2.1, C.8.3.1)."""
    item.BurnedInAnnotation = "NO"
    item.LossyImageCompression = "00"
    if modality == "CT":
        item.KVP = None
        return
    item.ScanningSequence, item.SequenceVariant = "RM", "NONE"
    item.ScanOptions, item.MRAcquisitionType = "", "3D"
    item.RepetitionTime = item.EchoTime = item.EchoTrainLength = None


def make_enhanced(pixels: StoredPixels, affine: np.ndarray, *, header: SeriesHeader) -> list[Dataset]:
    """Return one object with a frame for each slice of a volume, in the order of their places."""
    lps = LPS_TO_RAS @ affine
    frames = list(range(pixels.stored.shape[2]))[:: slice_order(affine)]
    item = header.start(ENHANCED[header.modality], header.uid("image"))
    item.ImageType = ["DERIVED", "SECONDARY", "VOLUME", "NONE"]
    item.InstanceNumber, item.NumberOfFrames = 1, len(frames)
    item.ContentDate, item.ContentTime = NO_DATE, NO_TIME
    item.AcquisitionContextSequence = Sequence()
    item.PixelPresentation, item.VolumetricProperties = "MONOCHROME", "VOLUME"
    item.VolumeBasedCalculationTechnique = "NONE"
    item.ContentQualification = "RESEARCH"
    item.BurnedInAnnotation, item.LossyImageCompression = "NO", "00"
    item.PresentationLUTShape = "IDENTITY"
    if header.modality == "MR":
        item.ComplexImageComponent, item.AcquisitionContrast = "MAGNITUDE", "UNKNOWN"
    _add_dimensions(item, header)
    item.SharedFunctionalGroupsSequence = Sequence([_shared_groups(pixels, lps, header)])
    item.PerFrameFunctionalGroupsSequence = Sequence(
        [_frame_groups(lps, k, number) for number, k in enumerate(frames, start=1)]
    )
    _add_pixels(item, pixels.stored[:, :, frames].transpose(2, 1, 0))
    return [item]


def _add_dimensions(item: Dataset, header: SeriesHeader) -> None:
    """Say that frames are ordered by stack and place in it (PS3.3 C.7.6.17)."""
    organisation = header.uid("dimensions")
    item.DimensionOrganizationSequence = Sequence([_item(DimensionOrganizationUID=organisation)])
    item.DimensionIndexSequence = Sequence(
        [
            _item(
                DimensionOrganizationUID=organisation,
                DimensionIndexPointer=pointer,
                FunctionalGroupPointer=0x00209111,
            )
            for pointer in (0x00209056, 0x00209057)
        ]
    )


def _shared_groups(pixels: StoredPixels, lps: np.ndarray, header: SeriesHeader) -> Dataset:
    spacing, thickness = _spacing(lps)
    frame_type = _item(
        FrameType=["DERIVED", "SECONDARY", "VOLUME", "NONE"],
        PixelPresentation="MONOCHROME",
        VolumetricProperties="VOLUME",
        VolumeBasedCalculationTechnique="NONE",
    )
    region = _item(CodeValue="38266002", CodingSchemeDesignator="SCT", CodeMeaning="Entire body")
    scaling = _item(
        RescaleIntercept=pixels.intercept,
        RescaleSlope=pixels.slope,
        RescaleType="HU" if header.modality == "CT" else "US",
    )
    measures = _item(PixelSpacing=spacing, SliceThickness=thickness, SpacingBetweenSlices=thickness)
    groups = _item(
        PixelMeasuresSequence=Sequence([measures]),
        PlaneOrientationSequence=Sequence([_item(ImageOrientationPatient=_orientation(lps))]),
        FrameAnatomySequence=Sequence(
            [_item(FrameLaterality="U", AnatomicRegionSequence=Sequence([region]))]
        ),
        PixelValueTransformationSequence=Sequence([scaling]),
    )
    if header.modality == "CT":
        groups.CTImageFrameTypeSequence = Sequence([frame_type])
    else:
        frame_type.ComplexImageComponent, frame_type.AcquisitionContrast = "MAGNITUDE", "UNKNOWN"
        groups.MRImageFrameTypeSequence = Sequence([frame_type])
    return groups


def _frame_groups(lps: np.ndarray, k: int, number: int) -> Dataset:
    content = _item(StackID="1", InStackPositionNumber=number, DimensionIndexValues=[1, number])
    position = _item(ImagePositionPatient=_decimals((lps @ [0, 0, k, 1])[:3]))
    return _item(FrameContentSequence=Sequence([content]), PlanePositionSequence=Sequence([position]))


def _item(**elements: object) -> Dataset:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def _orientation(lps: np.ndarray) -> list[str]:
    """Return the unit vectors along a row (i grows), then along a column (j grows)."""
    axes = lps[:3, :3] / spacing_of(lps)
    return _decimals([*axes[:, 0], *axes[:, 1]])


def _spacing(lps: np.ndarray) -> tuple[list[str], str]:
    """Return the distances of rows and of columns, and that of slices, in mm (PS3.3 10.7.1.3)."""
    along_i, along_j, along_k = spacing_of(lps)
    return _decimals([along_j, along_i]), _decimals([along_k])[0]


def _decimals(numbers: object) -> list[str]:
    return [str(format_number_as_ds(float(number))) for number in np.asarray(numbers, dtype=np.float64)]


def _add_pixels(item: Dataset, stored: np.ndarray) -> None:
    """Add the image pixel module for (rows, columns) or (frames, rows, columns) of 16 bits."""
    item.SamplesPerPixel = 1
    item.PhotometricInterpretation = "MONOCHROME2"
    item.Rows, item.Columns = stored.shape[-2:]
    item.BitsAllocated = item.BitsStored = 16
    item.HighBit = 15
    item.PixelRepresentation = int(stored.dtype.kind == "i")
    item.PixelData = np.ascontiguousarray(stored).astype(stored.dtype.newbyteorder("<")).tobytes()
