"""No scan gets another's label map, no person lies in both splits, no structure another's name."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medldm.data import check_cohort, read_cohort, run_check
from medldm.data.preparation.prepare import PrepareOptions, prepare
from medldm.data.preparation.result import PrepareResult
from tests.data.dicom.dicom_cases import make_slices, save, stored_voxels
from tests.data.layouts.made import AFFINE, image_of, labels_of, make_nnunet, write


class Run:
    """A preparation of tmp_path/in into tmp_path/out."""

    def __init__(self, folder: Path) -> None:
        self.source, self.output, self.folder = folder / "in", folder / "out", folder

    def image(self, *names: str) -> None:
        for name in names:
            write(self.source / f"{name}.nii.gz", image_of(abs(hash(name)) % 2**32))

    def label(self, *names: str, seed: int = 0) -> None:
        for name in names:
            write(self.source / f"{name}.nii.gz", labels_of(seed))

    def mask(self, name: str, value: int, *, seed: int = 0) -> None:
        write(self.source / f"{name}.nii.gz", (labels_of(seed) == value).astype(np.uint8))

    def table(self, text: str) -> Path:
        (self.folder / "table.csv").write_text(text)
        return self.folder / "table.csv"

    def __call__(self, table: Path | None = None, **options: object) -> PrepareResult:
        settings = {"key_file": self.folder / "secret" / "key", "workers": 1, "progress": False, **options}
        return prepare(self.source, self.output, table=table, options=PrepareOptions(**settings))  # type: ignore[arg-type]

    @property
    def subjects(self) -> dict[str, str]:
        return {case["id"]: case["subject"] for case in read_cohort(self.output, require_labels=False).cases}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_a_map_left_over_is_refused_and_given_to_nobody(run: Run) -> None:
    run.image("images/a", "images/b", "images/c")
    run.label("labels/a", "labels/b", "labels/d")
    result = run()
    assert result.exit_code == 1
    assert [case.has_label for case in result.cases].count(True) == 2
    assert len(result.refused) == 1 and "name both alike" in result.refused[0].reason


def test_a_map_alone_with_an_image_is_paired_listed_and_counted(run: Run) -> None:
    run.image("s1/mr", "s2/mr")
    run.label("s1/seg/expert", "s2/s2_seg")
    result = run()
    assert result.exit_code == 0 and all(case.has_label for case in result.cases)
    (remark,) = [text for text in result.remarks if "beside" in text]
    assert remark.startswith("1 label map") and any(case.id in remark for case in result.cases)
    assert remark in json.loads((run.output / "prepare.json").read_text())["remarks"]


def test_the_table_pairs_what_names_do_not(run: Run) -> None:
    run.image("images/a", "images/b")
    run.label("labels/one", "labels/two")
    table = run.table("source,label\na,labels/two.nii.gz\nb,one.nii.gz\n")
    result = run(table)
    assert result.exit_code == 0 and all(case.has_label for case in result.cases)


def test_a_map_that_the_table_names_twice_or_that_is_not_there_is_refused(run: Run) -> None:
    run.image("images/a", "images/b")
    run.label("labels/one")
    with pytest.raises(ValueError, match="one label map to two images"):
        run(run.table("source,label\na,one.nii.gz\nb,one.nii.gz\n"))
    with pytest.raises(ValueError, match="0 files") as caught:
        run(run.table("source,label\na,secret.nii.gz\n"))
    assert "secret" not in str(caught.value)
    assert not run.output.exists()


def test_two_maps_of_one_image_are_refused(run: Run) -> None:
    run.image("p/ct")
    run.label("p/ct_seg", "p/ct_label")
    result = run()
    assert result.cases == () and "2 label maps claim it" in result.refused[0].reason


@pytest.mark.parametrize("form", ["{p}/{p}-{c}", "{p}_{c}", "{c}/{p}", "{p}/{c}", "{p}/scan_{c}"])
def test_contrasts_are_cases_of_one_subject_in_one_split(form: str, run: Run) -> None:
    contrasts = ("t1n", "t1c", "t2w", "t2f")
    for number in range(6):
        for contrast in contrasts:
            run.image(form.format(p=f"P{number:02d}", c=contrast))
    result = run(validation_fraction=0.5)
    assert (len(result.cases), result.n_subjects) == (24, 6)
    cohort = read_cohort(run.output, require_labels=False)
    sides = [{case["subject"] for case in part} for part in (cohort.training, cohort.validation)]
    assert not sides[0] & sides[1] and len(sides[1]) == 3
    assert any("--channels t1c,t1n,t2f,t2w" in remark for remark in result.remarks)
    assert {case["id"].rpartition("_")[2] for case in cohort.cases} == set(contrasts)


def test_numbered_channels_are_one_subject(run: Run) -> None:
    run.image("x_0000", "x_0001")
    assert run().n_subjects == 1


def test_channels_join_contrasts_and_name_missing_ones(run: Run) -> None:
    for number in range(3):
        run.image(f"P{number}/P{number}-t1n", f"P{number}/P{number}-t2f", f"P{number}/P{number}-t1c")
        run.label(f"P{number}/P{number}-seg", seed=number)
    (run.source / "P1" / "P1-t1n.nii.gz").unlink()
    result = run(channels=("t2f", "t1n"))
    assert len(result.cases) == 2 and "lacks t1n" in result.refused[0].reason
    cohort = read_cohort(run.output)
    assert cohort.channels == ("t2f", "t1n")
    for case in cohort.cases:
        assert [Path(file).name for file in case["image"]] == [
            f"{case['id']}_t2f.nii.gz", f"{case['id']}_t1n.nii.gz",
        ]  # fmt: skip
        assert Path(case["label"]).name == f"{case['id']}.nii.gz"
    dropped = run(channels=("t2f", "t1n"), drop_incomplete=True)
    assert dropped.exit_code == 0
    assert any(remark.startswith("1 cases that lack a contrast") for remark in dropped.remarks)


def test_channels_on_two_grids_are_refused(run: Run) -> None:
    run.image("P/P-t1n")
    write(run.source / "P/P-t2f.nii.gz", image_of(1), AFFINE + np.array([[0, 0, 0, 1.0], *[[0] * 4] * 3]))
    assert "channel t2f" in run(channels=("t1n", "t2f")).refused[0].reason


@pytest.mark.parametrize(
    "names", [("a_1", "a_2", "b_1"), ("a/one", "a/two", "b/one"), ("x/p1/ct", "x/p2/ct", "y/p3/ct")]
)
def test_unsure_subjects_are_asked_about_before_anything_is_written(names: tuple[str, ...], run: Run) -> None:
    run.image(*names)
    with pytest.raises(ValueError, match="--subject-from") as caught:
        run()
    assert all(part not in str(caught.value) for name in names for part in (name, f"{name}.nii.gz"))
    assert not run.output.exists()
    assert run(subject_from="name").n_subjects >= 2
    rows = "".join(f"{name}.nii.gz,S{number // 2}\n" for number, name in enumerate(names))
    assert run(run.table(f"source,subject\n{rows}"), overwrite=True).n_subjects == 2


def test_masks_of_a_case_merge_by_name_with_one_value_in_the_cohort(run: Run) -> None:
    for number in range(3):
        run.image(f"s{number}/ct")
        run.mask(f"s{number}/segmentations/spleen", 2, seed=number)
        if number != 1:
            run.mask(f"s{number}/segmentations/liver", 1, seed=number)
    result = run()
    assert result.exit_code == 0
    assert "liver has no mask in 1 of 3 cases and is absent there" in result.remarks
    labels = json.loads((run.output / "labels.json").read_text())
    assert labels == {"1": {"name": "liver"}, "2": {"name": "spleen"}}
    found = {np.asarray(nib.load(case["label"]).dataobj).tobytes() for case in read_cohort(run.output).cases}
    canonical = [
        np.asarray(nib.as_closest_canonical(nib.Nifti1Image(labels_of(n), AFFINE)).dataobj) for n in range(3)
    ]
    canonical[1] = canonical[1] * (canonical[1] == 2)
    assert found == {array.tobytes() for array in canonical}


def test_masks_take_the_values_of_the_label_table(run: Run) -> None:
    run.image("s/ct")
    run.mask("s/segmentations/liver", 1)
    run.mask("s/segmentations/spleen", 2)
    run(labels="totalsegmentator")
    assert set(json.loads((run.output / "labels.json").read_text())) == {"1", "5"}


def test_overlapping_masks_are_refused_or_resolved(run: Run) -> None:
    run.image("s/ct")
    run.mask("s/masks/liver", 1)
    write(run.source / "s/masks/tumour.nii.gz", (labels_of(0) > 0).astype(np.uint8))
    reason = run().refused[0].reason
    assert "liver and tumour overlap in" in reason and "--priority" in reason
    assert run(priority=("tumour",)).exit_code == 0


def test_a_map_of_values_among_masks_or_beside_them_is_refused(run: Run) -> None:
    run.image("s/ct")
    run.mask("s/masks/liver", 1)
    run.label("s/masks/organs")
    assert "organs holds 3 values" in run().refused[0].reason
    run.image("t/ct")
    run.mask("t/masks/liver", 1)
    run.mask("t/masks/spleen", 2)
    run.label("t/t_seg")
    assert any("masks of single structures" in one.reason for one in run(overwrite=True).refused)


def test_cases_of_values_and_cases_of_masks_need_a_table_of_both(run: Run) -> None:
    run.image("s/ct", "t/ct")
    run.mask("s/masks/liver", 1)
    run.mask("s/masks/spleen", 2)
    run.label("t/t_seg")
    with pytest.raises(ValueError, match="label table"):
        run()
    (run.folder / "names.json").write_text('{"1": "liver", "2": "spleen"}')
    assert run(labels=run.folder / "names.json").exit_code == 0


def test_a_new_structure_that_shifts_the_values_makes_cases_anew(run: Run) -> None:
    run.image("s/ct", "t/ct")
    for case in "st":
        run.mask(f"{case}/masks/liver", 1)
        run.mask(f"{case}/masks/spleen", 2)
    assert run().exit_code == 0
    run.image("u/ct")
    run.mask("u/masks/liver", 1)
    run.mask("u/masks/brain_stem", 2)
    assert [one.reason for one in run().refused if "overwrite" in one.reason]
    assert run(overwrite=True).exit_code == 0
    assert len({case["id"] for case in read_cohort(run.output).cases}) == 3


def test_a_mask_is_not_taken_for_an_image(run: Run) -> None:
    run.image("ct")
    run.mask("tumour_of_the_other_side", 1)
    assert "nothing but 0 and 1" in run(subject_from="name").refused[0].reason


def test_names_of_contrasts_and_patients_stay_out_of_messages(run: Run) -> None:
    run.image("Smith/Smith-t1n", "Smith/Smith-t2f")
    run.label("Jones/expert_seg")
    result = run()
    said = result.table() + json.dumps(result.to_dict())
    assert "Smith" not in said and "Jones" not in said and "expert" not in said


# medldm check on cohorts into which the faults are built


def errors_of(root: Path) -> list[str]:
    issues = check_cohort(read_cohort(root, require_labels=False, strict=False), full=True)
    return [f"{issue.check} {issue.file}: {issue.message}" for issue in issues if issue.severity == "error"]


def write_list(root: Path, training: list[dict], validation: list[dict] | None = None) -> None:
    content = {"training": training} | ({"validation": validation} if validation else {})
    (root / "cohort.json").write_text(json.dumps(content))


def entry(image: str, label: str | None = None, **more: object) -> dict:
    files = {"image": f"{image}.nii.gz"} | ({"label": f"{label}.nii.gz"} if label else {})
    return files | more


def test_check_finds_the_map_of_another_case(run: Run) -> None:
    run.image("images/c1", "images/c2", "images/c3")
    run.label("labels/c1", "labels/c2", "labels/c4")
    write_list(run.source, [entry(f"images/c{n}", f"labels/c{4 if n == 3 else n}") for n in (1, 2, 3)])
    assert any("labels/c4" in text and "another case" in text for text in errors_of(run.source))
    write_list(run.source, [entry(f"images/c{n}", f"labels/c{n % 2 + 1}") for n in (1, 2)])
    assert len([text for text in errors_of(run.source) if "another case" in text]) == 2
    assert run_check(run.source)[1] == 1


def test_check_finds_one_map_of_two_subjects(run: Run) -> None:
    run.image("images/x", "images/y")
    run.label("labels/both")
    write_list(run.source, [entry("images/x", "labels/both"), entry("images/y", "labels/both")])
    assert any("label map of 2 subjects" in text for text in errors_of(run.source))


def test_check_finds_leftovers_of_the_own_layout(run: Run) -> None:
    run.image("images/a", "images/b", "images/C")
    run.label("labels/a", "labels/b", "labels/c")
    with pytest.raises(ValueError, match="labels/c") as caught:
        read_cohort(run.source)
    assert "upper and lower case" in str(caught.value)


def test_check_finds_contrasts_of_one_person_in_both_splits(run: Run) -> None:
    run.image("images/P01-t1n", "images/P01-t2f", "images/P02-t1n")
    write_list(run.source, [entry("images/P01-t1n"), entry("images/P02-t1n")], [entry("images/P01-t2f")])
    assert any("subject leak P01" in text for text in errors_of(run.source))
    told_apart = [entry("images/P01-t1n", subject="A"), entry("images/P02-t1n", subject="B")]
    write_list(run.source, told_apart, [entry("images/P01-t2f", subject="C")])
    text, _ = run_check(run.source)
    assert "it is one person" in text


def test_contrasts_in_images_are_of_one_subject_and_unsure_names_are_asked_about(run: Run) -> None:
    run.image(*(f"images/P0{n}-{contrast}" for n in range(4) for contrast in ("t1n", "t2f")))
    cohort = read_cohort(run.source, require_labels=False, validation_fraction=0.5)
    sides = [{Path(case["image"]).name[:3] for case in part} for part in (cohort.training, cohort.validation)]
    assert not sides[0] & sides[1]
    run.image("images/P09_1", "images/P09_2")
    with pytest.raises(ValueError, match=r"unsure.*subjects\.csv"):
        read_cohort(run.source, require_labels=False)
    (run.source / "subjects.csv").write_text("source,subject\nP09_1,P09\nP09_2,P09\n")
    cohort = read_cohort(run.source, require_labels=False)
    assert {case["subject"] for case in cohort.cases if case["id"].startswith("P09")} == {"P09"}


def test_check_finds_one_of_several_masks_as_label_map(run: Run) -> None:
    run.image("s01/ct")
    run.mask("s01/segmentations/liver", 1)
    run.mask("s01/segmentations/spleen", 2)
    write_list(run.source, [entry("s01/ct", "s01/segmentations/liver", id="s01")])
    assert any("one of 2 masks" in text for text in errors_of(run.source))


def test_check_finds_folders_of_masks_beside_the_own_images(run: Run) -> None:
    run.image("images/s01")
    run.mask("labels/s01/liver", 1)
    run.mask("labels/s01/spleen", 2)
    assert any("medldm prepare" in text for text in errors_of(run.source))


@pytest.mark.parametrize("image", ["images/a_seg", "masks/b"])
def test_check_finds_a_label_map_listed_as_image(image: str, run: Run) -> None:
    run.image("images/a", image)
    write_list(run.source, [entry("images/a"), entry(image)])
    assert any(f"{image}.nii.gz" in text and "label map" in text for text in errors_of(run.source))


def test_check_finds_a_mask_among_images_by_its_voxels(run: Run) -> None:
    run.image("images/a", "images/b")
    run.mask("images/c", 1)
    assert any("images/c" in text and "mask" in text for text in errors_of(run.source))
    run.label("images/c")
    assert "whole numbers" in run_check(run.source)[0]


def test_a_file_beside_a_series_is_of_the_same_patient(run: Run) -> None:
    for patient in ("p1", "p2"):
        dataset = make_slices(stored_voxels())
        for one in dataset:
            one.PatientID = patient
        save(dataset, run.source / patient / "dicom")
        run.image(f"{patient}/flair")
    result = run()
    assert (len(result.cases), result.n_subjects) == (4, 2)


def test_words_of_the_users_own_do_not_become_names(run: Run) -> None:
    run.image("sub-01_T1w", "sub-01_Smith", "sub-02_T1w")
    result = run()
    said = result.table() + json.dumps(result.to_dict())
    assert result.n_subjects == 2 and "smith" not in said.lower()


def test_a_subject_named_later_takes_the_place_of_its_hash(run: Run) -> None:
    run.image("images/a", "images/b")
    run()
    result = run(run.table("source,subject\na,S1\nb,S1\n"))
    assert (len(result.cases), result.n_subjects) == (2, 1)
    assert len(list((run.output / "images").iterdir())) == 2


def test_other_channels_are_not_mixed_into_an_output(run: Run) -> None:
    run.image("P/P-t1n", "P/P-t2f", "Q/Q-t1n", "Q/Q-t2f")
    run()
    with pytest.raises(ValueError, match="4 cases of other channels"):
        run(channels=("t1n", "t2f"))
    assert len(run(channels=("t1n", "t2f"), overwrite=True).cases) == 2
    assert len(list((run.output / "images").iterdir())) == 4


def test_channels_are_chosen_among_those_of_a_layout(run: Run) -> None:
    make_nnunet(run.source)
    for number in range(3):
        run.image(f"imagesTr/case_{number:03d}_0001")
    content = json.loads((run.source / "dataset.json").read_text())
    content["channel_names"] = {"0": "T1", "1": "T2"}
    (run.source / "dataset.json").write_text(json.dumps(content))
    (run.source / "imagesTr/case_002_0001.nii.gz").unlink()
    reasons = [one.reason for one in run().refused]
    assert len(reasons) == 1 and "lacks T2" in reasons[0]
    assert len(run(channels=("t1",), overwrite=True).cases) == 3
    result = run(channels=("T2", "T1"), drop_incomplete=True, overwrite=True)
    assert [case.channels for case in result.cases] == [("T2", "T1")] * 2
