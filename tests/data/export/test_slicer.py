"""The 3D Slicer export, read back by independent readers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medldm.data.export import export_cohort
from medldm.data.export.structures import plain_name
from medldm.transforms import LoadVolume
from tests.data.export.export_cases import (
    AFFINES,
    SCHEMA,
    VALUES,
    label_map,
    voxels,
    write_cohort,
    write_synthetic,
)


def export_one(tmp_path: Path, affine: str) -> Path:
    write_cohort(tmp_path / "real", ["a", "b"], affines=[affine])
    export_cohort(tmp_path / "real", tmp_path / "out", format="slicer")
    return tmp_path / "out" / "real" / "a.seg.nrrd"


@pytest.mark.parametrize("affine", AFFINES)
def test_pynrrd_reads_voxels_and_geometry(affine: str, tmp_path: Path) -> None:
    nrrd = pytest.importorskip("nrrd")
    data, header = nrrd.read(str(export_one(tmp_path, affine)))
    np.testing.assert_array_equal(data, label_map(0))
    assert header["space"] == "left-posterior-superior"
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ AFFINES[affine]
    np.testing.assert_allclose(np.asarray(header["space directions"]).T, lps[:3, :3], atol=1e-12)
    np.testing.assert_allclose(header["space origin"], lps[:3, 3], atol=1e-12)


def test_segments_have_names_colours_values_and_terminology(tmp_path: Path) -> None:
    nrrd = pytest.importorskip("nrrd")
    path = export_one(tmp_path, "oblique")
    data, header = nrrd.read(str(path))
    for number, value in enumerate(VALUES):
        assert header[f"Segment{number}_LabelValue"] == str(value)
        assert header[f"Segment{number}_Layer"] == "0"
        bounds = np.asarray(header[f"Segment{number}_Extent"].split(), int).reshape(3, 2)
        inside = np.argwhere(data == value)
        np.testing.assert_array_equal(bounds, np.stack([inside.min(axis=0), inside.max(axis=0)], axis=1))
    colour = [float(part) for part in header["Segment0_Color"].split()]
    np.testing.assert_allclose(colour, [0x10 / 255, 0x80 / 255, 0xF0 / 255], atol=1e-6)
    assert header["Segment1_Name"] == "liver"
    assert "~SCT^123037004^Anatomical Structure~SCT^10200004^Liver~" in header["Segment1_Tags"]
    assert "~SCT^85756007^Tissue~" in header["Segment2_Tags"]
    assert header["Segment2_ID"] == "Segment_1005"
    # pynrrd drops what is not ASCII; the file has it, in UTF-8.
    text = path.read_bytes().split(b"\n\n")[0].decode("utf-8")
    assert "Segment0_Name:=Große Niere (links)" in text.splitlines()


def test_slicerio_agrees(tmp_path: Path) -> None:
    slicerio = pytest.importorskip("slicerio")
    info = slicerio.read_segmentation(str(export_one(tmp_path, "las")))
    assert [segment["labelValue"] for segment in info["segments"]] == list(VALUES)


@pytest.mark.parametrize("affine", AFFINES)
def test_itk_puts_segmentation_and_image_in_one_place(affine: str, tmp_path: Path) -> None:
    path = export_one(tmp_path, affine)
    segmentation = sitk.ReadImage(str(path))
    image = sitk.ReadImage(str(path.parent / "a.nii.gz"))
    for k in ((0, 0, 0), (8, 10, 6), (3, 5, 2)):
        np.testing.assert_allclose(
            segmentation.TransformIndexToPhysicalPoint(k),
            image.TransformIndexToPhysicalPoint(k),
            atol=1e-4,
        )
    loaded = LoadVolume(is_label=True)(path)
    np.testing.assert_allclose(loaded.meta["original_affine"], AFFINES[affine], atol=1e-12)


def test_real_and_synthetic_lie_in_folders_of_their_own(tmp_path: Path) -> None:
    write_cohort(tmp_path / "real", ["a", "b"], channels=["t1n", "t2+w"], labelled=[True, False])
    # A label map is missing, which a list of cases allows.
    entries = [
        {"id": name, "image": [f"images/{name}_{channel}.nii.gz" for channel in ("t1n", "t2+w")]}
        | ({"label": "labels/a.nii.gz"} if name == "a" else {})
        for name in "ab"
    ]
    lists = {"channels": ["t1n", "t2+w"], "training": entries[:1], "validation": entries[1:]}
    (tmp_path / "real/cohort.json").write_text(json.dumps(lists))
    write_synthetic(tmp_path / "made", 1, channels=["t1n", "t2+w"])
    export_cohort(tmp_path / "real", tmp_path / "out", format="slicer", synthetic=[tmp_path / "made"])
    names = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.n*")}
    assert names == {
        "real/a_t1n.nii.gz",
        "real/a_t2_w.nii.gz",
        "real/a.seg.nrrd",
        "real/b_t1n.nii.gz",
        "real/b_t2_w.nii.gz",
        "synthetic/synthetic_0000_t1n.nii.gz",
        "synthetic/synthetic_0000_t2_w.nii.gz",
        "synthetic/synthetic_0000.seg.nrrd",
    }
    np.testing.assert_array_equal(
        voxels(tmp_path / "out/real/a_t2_w.nii.gz"), voxels(tmp_path / "real/images/a_t2+w.nii.gz")
    )


def test_the_colour_table_names_every_structure(tmp_path: Path) -> None:
    export_one(tmp_path, "ras")
    lines = (tmp_path / "out/labels.ctbl").read_text(encoding="utf-8").splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    assert [row[0] for row in rows] == ["0", *SCHEMA]
    assert rows[1] == ["3", "Große_Niere_(links)", "16", "128", "240", "255"]
    assert all(len(row) == 6 for row in rows)


@pytest.mark.parametrize(
    ("text", "plain"), [("Ödem/links", "Odem_links"), ("a  b", "a_b"), ("__x__", "x"), ("日本", "")]
)
def test_plain_names_are_ascii(text: str, plain: str) -> None:
    assert plain_name(text) == plain
