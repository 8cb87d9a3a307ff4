"""Small sound files of every kind that is read, made in code, and what reads them; for `fuzz.py`."""

from __future__ import annotations

import gzip
import io
import json
import logging
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import torch
from pydicom import uid
from pydicom.dataset import FileDataset, FileMetaDataset

from medldm.data.delimited_table import read_delimited_table
from medldm.data.dicom.read import read_dicom
from medldm.data.issues import Issue
from medldm.data.labels import read_label_schema
from medldm.data.listing import read_lists
from medldm.latent_diffusion.checkpoints import load_checkpoint, save_checkpoint
from medldm.training.resume.state_folders import StateFolders
from medldm.transforms import LoadVolume

TOKENS = (
    *(
        text.encode()
        for text in ("0", "-1", "1e999", "nan", "9" * 20, " ", "\n", "\r\n", "\t", "=", ":", ",", '"')
    ),
    *(
        text.encode()
        for text in ("\\", "{", "}", "[", "[" * 2000, "null", "true", "\u00e4", "\x1b[31m", "(1,0,0)")
    ),
    *(b"../x", b"/etc/hostname", b"LIST", b"LOCAL", b"none", b"gzip", b"raw", b"MET_FLOAT", b"\xe4"),
    *(b"DimSize = 2 2 2\n", b"sizes: 2 2 2\n", b"CompressedData = True\n", b"data file: x\n", b"\\u0000"),
)
"""What headers, JSON and tables are made of, and what does not belong there."""
CAP_BYTES = 2**24
VOXELS = np.arange(24, dtype="<i2")


@dataclass(frozen=True)
class Reader:
    """A reader and the sound files to begin with.

    Args:
        name: for the table.
        file: name of the file that is read.
        corpus: makes the files.
        read: reads the file, which may have been changed.
        allowed: errors beside the package's that say a file is refused.
    """

    name: str
    file: str
    corpus: Callable[[], list[bytes]]
    read: Callable[[Path], object]
    allowed: tuple[type[Exception], ...] = ()


def read_volume(path: Path) -> object:
    return LoadVolume(max_bytes=CAP_BYTES)(path)


def read_array(path: Path) -> object:
    return LoadVolume(spacing_mm=(1, 1, 1), max_bytes=CAP_BYTES)(path)


def nifti() -> list[bytes]:
    array = VOXELS.reshape(2, 3, 4)
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    return [kind(array, affine).to_bytes() for kind in (nib.Nifti1Image, nib.Nifti2Image)]


def packed_nifti() -> list[bytes]:
    return [gzip.compress(content, 1) for content in nifti()]


def mgh() -> list[bytes]:
    return [nib.MGHImage(VOXELS.reshape(2, 3, 4).astype(">i2"), np.eye(4)).to_bytes()]


def metaimage() -> list[bytes]:
    packed, lines = zlib.compress(VOXELS.tobytes()), "ObjectType = Image\nNDims = 3\nBinaryData = True\n"
    lines += "BinaryDataByteOrderMSB = False\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 1 2 3\n"
    lines += "ElementSpacing = 1 2 3\nDimSize = 2 3 4\nElementType = MET_SHORT\n"
    last = "ElementDataFile = LOCAL\n"
    plain = (lines + last).encode() + VOXELS.tobytes()
    sized = f"{lines}CompressedData = True\nCompressedDataSize = {len(packed)}\n{last}".encode() + packed
    return [plain, sized, (lines + "CompressedData = True\n" + last).encode() + packed]


def nrrd() -> list[bytes]:
    lines = "NRRD0004\ntype: short\ndimension: 3\nsizes: 2 3 4\nendian: little\nencoding: "
    space = "\nspace: RAS\nspace directions: (1,0,0) (0,2,0) (0,0,3)\nspace origin: (1,2,3)\nkey:=value\n\n"
    plain = (lines + "raw" + space).encode() + VOXELS.tobytes()
    packed = (lines + "gzip" + space).encode() + gzip.compress(VOXELS.tobytes(), mtime=0)
    return [plain, packed, (lines + "raw\nspacings: 1 2 3\n\n").encode() + VOXELS.tobytes()]


