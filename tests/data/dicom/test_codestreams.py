from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid

from medldm.data.dicom import DicomError, Refusal, read_dicom
from medldm.data.dicom.codestreams import CodestreamHeader, read_codestream_header
from tests.data.dicom.dicom_cases import CASES

BY_NAME = {case.name: case for case in CASES}


def encoded(kind: str, shape: tuple[int, int], **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros(shape, dtype=np.uint8)).save(buffer, kind, **options)
    return buffer.getvalue()


def test_size_of_jpeg_and_jpeg_2000_is_read() -> None:
    expected = CodestreamHeader(rows=13, columns=29, samples=1, precision=8)
    assert read_codestream_header(encoded("JPEG", (13, 29)), syntax=uid.JPEGBaseline8Bit) == expected
    frame = encoded("JPEG2000", (13, 29), no_jp2=True)
    assert read_codestream_header(frame, syntax=uid.JPEG2000) == expected


@pytest.mark.parametrize("frame", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xe0\0\0", b"GIF89a" * 9])
def test_absent_header_is_none(frame: bytes) -> None:
    assert read_codestream_header(frame, syntax=uid.JPEGLosslessSV1) is None
    assert read_codestream_header(frame, syntax=uid.JPEG2000) is None


@pytest.mark.parametrize("name", ["jpeg_2000", "jpeg_ls", "jpeg_lossless"])
def test_codestream_of_another_size_is_refused_before_decoding(name: str, tmp_path: Path) -> None:
    BY_NAME[name].build(tmp_path)
    for other in tmp_path.iterdir():
        changed = pydicom.dcmread(other)
        changed.Rows = 15
        changed.save_as(other)
    with pytest.raises(DicomError, match="declare a size of 16 x 18 x 1, the header 15 x 18 x 1") as caught:
        read_dicom(tmp_path)
    assert caught.value.refusal is Refusal.UNDECODABLE
