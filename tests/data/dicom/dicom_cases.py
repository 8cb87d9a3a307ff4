"""Synthetic DICOM series with known voxels and geometry, and the conformance cases built from them."""

from __future__ import annotations

import io
import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as DicomSequence

from medldm.data.dicom import Refusal

gdcm = pytest.importorskip("gdcm", reason="the compressed cases need pip install 'medldm[dicom]'")

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
RT_DOSE = "1.2.840.10008.5.1.4.1.1.481.2"
TEXT_REPORT = "1.2.840.10008.5.1.4.1.1.88.11"
STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


def oblique_orientation() -> tuple[float, ...]:
    """Return direction cosines turned about all three axes, unrounded."""
    a, b, c = 0.3, -0.2, 0.45
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    rotation = about_x @ about_y @ about_z
    return (*rotation[:, 0], *rotation[:, 1])


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Where a stack lies: the formula of PS3.3 C.7.6.2.1.1, written down a second time for the tests."""

    orientation: tuple[float, ...] = AXIAL
    origin: tuple[float, float, float] = (-31.5, 12.25, 140.0)
    row_spacing: float = 1.3
    column_spacing: float = 0.8
    step_mm: float = 2.5

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.orientation[:3], self.orientation[3:])

    def positions(self, n_slices: int) -> np.ndarray:
        return np.array(self.origin) + np.outer(np.arange(n_slices) * self.step_mm, self.normal)

    def affine(self) -> np.ndarray:
        """Return the RAS+ affine of (column, row, slice)."""
        lps = np.eye(4)
        lps[:3, 0] = np.array(self.orientation[:3]) * self.column_spacing
        lps[:3, 1] = np.array(self.orientation[3:]) * self.row_spacing
        lps[:3, 2] = self.normal * self.step_mm
        lps[:3, 3] = self.origin
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What a volume must come out as: (columns, rows, slices) values and their RAS+ affine."""

    voxels: np.ndarray
    affine: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Case:
    """A series, what it shows, and what must become of it."""

    name: str
    shows: str
    build: Callable[[Path], list[Truth]]
    refusals: tuple[Refusal, ...] = ()
    regularised: bool = False
    ignored: dict[str, int] = field(default_factory=dict)

    @property
    def outcome(self) -> str:
        reads = (
            "exact voxels, affine to 1e-4 mm"
            if not self.refusals or self.name.startswith("4d_incomplete")
            else ""
        )
        refused = ", ".join(f"refused: `{refusal.value}`" for refusal in self.refusals)
        resampled = "; resampled on request" if self.regularised else ""
        return "; ".join(part for part in (reads, refused) if part) + resampled


def canonical(truth: Truth) -> tuple[np.ndarray, np.ndarray]:
    """Turn a truth to the nearest RAS+ axes with nibabel."""
    image = nib.as_closest_canonical(nib.Nifti1Image(truth.voxels, truth.affine))
    return np.asarray(image.dataobj), image.affine


def stored_voxels(
    n_slices: int = 6,
    rows: int = 5,
    columns: int = 7,
    *,
    dtype: Any = np.int16,
    top: int = 1500,
    seed: int = 0,
) -> np.ndarray:
    """Return random stored values, (slices, rows, columns); negative ones for signed types."""
    low = -top if np.issubdtype(dtype, np.signedinteger) else 0
    return np.random.default_rng(seed).integers(low, top, (n_slices, rows, columns)).astype(dtype)


