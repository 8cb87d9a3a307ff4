"""Raw NIfTI headers are judged before anything is allocated."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from medldm.transforms.errors import (
    GeometryError,
    HeaderError,
    UnsupportedVolumeError,
    VolumeError,
    VolumeTooLargeError,
)
from medldm.transforms.nifti_header import parse_header


def raw_header(image_class: type = nib.Nifti1Image, *, big_endian: bool = False, **fields: object) -> bytes:
    header = image_class(np.zeros((3, 4, 5), dtype=np.int16), np.diag([2.0, 3.0, 4.0, 1.0])).header
    header["magic"] = b"n+1" if image_class is nib.Nifti1Image else b"n+2\0\r\n\032\n"
    header["vox_offset"] = 352 if image_class is nib.Nifti1Image else 544
    header["scl_slope"], header["scl_inter"] = 1, 0
    for name, value in fields.items():
        header[name] = value
    header = header.as_byteswapped(">" if big_endian else "<")
    return bytes(header.binaryblock)


@pytest.mark.parametrize("image_class", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("big_endian", [False, True])
def test_both_versions_and_byte_orders_are_understood(image_class: type, big_endian: bool) -> None:
    header = parse_header(raw_header(image_class, big_endian=big_endian, scl_slope=2.0, scl_inter=-7.0))
    assert header.shape == (3, 4, 5)
    assert header.dtype == np.dtype(">i2" if big_endian else "<i2")
    assert (header.slope, header.intercept) == (2.0, -7.0)
    np.testing.assert_array_equal(header.affine, np.diag([2.0, 3.0, 4.0, 1.0]))


def test_qform_gives_nibabels_affine_to_the_bit(oblique: np.ndarray) -> None:
    header = nib.Nifti1Header()
    header.set_data_shape((3, 4, 5))
    header.set_qform(oblique, code=1)
    header["magic"], header["vox_offset"], header["scl_slope"], header["scl_inter"] = b"n+1", 352, 1, 0
    np.testing.assert_array_equal(parse_header(header.binaryblock).affine, header.get_qform())


def test_trailing_axes_of_length_one_are_dropped() -> None:
    assert parse_header(raw_header(dim=[5, 3, 4, 5, 1, 1, 1, 1])).shape == (3, 4, 5)


NAN_ROW = [np.nan, 0, 0, 0]


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"dim": [0, 3, 4, 5, 1, 1, 1, 1]}, HeaderError, "0 axes"),
        ({"dim": [8, 3, 4, 5, 1, 1, 1, 1]}, HeaderError, "8 axes"),
        ({"dim": [3, 3, -4, 5, 1, 1, 1, 1]}, UnsupportedVolumeError, "at least one voxel"),
        ({"dim": [3, 3, 0, 5, 1, 1, 1, 1]}, UnsupportedVolumeError, "at least one voxel"),
        ({"dim": [2, 3, 4, 1, 1, 1, 1, 1]}, UnsupportedVolumeError, "three axes"),
        ({"dim": [4, 3, 4, 5, 6, 1, 1, 1]}, UnsupportedVolumeError, "three axes"),
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, VolumeTooLargeError, "cap is 4294967296 bytes"),
        ({"datatype": 128, "bitpix": 24}, UnsupportedVolumeError, "datatype code is 128"),
        ({"bitpix": 32}, HeaderError, "bitpix is 32"),
        ({"vox_offset": 0}, HeaderError, "vox_offset is 0"),
        ({"vox_offset": np.nan}, HeaderError, "vox_offset is nan"),
        ({"vox_offset": 1e30}, HeaderError, "vox_offset"),
        ({"scl_slope": np.nan}, HeaderError, "scl_slope is nan"),
        ({"scl_inter": np.inf}, HeaderError, "scl_inter is inf"),
        ({"magic": b"ni1"}, UnsupportedVolumeError, "hdr/.img"),
        ({"magic": b"xyz"}, HeaderError, "magic"),
        ({"srow_x": NAN_ROW}, GeometryError, "NaN or Inf"),
        ({"srow_x": [0, 0, 0, 0]}, GeometryError, "spacing"),
        ({"srow_x": [1e-6, 0, 0, 0]}, GeometryError, "1e-06"),
        ({"srow_x": [60, 0, 0, 0]}, GeometryError, "0.01 to 50 mm"),
        ({"srow_y": [2, 0, 0, 0]}, GeometryError, "spacing|singular"),
        ({"sform_code": 0, "qform_code": 0}, GeometryError, "neither sform nor qform"),
        (
            {"sform_code": 0, "qform_code": 1, "quatern_b": 0.9, "quatern_c": 0.9},
            GeometryError,
            "longer than 1",
        ),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": np.nan}, GeometryError, "NaN or Inf"),
        ({"sform_code": 0, "qform_code": 1, "pixdim": [1, 0, 1, 1, 0, 0, 0, 0]}, GeometryError, "positive"),
        ({"xyzt_units": 3}, GeometryError, "micrometres"),
    ],
)
def test_unsound_fields_are_refused_by_name(
    fields: dict[str, object], error: type[VolumeError], message: str
) -> None:
    with pytest.raises(error, match=message):
        parse_header(raw_header(**fields))


def test_singular_affine_with_sound_spacing_is_refused() -> None:
    with pytest.raises(GeometryError, match="singular"):
        parse_header(raw_header(srow_x=[1, 1, 0, 0], srow_y=[0, 0, 0, 0.0], srow_z=[0, 0, 1, 0]))


def test_cap_counts_the_float32_volume_not_the_stored_bytes() -> None:
    raw = raw_header(datatype=2, bitpix=8)
    assert parse_header(raw, max_bytes=3 * 4 * 5 * 4).shape == (3, 4, 5)
    with pytest.raises(VolumeTooLargeError, match="240 bytes"):
        parse_header(raw, max_bytes=3 * 4 * 5 * 4 - 1)


@pytest.mark.parametrize("size", [0, 3, 347])
def test_cut_header_is_refused(size: int) -> None:
    with pytest.raises(HeaderError, match="cut in the header"):
        parse_header(raw_header()[:size])


def test_disagreeing_qform_is_noted() -> None:
    notes = parse_header(raw_header(qform_code=1, qoffset_x=30.0)).notes
    assert len(notes) == 1
    assert "sform and qform differ by 30 mm" in notes[0]


@pytest.mark.parametrize(("slope", "intercept"), [(np.nan, np.nan), (np.inf, np.nan), (-np.inf, np.inf)])
def test_no_number_in_slope_and_intercept_means_unscaled_with_a_note(slope: float, intercept: float) -> None:
    header = parse_header(raw_header(scl_slope=slope, scl_inter=intercept))
    assert (header.slope, header.intercept) == (1.0, 0.0)
    assert "taken unscaled" in header.notes[0]


@pytest.mark.parametrize(
    ("slope", "intercept"), [(np.nan, 0), (np.nan, 5), (1, np.nan), (0, np.nan), (2, -np.inf)]
)
def test_no_number_in_one_of_them_is_refused(slope: float, intercept: float) -> None:
    with pytest.raises(HeaderError, match="both must be finite, or neither"):
        parse_header(raw_header(scl_slope=slope, scl_inter=intercept))
