from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset
from pydicom.tag import Tag

from medldm.data.dicom import DicomError, read_series, scan_dicom
from medldm.data.dicom.structure_set import StructureSet
from medldm.transforms.errors import GeometryError
from tests.data.dicom.dicom_cases import CORONAL, SAGITTAL, Geometry, oblique_orientation, save
from tests.data.dicom.label_cases import (
    SHAPE,
    box,
    circle,
    flat,
    make_series,
    make_structure_set,
    on_grid,
    to_lps,
)

GEOMETRIES = {
    "axial": Geometry(),
    "sagittal": Geometry(orientation=SAGITTAL),
    "coronal": Geometry(orientation=CORONAL),
    "oblique": Geometry(orientation=oblique_orientation()),
}
COLUMN, ROW, SLICE = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")


def write(folder: Path, dataset: FileDataset) -> StructureSet:
    save([dataset], folder, prefix="RS")
    (label,) = scan_dicom(folder).labels
    assert isinstance(label.structures, StructureSet)
    return label.structures


def drawn(
    folder: Path, contours: dict[str, list[np.ndarray]], geometry: Geometry | None = None, **options: object
):
    """Write a series with contours in voxels (column, row, slice) and read the masks on the series' grid."""
    slices = make_series(folder, geometry)
    lps = {name: [to_lps(points, geometry) for points in own] for name, own in contours.items()}
    structures = write(folder, make_structure_set(slices, lps, **options))
    volume = read_series(scan_dicom(folder).series[0])
    return structures.read(tuple(volume.shape[1:]), volume.affine.numpy())


@pytest.mark.parametrize("name", GEOMETRIES)
def test_shapes_come_out_voxel_for_voxel(name: str, tmp_path: Path) -> None:
    geometry = GEOMETRIES[name]
    centre, outer, inner = (11.3, 9.2), (8.21, 7.4), (3.3, 2.9)
    ring = [flat(circle(centre, radius, n=1500), k) for k in range(2, 7) for radius in (outer, inner)]
    boxes = [flat(box((1.5, 1.5), (4.5, 3.5)), 4), flat(box((18, 14), (22, 17)), 4)]
    masks = drawn(tmp_path, {"ring": ring, "boxes": boxes}, geometry)
    distance = [((COLUMN - centre[0]) / r[0]) ** 2 + ((ROW - centre[1]) / r[1]) ** 2 for r in (outer, inner)]
    expected = {
        "ring": (distance[0] < 1) & (distance[1] > 1) & (SLICE >= 2) & (SLICE <= 6),
        "boxes": (
            ((COLUMN >= 2) & (COLUMN <= 4) & (ROW >= 2) & (ROW <= 3))
            | ((COLUMN >= 18) & (COLUMN <= 22) & (ROW >= 14) & (ROW <= 17))
        )
        & (SLICE == 4),
    }
    assert tuple(masks) == ("ring", "boxes")
    for key, mask in expected.items():
        np.testing.assert_array_equal(masks[key], on_grid(mask, geometry)[0])


def test_explicit_xor_contours_may_cross(tmp_path: Path) -> None:
    contours = {"x": [flat(box((1.5, 1.5), (8.5, 8.5)), 3), flat(box((5.5, 5.5), (12.5, 12.5)), 3)]}
    first = (COLUMN >= 2) & (COLUMN <= 8) & (ROW >= 2) & (ROW <= 8)
    second = (COLUMN >= 6) & (COLUMN <= 12) & (ROW >= 6) & (ROW <= 12)
    masks = drawn(tmp_path / "xor", contours, kind="CLOSEDPLANAR_XOR")
    np.testing.assert_array_equal(masks["x"], on_grid((first ^ second) & (SLICE == 3))[0])
    with pytest.raises(GeometryError, match="structure 1 cross in slice 3"):
        drawn(tmp_path / "planar", contours)["x"]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (3.5, "0.50 slices beside slice"),
        (3.2, "0.20 slices beside slice 3; 0.10 is allowed"),
        (11.0, "on slice 11 of an image that has slices 0 to 8"),
        (-2.0, "on slice -2"),
    ],
)
def test_contour_between_or_beyond_slices_is_refused(index: float, message: str, tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match=message):
        drawn(tmp_path, {"a": [flat(circle((11, 9), (5, 5)), index)]})["a"]


def test_rounded_coordinates_are_snapped_to_their_slice(tmp_path: Path) -> None:
    geometry = Geometry(orientation=oblique_orientation())
    polygon = circle((11.3, 9.2), (6.21, 5.4), n=60)
    slices = make_series(tmp_path, geometry)
    rounded = [np.round(to_lps(flat(polygon, k), geometry), 2) for k in (3, 4)]
    structures = write(tmp_path, make_structure_set(slices, {"a": rounded}))
    volume = read_series(scan_dicom(tmp_path).series[0])
    mask = structures.read(tuple(volume.shape[1:]), volume.affine.numpy())["a"]
    expected = (((COLUMN - 11.3) / 6.21) ** 2 + ((ROW - 9.2) / 5.4) ** 2 < 1) & (SLICE >= 3) & (SLICE <= 4)
    assert (mask != on_grid(expected, geometry)[0]).sum() <= 2 and mask.sum() > 100


def test_contours_on_every_second_slice_are_refused(tmp_path: Path) -> None:
    contours = [flat(circle((11, 9), (5, 5)), k) for k in (1, 3, 5)]
    with pytest.raises(GeometryError, match="each at least 2 slices from the next: it was made on thicker"):
        drawn(tmp_path, {"a": contours})["a"]


