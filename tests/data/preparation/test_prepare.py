from __future__ import annotations

import gzip
import json
import logging
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import uid

from medldm.data.cohort import read_cohort
from medldm.data.preparation.prepare import PrepareOptions, prepare
from tests.data.dicom.dicom_cases import (
    CASES,
    Geometry,
    canonical,
    make_slices,
    save,
    stored_voxels,
    truth_of,
)

BY_NAME = {case.name: case for case in CASES}


@pytest.fixture
def options(tmp_path: Path) -> PrepareOptions:
    return PrepareOptions(key_file=tmp_path / "secret" / "identity.key", workers=1, progress=False)


def changed(options: PrepareOptions, **values: object) -> PrepareOptions:
    return PrepareOptions(**{**options.__dict__, **values})


def add_series(folder: Path, patient: str, *, seed: int = 0, n_slices: int = 6) -> np.ndarray:
    stored = stored_voxels(n_slices=n_slices, seed=seed)
    slices = make_slices(stored)
    for dataset in slices:
        dataset.PatientID = patient
    save(slices, folder)
    return stored


def add_pair(folder: Path, name: str, *, seed: int = 0, values: tuple[int, ...] = (0, 1, 2)) -> None:
    rng = np.random.default_rng(seed)
    affine = np.diag([-1.0, 2.0, 1.5, 1.0])
    affine[:3, 3] = 12, -7, 3
    for kind, voxels in (
        ("images", rng.normal(100, 20, (8, 7, 6)).astype(np.float32)),
        ("labels", rng.choice(values, (8, 7, 6)).astype(np.uint8)),
    ):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(voxels, affine), folder / kind / f"{name}.nii.gz")


def all_files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_dicom_tree_becomes_a_cohort_that_reads_back(tmp_path: Path, options: PrepareOptions) -> None:
    truths = {
        patient: add_series(tmp_path / "in" / patient, patient, seed=k) for k, patient in enumerate("abc")
    }
    result = prepare(tmp_path / "in", tmp_path / "out", options=options)
    assert (result.exit_code, len(result.cases), result.n_validation) == (0, 3, 1)
    cohort = read_cohort(tmp_path / "out", require_labels=False)
    assert (len(cohort.training), len(cohort.validation)) == (2, 1)
    images = [nib.load(case["image"]) for case in cohort.cases]
    for stored in truths.values():
        voxels, affine = canonical(truth_of(stored))
        assert sum(np.array_equal(np.asarray(image.dataobj), voxels) for image in images) == 1
        np.testing.assert_allclose(images[0].affine, affine, atol=1e-4)
    assert all(image.get_data_dtype() == np.int16 for image in images)


def test_labels_are_paired_remapped_and_on_the_image_grid(tmp_path: Path, options: PrepareOptions) -> None:
    for seed in range(3):
        add_pair(tmp_path / "in", f"sub-{seed:02d}", seed=seed, values=(0, 3, 7, 9))
    remap = tmp_path / "remap.csv"
    remap.write_text("from,to,name,colour\n3,1,grey,#102030\n7,1,grey,\n9,0,,\n")
    result = prepare(tmp_path / "in", tmp_path / "out", options=changed(options, labels=remap))
    assert result.exit_code == 0
    labels = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert labels == {"1": {"name": "grey", "colour": "#102030"}}
    for case in read_cohort(tmp_path / "out").cases:
        image, label = nib.load(case["image"]), nib.load(case["label"])
        np.testing.assert_array_equal(image.affine, label.affine)
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
        assert label.get_data_dtype() == np.uint8 and set(np.unique(label.dataobj)) == {0, 1}


def test_label_map_beside_a_dicom_series_is_paired_by_place(tmp_path: Path, options: PrepareOptions) -> None:
    for k, patient in enumerate(("p1", "p2")):
        stored = add_series(tmp_path / "in" / patient / "series", patient, seed=k)
        label = (stored.transpose(2, 1, 0) > 0).astype(np.uint8)
        nib.save(nib.Nifti1Image(label, Geometry().affine()), tmp_path / "in" / patient / "label.nii.gz")
    result = prepare(tmp_path / "in", tmp_path / "out", options=options)
    assert result.exit_code == 0
    for case in read_cohort(tmp_path / "out").cases:
        image, label = nib.load(case["image"]), nib.load(case["label"])
        np.testing.assert_array_equal(np.asarray(image.dataobj) > 0, np.asarray(label.dataobj) == 1)


