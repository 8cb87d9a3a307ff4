"""Damaged segmentations and structure sets are read or refused by name, and nothing else happens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medldm.data.dicom import scan_dicom
from medldm.transforms.errors import VolumeError
from tests.data.dicom.dicom_cases import Geometry, canonical, save, stored_voxels, truth_of
from tests.data.dicom.label_cases import (
    SHAPE,
    circle,
    flat,
    make_segmentation,
    make_series,
    make_structure_set,
    random_masks,
    to_lps,
)


def build(folder: Path) -> list[Path]:
    slices = make_series(folder / "images")
    contours = {"ring": [to_lps(flat(circle((11, 9), (5, 5), n=12), k)) for k in (3, 4)]}
    objects = [
        make_segmentation(slices, random_masks()),
        make_segmentation(slices, random_masks(), kind="LABELMAP"),
        make_structure_set(slices, contours),
    ]
    return save(objects, folder, prefix="L")


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), number=st.integers(0, 2))
def test_damaged_labels_are_read_or_refused(data: st.DataObject, number: int, tmp_path: Path) -> None:
    if not (tmp_path / "good").exists():
        build(tmp_path / "good")
    good = (tmp_path / "good" / f"L{number:04d}").read_bytes()
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "bad").mkdir(exist_ok=True)
    (tmp_path / "bad" / "L").write_bytes(damaged[: data.draw(st.integers(0, len(good)) | st.just(len(good)))])
    columns, rows, n_slices = SHAPE
    truth = truth_of(stored_voxels(n_slices=n_slices, rows=rows, columns=columns), Geometry())
    voxels, affine = canonical(truth)
    for label in scan_dicom(tmp_path / "bad").labels:
        try:
            masks = label.structures.read(voxels.shape, affine)
            assert all(mask.shape == voxels.shape and mask.dtype == np.bool_ for mask in masks.values())
        except VolumeError:
            continue
