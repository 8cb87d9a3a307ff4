from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import FileDataset

from medldm.data.dicom import DicomError, read_series, scan_dicom
from medldm.data.dicom.segmentation import DicomSegmentation
from medldm.transforms.errors import GeometryError, VoxelValueError
from tests.data.dicom.dicom_cases import CORONAL, SAGITTAL, Geometry, oblique_orientation, save
from tests.data.dicom.label_cases import SHAPE, make_segmentation, make_series, on_grid, random_masks

GEOMETRIES = {
    "axial": Geometry(),
    "sagittal": Geometry(orientation=SAGITTAL),
    "coronal": Geometry(orientation=CORONAL),
    "oblique": Geometry(orientation=oblique_orientation()),
}
NAMES = ("liver", "left kidney")


def write(folder: Path, dataset: FileDataset) -> DicomSegmentation:
    save([dataset], folder, prefix="SEG")
    (label,) = scan_dicom(folder).labels
    assert isinstance(label.structures, DicomSegmentation)
    return label.structures


def read(folder: Path, structures: DicomSegmentation):
    volume = read_series(scan_dicom(folder).series[0])
    return structures.read(tuple(volume.shape[1:]), volume.affine.numpy())


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_masks_come_out_voxel_for_voxel(name: str, kind: str, tmp_path: Path) -> None:
    slices = make_series(tmp_path, GEOMETRIES[name])
    masks = random_masks()
    structures = write(tmp_path, make_segmentation(slices, masks, kind=kind))
    assert structures.names == NAMES and structures.files == (tmp_path / "SEG0000",)
    found = read(tmp_path, structures)
    assert tuple(found) == NAMES and len(found) == 2
    for structure, mask in zip(NAMES, masks, strict=True):
        np.testing.assert_array_equal(found[structure], on_grid(mask, GEOMETRIES[name])[0])
        assert found[structure].dtype == bool