def test_table_gives_identifiers_classes_texts_scalars_and_split(
    tmp_path: Path, options: PrepareOptions
) -> None:
    for k, patient in enumerate(("p1", "p2", "p3")):
        add_series(tmp_path / "in" / f"{k}", patient, seed=k)
    table = tmp_path / "subjects.tsv"
    table.write_text(
        "source\tsubject\tclass\ttext\tage\tsex\tnote\tsplit\n"
        "p1\tS-01\tAD\tsmall hippocampus\t71.5\tF\tx\ttraining\n"
        "p2\tS-02\tCN\tNA\t\tmale\ty\tvalidation\n"
        "p3\tS-03\tAD\tfine\t60\tM\tz\ttraining\n"
    )
    options = changed(options, scalars=("age", "sex"))
    prepare(tmp_path / "in", tmp_path / "out", table=table, options=options)
    listed = json.loads((tmp_path / "out" / "cohort.json").read_text())
    assert listed["classes"] == {"AD": 0, "CN": 1}
    assert [case["id"] for case in listed["training"]] == ["S-01", "S-03"]
    assert listed["training"][0] == {
        "id": "S-01", "subject": "S-01", "image": "images/S-01.nii.gz", "class": 0,
        "text": "small hippocampus", "scalars": {"age": 71.5, "sex": 0.0},
    }  # fmt: skip
    assert listed["validation"] == [
        {"id": "S-02", "subject": "S-02", "image": "images/S-02.nii.gz", "class": 1, "scalars": {"sex": 1.0}}
    ]


def test_all_volumes_of_a_subject_are_in_one_split(tmp_path: Path, options: PrepareOptions) -> None:
    for k in range(12):
        add_series(tmp_path / "in" / f"{k}", f"patient {k // 3}", seed=k)
    result = prepare(tmp_path / "in", tmp_path / "out", options=changed(options, validation_fraction=0.5))
    listed = json.loads((tmp_path / "out" / "cohort.json").read_text())
    subjects = [{case["subject"] for case in listed[split]} for split in ("training", "validation")]
    assert not subjects[0] & subjects[1]
    assert (result.n_subjects, len(subjects[1]), len(listed["validation"])) == (4, 2, 6)
    assert len({case["id"] for split in ("training", "validation") for case in listed[split]}) == 12


def test_refusals_are_listed_with_reasons_and_the_rest_is_converted(
    tmp_path: Path, options: PrepareOptions
) -> None:
    for name in ("axial", "tilt", "colour", "localizer", "stray_files", "4d_time"):
        BY_NAME[name].build(tmp_path / "in" / name)
    add_pair(tmp_path / "in", "x")
    (tmp_path / "in" / "images" / "broken.nii.gz").write_bytes(b"\x1f\x8b\x08 no nifti")
    result = prepare(tmp_path / "in", tmp_path / "out", options=options)
    assert result.exit_code == 1
    assert len(result.cases) == 1 + 1 + 3 + 1
    assert sorted(one.reason.split(":")[0] for one in result.refused) == [
        "CorruptVolumeError",
        "colour",
        "gantry_tilt",
    ]
    assert result.passed_over["localizer series"] == 1 and result.passed_over["not DICOM"] == 3
    assert "gantry_tilt" in result.table() and "3 refused" in result.table()
    regularised = prepare(tmp_path / "in", tmp_path / "more", options=changed(options, regularise=True))
    assert len(regularised.refused) == 2
    assert any("resampled" in note for case in regularised.cases for note in case.notes)


def test_label_map_on_another_grid_or_with_unknown_values_is_refused(
    tmp_path: Path, options: PrepareOptions
) -> None:
    add_pair(tmp_path / "in", "moved")
    path = tmp_path / "in" / "labels" / "moved.nii.gz"
    image = nib.load(path)
    affine = image.affine.copy()
    affine[0, 3] += 0.1
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), path)
    add_pair(tmp_path / "in", "unknown", values=(0, 1, 200))
    add_pair(tmp_path / "in", "good", values=(0, 5))
    result = prepare(tmp_path / "in", tmp_path / "out", options=changed(options, labels="totalsegmentator"))
    reasons = sorted(one.reason for one in result.refused)
    assert "put a corner 0.1 mm apart" in reasons[0] and "label values 200" in reasons[1]
    assert json.loads((tmp_path / "out" / "labels.json").read_text())["5"]["name"] == "liver"
    assert len(list((tmp_path / "out" / "images").iterdir())) == 1


