"""Files that are no volume are named for what they are."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import pytest

from medldm.transforms import UnsupportedVolumeError
from medldm.transforms.foreign_formats import foreign_format
from medldm.transforms.readers import read_geometry, read_raw_volume, volume_suffix


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.zip", "zip archive; unpack it first"),
        ("a.nii.zip", "zip archive; unpack it first"),
        ("A.ZIP", "zip archive"),
        ("a.rar", "archive; unpack it first"),
        ("a.7z", "archive; unpack it first"),
        ("a.tar.gz", "archive; unpack it first"),
        ("a.tgz", "archive; unpack it first"),
        ("a.nii.bz2", "packed file; unpack it first"),
        ("a.dcm.gz", "packed DICOM file; unpack it first, then convert it with `medldm prepare`"),
        ("a.dcm", "DICOM file; convert its series with `medldm prepare`"),
        ("a.hdr", "one half of an .hdr/.img pair"),
        ("a.img.gz", "one half of an .hdr/.img pair"),
        ("a.mhd", "header whose voxels lie in another file"),
        ("a.mnc", "convert it to .nii.gz"),
        ("a.dat", "its format is not known"),
    ],
)
def test_foreign_files_are_named_with_what_to_do(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert volume_suffix(name) is None
    assert foreign_format(name) is None or message in foreign_format(name)
    for read in (read_geometry, read_raw_volume):
        with pytest.raises(UnsupportedVolumeError, match=message):
            read(tmp_path / name)


def test_an_archive_behind_the_name_of_a_volume_is_found(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.nii.gz", "w") as archive:
        archive.writestr("a.nii", b"x" * 1000)
    with pytest.raises(UnsupportedVolumeError, match="zip archive in spite of its name; unpack it first"):
        read_raw_volume(tmp_path / "a.nii.gz")


def test_a_volume_packed_twice_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(gzip.compress(b"x" * 1000)))
    with pytest.raises(UnsupportedVolumeError, match="gzip file inside a gzip file"):
        read_raw_volume(tmp_path / "a.nii.gz")
