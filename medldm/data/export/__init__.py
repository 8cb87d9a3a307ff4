"""Write a cohort in the layouts of other tools: nnU-Net, MSD, BIDS, 3D Slicer, DICOM."""

from medldm.data.export.export import export
from medldm.data.export.options import FORMATS, ExportOptions

__all__ = ["FORMATS", "ExportOptions", "export"]
