"""No DICOM object decides which other file is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from medldm.data.dicom import DicomError, read_dicom
from tests.data.dicom.dicom_cases import make_slices, save, stored_voxels


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.94"])
def test_pixels_that_lie_elsewhere_are_not_fetched(tmp_path: Path, syntax: str) -> None:
    """(0028,7FE0) Pixel Data Provider URL, with and without the transfer syntax that it belongs to (JPIP)."""
    stored = stored_voxels()
    (tmp_path / "secret").write_bytes(stored.tobytes())
    slices = make_slices(stored)
    for dataset in slices:
        del dataset.PixelData
        dataset.PixelDataProviderURL = (tmp_path / "secret").as_uri()
        dataset.file_meta.TransferSyntaxUID = syntax
    save(slices, tmp_path / "study")
    with pytest.raises(DicomError) as caught:
        read_dicom(tmp_path / "study")
    assert "secret" not in str(caught.value)