def test_masks_agree_with_highdicom(tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    geometry = GEOMETRIES["oblique"]
    structures = write(tmp_path, make_segmentation(make_series(tmp_path, geometry), random_masks()))
    other = highdicom.seg.segread(structures.path).get_volume(segment_numbers=[2])
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ other.affine
    volume = read_series(scan_dicom(tmp_path).series[0])
    mask = structures.read(tuple(volume.shape[1:]), volume.affine.numpy())["left kidney"]
    inside = np.argwhere(other.array[..., 0]) @ affine[:3, :3].T + affine[:3, 3]
    index = (inside - volume.affine.numpy()[:3, 3]) @ np.linalg.inv(volume.affine.numpy()[:3, :3]).T
    assert {tuple(place) for place in np.rint(index).astype(int).tolist()} == {
        tuple(place) for place in np.argwhere(mask).tolist()
    }


@pytest.mark.parametrize(("kind", "word"), [("OCCUPANCY", "occupancies"), ("PROBABILITY", "probabilities")])
def test_fractions_from_one_half_belong_to_a_segment_and_a_note_says_so(
    kind: str, word: str, tmp_path: Path
) -> None:
    fractions = np.random.default_rng(3).random((2, *SHAPE))
    dataset = make_segmentation(
        make_series(tmp_path), fractions, kind="FRACTIONAL", fractional_type=kind, max_fractional_value=100
    )
    structures = write(tmp_path, dataset)
    assert (
        len(structures.notes) == 1
        and word in structures.notes[0]
        and "0.5 of the largest" in structures.notes[0]
    )
    found = read(tmp_path, structures)
    for name, share in zip(NAMES, fractions, strict=True):
        np.testing.assert_array_equal(found[name], on_grid(np.rint(share * 100) >= 50)[0])


def test_absent_frames_are_empty_and_frames_may_come_in_any_order(tmp_path: Path) -> None:
    slices = make_series(tmp_path)
    masks = random_masks()
    masks[0][:, :, :] = False
    masks[0][3:9, 4:8, 5] = True
    dataset = make_segmentation(slices[::-1], masks[..., ::-1])
    assert dataset.NumberOfFrames < 2 * SHAPE[2] - 5
    found = read(tmp_path, write(tmp_path, dataset))
    for name, mask in zip(NAMES, masks, strict=True):
        np.testing.assert_array_equal(found[name], on_grid(mask)[0])


def test_single_frame_and_segment_without_frames(tmp_path: Path) -> None:
    slices = make_series(tmp_path)
    masks = np.zeros((2, *SHAPE), dtype=bool)
    masks[0, 2:5, 3:9, 4] = True
    found = read(tmp_path, write(tmp_path, make_segmentation(slices[4:5], masks[..., 4:5])))
    np.testing.assert_array_equal(found["liver"], on_grid(masks[0])[0])
    assert not found["left kidney"].any()


def reslice(masks: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, Geometry]:
    """Cut axial masks (n, columns, rows, slices) into sagittal frames of the same voxels."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ geometry.affine()
    corner = lps @ [0, 0, SHAPE[2] - 1, 1]
    sagittal = Geometry(
        orientation=(0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
        origin=tuple(corner[:3]),
        column_spacing=geometry.row_spacing,
        row_spacing=geometry.step_mm,
        step_mm=-geometry.column_spacing,
    )
    return masks.transpose(0, 2, 3, 1)[:, :, ::-1], sagittal


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_sagittal_frames_on_axial_slices_come_out_voxel_for_voxel(kind: str, tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    slices, masks = make_series(tmp_path), random_masks()
    cut, sagittal = reslice(masks, Geometry())
    frame = slices[0].FrameOfReferenceUID
    dataset = make_segmentation(
        slices,
        cut,
        kind=kind,
        pixel_measures=highdicom.PixelMeasuresSequence(
            pixel_spacing=(sagittal.row_spacing, sagittal.column_spacing),
            slice_thickness=abs(sagittal.step_mm),
            spacing_between_slices=abs(sagittal.step_mm),
        ),
        plane_orientation=highdicom.PlaneOrientationSequence("PATIENT", sagittal.orientation),
        plane_positions=[
            highdicom.PlanePositionSequence("PATIENT", position)
            for position in sagittal.positions(cut.shape[3]).tolist()
        ],
    )
    assert dataset.FrameOfReferenceUID == frame and dataset.Rows == SHAPE[2]
    found = read(tmp_path, write(tmp_path, dataset))
    for name, mask in zip(NAMES, masks, strict=True):
        np.testing.assert_array_equal(found[name], on_grid(mask)[0])


def other_grid(change: str) -> Geometry:
    return {
        "shifted": Geometry(origin=(-31.5 + 0.4, 12.25, 140.0)),
        "other pixels": Geometry(column_spacing=1.6),
        "turned": Geometry(orientation=oblique_orientation()),
        "between slices": Geometry(origin=(-31.5, 12.25, 141.0)),
        "beyond": Geometry(origin=(-31.5, 12.25, 140.0 + 2.5 * 7)),
        "thicker slices": Geometry(step_mm=5.0),
        "smaller": Geometry(),
    }[change]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("shifted", "0.500 voxels beside its grid"),
        ("other pixels", "not parallel to its voxels or has other pixels"),
        ("turned", "not parallel"),
        ("between slices", "0.400 voxels beside its grid"),
        ("beyond", "plane [0-9]+ of the image, which has planes 0 to 8"),
        ("thicker slices", "mm apart|from the next"),
        ("smaller", "has 20 x 20 pixels"),
    ],
)
def test_other_grid_is_refused_by_name(change: str, message: str, tmp_path: Path) -> None:
    make_series(tmp_path)
    masks = random_masks()
    n_slices = 4 if change == "thicker slices" else SHAPE[2]
    others = make_series(tmp_path.parent / f"{tmp_path.name}-other", other_grid(change))[:n_slices]
    masks = masks[..., :n_slices]
    masks[0] = True
    if change == "smaller":
        masks = masks[:, :20]
        for dataset in others:
            dataset.Columns = 20
            dataset.PixelData = bytes(20 * 20 * 2)
    structures = write(tmp_path, make_segmentation(others, masks))
    with pytest.raises(GeometryError, match=message):
        read(tmp_path, structures)["liver"]


def test_label_map_with_undescribed_values_is_refused(tmp_path: Path) -> None:
    dataset = make_segmentation(make_series(tmp_path), random_masks(), kind="LABELMAP")
    dataset.SegmentSequence = [item for item in dataset.SegmentSequence if item.SegmentNumber != 2]
    with pytest.raises(VoxelValueError, match="holds values 2, which it does not describe"):
        read(tmp_path, write(tmp_path, dataset))


def test_background_of_a_label_map_is_no_structure(tmp_path: Path) -> None:
    dataset = make_segmentation(make_series(tmp_path), random_masks(), kind="LABELMAP")
    assert "Background" in [item.SegmentLabel for item in dataset.SegmentSequence]
    assert write(tmp_path, dataset).names == NAMES


@pytest.mark.parametrize(
    ("kind", "syntax"),
    [
        ("FRACTIONAL", uid.RLELossless),
        ("LABELMAP", uid.RLELossless),
        ("LABELMAP", uid.JPEGLSLossless),
        ("BINARY", uid.ImplicitVRLittleEndian),
    ],
)
def test_compressed_segmentations_are_read(kind: str, syntax: str, tmp_path: Path) -> None:
    slices, masks = make_series(tmp_path), random_masks()
    dataset = make_segmentation(slices, masks, kind=kind, transfer_syntax_uid=syntax)
    found = read(tmp_path, write(tmp_path, dataset))
    for name, mask in zip(NAMES, masks, strict=True):
        np.testing.assert_array_equal(found[name], on_grid(mask)[0])


def test_segments_of_one_label_are_united_with_a_note(tmp_path: Path) -> None:
    masks = random_masks()
    dataset = make_segmentation(make_series(tmp_path), masks, names=("nodule", "nodule"))
    structures = write(tmp_path, dataset)
    assert structures.names == ("nodule",) and "1 names" in structures.notes[0]
    np.testing.assert_array_equal(read(tmp_path, structures)["nodule"], on_grid(masks.any(axis=0))[0])


def test_damaged_segmentation_is_reported_and_its_series_is_read(tmp_path: Path) -> None:
    dataset = make_segmentation(make_series(tmp_path), random_masks())
    (path,) = save([dataset], tmp_path, prefix="SEG")
    path.write_bytes(path.read_bytes()[:-200])
    structures = scan_dicom(tmp_path).labels[0].structures
    with pytest.raises(DicomError, match="truncated"):
        read(tmp_path, structures)
    path.write_bytes(path.read_bytes()[:900])
    scan = scan_dicom(tmp_path)
    assert len(scan.labels) == 0 and len(scan.damaged) == 1
    assert [series.refusal for series in scan.series] == [None]


def test_segmentation_crosses_the_borders_of_processes(tmp_path: Path) -> None:
    structures = write(tmp_path, make_segmentation(make_series(tmp_path), random_masks()))
    assert pickle.loads(pickle.dumps(structures)) == structures
    assert str(tmp_path) not in repr(structures)
