"""What holds for every layout: outputs, names, real and synthetic kept apart, nothing half done."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from medldm.cli.main import main
from medldm.data.cohort import read_cohort
from medldm.data.export import FORMATS, ExportOptions, export_cohort
from medldm.data.export.cases import gather_cases
from medldm.data.issues import CohortError
from medldm.errors import ConfigError, OutputExistsError
from tests.data.export.export_cases import (
    AFFINES,
    SCHEMA,
    affine_of,
    label_map,
    save,
    voxels,
    write_cohort,
    write_synthetic,
)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("format", FORMATS)
def test_synthetic_cases_are_kept_apart_and_marked(format: str, tmp_path: Path) -> None:
    write_cohort(tmp_path / "real", ["a", "b", "c"])
    write_synthetic(tmp_path / "made")
    result = export_cohort(tmp_path / "real", tmp_path / "out", format=format, synthetic=[tmp_path / "made"])
    assert (result.n_real, result.n_synthetic) == (3, 2)
    content = json.loads((tmp_path / "out" / "export.json").read_text())
    assert {case["id"]: case["synthetic"] for case in content["cases"]} == {
        "a": False,
        "b": False,
        "c": False,
        "synthetic_0000": True,
        "synthetic_0001": True,
    }
    assert content["sidecars"]["synthetic_0001"]["index"] == 1
    # No file of a synthetic case bears a name that does not say so.
    made = {path.name for path in (tmp_path / "made" / "images").iterdir()}
    for path in (tmp_path / "out").rglob("*"):
        for name in made:
            source = tmp_path / "made" / "images" / name
            if path.is_file() and path.read_bytes() == source.read_bytes():
                assert "synthetic" in str(path.relative_to(tmp_path / "out"))


@pytest.mark.parametrize("format", FORMATS)
def test_an_export_made_twice_is_the_same_to_the_bit(format: str, tmp_path: Path) -> None:
    write_cohort(tmp_path / "real", ["a", "b"], affines=["oblique"], kind="float32")
    write_synthetic(tmp_path / "made", 1)
    for name in ("one", "two"):
        export_cohort(tmp_path / "real", tmp_path / name, format=format, synthetic=[tmp_path / "made"])
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_a_folder_of_generate_alone_is_all_synthetic(tmp_path: Path) -> None:
    made = write_synthetic(tmp_path / "made", 3)
    assert all(case.is_synthetic for case in gather_cases(made, synthetic=[], options=ExportOptions()).cases)
    # Without sidecars their names still say so; they never pass for real cases.
    for path in (made / "sidecars").iterdir():
        path.unlink()
    assert all(case.is_synthetic for case in gather_cases(made, synthetic=[], options=ExportOptions()).cases)


def test_cases_named_synthetic_by_the_user_get_the_name(tmp_path: Path) -> None:
    write_cohort(tmp_path / "real", ["a", "b"])
    write_cohort(tmp_path / "made", ["a", "x"], first_seed=50)
    cases = gather_cases(tmp_path / "real", synthetic=[tmp_path / "made"], options=ExportOptions())
    assert [case.id for case in cases.cases] == ["a", "b", "synthetic_a", "synthetic_x"]
    assert all(case.split == "training" for case in cases.synthetic)
    assert {case.subject for case in cases.synthetic}.isdisjoint({"a", "b"})


def test_two_synthetic_cohorts_of_the_same_names_are_refused(tmp_path: Path) -> None:
    write_cohort(tmp_path / "real", ["a", "b"])
    for name in ("one", "two"):
        write_synthetic(tmp_path / name)
    with pytest.raises(ConfigError, match="2 names stand for more than one case, such as synthetic_0000"):
        export_cohort(
            tmp_path / "real",
            tmp_path / "out",
            format="nnunet",
            synthetic=[tmp_path / "one", tmp_path / "two"],
        )


def test_one_value_of_two_meanings_is_refused(tmp_path: Path) -> None:
    write_cohort(tmp_path / "real", ["a", "b"])
    write_synthetic(tmp_path / "made")
    other = SCHEMA | {"7": {"name": "spleen"}}
    (tmp_path / "made" / "labels.json").write_text(json.dumps(other))
    with pytest.raises(ConfigError, match="value 7 is 'liver' in one cohort and 'spleen' in another"):
        export_cohort(tmp_path / "real", tmp_path / "out", format="msd", synthetic=[tmp_path / "made"])
    assert not (tmp_path / "out").exists()


def test_colours_of_the_real_cohort_are_those_of_the_synthetic_one(tmp_path: Path) -> None:
    write_cohort(tmp_path / "real", ["a", "b"])
    write_synthetic(tmp_path / "made")
    names = {value: entry["name"] for value, entry in SCHEMA.items()}
    (tmp_path / "made" / "labels.json").write_text(json.dumps(names))
    export_cohort(tmp_path / "made", tmp_path / "out", format="slicer", synthetic=[tmp_path / "real"])
    assert json.loads((tmp_path / "out" / "labels.json").read_text()) == SCHEMA


@pytest.mark.parametrize("format", FORMATS)
def test_a_fault_of_the_cohort_ends_before_anything_is_written(format: str, tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "real", ["a", "b", "c"])
    save(cohort / "labels" / "b.nii.gz", label_map(1), AFFINES["las"])
    with pytest.raises(CohortError, match=r"b\.nii\.gz"):
        export_cohort(cohort, tmp_path / "out", format=format)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["real"]


def test_an_undeclared_value_is_refused(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "real", ["a", "b"])
    save(cohort / "labels" / "b.nii.gz", np.full((9, 11, 7), 4, np.uint8), AFFINES["ras"])
    with pytest.raises(CohortError, match="label values 4 are not declared"):
        export_cohort(cohort, tmp_path / "out", format="nnunet")


def test_an_output_in_use_is_left_alone(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "real", ["a", "b"])
    (tmp_path / "out").mkdir()
    export_cohort(cohort, tmp_path / "out", format="msd")
    with pytest.raises(OutputExistsError, match="holds an earlier export"):
        export_cohort(cohort, tmp_path / "out", format="msd")
    export_cohort(cohort, tmp_path / "out", format="nnunet", options=ExportOptions(overwrite=True))
    assert (tmp_path / "out" / "splits_final.json").is_file()
    assert not list(tmp_path.glob(".writing-*"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputExistsError, match="not by an earlier export"):
        export_cohort(cohort, tmp_path / "mine", format="msd", options=ExportOptions(overwrite=True))
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


def test_a_failed_replacement_keeps_the_earlier_export(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "real", ["a", "b"])
    export_cohort(cohort, tmp_path / "out", format="msd")
    before = files_of(tmp_path / "out")
    (cohort / "images" / "b.nii.gz").write_bytes(b"damaged")
    with pytest.raises(CohortError):
        export_cohort(cohort, tmp_path / "out", format="msd", options=ExportOptions(overwrite=True))
    assert files_of(tmp_path / "out") == before


@pytest.mark.parametrize("place", ["real/out", "real", "."])
def test_an_output_that_overlaps_the_cohort_is_refused(place: str, tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "real", ["a", "b"])
    with pytest.raises(ConfigError, match="overlaps the cohort"):
        export_cohort(cohort, tmp_path / place, format="msd", options=ExportOptions(overwrite=True))


@pytest.mark.parametrize("link", ["copy", "hard", "symbolic"])
def test_files_that_are_right_are_not_written_anew(link: str, tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "real", ["a", "b"], affines=["oblique"])
    export_cohort(cohort, tmp_path / "out", format="msd", options=ExportOptions(link=link))
    for part, folder in (("images", "imagesTr"), ("labels", "labelsTr")):
        source, target = cohort / part / "a.nii.gz", tmp_path / "out" / folder / "a.nii.gz"
        assert target.read_bytes() == source.read_bytes()
        assert source.samefile(target) == (link != "copy")
        assert target.is_symlink() == (link == "symbolic")


def test_other_formats_and_doubtful_headers_are_written_anew(tmp_path: Path) -> None:
    import nibabel as nib
    import SimpleITK as sitk

    cohort = write_cohort(tmp_path / "real", ["a", "b", "c", "d"], affines=["las"])
    source = nib.load(cohort / "images" / "a.nii.gz")
    sitk.WriteImage(sitk.ReadImage(str(cohort / "images" / "b.nii.gz")), str(cohort / "images" / "b.nrrd"))
    (cohort / "images" / "b.nii.gz").unlink()
    nib.save(nib.load(cohort / "images" / "c.nii.gz"), cohort / "images" / "c.nii")
    before = voxels(cohort / "images" / "c.nii")
    (cohort / "images" / "c.nii.gz").unlink()
    # sform and qform of d differ by 3 mm: tools disagree on which one holds.
    doubtful = nib.Nifti1Image(np.asarray(source.dataobj) + np.int16(1), None)
    doubtful.set_sform(AFFINES["las"], code=1)
    moved = AFFINES["las"].copy()
    moved[0, 3] += 3
    doubtful.set_qform(moved, code=1)
    nib.save(doubtful, cohort / "images" / "d.nii.gz")
    export_cohort(cohort, tmp_path / "out", format="msd")
    out = tmp_path / "out" / "imagesTr"
    np.testing.assert_array_equal(voxels(out / "c.nii.gz"), before)
    for name in "abcd":
        np.testing.assert_array_equal(affine_of(out / f"{name}.nii.gz"), AFFINES["las"])
    written = nib.load(out / "d.nii.gz")
    np.testing.assert_allclose(written.get_qform(), written.get_sform(), atol=1e-6)


@pytest.mark.parametrize("link", ["copy", "symbolic"])
@pytest.mark.parametrize("format", ["nnunet", "msd", "bids", "slicer"])
def test_no_text_of_a_header_leaves(format: str, link: str, tmp_path: Path) -> None:
    import nibabel as nib

    cohort = write_cohort(tmp_path / "real", ["a", "b", "c", "d"])
    before = {name: voxels(cohort / "images" / f"{name}.nii.gz") for name in "abcd"}
    for file in (cohort / "images" / "a.nii.gz", cohort / "labels" / "a.nii.gz"):
        described = nib.load(file)
        described.header["descrip"] = b"Doe^Jane"
        nib.save(described, file)
    extended = nib.load(cohort / "images" / "b.nii.gz")
    extended.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Doe^Jane"))
    nib.save(extended, cohort / "images" / "b.nii.gz")
    plain = gzip.decompress((cohort / "images" / "c.nii.gz").read_bytes())
    with (
        (cohort / "images" / "c.nii.gz").open("wb") as raw,
        gzip.GzipFile("Doe^Jane.nii", "wb", fileobj=raw) as file,
    ):
        file.write(plain)
    export_cohort(cohort, tmp_path / "out", format=format, options=ExportOptions(link=link))
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    for path in files:
        content = path.read_bytes()
        opened = gzip.decompress(content) if path.name.endswith(".gz") else content
        assert b"Jane" not in content
        assert b"Jane" not in opened
    images = sorted(path for path in files if path.name.endswith(".nii.gz") and is_image(path))
    for path, name in zip(images, "abcd", strict=True):
        np.testing.assert_array_equal(voxels(path), before[name])


def is_image(path: Path) -> bool:
    return "label" not in path.as_posix().rsplit("/out/", 1)[1]


def test_the_modality_is_seen_or_said(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "real", ["a", "b"])
    assert gather_cases(cohort, synthetic=[], options=ExportOptions()).modality == "MR"
    assert gather_cases(cohort, synthetic=[], options=ExportOptions(modality="CT")).modality == "CT"
    for name in "ab":
        image = voxels(cohort / "images" / f"{name}.nii.gz").copy()
        image[0] = -1000
        save(cohort / "images" / f"{name}.nii.gz", image, AFFINES["ras"])
    assert gather_cases(cohort, synthetic=[], options=ExportOptions()).modality == "CT"


def test_cases_of_a_datalist_keep_their_subjects_and_lists(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "real", ["a1", "a2", "b"])
    entries = [
        {"id": name, "subject": name[0], "image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz"}
        for name in ("a1", "a2", "b")
    ]
    (cohort / "cohort.json").write_text(json.dumps({"training": entries[:2], "validation": entries[2:]}))
    cases = gather_cases(cohort, synthetic=[], options=ExportOptions()).cases
    assert [(case.id, case.subject, case.split) for case in cases] == [
        ("a1", "a", "training"),
        ("a2", "a", "training"),
        ("b", "b", "validation"),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "nifti"], "format is 'nifti'; allowed are nnunet, msd, bids, slicer, dicom"),
        (["--format", "msd", "--link", "soft"], "link is 'soft'; allowed are copy, hard, symbolic"),
        (["--format", "msd", "--modality", "PET"], "modality is 'PET'; allowed are CT, MR"),
        (["--format", "bids", "--suffix", "T1 w"], "the suffix 'T1 w' is none of BIDS"),
        (["--format", "bids", "--suffix", "t1=T1w"], "a suffix is given for the channel 't1'"),
    ],
)
def test_bad_options_end_in_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort = write_cohort(tmp_path / "real", ["a", "b"])
    assert main(["export", str(cohort), str(tmp_path / "out"), *options]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cohort = write_cohort(tmp_path / "real", ["a", "b", "c"])
    assert main(["export", str(cohort), str(tmp_path / "Dataset007_Organs"), "--format", "nnunet"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("3 real and 0 synthetic cases in ")
    assert "label values became 1 to K" in said


def test_channels_can_be_chosen(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "real", ["a", "b"], channels=["t1n", "t2w"])
    assert read_cohort(cohort).channels == ("t1n", "t2w")
    cases = gather_cases(cohort, synthetic=[], options=ExportOptions(channels=("t2w",)))
    assert cases.channels == ("t2w",)
    assert [path.name for path in cases.cases[0].images] == ["a_t2w.nii.gz"]


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "real", ["a", "b"])
    shutil.copytree(cohort / "images", cohort / "condition_images")
    (cohort / "condition_images" / "b.nii.gz").unlink()
    result = export_cohort(cohort, tmp_path / "out", format="slicer")
    assert "the condition images of 1 cases are left out" in result.notes


def test_conditions_of_the_cases_stand_in_the_list(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "real", ["a", "b"])
    entries = [
        {"id": name, "image": f"images/{name}.nii.gz", "scalars": {"age": 40}, "text": "calm"}
        for name in "ab"
    ]
    (cohort / "cohort.json").write_text(json.dumps({"training": entries[:1], "validation": entries[1:]}))
    export_cohort(cohort, tmp_path / "out", format="slicer")
    cases = json.loads((tmp_path / "out/export.json").read_text())["cases"]
    assert [case["conditions"] for case in cases] == [{"scalars": {"age": 40}, "text": "calm"}] * 2