def test_contour_that_is_not_parallel_to_the_slices_is_refused(tmp_path: Path) -> None:
    tilted = flat(circle((11, 9), (5, 5)), 4)
    tilted[:, 2] += (tilted[:, 0] - 11) * 0.3 + (tilted[:, 1] - 9) * 0.1
    with pytest.raises(GeometryError, match="slices beside slice 4"):
        drawn(tmp_path, {"a": [tilted]})["a"]


def test_points_and_open_contours_are_passed_over_with_a_count(tmp_path: Path) -> None:
    contours = {
        "liver": [flat(box((2, 2), (9, 9)), 3)],
        "isocentre": [np.array([[5.0, 5.0, 3.0]])],
        "needle": [flat(box((1, 1), (5, 5)), 2), flat(box((1, 1), (6, 6)), 3)],
        "empty": [],
    }
    slices = make_series(tmp_path)
    lps = {name: [to_lps(points) for points in own] for name, own in contours.items()}
    kinds = {"isocentre": "POINT", "needle": "OPEN_PLANAR"}
    structures = write(tmp_path, make_structure_set(slices, lps, kinds=kinds))
    assert structures.names == ("liver",)
    assert structures.notes == (
        "3 points and open contours of its structure set were passed over",
        "3 structures of its structure set without closed contours were left out",
    )


def test_structures_of_another_frame_of_reference_are_left_out(tmp_path: Path) -> None:
    slices = make_series(tmp_path)
    own = [to_lps(flat(box((2, 2), (9, 9)), 3))]
    dataset = make_structure_set(slices, {"here": own, "elsewhere": own})
    dataset.StructureSetROISequence[1].ReferencedFrameOfReferenceUID = "1.2.3.4"
    structures = write(tmp_path, dataset).within(slices[0].FrameOfReferenceUID)
    assert structures.names == ("here",)
    assert structures.notes == ("1 structures of another frame of reference were left out",)


@pytest.mark.filterwarnings("ignore:.*exceeds the size of 64 kByte")
def test_long_contours_stored_as_unknown_are_read(tmp_path: Path) -> None:
    polygon = circle((11.3, 9.2), (8.21, 7.4), n=4000)
    slices = make_series(tmp_path)
    dataset = make_structure_set(slices, {"a": [to_lps(flat(polygon, 4))]})
    structures = write(tmp_path, dataset)
    volume = read_series(scan_dicom(tmp_path).series[0])
    mask = structures.read(tuple(volume.shape[1:]), volume.affine.numpy())["a"]
    expected = (((COLUMN - 11.3) / 8.21) ** 2 + ((ROW - 9.2) / 7.4) ** 2 < 1) & (SLICE == 4)
    np.testing.assert_array_equal(mask, on_grid(expected)[0])


@pytest.mark.parametrize("text", ["1\\2", "1\\2\\x\\4\\5\\6\\7\\8\\9", "nan\\2\\3\\4\\5\\6\\7\\8\\9", ""])
def test_damaged_contour_is_refused_by_name(text: str, tmp_path: Path) -> None:
    slices = make_series(tmp_path)
    dataset = make_structure_set(slices, {"a": [to_lps(flat(box((2, 2), (9, 9)), 3))]})
    item = dataset.ROIContourSequence[0].ContourSequence[0]
    value = text.encode().ljust(len(text) + len(text) % 2)
    item[0x30060050] = RawDataElement(Tag(0x30060050), "DS", len(value), value, 0, False, True)
    structures = write(tmp_path, dataset)
    with pytest.raises(DicomError, match="a contour of structure 1 is not three or more points of numbers"):
        structures.read((5, 5, 5), np.eye(4))


def test_structure_set_crosses_the_borders_of_processes(tmp_path: Path) -> None:
    slices = make_series(tmp_path)
    structures = write(tmp_path, make_structure_set(slices, {"a": [to_lps(flat(box((2, 2), (9, 9)), 3))]}))
    assert pickle.loads(pickle.dumps(structures)) == structures
    assert str(tmp_path) not in repr(structures)


def test_rounded_contours_through_voxel_centres_lose_no_voxel(tmp_path: Path) -> None:
    geometry = Geometry(row_spacing=0.703125, column_spacing=0.703125, origin=(-171.2363, 33.3337, 12.5))
    slices = make_series(tmp_path, geometry)
    points = np.round(to_lps(flat(box((3, 4), (17, 15)), 4), geometry), 2)
    structures = write(tmp_path, make_structure_set(slices, {"a": [points]}))
    volume = read_series(scan_dicom(tmp_path).series[0])
    mask = structures.read(tuple(volume.shape[1:]), volume.affine.numpy())["a"]
    expected = (COLUMN >= 3) & (COLUMN <= 17) & (ROW >= 4) & (ROW <= 15) & (SLICE == 4)
    np.testing.assert_array_equal(mask, on_grid(expected, geometry)[0])


def test_contour_offset_vector_is_refused_by_name(tmp_path: Path) -> None:
    slices = make_series(tmp_path)
    dataset = make_structure_set(slices, {"a": [to_lps(flat(box((2, 2), (9, 9)), 3))]})
    dataset.ROIContourSequence[0].ContourSequence[0].ContourOffsetVector = [0, 0, 1.5]
    structures = write(tmp_path, dataset)
    with pytest.raises(GeometryError, match="structure 1 has a Contour Offset Vector"):
        structures.read((5, 5, 5), np.eye(4))
