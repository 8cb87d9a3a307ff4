"""What lies in an input and is no volume is passed over by name; of two affines one is chosen."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medldm.cli.main import main
from medldm.data.preparation.prepare import PrepareOptions, prepare
from medldm.transforms import write_nifti


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(6, 5, 4))


def run(source: Path, **options):
    settings = {"key_file": source.parent / "key", "workers": 1, "progress": False}
    return prepare(source, source.parent / "out", options=PrepareOptions(**(settings | options)))


def test_files_of_systems_are_no_input_at_all(tmp_path: Path) -> None:
    write_nifti(tmp_path / "in" / "a.nii.gz", image(), np.eye(4))
    for name in ("._a.nii.gz", "._b.dcm", ".DS_Store"):
        (tmp_path / "in" / name).write_bytes(b"\x00\x05\x16\x07")
    result = run(tmp_path / "in")
    assert len(result.cases) == 1 and not result.refused and not result.passed_over


def test_archives_are_counted_by_what_they_are(tmp_path: Path) -> None:
    write_nifti(tmp_path / "in" / "a.nii.gz", image(), np.eye(4))
    for name in (
        "b.zip",
        "c.nii.zip",
        "d.rar",
        "e.7z",
        "f.tar.gz",
        "g.dcm.gz",
        "h.hdr",
        "h.img",
        "notes.txt",
    ):
        (tmp_path / "in" / name).write_bytes(b"some bytes that are no volume")
    result = run(tmp_path / "in")
    counted = {reason: n for reason, n in result.passed_over.items() if "unpack it first" in reason}
    assert sum(counted.values()) == 6
    assert sum(result.passed_over.values()) == 9
    assert "unpack it first" in result.table() and "pair" in result.table()


def two_affines(path: Path) -> Path:
    header = nib.Nifti1Header()
    header.set_data_shape((6, 5, 4))
    header.set_sform(np.eye(4), code=1)
    header.set_qform(np.diag([0.5, 0.5, 10, 1]), code=1)
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(image(), None, header), path)
    return path


def test_two_affines_at_odds_are_refused_until_one_is_chosen(tmp_path: Path) -> None:
    two_affines(tmp_path / "in" / "a.nii.gz")
    result = run(tmp_path / "in")
    assert not result.cases and "--affine sform" in result.refused[0].reason
    for choice, spacing in (("sform", (1, 1, 1)), ("qform", (0.5, 0.5, 10))):
        (case,) = run(tmp_path / "in", affine=choice, overwrite=True).cases
        assert case.spacing_mm == pytest.approx(spacing)
        assert any(f"the {choice} is taken, as asked" in note for note in case.notes)


def test_another_choice_makes_a_finished_case_anew(tmp_path: Path) -> None:
    two_affines(tmp_path / "in" / "a.nii.gz")
    run(tmp_path / "in", affine="sform")
    assert "options changed" in run(tmp_path / "in", affine="qform").refused[0].reason


def test_the_command_line_chooses(tmp_path: Path, capsys) -> None:
    two_affines(tmp_path / "in" / "a.nii.gz")
    arguments = ["prepare", str(tmp_path / "in"), str(tmp_path / "out"), "--workers", "1"]
    arguments += ["--key-file", str(tmp_path / "key")]
    assert main(arguments) == 1
    assert "--affine" in capsys.readouterr().out
    assert main([*arguments, "--affine", "qform"]) == 0
    with pytest.raises(ValueError, match="affine is 'best'"):
        PrepareOptions(affine="best")


def test_label_values_but_for_rounding_are_rounded_and_noted(tmp_path: Path) -> None:
    labels = np.zeros((6, 5, 4))
    labels[2:4, 2:4, 1:3] = 2.9996
    write_nifti(tmp_path / "in" / "images" / "a.nii.gz", image(), np.eye(4))
    write_nifti(tmp_path / "in" / "labels" / "a.nii.gz", labels, np.eye(4))
    (case,) = run(tmp_path / "in").cases
    assert case.label_values == (3,)
    assert any("label map: 8 label values" in note for note in case.notes)


@pytest.mark.parametrize(("shift", "is_one"), [(0.004, True), (0.006, False)])
def test_image_and_label_map_may_differ_by_a_share_of_a_voxel(
    tmp_path: Path, shift: float, is_one: bool
) -> None:
    affine = np.diag([0.5, 0.5, 3.0, 1.0])
    moved = affine.copy()
    moved[0, 3] = shift
    write_nifti(tmp_path / "in" / "images" / "a.nii.gz", image(), affine)
    write_nifti(tmp_path / "in" / "labels" / "a.nii.gz", np.ones((6, 5, 4)), moved, dtype=np.uint8)
    result = run(tmp_path / "in")
    assert bool(result.cases) is is_one
    if is_one:
        written = [
            nib.load(tmp_path / "out" / part / f"{result.cases[0].id}.nii.gz")
            for part in ("images", "labels")
        ]
        np.testing.assert_array_equal(written[0].affine, written[1].affine)
        np.testing.assert_array_equal(written[0].affine, affine)


def test_a_time_series_is_refused_as_one(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    series = nib.Nifti1Image(np.zeros((6, 5, 4, 9), np.int16), np.eye(4))
    nib.save(series, tmp_path / "in" / "bold.nii.gz")
    assert "a time series of 9 volumes" in run(tmp_path / "in").refused[0].reason


@pytest.mark.parametrize("suffix", [".mgz", ".mgh"])
def test_freesurfer_volumes_become_cases_with_label_maps(tmp_path: Path, suffix: str) -> None:
    affine = np.array([[-1.0, 0, 0, 3], [0, 0, 1, -2], [0, -1, 0, 2], [0, 0, 0, 1]])
    (tmp_path / "in" / "images").mkdir(parents=True)
    (tmp_path / "in" / "labels").mkdir()
    nib.save(nib.MGHImage(image().astype(np.float32), affine), tmp_path / "in" / "images" / f"a{suffix}")
    labels = np.random.default_rng(0).choice([0, 17, 53], (6, 5, 4)).astype(np.int32)
    nib.save(nib.MGHImage(labels, affine), tmp_path / "in" / "labels" / f"a{suffix}")
    (case,) = run(tmp_path / "in", labels="freesurfer").cases
    assert case.label_values == (17, 53)
    written = nib.load(tmp_path / "out" / "labels" / f"{case.id}.nii.gz")
    canonical = nib.as_closest_canonical(nib.MGHImage(labels, affine))
    np.testing.assert_array_equal(np.asarray(written.dataobj), np.asarray(canonical.dataobj))
    np.testing.assert_allclose(written.affine, canonical.affine, atol=1e-6)


def test_masks_but_for_rounding_are_masks(tmp_path: Path) -> None:
    case = tmp_path / "in" / "s01"
    write_nifti(case / "ct.nii.gz", image(), np.eye(4))
    for name, low, high in (("liver", 0.0004, 0.9996), ("spleen", 0.0, 0.0004)):
        mask = np.full((6, 5, 4), low)
        mask[2:4, 2:4, 1:3] = high
        write_nifti(case / "segmentations" / f"{name}.nii.gz", mask, np.eye(4))
    (made,) = run(tmp_path / "in").cases
    labels = np.asarray(nib.load(tmp_path / "out" / "labels" / f"{made.id}.nii.gz").dataobj)
    assert made.label_values == (1,) and int((labels == 1).sum()) == 8


def test_a_choice_of_affine_counts_for_masks_too(tmp_path: Path) -> None:
    case = tmp_path / "in" / "s01"
    case.mkdir(parents=True)
    two_affines(case / "ct.nii.gz")
    header = nib.load(case / "ct.nii.gz").header
    mask = np.zeros((6, 5, 4), np.uint8)
    mask[2:4, 2:4, 1:3] = 1
    (case / "segmentations").mkdir()
    nib.save(nib.Nifti1Image(mask, None, header), case / "segmentations" / "liver.nii.gz")
    (made,) = run(tmp_path / "in", affine="qform").cases
    assert made.label_values == (1,) and made.spacing_mm == pytest.approx((0.5, 0.5, 10))