def npy() -> list[bytes]:
    files = []
    for order in ("C", "F"):
        file = io.BytesIO()
        np.save(file, np.asarray(VOXELS.reshape(2, 3, 4), order=order))  # type: ignore[call-overload]
        files.append(file.getvalue())
    return files


def dicom_slice(number: int) -> bytes:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
    header = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    values = {
        "SOPClassUID": uid.CTImageStorage,
        "SOPInstanceUID": f"1.2.3.{number}",
        "StudyInstanceUID": "1.2.4",
        "SeriesInstanceUID": "1.2.5",
        "FrameOfReferenceUID": "1.2.6",
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "InstanceNumber": number,
        "ImagePositionPatient": [0, 0, 2 * number],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [1, 1],
        "SliceThickness": 2,
        "Rows": 4,
        "Columns": 4,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "RescaleSlope": 1,
        "RescaleIntercept": 0,
        "PixelData": np.arange(16, dtype="<i2").tobytes(),
    }
    for name, value in values.items():
        setattr(header, name, value)
    file = io.BytesIO()
    pydicom.dcmwrite(file, header, enforce_file_format=True)
    return file.getvalue()


def read_slices(path: Path) -> object:
    """Read a series of three slices, one of which was changed."""
    for number in (2, 3):
        (path.parent / f"{number}.dcm").write_bytes(dicom_slice(number))
    return read_dicom(path.parent, max_bytes=CAP_BYTES)


def cards() -> list[bytes]:
    weights = {"a": torch.zeros(2), "b": torch.ones(3, 2)}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "model.safetensors"
        save_checkpoint(place, weights, {"kind": "autoencoder", "autoencoder": {"type": "vae", "config": {}}})
        return [place.read_bytes()]


def labels() -> list[bytes]:
    content = {"1": "left hippocampus", "2": {"name": "right hippocampus", "colour": "#ffaa00"}}
    return [json.dumps(content).encode(), b'{"5": "liver"}']


def cohorts() -> list[bytes]:
    lists = {"training": [{"image": "images/a.npy", "label": "labels/a.npy", "subject": "s", "age": 3}]}
    return [
        json.dumps(lists).encode(),
        json.dumps({"channels": ["t1"], "training": [{"image": ["a"]}]}).encode(),
    ]


def read_cohort_list(path: Path) -> object:
    issues: list[Issue] = []
    return read_lists(path, issues=issues, require_labels=False)


def tables() -> list[bytes]:
    return [b"source,subject,age\na.npy,s1,3\nb.npy,s2,4.5\n", b'source;subject\n"a;b";s\n']


def manifests() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        return [(make_state(Path(folder)) / "manifest.json").read_bytes()]


def make_state(folder: Path) -> Path:
    return StateFolders(folder).save({"network": {"a": torch.zeros(3)}}, step=1)


def read_state(path: Path) -> object:
    """Read a state whose manifest was changed."""
    states = StateFolders(path.parent / "state")
    place = states.steps().get(1) or make_state(states.directory)
    (place / "manifest.json").write_bytes(path.read_bytes())
    return states.load(1)


logging.disable(logging.CRITICAL)
READERS = (
    Reader("nifti", "a.nii", nifti, read_volume),
    Reader("nifti.gz", "a.nii.gz", packed_nifti, read_volume),
    Reader("mgh", "a.mgh", mgh, read_volume),
    Reader("mha", "a.mha", metaimage, read_volume),
    Reader("nrrd", "a.nrrd", nrrd, read_volume),
    Reader("npy", "a.npy", npy, read_array),
    Reader("dicom", "1.dcm", lambda: [dicom_slice(1)], read_slices),
    Reader("card", "a.safetensors", cards, load_checkpoint),
    Reader("labels.json", "labels.json", labels, read_label_schema),
    Reader("cohort.json", "cohort.json", cohorts, read_cohort_list),
    Reader("table", "table.csv", tables, lambda path: read_delimited_table(path, name="table.csv")),
    Reader("manifest", "manifest.json", manifests, read_state),
)
