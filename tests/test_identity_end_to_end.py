"""No patient identity in any output: from raw DICOM through prepare, check, both trainings and inference."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import medldm
from tests.data.dicom.dicom_cases import Geometry, make_slices, save, stored_voxels
from tests.programs import run_python

BUNDLE = Path(medldm.__file__).parent / "bundles" / "mri_label_ldm"
KEYWORDS = (
    "PatientName", "PatientID", "PatientAddress", "InstitutionName", "StudyDescription", "SeriesDescription",
    "ReferringPhysicianName", "AccessionNumber", "StudyID", "OperatorsName", "ProtocolName", "StationName",
    "PatientComments", "ImageComments", "DeviceSerialNumber",
)  # fmt: skip
MARKS = [f"Qx{number:02d}Planted" for number in range(len(KEYWORDS) + 6)]
SMALL = ["--n_groups", "4", "--n_epochs", "1", "--val_interval", "1"]


def plant(folder: Path) -> None:
    """Write three subjects whose headers, folders, files and label maps carry the marks."""
    *headers, folder_mark, file_mark, private, description, auxiliary, comment = MARKS
    for subject in range(3):
        place = folder / f"{folder_mark} {subject}"
        stored = stored_voxels(n_slices=8, rows=16, columns=16, seed=subject)
        slices = make_slices(stored)
        for dataset in slices:
            for keyword, mark in zip(KEYWORDS, headers, strict=True):
                setattr(dataset, keyword, f"{mark}{subject}"[:16])
            dataset.PatientBirthDate = "19470311"
            dataset.private_block(0x0019, "MARKED", create=True).add_new(0x10, "LO", private)
        save(slices, place / "series", prefix=file_mark)
        label = nib.Nifti1Image((stored.transpose(2, 1, 0) > 700).astype(np.uint8), Geometry().affine())
        label.header["descrip"], label.header["aux_file"] = description, auxiliary
        label.header.extensions.append(nib.nifti1.Nifti1Extension("comment", comment.encode()))
        nib.save(label, place / "label.nii.gz")


def run(arguments: list[str], folder: Path) -> str:
    environment = os.environ | {"MEDLDM_CACHE_DIR": str(folder / "cache")}
    result = run_python(["-m", *arguments], cwd=folder, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout + result.stderr


def contents(folder: Path) -> str:
    parts = []
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        parts.append(path.relative_to(folder).as_posix() + "\n" + content.decode("latin-1"))
    return "\n".join(parts)


@pytest.mark.slow
def test_no_mark_is_in_any_file_or_log_line(tmp_path: Path) -> None:
    raw, work = tmp_path / "raw", tmp_path / "work"
    plant(raw)
    work.mkdir()
    assert all(mark in contents(raw) for mark in MARKS)
    knobs = ["--bundle_root", str(BUNDLE), "--dataset_dir", "cohort", "--output_dir", "out"]
    start = ["monai.bundle", "run", "--config_file"]
    size = ["--size", "[16,16,16]"]
    attention = ["--attention_levels", "[False,True]", "--n_heads", "2"]
    names = ("train_autoencoder", "train_diffusion", "inference")
    configs = {name: str(BUNDLE / "configs" / f"{name}.yaml") for name in names}
    prepare = ["prepare", str(raw), "cohort", "--key-file", str(tmp_path / "key")]
    prepare += ["--validation-fraction", "0.34"]
    said = [
        run(["medldm.cli", *prepare], work).replace(str(raw), ""),
        run(["medldm.cli", "check", "cohort"], work),
        run(
            [
                *start,
                configs["train_autoencoder"],
                *knobs,
                *SMALL,
                *size,
                "--down_channels",
                "[4,8]",
            ],
            work,
        ),
        run(
            [*start, configs["train_diffusion"], *knobs, *SMALL, "--down_channels", "[8,16]", *attention],
            work,
        ),
        run([*start, configs["inference"], *knobs, "--num_steps", "2"], work),
    ]
    text = "\n".join([*said, contents(work)]).lower()
    assert (work / "out" / "synthetic" / "images" / "synthetic_0000.nii.gz").exists()
    assert [mark for mark in (*MARKS, "19470311") if mark.lower() in text] == []
