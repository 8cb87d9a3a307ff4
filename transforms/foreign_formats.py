"""Name files that are no readable volume for what they are, and say what to do with them."""

from __future__ import annotations

from pathlib import Path

_KINDS: tuple[tuple[str, str, str], ...] = (
    (".zip", "a zip archive", "unpack it first"),
    (".rar .7z .tar .tgz .tar.gz .tar.bz2 .tar.xz", "an archive", "unpack it first"),
    (".gz .bz2 .xz .zst .lz4 .z", "a packed file", "unpack it first"),
    (
        ".dcm.gz .dicom.gz .ima.gz",
        "a packed DICOM file",
        "unpack it first, then convert it with `medldm prepare`",
    ),
    (".dcm .dicom .ima", "a DICOM file", "convert its series with `medldm prepare`"),
    (
        ".hdr .img .hdr.gz .img.gz",
        "one half of an .hdr/.img pair (NIfTI or Analyze)",
        "convert the pair to one .nii.gz file",
    ),
    (".nhdr .mhd", "a header whose voxels lie in another file", "write both into one .nrrd or .mha file"),
    (".raw .zraw", "voxels whose header lies in another file", "write both into one .nrrd or .mha file"),
    (
        ".mnc .mif .mif.gz .gipl .par .rec .head .brik",
        "a volume of another format",
        "convert it to .nii.gz",
    ),
)
"""Suffixes, what they are, what to do."""
_FORMATS = {suffix: f"{kind}; {advice}" for suffixes, kind, advice in _KINDS for suffix in suffixes.split()}
_MAGIC = (
    (b"PK\x03\x04", "a zip archive"),
    (b"Rar!\x1a\x07", "a rar archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\x00", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"\x1f\x8b", "a gzip file inside a gzip file"),
)


def foreign_format(path: str | Path) -> str | None:
    """Say what a file is by its name, and what to do with it; None for a name that says nothing.

    Examples:
        >>> foreign_format("a/scan.nii.zip")
        'a zip archive; unpack it first'
    """
    name = Path(path).name.lower()
    suffix = max((suffix for suffix in _FORMATS if name.endswith(suffix)), key=len, default=None)
    return None if suffix is None else _FORMATS[suffix]


def packed_format(start: bytes) -> str | None:
    """Say which packed format uncompressed bytes begin with, whatever the file is called; None for none."""
    return next((name for magic, name in _MAGIC if start.startswith(magic)), None)
