"""What is exported comes back through the readers of the same layouts: voxels, affines, names, subjects."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medldm.data.case_checks import image_files
from medldm.data.cohort import Cohort, read_cohort
from medldm.data.export import ExportOptions, export_cohort
from medldm.data.preparation.prepare import PrepareOptions, prepare
from medldm.transforms import LoadVolume
from tests.data.export.export_cases import AFFINES, SCHEMA, affine_of, voxels, write_cohort

NAMES = ["sub-a", "sub-b", "sub-c", "sub-d"]


def same_cases(first: Cohort, second: Cohort, *, label_values: dict[int, int] | None = None) -> None:
    """Hold two cohorts to the same subjects, images and structures."""
    ours, others = ({case["subject"]: case for case in cohort.cases} for cohort in (first, second))
    assert ours.keys() == others.keys()
    for subject, case in ours.items():
        pairs = list(zip(image_files(case), image_files(others[subject]), strict=True))
        for source, target in pairs:
            np.testing.assert_array_equal(voxels(Path(target)), voxels(Path(source)))
            np.testing.assert_array_equal(affine_of(Path(target)), affine_of(Path(source)))
        labels = np.asarray(nib.load(others[subject]["label"]).dataobj)
        if label_values is not None:
            labels = np.vectorize({0: 0, **label_values}.get)(labels)
        np.testing.assert_array_equal(labels, voxels(Path(case["label"])))
    assert first.schema is not None and second.schema is not None
    assert second.schema.names == first.schema.names


@pytest.mark.parametrize("channels", [(), ("t1n", "t2w")])
def test_nnunet(channels: tuple[str, ...], tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "real", NAMES, affines=list(AFFINES), channels=channels)
    export_cohort(cohort, tmp_path / "out", format="nnunet")
    back = read_cohort(tmp_path / "out")
    assert back.channels == channels
    values = dict(zip((1, 2, 3), map(int, SCHEMA), strict=True))
    same_cases(read_cohort(cohort), back, label_values=values)


def test_msd(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "real", NAMES, affines=list(AFFINES))
    export_cohort(cohort, tmp_path / "out", format="msd")
    first, second = read_cohort(cohort), read_cohort(tmp_path / "out", seed=7)
    same_cases(first, second)
    assert second.schema is not None and first.schema is not None
    assert second.schema.structures == first.schema.structures
    # The list for validation is that of the export, whatever the seed.
    assert [case["id"] for case in second.validation] == [case["id"] for case in first.validation]


@pytest.mark.parametrize("kind", ["int16", "float32"])
def test_msd_with_channels(kind: str, tmp_path: Path) -> None:
    """Channels in one file come back through `prepare`, each in a file of its own."""
    channels = ("t1n", "t2_w")
    names = [*NAMES, "sub-e"]
    cohort = write_cohort(tmp_path / "real", names, affines=list(AFFINES), channels=channels, kind=kind)
    export_cohort(cohort, tmp_path / "out", format="msd")
    (tmp_path / "key").write_bytes(b"0" * 32)
    (tmp_path / "table.csv").write_text("source,subject\n" + "".join(f"{each},{each}\n" for each in names))
    settings = PrepareOptions(key_file=tmp_path / "key", workers=1)
    result = prepare(tmp_path / "out", tmp_path / "back", table=tmp_path / "table.csv", options=settings)
    assert not result.refused, result.table()
    first, second = read_cohort(cohort), read_cohort(tmp_path / "back")
    assert second.channels == first.channels == channels
    assert {case["subject"] for case in second.validation} == {case["subject"] for case in first.validation}
    assert first.schema is not None and second.schema is not None
    assert second.schema.structures == first.schema.structures
    theirs = {case["subject"]: case for case in second.cases}
    assert theirs.keys() == {case["subject"] for case in first.cases}
    for case in first.cases:
        for key, is_label in (("image", False), ("label", True)):
            source, target = (
                LoadVolume(is_label=is_label)(one[key]) for one in (case, theirs[case["subject"]])
            )
            np.testing.assert_array_equal(target.numpy(), source.numpy())
            # float32 rounds the origin that turning an oblique volume to RAS gives.
            np.testing.assert_allclose(target.affine.numpy(), source.affine.numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("suffixes", [{}, {"": "T1w"}])
def test_bids(suffixes: dict[str, str], tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "real", NAMES, affines=list(AFFINES))
    export_cohort(cohort, tmp_path / "out", format="bids", options=ExportOptions(suffixes=suffixes))
    first, second = read_cohort(cohort), read_cohort(tmp_path / "out")
    same_cases(first, second)
    assert second.schema is not None and first.schema is not None
    assert second.schema.structures == first.schema.structures
    assert second.schema.colours.items() >= first.schema.colours.items()


def test_bids_with_channels(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "real", NAMES, channels=("t1n", "t2w"))
    export_cohort(cohort, tmp_path / "out", format="bids")
    back = read_cohort(tmp_path / "out", channels=("t1w", "t2w"))
    same_cases(read_cohort(cohort), back)


@pytest.mark.parametrize("enhanced", [False, True])
@pytest.mark.parametrize("affine", AFFINES)
def test_dicom(affine: str, enhanced: bool, tmp_path: Path) -> None:
    """A DICOM export comes back through `prepare`: image and segmentation find each other by reference."""
    pytest.importorskip("highdicom")
    cohort = write_cohort(tmp_path / "real", NAMES[:2], affines=[affine])
    options = ExportOptions(enhanced=enhanced, modality="MR")
    export_cohort(cohort, tmp_path / "out", format="dicom", options=options)
    (tmp_path / "key").write_bytes(b"0" * 32)
    (tmp_path / "table.csv").write_text("source,subject\nsub-a,sub-a\nsub-b,sub-b\n")
    settings = PrepareOptions(labels=tmp_path / "out" / "labels.json", key_file=tmp_path / "key", workers=1)
    result = prepare(tmp_path / "out", tmp_path / "back", table=tmp_path / "table.csv", options=settings)
    assert not result.refused, result.table()
    first, second = read_cohort(cohort), read_cohort(tmp_path / "back")
    theirs = {case["subject"]: case for case in second.cases}
    assert first.schema is not None and second.schema is not None
    assert second.schema.structures == first.schema.structures
    for case in first.cases:
        for key, is_label in (("image", False), ("label", True)):
            source, target = (
                LoadVolume(is_label=is_label)(one[key]) for one in (case, theirs[case["subject"]])
            )
            np.testing.assert_array_equal(target.numpy(), source.numpy())
            np.testing.assert_allclose(target.affine.numpy(), source.affine.numpy(), atol=1e-4)
