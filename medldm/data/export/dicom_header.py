"""What the objects of a case say of patient, study and series: who it is, and that it is synthetic.

Source: DICOM PS3.3 C.7.1 to C.7.5 (patient, study, series, frame of reference, equipment), C.12.1 (SOP).
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from medldm.data.export.cases import ExportCase
from medldm.version import __version__

MANUFACTURER = "medldm"
NO_DATE, NO_TIME = "19000101", "000000"
"""Where DICOM asks for a date: one that no image was made on."""

SYNTHETIC_COMMENT = (
    "SYNTHETIC DATA: drawn from a generative model; it shows no person and serves no diagnosis"
)
_LONGEST_NAME = 64


def make_uid(*parts: object) -> str:
    """Return the unique identifier that belongs to what is named: the same parts always give the same.

    Source: DICOM PS3.5 B.2, a UUID under the root 2.25; RFC 9562.
    """
    digest = hashlib.sha256("\0".join(str(part) for part in parts).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


@dataclass(frozen=True, kw_only=True)
class SeriesHeader:
    """One series of a case.

    Args:
        case: whose volume it holds.
        channel: its name, or "".
        number: of the series in its study, from 1.
        modality: "CT" or "MR".
        content: hash of the voxels.
    """

    case: ExportCase
    channel: str
    number: int
    modality: str
    content: str

    @property
    def patient(self) -> str:
        """Return the PatientID: the cohort's subject, or SYNTHETIC- and the case."""
        if not self.case.is_synthetic:
            return _shorten(self.case.subject)
        return _shorten(f"SYNTHETIC-{self.case.id.removeprefix('synthetic_')}")

    @property
    def description(self) -> str:
        """Return the SeriesDescription."""
        parts = ["SYNTHETIC" if self.case.is_synthetic else "", self.channel or self.modality, self.case.id]
        return _shorten(" ".join(part for part in parts if part))

    def uid(self, kind: str, *parts: object) -> str:
        """Return an identifier of the series, or of a part of it; another content has others."""
        return make_uid(kind, self.study, self.number, self.content, *parts)

    @property
    def study(self) -> str:
        """Return the StudyInstanceUID, one for all series of a case."""
        case = self.case
        return make_uid("study", self.patient, case.id, case.is_synthetic, case.shape, case.affine.tobytes())

    @property
    def frame_of_reference(self) -> str:
        """Return the FrameOfReferenceUID, one for all series of a case."""
        return make_uid("frame of reference", self.study)

    def start(self, sop_class: str, instance: str) -> Dataset:
        """Return an object with all that the objects of the case share."""
        item = Dataset()
        item.file_meta = FileMetaDataset()
        item.file_meta.MediaStorageSOPClassUID = UID(sop_class)
        item.file_meta.MediaStorageSOPInstanceUID = UID(instance)
        item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        item.SpecificCharacterSet = "ISO_IR 192"
        item.SOPClassUID, item.SOPInstanceUID = sop_class, instance
        item.PatientID = self.patient
        item.PatientName = f"{self.patient[:63]}^"
        item.StudyInstanceUID = self.study
        item.StudyDescription = "SYNTHETIC volume" if self.case.is_synthetic else "exported volume"
        for empty in (
            "PatientBirthDate",
            "PatientSex",
            "StudyDate",
            "StudyTime",
            "AccessionNumber",
            "StudyID",
        ):
            setattr(item, empty, "")
        item.ReferringPhysicianName = ""
        item.Modality = self.modality
        item.SeriesInstanceUID = self.uid("series")
        item.SeriesNumber = self.number
        item.SeriesDescription = self.description
        item.FrameOfReferenceUID = self.frame_of_reference
        item.PositionReferenceIndicator = ""
        item.Manufacturer = MANUFACTURER
        item.ManufacturerModelName = MANUFACTURER
        item.SoftwareVersions = __version__
        item.DeviceSerialNumber = "0"
        mark(item, self.case)
        return item


def mark(item: Dataset, case: ExportCase) -> None:
    """Say in an object that it is synthetic (PS3.3 C.12.1.1.12 and the comments of C.7.6.1)."""
    if case.is_synthetic:
        item.ImageComments = SYNTHETIC_COMMENT
        item.SyntheticData = "YES"


def _shorten(text: str) -> str:
    """Keep a text within 64 characters, different ones different; \\ ^ = mean something in DICOM."""
    text = "".join("_" if letter in "\\^=" or ord(letter) < 32 else letter for letter in text)
    if len(text) <= _LONGEST_NAME:
        return text
    return f"{text[: _LONGEST_NAME - 13]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