def new_dataset(
    sop_class: str = MR_IMAGE, *, modality: str = "MR", series_uid: str | None = None
) -> FileDataset:
    """Return a data set with the attributes every image has, Explicit VR Little Endian."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = uid.generate_uid()
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.Modality = modality
    dataset.PatientID = "phantom-1"
    dataset.PatientName = "Phantom^One"
    dataset.PatientBirthDate = dataset.PatientSex = dataset.AccessionNumber = (
        dataset.ReferringPhysicianName
    ) = ""
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20200101", "120000", "1"
    dataset.Manufacturer = "medldm"
    dataset.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    dataset.SeriesInstanceUID = series_uid or uid.generate_uid()
    dataset.SeriesNumber = 1
    dataset.FrameOfReferenceUID = "1.2.826.0.1.3680043.8.498.2"
    dataset.PositionReferenceIndicator = ""
    return dataset


def set_pixels(dataset: Dataset, stored: np.ndarray, *, bits_stored: int | None = None) -> None:
    """Store (rows, columns) or (frames, rows, columns) integers natively."""
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = stored.dtype.itemsize * 8
    dataset.BitsStored = bits_stored or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    data = np.ascontiguousarray(stored).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB" if stored.dtype.itemsize == 1 else "OW"


def make_slices(
    stored: np.ndarray,
    geometry: Geometry | None = None,
    *,
    positions: np.ndarray | None = None,
    bits_stored: int | None = None,
    modality: str = "MR",
) -> list[FileDataset]:
    """Return one single-frame data set for each slice of (slices, rows, columns)."""
    geometry = geometry or Geometry()
    positions = geometry.positions(len(stored)) if positions is None else positions
    series_uid = uid.generate_uid()
    slices = []
    for index, (plane, position) in enumerate(zip(stored, positions, strict=True)):
        dataset = new_dataset(
            CT_IMAGE if modality == "CT" else MR_IMAGE, modality=modality, series_uid=series_uid
        )
        dataset.InstanceNumber = index + 1
        dataset.ImagePositionPatient = [f"{value:.10g}" for value in position]
        dataset.ImageOrientationPatient = [f"{value:.10g}"[:16] for value in geometry.orientation]
        dataset.PixelSpacing = [geometry.row_spacing, geometry.column_spacing]
        dataset.SliceThickness = geometry.step_mm
        set_pixels(dataset, plane, bits_stored=bits_stored)
        slices.append(dataset)
    return slices


def truth_of(stored: np.ndarray, geometry: Geometry | None = None) -> Truth:
    """Return the truth of slices without rescaling."""
    return Truth(
        voxels=stored.transpose(2, 1, 0).astype(np.float64), affine=(geometry or Geometry()).affine()
    )


def save(slices: Sequence[Dataset], folder: Path, *, prefix: str = "IM", **options: Any) -> list[Path]:
    """Write data sets as IM0000, IM0001, ... without suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, dataset in enumerate(slices):
        path = folder / f"{prefix}{index:04d}"
        dataset.save_as(path, **({"enforce_file_format": True} | options))
        paths.append(path)
    return paths


def _stack(geometry: Geometry) -> Callable[[Path], list[Truth]]:
    def build(folder: Path) -> list[Truth]:
        stored = stored_voxels()
        save(make_slices(stored, geometry), folder)
        return [truth_of(stored, geometry)]

    return build


def build_shuffled(folder: Path) -> list[Truth]:
    stored = stored_voxels()
    slices = make_slices(stored)
    order = np.random.default_rng(1).permutation(len(slices))
    for number, index in enumerate(order):
        slices[index].InstanceNumber = number * 3 + 7
    save([slices[index] for index in order[::-1]], folder / "a" / "b")
    return [truth_of(stored)]


def build_feet_first(folder: Path) -> list[Truth]:
    stored = stored_voxels()
    slices = make_slices(stored[::-1], positions=Geometry().positions(len(stored))[::-1])
    save(slices, folder)
    return [truth_of(stored)]


def build_duplicated_instance_numbers(folder: Path) -> list[Truth]:
    stored = stored_voxels()
    slices = make_slices(stored)
    for index, dataset in enumerate(slices):
        dataset.InstanceNumber = 1 + index // 2
    save(slices[::-1], folder)
    return [truth_of(stored)]


def build_orientation_jitter(folder: Path) -> list[Truth]:
    stored, geometry = stored_voxels(), Geometry(orientation=oblique_orientation())
    slices = make_slices(stored, geometry)
    rng = np.random.default_rng(2)
    jitter = rng.uniform(-4e-5, 4e-5, (len(slices), 6))
    for dataset, noise in zip(slices, jitter - jitter.mean(axis=0), strict=True):
        dataset.ImageOrientationPatient = [
            f"{a + b:.8f}" for a, b in zip(geometry.orientation, noise, strict=True)
        ]
    save(slices, folder)
    return [truth_of(stored, geometry)]


def build_rounded_positions(folder: Path) -> list[Truth]:
    stored, geometry = stored_voxels(n_slices=7), Geometry(step_mm=2.5)
    slices = make_slices(stored, geometry)
    for dataset in slices[1:-1]:
        dataset.ImagePositionPatient[2] = round(float(dataset.ImagePositionPatient[2]) + 0.004, 3)
    save(slices, folder)
    return [truth_of(stored, geometry)]


def build_slope_per_slice(folder: Path) -> list[Truth]:
    stored = stored_voxels(dtype=np.uint16)
    slices = make_slices(stored, modality="PT")
    slopes, intercepts = 0.25 + 0.5 * np.arange(6), np.arange(6) - 3.0
    for dataset, slope, intercept in zip(slices, slopes, intercepts, strict=True):
        dataset.RescaleSlope, dataset.RescaleIntercept = float(slope), float(intercept)
    save(slices, folder)
    truth = truth_of(stored)
    return [Truth(voxels=truth.voxels * slopes + intercepts, affine=truth.affine)]