def test_running_again_continues_and_changes_nothing(
    tmp_path: Path, options: PrepareOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k in range(3):
        add_series(tmp_path / "in" / f"{k}", f"p{k}", seed=k)
    from medldm.data.preparation import cases

    calls = []
    read = cases.read_series

    def die_on_third(series, **settings):
        calls.append(series.number)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return read(series, **settings)

    monkeypatch.setattr(cases, "read_series", die_on_third)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "in", tmp_path / "out", options=options)
    assert len(list((tmp_path / "out" / "images").iterdir())) == 2
    assert len(prepare(tmp_path / "in", tmp_path / "out", options=options).cases) == 3
    assert len(calls) == 4
    before = all_files(tmp_path / "out")
    prepare(tmp_path / "in", tmp_path / "out", options=options)
    assert len(calls) == 4 and all_files(tmp_path / "out") == before


def test_killed_write_leaves_no_half_file_and_is_made_again(tmp_path: Path, options: PrepareOptions) -> None:
    add_series(tmp_path / "in", "p")
    prepare(tmp_path / "in", tmp_path / "out", options=options)
    (image,) = (tmp_path / "out" / "images").iterdir()
    good = image.read_bytes()
    image.unlink()
    (image.parent / ".writing-abc.nii.gz").write_bytes(good[:50])
    assert prepare(tmp_path / "in", tmp_path / "out", options=options).exit_code == 0
    assert [path.name for path in image.parent.iterdir()] == [image.name]
    np.testing.assert_array_equal(
        nib.load(image).get_fdata(), nib.Nifti1Image.from_bytes(gzip.decompress(good)).get_fdata()
    )


def test_changed_source_is_replaced_only_on_request(tmp_path: Path, options: PrepareOptions) -> None:
    add_pair(tmp_path / "in", "a", seed=1)
    prepare(tmp_path / "in", tmp_path / "out", options=options)
    before = all_files(tmp_path / "out" / "images")
    add_pair(tmp_path / "in", "a", seed=2)
    os.utime(tmp_path / "in" / "images" / "a.nii.gz", ns=(1, 1))
    result = prepare(tmp_path / "in", tmp_path / "out", options=options)
    assert result.exit_code == 1 and "overwrite" in result.refused[0].reason
    assert all_files(tmp_path / "out" / "images") == before
    assert prepare(tmp_path / "in", tmp_path / "out", options=changed(options, overwrite=True)).exit_code == 0
    after = all_files(tmp_path / "out" / "images")
    assert after.keys() == before.keys() and after != before


def test_foreign_files_are_not_overwritten(tmp_path: Path, options: PrepareOptions) -> None:
    add_series(tmp_path / "in", "p")
    table = tmp_path / "t.csv"
    table.write_text("subject,source\nS1,p\n")
    (tmp_path / "out" / "images").mkdir(parents=True)
    (tmp_path / "out" / "images" / "S1.nii.gz").write_bytes(b"precious")
    result = prepare(tmp_path / "in", tmp_path / "out", table=table, options=options)
    assert "not made by this command" in result.refused[0].reason
    assert (tmp_path / "out" / "images" / "S1.nii.gz").read_bytes() == b"precious"
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cohort.json").write_text("{}")
    with pytest.raises(ValueError, match="another origin"):
        prepare(tmp_path / "in", tmp_path / "out", options=options)


def test_nothing_is_written_outside_the_output(tmp_path: Path, options: PrepareOptions) -> None:
    add_series(tmp_path / "in", "p")
    for name in ("../evil", "a/b", ".hidden", "", "x" * 65, "a..b"):
        (tmp_path / "t.csv").write_text(f"source,subject\np,{name}\n")
        if name:
            with pytest.raises(ValueError, match="line 2"):
                prepare(tmp_path / "in", tmp_path / "out", table=tmp_path / "t.csv", options=options)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "images").symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(ValueError, match="leads elsewhere"):
        prepare(tmp_path / "in", tmp_path / "out", options=options)
    assert list(elsewhere.iterdir()) == []
    (tmp_path / "out" / "images").unlink()
    (tmp_path / "t.csv").write_text("source,subject\np,S1\n")
    (tmp_path / "out" / "images").mkdir()
    (elsewhere / "target").write_bytes(b"kept")
    (tmp_path / "out" / "images" / "S1.nii.gz").symlink_to(elsewhere / "target")
    result = prepare(
        tmp_path / "in", tmp_path / "out", table=tmp_path / "t.csv", options=changed(options, overwrite=True)
    )
    assert "leads elsewhere" in result.refused[0].reason and (elsewhere / "target").read_bytes() == b"kept"


@pytest.mark.parametrize("place", ["in", "in/out", "."])
def test_output_that_overlaps_the_input_is_refused(
    place: str, tmp_path: Path, options: PrepareOptions
) -> None:
    add_series(tmp_path / "in", "p")
    settings = changed(options, key_file=tmp_path.parent / f"{tmp_path.name}.key")
    with pytest.raises(ValueError, match="overlaps"):
        prepare(tmp_path / "in", tmp_path / place, options=settings)


