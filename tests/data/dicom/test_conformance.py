from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from monai.data import MetaTensor

from medldm.data.dicom import DicomError, read_series, scan_dicom
from tests.data.dicom.dicom_cases import CASES, Case, Truth, canonical

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "reference" / "dicom.md"


def is_exact(volume: MetaTensor, truth: Truth) -> bool:
    voxels, affine = canonical(truth)
    return (
        volume.shape[1:] == voxels.shape
        and np.array_equal(volume.numpy()[0], voxels.astype(np.float32))
        and np.abs(volume.affine.numpy() - affine).max() <= 1e-4
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_series_comes_out_exact_or_is_refused_by_name(case: Case, tmp_path: Path) -> None:
    truths = case.build(tmp_path / "in")
    scan = scan_dicom(tmp_path / "in")
    volumes, refusals = [], []
    for series in scan.series:
        try:
            volumes.append(read_series(series))
        except DicomError as error:
            refusals.append(error.refusal)
    assert tuple(refusals) == case.refusals
    assert len(volumes) == len(truths)
    for truth in truths:
        assert sum(is_exact(volume, truth) for volume in volumes) == 1
    assert scan.ignored == case.ignored


def test_document_lists_every_case_with_its_outcome() -> None:
    rows = [f"| {case.name} | {case.shows} | {case.outcome} |" for case in CASES]
    text = DOCUMENT.read_text(encoding="utf-8")
    listed = [line for line in text.splitlines() if line.startswith("| ") and line.count("|") == 4]
    table = [line for line in listed if line.split("|")[1].strip() in {case.name for case in CASES}]
    assert table == rows