def build_hounsfield(folder: Path) -> list[Truth]:
    stored = stored_voxels(dtype=np.uint16, top=4095)
    slices = make_slices(stored, bits_stored=12, modality="CT")
    for dataset in slices:
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    save(slices, folder)
    truth = truth_of(stored)
    return [Truth(voxels=truth.voxels - 1024, affine=truth.affine)]


def build_padding_value(folder: Path) -> list[Truth]:
    stored = stored_voxels(top=1000)
    stored[:, 0, 0] = -2000
    slices = make_slices(stored, bits_stored=11, modality="CT")
    for dataset in slices:
        dataset.add_new(0x00280120, "SS", -2000)
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    save(slices, folder)
    return [truth_of(stored)]


def build_signed_12_bit(folder: Path) -> list[Truth]:
    stored = stored_voxels(top=2047)
    slices = make_slices((stored & 0x0FFF).astype(np.int16), bits_stored=12)
    for dataset in slices:
        dataset.add_new(0x60000102, "US", 12)
    save(slices, folder)
    return [truth_of(stored)]


def build_overlay_bits(folder: Path) -> list[Truth]:
    stored = stored_voxels(dtype=np.uint16, top=4095)
    overlay = np.random.default_rng(3).integers(0, 2, stored.shape).astype(np.uint16) << 12
    slices = make_slices(stored | overlay, bits_stored=12)
    for dataset in slices:
        dataset.add_new(0x60000100, "US", 16)
        dataset.add_new(0x60000102, "US", 12)
    save(slices, folder)
    return [truth_of(stored)]


def build_eight_bit(folder: Path) -> list[Truth]:
    stored = stored_voxels(dtype=np.uint8, top=255)
    save(make_slices(stored), folder)
    return [truth_of(stored)]


def build_monochrome1(folder: Path) -> list[Truth]:
    stored = stored_voxels(dtype=np.uint16)
    slices = make_slices(stored)
    for dataset in slices:
        dataset.PhotometricInterpretation = "MONOCHROME1"
    save(slices, folder)
    return [truth_of(stored)]


def build_implicit_without_preamble(folder: Path) -> list[Truth]:
    stored = stored_voxels()
    folder.mkdir(parents=True, exist_ok=True)
    for index, dataset in enumerate(make_slices(stored)):
        bare = Dataset()
        bare.update(dataset)
        bare.save_as(folder / f"{index}.ima", implicit_vr=True, little_endian=True, enforce_file_format=False)
    return [truth_of(stored)]


def build_big_endian(folder: Path) -> list[Truth]:
    stored = stored_voxels()
    slices = make_slices(stored.astype(">i2"))
    for dataset in slices:
        dataset.set_original_encoding(False, False)
        dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian
    save(slices, folder)
    return [truth_of(stored)]


def build_optional_tags_missing(folder: Path) -> list[Truth]:
    stored = stored_voxels()
    slices = make_slices(stored)
    for dataset in slices:
        for keyword in (
            "InstanceNumber",
            "SliceThickness",
            "FrameOfReferenceUID",
            "ImageType",
            "SeriesNumber",
        ):
            delattr(dataset, keyword)
    save(slices, folder)
    return [truth_of(stored)]


def build_two_series(folder: Path) -> list[Truth]:
    first, second = stored_voxels(seed=1), stored_voxels(n_slices=4, rows=6, columns=9, seed=2)
    other = Geometry(orientation=CORONAL, step_mm=3.0)
    slices = [*make_slices(first), *make_slices(second, other)]
    save([slices[index] for index in np.random.default_rng(0).permutation(len(slices))], folder)
    return [truth_of(first), truth_of(second, other)]


def build_stray_files(folder: Path) -> list[Truth]:
    stored = stored_voxels()
    paths = save(make_slices(stored), folder / "deep" / "er")
    shutil.copy(paths[2], folder / "deep" / "copy of slice 3")
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" * 64)
    (folder / "deep" / "report.txt").write_text("not an image")
    (folder / "empty").write_bytes(b"")
    structures = new_dataset(TEXT_REPORT, modality="SR")
    save([structures], folder, prefix="RS")
    index = new_dataset("1.2.840.10008.1.3.10")
    index.save_as(folder / "DICOMDIR", enforce_file_format=True)
    return [truth_of(stored)]


def _compressed(syntax: str, *, dtype: Any = np.int16) -> Callable[[Path], list[Truth]]:
    def build(folder: Path) -> list[Truth]:
        stored = stored_voxels(rows=16, columns=18, dtype=dtype)
        slices = make_slices(stored)
        for dataset in slices:
            dataset.compress(syntax, generate_instance_uid=False)
        save(slices, folder)
        return [truth_of(stored)]

    return build


