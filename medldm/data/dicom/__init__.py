"""Read DICOM series right, or refuse them by name: the public face of the dicom_* modules."""

from medldm.data.dicom.errors import DicomError, Refusal
from medldm.data.dicom.read import read_dicom, read_series
from medldm.data.dicom.scan import DicomScan, choose_series, is_dicom_tree, scan_dicom
from medldm.data.dicom.series import DicomSeries

__all__ = [
    "DicomError",
    "DicomScan",
    "DicomSeries",
    "Refusal",
    "choose_series",
    "is_dicom_tree",
    "read_dicom",
    "read_series",
    "scan_dicom",
]