@pytest.mark.slow
def test_parallel_run_equals_serial_run(tmp_path: Path, options: PrepareOptions) -> None:
    for k in range(3):
        add_pair(tmp_path / "in", f"c{k}", seed=k)
    prepare(tmp_path / "in", tmp_path / "one", options=options)
    prepare(tmp_path / "in", tmp_path / "two", options=changed(options, workers=2))
    assert all_files(tmp_path / "one") == all_files(tmp_path / "two")


MARKS = [f"Zq{number:02d}Mark" for number in range(24)]


def build_marked_input(folder: Path) -> None:
    """Plant marks in headers, names of folders and files, and NIfTI headers and extensions."""
    texts = iter(MARKS)
    slices = make_slices(stored_voxels(seed=3))
    keywords = (
        "PatientName", "PatientID", "PatientAddress", "InstitutionName", "StudyDescription",
        "SeriesDescription", "ReferringPhysicianName", "AccessionNumber", "StudyID", "OperatorsName",
        "ProtocolName", "StationName", "PatientComments", "ImageComments", "DeviceSerialNumber",
        "IssuerOfPatientID",
    )  # fmt: skip
    values = {keyword: next(texts) for keyword in keywords}
    private, preamble, folder_name, file_name = next(texts), next(texts), next(texts), next(texts)
    for dataset in slices:
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
        dataset.PatientBirthDate, dataset.StudyDate = "19470311", "20190817"
        dataset.private_block(0x0019, "MARKED", create=True).add_new(0x10, "LO", private)
        dataset.preamble = preamble.encode().ljust(128, b"\0")
    tilted = make_slices(
        stored_voxels(), positions=Geometry().positions(6) + np.outer(np.arange(6), [0, 1, 0])
    )
    for dataset in tilted:
        dataset.PatientID = values["PatientID"]
        dataset.PatientName = values["PatientName"]
    save(slices, folder / folder_name, prefix=file_name)
    save(tilted, folder / folder_name / "tilted", prefix=file_name)
    broken = make_slices(stored_voxels())
    for dataset in broken:
        dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        dataset.PatientName = values["PatientName"]
    for path in save(broken, folder / f"{folder_name} broken", prefix=file_name):
        path.write_bytes(path.read_bytes()[:-20])
    image_name, description, auxiliary, comment = next(texts), next(texts), next(texts), next(texts)
    for kind, voxels in (("images", np.random.rand(6, 5, 4)), ("labels", np.ones((6, 5, 4)))):
        image = nib.Nifti1Image(voxels.astype(np.float32), np.eye(4))
        image.header["descrip"], image.header["aux_file"] = description, auxiliary
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", comment.encode()))
        (folder / folder_name / kind).mkdir(parents=True, exist_ok=True)
        nib.save(image, folder / folder_name / kind / f"{image_name}.nii.gz")
    (folder / folder_name / "images" / f"{file_name}.nii.gz").write_bytes(b"broken")
    (folder / folder_name / "labels" / f"{file_name}x.nii.gz").write_bytes(b"lost")


@pytest.mark.slow
def test_no_identity_reaches_any_output_or_log_line(
    tmp_path: Path,
    options: PrepareOptions,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    build_marked_input(tmp_path / "in")
    result = prepare(
        tmp_path / "in", tmp_path / "out", options=changed(options, workers=2, progress=True, overwrite=True)
    )
    assert len(result.cases) == 2 and len(result.refused) == 4
    from medldm.data.checks import check_cohort

    issues = check_cohort(read_cohort(tmp_path / "out", require_labels=False, strict=False), full=True)
    printed = capfd.readouterr()
    said = [caplog.text, printed.out, printed.err, repr(result), result.table(), repr(issues)]
    written = all_files(tmp_path / "out")
    said += [*written, *(content.decode("latin-1") for content in written.values())]
    said += [
        gzip.decompress(content).decode("latin-1")
        for name, content in written.items()
        if name.endswith(".gz")
    ]
    text = "\n".join(said).lower()
    found = [mark for mark in (*MARKS, "19470311", "20190817", str(tmp_path / "in")) if mark.lower() in text]
    assert found == []


def test_planted_marks_would_be_found(tmp_path: Path) -> None:
    build_marked_input(tmp_path)
    files = all_files(tmp_path)
    text = "\n".join(
        name + (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode("latin-1")
        for name, content in files.items()
    )
    assert [mark for mark in (*MARKS, "19470311", "20190817") if mark not in text] == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"min_slices": 1}, "min_slices"),
        ({"workers": 0}, "workers"),
    ],
)
def test_options_out_of_bounds_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrepareOptions(**values)
