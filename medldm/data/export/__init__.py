"""Write a cohort in the layouts of other tools: nnU-Net, MSD, BIDS, 3D Slicer, DICOM."""

from medldm.data.export.export import ExportResult, export_cohort
from medldm.data.export.options import FORMATS, ExportOptions

__all__ = ["FORMATS", "ExportOptions", "ExportResult", "export_cohort"]