def _transcoded(syntax: int, *, dtype: Any = np.int16) -> Callable[[Path], list[Truth]]:
    """Compress with GDCM, which also has the encoders that pydicom lacks."""

    def build(folder: Path) -> list[Truth]:
        stored = stored_voxels(rows=16, columns=18, dtype=dtype)
        for path in save(make_slices(stored), folder):
            reader = gdcm.ImageReader()
            reader.SetFileName(str(path))
            assert reader.Read()
            change = gdcm.ImageChangeTransferSyntax()
            change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
            change.SetInput(reader.GetImage())
            assert change.Change()
            writer = gdcm.ImageWriter()
            writer.SetFileName(str(path))
            writer.SetFile(reader.GetFile())
            writer.SetImage(change.GetOutput())
            assert writer.Write()
        return [truth_of(stored)]

    return build


def build_jpeg_2000_by_pillow(folder: Path) -> list[Truth]:
    """Encode with OpenJPEG through Pillow, an encoder that shares nothing with the decoder under test."""
    stored = stored_voxels(rows=16, columns=18, dtype=np.uint16, top=65535)
    slices = make_slices(stored)
    for dataset, plane in zip(slices, stored, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(plane).save(buffer, "JPEG2000", irreversible=False, no_jp2=True)
        dataset.PixelData = encapsulate([buffer.getvalue()])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = uid.JPEG2000Lossless
    save(slices, folder)
    return [truth_of(stored)]


def build_deflated(folder: Path) -> list[Truth]:
    stored = stored_voxels()
    slices = make_slices(stored)
    for dataset in slices:
        dataset.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    save(slices, folder)
    return [truth_of(stored)]


def build_deflated_bomb(folder: Path) -> list[Truth]:
    """Append 64 MB of zeros to the deflated data set of one slice: 80 kB on disk."""
    build_deflated(folder)
    path = folder / "IM0003"
    raw = path.read_bytes()
    dataset = pydicom.dcmread(path)
    begin = 132 + 12 + dataset.file_meta.FileMetaInformationGroupLength
    inflated = zlib.decompress(raw[begin:], -zlib.MAX_WBITS)
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    padding = b"\xfc\xff\xfc\xffOB\0\0" + (64_000_000).to_bytes(4, "little") + b"\0" * 64_000_000
    path.write_bytes(raw[:begin] + deflater.compress(inflated + padding) + deflater.flush())
    return []


def make_enhanced(
    stored: np.ndarray,
    geometry: Geometry,
    *,
    positions: np.ndarray | None = None,
    slopes: Sequence[float] | None = None,
    time_points: Sequence[int] | None = None,
) -> FileDataset:
    """Return an Enhanced MR Image of (frames, rows, columns), as PS3.3 A.36.2 lays it out."""
    positions = geometry.positions(len(stored)) if positions is None else positions
    dataset = new_dataset(ENHANCED_MR)
    dataset.InstanceNumber = 1
    dataset.NumberOfFrames = len(stored)
    set_pixels(dataset, stored)
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [geometry.row_spacing, geometry.column_spacing]
    measures.SliceThickness = geometry.step_mm
    plane.ImageOrientationPatient = [f"{value:.10g}"[:16] for value in geometry.orientation]
    shared.PixelMeasuresSequence = DicomSequence([measures])
    shared.PlaneOrientationSequence = DicomSequence([plane])
    dataset.SharedFunctionalGroupsSequence = DicomSequence([shared])
    groups = []
    for index, position in enumerate(positions):
        group, place, content, values = Dataset(), Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [f"{value:.10g}" for value in position]
        content.StackID = "1"
        content.TemporalPositionIndex = time_points[index] if time_points is not None else 1
        values.RescaleSlope = float(slopes[index]) if slopes is not None else 1.0
        values.RescaleIntercept = 0.0
        values.RescaleType = "US"
        group.PlanePositionSequence = DicomSequence([place])
        group.FrameContentSequence = DicomSequence([content])
        group.PixelValueTransformationSequence = DicomSequence([values])
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = DicomSequence(groups)
    return dataset


def build_enhanced(folder: Path) -> list[Truth]:
    stored, geometry = stored_voxels(), Geometry(orientation=oblique_orientation())
    order = np.random.default_rng(4).permutation(len(stored))
    slopes = 0.5 + np.arange(len(stored))
    dataset = make_enhanced(
        stored[order], geometry, positions=geometry.positions(len(stored))[order], slopes=slopes[order]
    )
    save([dataset], folder)
    truth = truth_of(stored, geometry)
    return [Truth(voxels=truth.voxels * slopes, affine=truth.affine)]


def build_enhanced_rle(folder: Path) -> list[Truth]:
    stored, geometry = stored_voxels(rows=16, columns=18), Geometry()
    dataset = make_enhanced(stored, geometry)
    dataset.compress(uid.RLELossless, generate_instance_uid=False)
    save([dataset], folder)
    return [truth_of(stored, geometry)]


def build_enhanced_4d(folder: Path) -> list[Truth]:
    geometry = Geometry()
    first, second = stored_voxels(seed=1), stored_voxels(seed=2)
    interleaved = np.stack([first, second], axis=1).reshape(12, 5, 7)
    positions = np.repeat(geometry.positions(6), 2, axis=0)
    save(
        [make_enhanced(interleaved, geometry, positions=positions, time_points=[1, 2] * 6)],
        folder,
    )
    return [truth_of(first), truth_of(second)]


def build_enhanced_by_highdicom(folder: Path) -> list[Truth]:
    """Let highdicom convert single-frame slices to a Legacy Converted Enhanced MR Image."""
    from highdicom.legacy import LegacyConvertedEnhancedMRImage

    stored, geometry = stored_voxels(), Geometry(orientation=CORONAL)
    image = LegacyConvertedEnhancedMRImage(
        make_slices(stored, geometry),
        series_instance_uid=uid.generate_uid(),
        series_number=2,
        sop_instance_uid=uid.generate_uid(),
        instance_number=1,
    )
    save([image], folder)
    return [truth_of(stored, geometry)]


def build_4d_by_time(folder: Path) -> list[Truth]:
    volumes = [stored_voxels(seed=seed) for seed in range(3)]
    slices = [dataset for stored in volumes for dataset in make_slices(stored)]
    for index, dataset in enumerate(slices):
        dataset.SeriesInstanceUID = slices[0].SeriesInstanceUID
        dataset.InstanceNumber = index + 1
        dataset.TemporalPositionIdentifier = 1 + index // 6
        dataset.AcquisitionTime = f"1200{index:02d}"
    save(slices, folder)
    return [truth_of(stored) for stored in volumes]


def build_4d_by_echo_and_type(folder: Path) -> list[Truth]:
    volumes = [stored_voxels(seed=seed) for seed in range(4)]
    slices = [dataset for stored in volumes for dataset in make_slices(stored)]
    for index, dataset in enumerate(slices):
        dataset.SeriesInstanceUID = slices[0].SeriesInstanceUID
        dataset.EchoTime = [4.6, 9.2][index // 6 % 2]
        dataset.ImageType = ["ORIGINAL", "PRIMARY", ["M", "P"][index // 12]]
    save(slices, folder)
    return [truth_of(stored) for stored in volumes]


def build_4d_by_private_b_value(folder: Path) -> list[Truth]:
    """Two b-values that only a private attribute of Siemens tells apart, as in files before 2010."""
    volumes = [stored_voxels(seed=seed) for seed in range(2)]
    slices = [dataset for stored in volumes for dataset in make_slices(stored)]
    for index, dataset in enumerate(slices):
        dataset.SeriesInstanceUID = slices[0].SeriesInstanceUID
        dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(
            0x0C, "IS", [0, 1000][index // 6]
        )
    save(slices, folder)
    return [truth_of(stored) for stored in volumes]


def build_4d_incomplete(folder: Path) -> list[Truth]:
    truths = build_4d_by_time(folder)
    (folder / "IM0017").unlink()
    return truths[:2]


def build_duplicate_positions(folder: Path) -> list[Truth]:
    slices = make_slices(stored_voxels(n_slices=7))
    slices[6].ImagePositionPatient = slices[3].ImagePositionPatient
    save(slices, folder)
    return []


def build_tilt(folder: Path) -> list[Truth]:
    geometry = Geometry()
    positions = geometry.positions(6) + np.outer(np.arange(6) * 2.5 * np.tan(np.radians(12)), [0, 1, 0])
    save(make_slices(stored_voxels(), positions=positions), folder)
    return []


def build_small_tilt(folder: Path) -> list[Truth]:
    geometry = Geometry()
    positions = geometry.positions(6) + np.outer(np.arange(6) * 2.5 * np.tan(np.radians(1.5)), [0, 1, 0])
    save(make_slices(stored_voxels(), positions=positions), folder)
    return []


def build_missing_slice(folder: Path) -> list[Truth]:
    slices = make_slices(stored_voxels(n_slices=8))
    del slices[3]
    save(slices, folder)
    return []


def build_variable_spacing(folder: Path) -> list[Truth]:
    distances = np.array([0, 2.5, 5.0, 8.7, 12.4, 16.1])
    positions = np.array(Geometry().origin) + np.outer(distances, [0, 0, 1])
    save(make_slices(stored_voxels(), positions=positions), folder)
    return []


def build_shifted_slice(folder: Path) -> list[Truth]:
    positions = Geometry().positions(6)
    positions[2, 0] += 1.7
    save(make_slices(stored_voxels(), positions=positions), folder)
    return []


def build_colour(folder: Path) -> list[Truth]:
    slices = make_slices(stored_voxels(dtype=np.uint8, top=255))
    for dataset in slices:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SECONDARY_CAPTURE
        dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, 0
        dataset.PhotometricInterpretation = "RGB"
        dataset.PixelData = bytes(5 * 7 * 3 + 1)
    save(slices, folder)
    return []


def build_mosaic(folder: Path) -> list[Truth]:
    slices = make_slices(stored_voxels(n_slices=3))
    for dataset in slices:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    save(slices, folder)
    return []


def build_localizer(folder: Path) -> list[Truth]:
    slices = make_slices(stored_voxels(n_slices=3))
    for dataset in slices:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    save(slices, folder)
    return []


def build_single_slice(folder: Path) -> list[Truth]:
    save(make_slices(stored_voxels(n_slices=1)), folder)
    return []


def build_dose_beside(folder: Path) -> list[Truth]:
    """A dose grid with pixels and geometry of its own, beside the series it was planned on."""
    stored = stored_voxels()
    save(make_slices(stored), folder)
    dose = make_slices(stored_voxels(seed=5), modality="RTDOSE")
    for dataset in dose:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = RT_DOSE
    save(dose, folder, prefix="RD")
    return [truth_of(stored)]


def build_private_class(folder: Path) -> list[Truth]:
    slices = make_slices(stored_voxels())
    for dataset in slices:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.3.46.670589.5.0.10"
    save(slices, folder)
    return []


def build_projection(folder: Path) -> list[Truth]:
    slices = make_slices(stored_voxels())
    for dataset in slices:
        dataset.ImageType = ["DERIVED", "PRIMARY", "PROJECTION IMAGE"]
    save(slices, folder)
    return []


def build_burned_in_text(folder: Path) -> list[Truth]:
    slices = make_slices(stored_voxels())
    slices[3].BurnedInAnnotation = "YES"
    save(slices, folder)
    return []


def build_two_patients(folder: Path) -> list[Truth]:
    slices = make_slices(stored_voxels())
    slices[3].PatientID = "phantom-2"
    save(slices, folder)
    return []


def build_time_series(folder: Path) -> list[Truth]:
    """Three time points in one series, and no attribute to tell them apart."""
    slices = [dataset for seed in range(3) for dataset in make_slices(stored_voxels(seed=seed))]
    for dataset in slices:
        dataset.SeriesInstanceUID = slices[0].SeriesInstanceUID
    save(slices, folder)
    return []


def build_without_position(folder: Path) -> list[Truth]:
    slices = make_slices(stored_voxels())
    for dataset in slices:
        del dataset.ImagePositionPatient
    save(slices, folder)
    return []


def build_multiframe_capture(folder: Path) -> list[Truth]:
    dataset = new_dataset("1.2.840.10008.5.1.4.1.1.7.3", modality="OT")
    dataset.NumberOfFrames = 6
    set_pixels(dataset, stored_voxels())
    save([dataset], folder)
    return []


def build_truncated(folder: Path) -> list[Truth]:
    path = save(make_slices(stored_voxels(rows=32, columns=32)), folder)[2]
    path.write_bytes(path.read_bytes()[:-900])
    return []


def build_truncated_header(folder: Path) -> list[Truth]:
    path = save(make_slices(stored_voxels()), folder)[5]
    path.write_bytes(path.read_bytes()[:420])
    return []


def build_video_syntax(folder: Path) -> list[Truth]:
    slices = make_slices(stored_voxels())
    for dataset in slices:
        dataset.PixelData = encapsulate([b"\0\0\0\1" * 8])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = uid.MPEG2MPML
    save(slices, folder)
    return []


def build_too_many_bits(folder: Path) -> list[Truth]:
    save(make_slices(stored_voxels(dtype=np.uint16, top=60000), bits_stored=12), folder)
    return []


def build_two_frames_of_reference(folder: Path) -> list[Truth]:
    slices = make_slices(stored_voxels())
    slices[4].FrameOfReferenceUID = uid.generate_uid()
    save(slices, folder)
    return []


def build_orientation_not_orthogonal(folder: Path) -> list[Truth]:
    slices = make_slices(stored_voxels())
    for dataset in slices:
        dataset.ImageOrientationPatient = [1, 0, 0, 0.5, 0.8, 0]
    save(slices, folder)
    return []


def build_two_versions(folder: Path) -> list[Truth]:
    slices = make_slices(stored_voxels())
    other = make_slices(stored_voxels(seed=9))[2]
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = slices[2].SOPInstanceUID
    other.SeriesInstanceUID = slices[2].SeriesInstanceUID
    save([*slices, other], folder)
    return []


CASES = (
    Case(name="axial", shows="a regular axial stack, anisotropic pixels", build=_stack(Geometry())),
    Case(name="sagittal", shows="sagittal slices", build=_stack(Geometry(orientation=SAGITTAL))),
    Case(name="coronal", shows="coronal slices", build=_stack(Geometry(orientation=CORONAL))),
    Case(
        name="oblique",
        shows="slices oblique to all axes",
        build=_stack(Geometry(orientation=oblique_orientation())),
    ),
    Case(name="shuffled", shows="file names and instance numbers in random order", build=build_shuffled),
    Case(name="feet_first", shows="slices from head to feet", build=build_feet_first),
    Case(
        name="duplicated_instance_numbers",
        shows="two slices share each number",
        build=build_duplicated_instance_numbers,
    ),
    Case(
        name="orientation_jitter",
        shows="direction cosines that differ by rounding",
        build=build_orientation_jitter,
    ),
    Case(
        name="rounded_positions", shows="positions rounded to some micrometres", build=build_rounded_positions
    ),
    Case(
        name="slope_per_slice",
        shows="rescale slope and intercept differ per slice",
        build=build_slope_per_slice,
    ),
    Case(name="hounsfield", shows="CT, 12 of 16 bits, intercept -1024", build=build_hounsfield),
    Case(name="padding_value", shows="a padding value outside the stored bits", build=build_padding_value),
    Case(name="signed_12_bit", shows="signed values without sign extension", build=build_signed_12_bit),
    Case(name="overlay_bits", shows="a retired overlay in the unused bits", build=build_overlay_bits),
    Case(name="eight_bit", shows="8-bit voxels of odd number", build=build_eight_bit),
    Case(name="monochrome1", shows="MONOCHROME1: values as stored", build=build_monochrome1),
    Case(
        name="implicit_without_preamble",
        shows="implicit VR, no preamble, no meta",
        build=build_implicit_without_preamble,
    ),
    Case(name="big_endian", shows="Explicit VR Big Endian (retired)", build=build_big_endian),
    Case(
        name="optional_tags_missing",
        shows="no numbers, thickness or frame of reference",
        build=build_optional_tags_missing,
    ),
    Case(name="two_series", shows="two series mixed in one folder", build=build_two_series),
    Case(
        name="stray_files",
        shows="other files, a report, a DICOMDIR, a copied slice",
        build=build_stray_files,
        ignored={
            "not DICOM": 3,
            "DICOMDIR": 1,
            "DICOM object that is no image (Basic Text SR)": 1,
            "copy of a slice": 1,
        },
    ),
    Case(name="rle", shows="RLE", build=_compressed(uid.RLELossless)),
    Case(name="jpeg_2000", shows="JPEG 2000 lossless, unsigned", build=build_jpeg_2000_by_pillow),
    Case(
        name="jpeg_2000_signed",
        shows="JPEG 2000 lossless, signed",
        build=_transcoded(gdcm.TransferSyntax.JPEG2000Lossless),
    ),
    Case(
        name="jpeg_ls",
        shows="JPEG-LS lossless, unsigned",
        build=_compressed(uid.JPEGLSLossless, dtype=np.uint16),
    ),
    Case(name="jpeg_ls_signed", shows="JPEG-LS lossless, signed", build=_compressed(uid.JPEGLSLossless)),
    Case(
        name="jpeg_lossless",
        shows="JPEG lossless, process 14 SV1",
        build=_transcoded(gdcm.TransferSyntax.JPEGLosslessProcess14_1, dtype=np.uint16),
    ),
    Case(name="deflated", shows="deflated", build=build_deflated),
    Case(
        name="deflated_bomb",
        shows="64 MB hidden in an 80 kB file",
        build=build_deflated_bomb,
        refusals=(Refusal.DEFLATE_LIMIT,),
    ),
    Case(name="enhanced", shows="Enhanced MR, shuffled frames, slope per frame", build=build_enhanced),
    Case(name="enhanced_rle", shows="Enhanced MR, RLE frames", build=build_enhanced_rle),
    Case(
        name="enhanced_legacy",
        shows="Legacy Converted Enhanced MR made by highdicom",
        build=build_enhanced_by_highdicom,
    ),
    Case(name="enhanced_4d", shows="Enhanced MR, two interleaved time points", build=build_enhanced_4d),
    Case(name="4d_time", shows="three time points in one series: three volumes", build=build_4d_by_time),
    Case(
        name="4d_echo_type",
        shows="two echoes, magnitude and phase: four volumes",
        build=build_4d_by_echo_and_type,
    ),
    Case(
        name="4d_b_value",
        shows="two b-values in a private attribute: two volumes",
        build=build_4d_by_private_b_value,
    ),
    Case(
        name="4d_incomplete",
        shows="the last time point lacks a slice",
        build=build_4d_incomplete,
        refusals=(Refusal.INCOMPLETE_VOLUME,),
    ),
    Case(
        name="duplicate_positions",
        shows="two slices in one place, nothing tells them apart",
        build=build_duplicate_positions,
        refusals=(Refusal.DUPLICATE_POSITIONS,),
    ),
    Case(
        name="two_versions",
        shows="two slices of one SOP Instance UID",
        build=build_two_versions,
        refusals=(Refusal.DUPLICATE_POSITIONS,),
    ),
    Case(
        name="tilt",
        shows="gantry tilt of 12 degrees",
        build=build_tilt,
        refusals=(Refusal.GANTRY_TILT,),
        regularised=True,
    ),
    Case(
        name="small_tilt",
        shows="gantry tilt of 1.5 degrees",
        build=build_small_tilt,
        refusals=(Refusal.GANTRY_TILT,),
        regularised=True,
    ),
    Case(
        name="missing_slice",
        shows="a slice is missing",
        build=build_missing_slice,
        refusals=(Refusal.MISSING_SLICES,),
        regularised=True,
    ),
    Case(
        name="variable_spacing",
        shows="slices 2.5 mm, then 3.7 mm apart",
        build=build_variable_spacing,
        refusals=(Refusal.VARIABLE_SPACING,),
        regularised=True,
    ),
    Case(
        name="shifted_slice",
        shows="one slice lies beside the others",
        build=build_shifted_slice,
        refusals=(Refusal.SHIFTED_SLICES,),
        regularised=True,
    ),
    Case(name="colour", shows="RGB secondary capture", build=build_colour, refusals=(Refusal.COLOUR,)),
    Case(name="mosaic", shows="Siemens mosaic", build=build_mosaic, refusals=(Refusal.MOSAIC,)),
    Case(name="localizer", shows="a localizer", build=build_localizer, refusals=(Refusal.LOCALIZER,)),
    Case(
        name="dose_beside",
        shows="a dose grid, with pixels and geometry, beside its series",
        build=build_dose_beside,
        ignored={"DICOM object that is no image (RT Dose)": 6},
    ),
    Case(
        name="private_class",
        shows="a private SOP class",
        build=build_private_class,
        refusals=(Refusal.SOP_CLASS,),
    ),
    Case(
        name="projection",
        shows="projections (MIP) of a volume",
        build=build_projection,
        refusals=(Refusal.PROJECTION,),
    ),
    Case(
        name="burned_in_text",
        shows="a slice with text burnt into its voxels",
        build=build_burned_in_text,
        refusals=(Refusal.BURNED_IN_TEXT,),
    ),
    Case(
        name="two_patients",
        shows="slices of two patients in one series",
        build=build_two_patients,
        refusals=(Refusal.PATIENTS,),
    ),
    Case(
        name="time_series",
        shows="three time points that nothing tells apart",
        build=build_time_series,
        refusals=(Refusal.TIME_SERIES,),
    ),
    Case(
        name="single_slice", shows="one slice", build=build_single_slice, refusals=(Refusal.TOO_FEW_SLICES,)
    ),
    Case(
        name="without_position",
        shows="no Image Position",
        build=build_without_position,
        refusals=(Refusal.MISSING_GEOMETRY,),
    ),
    Case(
        name="multiframe_capture",
        shows="multi-frame secondary capture without geometry",
        build=build_multiframe_capture,
        refusals=(Refusal.MISSING_GEOMETRY,),
    ),
    Case(
        name="truncated",
        shows="a file ends within its pixels",
        build=build_truncated,
        refusals=(Refusal.TRUNCATED,),
    ),
    Case(
        name="truncated_header",
        shows="a file ends within its header",
        build=build_truncated_header,
        refusals=(Refusal.UNREADABLE,),
    ),
    Case(
        name="video",
        shows="MPEG-2 transfer syntax",
        build=build_video_syntax,
        refusals=(Refusal.UNSUPPORTED_SYNTAX,),
    ),
    Case(
        name="too_many_bits",
        shows="values above Bits Stored",
        build=build_too_many_bits,
        refusals=(Refusal.PIXEL_FORMAT,),
    ),
    Case(
        name="two_frames_of_reference",
        shows="slices in two frames of reference",
        build=build_two_frames_of_reference,
        refusals=(Refusal.FRAMES_OF_REFERENCE,),
    ),
    Case(
        name="not_orthogonal",
        shows="direction vectors that are not orthogonal",
        build=build_orientation_not_orthogonal,
        refusals=(Refusal.INVALID_GEOMETRY,),
    ),
)
