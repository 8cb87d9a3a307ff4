"""Images of the Decathlon that hold several channels in one file become channels of a prepared cohort."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medldm.data import CohortError, read_cohort, run_check
from medldm.data.layouts.detect import read_layout
from medldm.data.layouts.records import StackedImage
from medldm.data.preparation.prepare import PrepareOptions, prepare
from medldm.transforms.raw_volume import VolumeNumber
from tests.data.layouts.made import AFFINE, image_of, labels_of, write

CHANNELS = ("FLAIR", "T1w", "t1gd", "T2w")


def channel_of(case: int, number: int) -> np.ndarray:
    return image_of(10 * case + number)


def make_msd_channels(root: Path, modality: Mapping[str, str] | None = None, *, n_cases: int = 3) -> None:
    """Write a data set as Task01_BrainTumour is: (X, Y, Z, 4), one label map a case, a test image."""
    names = [f"BRATS_{n:03d}.nii.gz" for n in range(n_cases)]
    for n, name in enumerate(names):
        write_stack(root / "imagesTr" / name, [channel_of(n, number) for number in range(4)])
        write(root / "labelsTr" / name, labels_of(n))
    write_stack(root / "imagesTs" / "BRATS_100.nii.gz", [channel_of(100, number) for number in range(4)])
    content = {
        "modality": modality or {str(number): name for number, name in enumerate(CHANNELS)},
        "tensorImageSize": "4D",
        "labels": {"0": "background", "1": "liver", "2": "spleen"},
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
        "test": ["./imagesTs/BRATS_100.nii.gz"],
    }
    (root / "dataset.json").write_text(json.dumps(content))


def write_stack(path: Path, volumes: Sequence[np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.stack(volumes, axis=-1), AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)


def canonical(voxels: np.ndarray) -> nib.Nifti1Image:
    return nib.as_closest_canonical(nib.Nifti1Image(voxels, AFFINE))


@pytest.fixture
def settings(tmp_path: Path) -> dict:
    return {"key_file": tmp_path / "secret" / "identity.key", "workers": 1, "progress": False}


def assert_channels(root: Path, numbers: Sequence[int], *, n_cases: int = 3) -> None:
    """Hold a prepared cohort to the truth: every channel, its affine, label maps and their names."""
    cohort = read_cohort(root, require_labels=False)
    assert len(cohort.cases) == n_cases + 1 == len({case["subject"] for case in cohort.cases})
    assert cohort.schema is not None and dict(cohort.schema.structures) == {1: "liver", 2: "spleen"}
    left = {*range(n_cases), 100}
    for case in cohort.cases:
        files = [case["image"]] if isinstance(case["image"], str) else case["image"]
        images = [nib.load(file) for file in files]
        found = [np.asarray(image.dataobj).tobytes() for image in images]
        (number,) = (
            n
            for n in left
            if found == [np.asarray(canonical(channel_of(n, k)).dataobj).tobytes() for k in numbers]
        )
        left.remove(number)
        assert ("label" in case) == (number != 100)
        for image in images:
            np.testing.assert_array_equal(image.affine, canonical(image_of(0)).affine)
        if "label" in case:
            label = nib.load(case["label"])
            np.testing.assert_array_equal(label.affine, canonical(image_of(0)).affine)
            expected = np.asarray(canonical(labels_of(number)).dataobj)
            np.testing.assert_array_equal(np.asarray(label.dataobj), expected)
    assert not left


def test_prepare_splits_each_file_into_its_channels(tmp_path: Path, settings: dict) -> None:
    make_msd_channels(tmp_path / "in")
    result = prepare(tmp_path / "in", tmp_path / "out", options=PrepareOptions(**settings))
    assert (result.exit_code, result.refused) == (0, ())
    assert read_cohort(tmp_path / "out", require_labels=False).channels == CHANNELS
    content = json.loads((tmp_path / "out" / "cohort.json").read_text())
    assert content["channels"] == list(CHANNELS)
    for case in content["training"] + content["validation"]:
        assert case["image"] == [f"images/{case['id']}_{name}.nii.gz" for name in CHANNELS]
    assert_channels(tmp_path / "out", range(4))
    again = prepare(tmp_path / "in", tmp_path / "out", options=PrepareOptions(**settings))
    assert again.exit_code == 0
    assert not [path for path in (tmp_path / "out").rglob("*") if "BRATS" in path.name]


@pytest.mark.parametrize("chosen", [("T2w", "FLAIR"), ("T1w",), ("t1W",)])
def test_prepare_takes_the_channels_that_are_asked_for(
    chosen: tuple[str, ...], tmp_path: Path, settings: dict
) -> None:
    make_msd_channels(tmp_path / "in")
    options = PrepareOptions(**settings, channels=chosen)
    assert prepare(tmp_path / "in", tmp_path / "out", options=options).exit_code == 0
    known = [name.lower() for name in CHANNELS]
    assert_channels(tmp_path / "out", [known.index(name.lower()) for name in chosen])


def test_another_volume_of_the_same_file_is_another_source(tmp_path: Path, settings: dict) -> None:
    """The file is unchanged, and so is its size: only the number of the volume tells the runs apart."""
    make_msd_channels(tmp_path / "in")
    first, second = (PrepareOptions(**settings, channels=(name,)) for name in ("FLAIR", "T2w"))
    prepare(tmp_path / "in", tmp_path / "out", options=first)
    refused = prepare(tmp_path / "in", tmp_path / "out", options=second).refused
    assert len(refused) == 4 and "overwrite" in refused[0].reason
    options = PrepareOptions(**settings, channels=("T2w",), overwrite=True)
    assert prepare(tmp_path / "in", tmp_path / "out", options=options).exit_code == 0
    assert_channels(tmp_path / "out", [3])


def test_names_that_are_repeated_or_unfit_are_changed_and_said(tmp_path: Path, settings: dict) -> None:
    make_msd_channels(tmp_path / "in", {"0": "MRI", "1": "mri", "2": "T1 (Gd)", "3": "T2/w"})
    result = prepare(tmp_path / "in", tmp_path / "out", options=PrepareOptions(**settings))
    assert read_cohort(tmp_path / "out", require_labels=False).channels == ("MRI", "mri-2", "T1-Gd", "T2-w")
    assert any("MRI, mri-2, T1-Gd, T2-w" in remark for remark in result.remarks)
    assert_channels(tmp_path / "out", range(4))


def test_a_file_of_another_number_of_volumes_is_refused_alone(tmp_path: Path, settings: dict) -> None:
    make_msd_channels(tmp_path / "in")
    write_stack(tmp_path / "in/imagesTr/BRATS_001.nii.gz", [channel_of(1, number) for number in range(3)])
    write(tmp_path / "in/imagesTr/BRATS_002.nii.gz", channel_of(2, 0))
    result = prepare(tmp_path / "in", tmp_path / "out", options=PrepareOptions(**settings))
    assert len(result.cases) == len(result.refused) == 2
    reasons = sorted(refused.reason for refused in result.refused)
    assert "1 on the fourth axis, but 4 channels are declared" in reasons[0]
    assert "3 on the fourth axis, but 4 channels are declared" in reasons[1]
    assert "BRATS" not in " ".join(reasons)


def test_a_truncated_file_costs_its_own_case(tmp_path: Path, settings: dict) -> None:
    make_msd_channels(tmp_path / "in")
    file = tmp_path / "in/imagesTr/BRATS_001.nii.gz"
    file.write_bytes(file.read_bytes()[:-200])
    options = PrepareOptions(**settings, channels=("FLAIR",))
    result = prepare(tmp_path / "in", tmp_path / "out", options=options)
    assert len(result.cases) == 3 and "truncated" in result.refused[0].reason


def test_where_it_lies_one_error_names_prepare(tmp_path: Path) -> None:
    make_msd_channels(tmp_path)
    with pytest.raises(CohortError, match="1 problem") as caught:
        read_cohort(tmp_path, require_labels=False)
    assert "4 channels (FLAIR, T1w, t1gd, T2w) in one file" in str(caught.value)
    assert "`medldm prepare IN OUT`" in str(caught.value)
    text, code = run_check(tmp_path)
    assert code == 1 and "`medldm prepare IN OUT`" in text


def test_a_scan_holds_the_volumes_of_its_file_in_order(tmp_path: Path) -> None:
    make_msd_channels(tmp_path, {"1": "b", "0": "a"}, n_cases=1)
    layout = read_layout(tmp_path)
    assert layout is not None and layout.channels == ("a", "b")
    file = tmp_path / "imagesTr/BRATS_000.nii.gz"
    assert layout.scans[0].images == {
        name: StackedImage(file=file, volume=VolumeNumber(index, 2)) for index, name in enumerate("ab")
    }
    assert layout.scans[0].image_files == (file,)
    assert not layout.problems


@pytest.mark.parametrize("modality", [{"0": "MRI"}, ["MRI"], "MRI"])
def test_several_volumes_without_a_declaration_stay_a_time_series(
    modality: object, tmp_path: Path, settings: dict
) -> None:
    make_msd_channels(tmp_path / "in")
    content = json.loads((tmp_path / "in/dataset.json").read_text()) | {"modality": modality}
    (tmp_path / "in/dataset.json").write_text(json.dumps(content))
    text, code = run_check(tmp_path / "in")
    assert code == 1 and "time series of 4 volumes" in text
    result = prepare(tmp_path / "in", tmp_path / "out", options=PrepareOptions(**settings))
    assert not result.cases and "time series of 4 volumes" in result.refused[0].reason


def test_one_channel_with_a_fourth_axis_of_one_is_read_where_it_lies(tmp_path: Path) -> None:
    make_msd_channels(tmp_path, {"0": "MRI"})
    for n in range(3):
        write_stack(tmp_path / f"imagesTr/BRATS_{n:03d}.nii.gz", [channel_of(n, 0)])
    write_stack(tmp_path / "imagesTs/BRATS_100.nii.gz", [channel_of(100, 0)])
    cohort = read_cohort(tmp_path)
    assert len(cohort.cases) == 3 and cohort.channels == ()
    assert run_check(tmp_path)[1] == 0
