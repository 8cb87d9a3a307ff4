"""Array and dictionary transforms, imported as `medldm.transforms`."""

from medldm.transforms.bias_field import N4BiasCorrection, N4BiasCorrectiond
from medldm.transforms.deform import DeformVolume, DeformVolumed
from medldm.transforms.deformation import Deformation
from medldm.transforms.errors import (
    CorruptVolumeError,
    GeometryError,
    HeaderError,
    UnsupportedVolumeError,
    VolumeError,
    VolumeTooLargeError,
    VoxelValueError,
)
from medldm.transforms.intensity import NormaliseIntensity, NormaliseIntensityd, measure_intensity_mapping
from medldm.transforms.intensity_mapping import IntensityMapping, foreground_mask
from medldm.transforms.load import LoadVolume, LoadVolumed, restore_file_geometry
from medldm.transforms.sizes import CentreCropOrPad, ForegroundCrop, PadToMultiple
from medldm.transforms.sizes_dictionary import CentreCropOrPadd, ForegroundCropd, PadToMultipled
from medldm.transforms.spacing import ResampleToSpacing, ResampleToSpacingd
from medldm.transforms.write_nifti import write_nifti

__all__ = [
    "CentreCropOrPad",
    "CentreCropOrPadd",
    "CorruptVolumeError",
    "DeformVolume",
    "DeformVolumed",
    "Deformation",
    "ForegroundCrop",
    "ForegroundCropd",
    "GeometryError",
    "HeaderError",
    "IntensityMapping",
    "LoadVolume",
    "LoadVolumed",
    "N4BiasCorrection",
    "N4BiasCorrectiond",
    "NormaliseIntensity",
    "NormaliseIntensityd",
    "PadToMultiple",
    "PadToMultipled",
    "ResampleToSpacing",
    "ResampleToSpacingd",
    "UnsupportedVolumeError",
    "VolumeError",
    "VolumeTooLargeError",
    "VoxelValueError",
    "foreground_mask",
    "measure_intensity_mapping",
    "restore_file_geometry",
    "write_nifti",
]
