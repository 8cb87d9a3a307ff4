"""Two affines in one header: agreed on, chosen by the user, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medldm.transforms import GeometryError, LoadVolume, LoadVolumed, restore_file_geometry
from medldm.transforms.readers import read_geometry, read_raw_volume

TRUE = np.diag([0.7, 0.7, 10.0, 1.0])
UNIT = np.eye(4)
MIRRORED = np.diag([-0.7, 0.7, 10.0, 1.0])
TURNED = np.array([[0, -0.7, 0, 3], [0.7, 0, 0, 4], [0, 0, 10, 5], [0, 0, 0, 1.0]])
Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Save a volume with an sform and a qform of one's choice, either left out by None."""

    def write(sform: np.ndarray | None, qform: np.ndarray | None, *, name: str = "a.nii.gz") -> Path:
        header = nib.Nifti1Header()
        header.set_data_shape((4, 5, 6))
        if qform is not None:
            header.set_qform(qform, code=1)
        if sform is not None:
            header.set_sform(sform, code=1)
        image = nib.Nifti1Image(np.arange(120, dtype=np.uint8).reshape(4, 5, 6), None, header)
        nib.save(image, tmp_path / name)
        return tmp_path / name

    return write


@pytest.mark.parametrize("read", [read_geometry, read_raw_volume, LoadVolume()])
@pytest.mark.parametrize(("sform", "qform"), [(UNIT, TRUE), (TRUE, UNIT), (TRUE, 1.02 * TRUE)])
def test_voxels_of_two_sizes_are_refused_naming_both_and_the_way_out(save: Save, read, sform, qform) -> None:
    with pytest.raises(
        GeometryError, match=r"a\.nii\.gz: its sform has voxels of .* mm, its qform of"
    ) as error:
        read(save(sform, qform))
    assert "--affine sform" in str(error.value)
    assert "10 mm" in str(error.value) or "10.2 mm" in str(error.value)


def test_a_mirror_image_is_refused(save: Save) -> None:
    with pytest.raises(GeometryError, match="mirrors its qform: left and right"):
        read_geometry(save(TRUE, MIRRORED))


@pytest.mark.parametrize(("choice", "spacing"), [("sform", (1, 1, 1)), ("qform", (0.7, 0.7, 10))])
def test_the_user_chooses(save: Save, choice, spacing) -> None:
    path = save(UNIT, TRUE)
    volume = LoadVolume(affine=choice)(path)
    np.testing.assert_allclose(volume.pixdim.numpy(), spacing, rtol=1e-6)
    assert f"the {choice} is taken, as asked" in " ".join(read_geometry(path, affine=choice).notes)
    case = LoadVolumed(["image", "label"], affine=choice)({"image": str(path), "label": str(path)})
    np.testing.assert_allclose(case["label"].pixdim.numpy(), spacing, rtol=1e-6)
    chosen = nib.load(path).get_sform() if choice == "sform" else nib.load(path).get_qform()
    np.testing.assert_array_equal(restore_file_geometry(volume).affine.numpy(), chosen)


@pytest.mark.parametrize("choice", ["sform", "qform"])
def test_a_choice_does_not_refuse_files_with_one_affine(save: Save, choice) -> None:
    for forms in ((TRUE, None), (None, TRUE)):
        np.testing.assert_allclose(read_geometry(save(*forms), affine=choice).affine, TRUE, rtol=1e-6)


def test_a_turned_or_shifted_volume_is_noted_as_before(save: Save) -> None:
    geometry = read_geometry(save(TRUE, TURNED))
    np.testing.assert_allclose(geometry.affine, TRUE, rtol=1e-6)
    assert "the sform is taken" in geometry.notes[0]
    assert not read_geometry(save(TRUE, TRUE)).notes


def test_a_scale_within_one_percent_is_no_conflict(save: Save) -> None:
    assert read_geometry(save(TRUE, 1.005 * TRUE)).affine[2, 2] == pytest.approx(10.0)


def test_an_unusable_form_gives_way_to_the_chosen_one(save: Save) -> None:
    broken = TRUE.copy()
    broken[0, 0] = np.nan
    path = save(broken, TRUE)
    with pytest.raises(GeometryError, match="NaN or Inf"):
        read_geometry(path)
    geometry = read_geometry(path, affine="qform")
    np.testing.assert_allclose(geometry.affine, TRUE, rtol=1e-6)
    assert "its sform is not usable" in geometry.notes[0]


def set_pixdim(path: Path, sizes: list[float]) -> None:
    content = bytearray(path.read_bytes())
    content[80:92] = np.asarray(sizes, dtype="<f4").tobytes()
    path.write_bytes(content)


def test_a_unit_sform_without_qform_beside_another_pixdim_is_refused(save: Save) -> None:
    path = save(UNIT, None, name="a.nii")
    set_pixdim(path, [0.7, 0.7, 10])
    with pytest.raises(GeometryError, match=r"1 x 1 x 1 mm, its pixdim says 0\.7 x 0\.7 x 10 mm"):
        read_geometry(path)
    assert "the sform is taken" in read_geometry(path, affine="sform").notes[0]


@pytest.mark.parametrize(("sizes", "n_notes"), [([1, 1, 1], 1), ([0.7, 0.7, 10], 0), ([0, 0, 0], 0)])
def test_a_real_sform_wins_over_a_pixdim_left_at_its_default(save: Save, sizes, n_notes) -> None:
    path = save(TRUE, None, name="a.nii")
    set_pixdim(path, sizes)
    geometry = read_geometry(path)
    np.testing.assert_allclose(geometry.affine, TRUE, rtol=1e-6)
    assert len(geometry.notes) == n_notes


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="affine is 'best': choose sform or qform"):
        LoadVolume(affine="best")
