"""Which structures a label map covers: what labels.json and cases say, and what follows where they do not."""

from __future__ import annotations

import json
import logging

import nibabel as nib
import numpy as np
import pytest

from medldm.data.checks import run_check
from medldm.data.cohort import read_cohort, with_whole_maps
from medldm.data.issues import CohortError
from medldm.data.labels import LabelSchema
from medldm.data.measured_scalars import with_measured_scalars
from medldm.data.partly_labelled import read_structures_in_map, unknown_structures
from medldm.errors import ConfigError

NAMES = {1: "organ", 2: "lesion"}


@pytest.fixture
def folder(make_cohort):
    """Three cases; the map of case_1 has no lesion, that of case_2 nothing."""
    root = make_cohort(3)
    for case, values in (("case_1", [2]), ("case_2", [1, 2])):
        rewrite(
            root / "labels" / f"{case}.nii.gz",
            lambda labels, v=values: np.where(np.isin(labels, v), 0, labels),
        )
    return root


def rewrite(file, change) -> None:
    image = nib.load(file)
    nib.save(nib.Nifti1Image(change(np.asarray(image.dataobj)).astype(np.uint8), image.affine), file)


def declare(root, partly_labelled=None, table: str | None = None) -> None:
    names = {str(value): name for value, name in NAMES.items()}
    content = names if partly_labelled is None else names | {"partly_labelled": partly_labelled}
    (root / "labels.json").write_text(json.dumps(content))
    if table is not None:
        (root / "subjects.csv").write_text(table)


def covered(root) -> dict[str, list[str] | None]:
    return {case["id"]: case.get("structures_in_map") for case in read_cohort(root).cases}


def test_nothing_is_said_where_nothing_is_declared(folder) -> None:
    declare(folder)
    assert covered(folder) == dict.fromkeys(("case_0", "case_1", "case_2"))
    cohort = with_measured_scalars(read_cohort(folder))
    volumes = {case["id"]: case["scalars"]["volume_ml:lesion"] for case in cohort.cases}
    assert volumes["case_0"] > 0
    assert volumes["case_1"] == volumes["case_2"] == 0


def test_an_absent_structure_is_unknown_where_labels_json_says_so(folder) -> None:
    declare(folder, partly_labelled=["lesion"])
    assert covered(folder) == {"case_0": ["organ", "lesion"], "case_1": ["organ"], "case_2": ["organ"]}
    declare(folder, partly_labelled=True)
    assert covered(folder) == {"case_0": ["organ", "lesion"], "case_1": ["organ"], "case_2": []}


def test_the_check_counts_them(folder) -> None:
    declare(folder)
    assert "unknown is" not in run_check(folder)[0]
    declare(folder, partly_labelled=["lesion"])
    assert "of 3 label maps, unknown is lesion in 2" in run_check(folder)[0]
    assert json.loads(run_check(folder, as_json=True)[0])["n_unknown"] == {"lesion": 2}


def test_what_a_case_says_comes_first(folder, caplog) -> None:
    declare(folder, True, 'source,structures_in_map\ncase_1,"organ|lesion"\ncase_0,organ\n')
    with caplog.at_level(logging.INFO):
        found = covered(folder)
    assert found == {"case_0": ["organ"], "case_1": ["organ", "lesion"], "case_2": []}
    assert "lesion is unknown in 2 of 3 label maps" in caplog.text
    cohort = read_cohort(folder)
    (issue,) = cohort.issues
    assert issue.severity == "warning"
    assert "holds lesion, which its structures_in_map does not name" in issue.message


def test_a_list_alone_is_enough_and_names_what_it_does_not_know(folder) -> None:
    declare(folder)
    cases = [
        {"image": f"images/case_{n}.nii.gz", "label": f"labels/case_{n}.nii.gz", "subject": str(n)}
        for n in range(3)
    ]
    cases[1]["structures_in_map"] = [1]
    (folder / "cohort.json").write_text(json.dumps({"training": cases}))
    assert covered(folder) == {
        "case_0": list(NAMES.values()),
        "case_1": ["organ"],
        "case_2": list(NAMES.values()),
    }
    cases[1]["structures_in_map"] = ["organ", "lesoin"]
    (folder / "cohort.json").write_text(json.dumps({"training": cases}))
    with pytest.raises(
        CohortError, match=r"case_1: Unknown structure in structures_in_map 'lesoin'.*'lesion'"
    ):
        read_cohort(folder)


def test_what_nobody_looked_for_has_no_volume(folder) -> None:
    declare(folder, partly_labelled=["lesion"])
    cohort = with_measured_scalars(read_cohort(folder))
    scalars = {case["id"]: case["scalars"] for case in cohort.cases}
    assert scalars["case_0"]["volume_ml:lesion"] > 0
    assert "volume_ml:lesion" not in scalars["case_1"]
    assert scalars["case_2"]["volume_ml:organ"] == 0


def test_whole_maps_alone_are_kept_for_models_of_maps(folder, caplog) -> None:
    declare(folder)
    cohort = read_cohort(folder, validation_fraction=0)
    assert with_whole_maps(cohort) is cohort
    declare(folder, partly_labelled=True)
    cohort = with_whole_maps(read_cohort(folder, validation_fraction=0))
    assert [case["id"] for case in cohort.training] == ["case_0"]
    assert "2 of 3 cases are left out" in caplog.text
    (folder / "subjects.csv").write_text("source,structures_in_map\ncase_0,organ\n")
    with pytest.raises(ConfigError, match="covers all of"):
        with_whole_maps(read_cohort(folder, validation_fraction=0))


def test_a_schema_says_it_in_json_only_where_it_is_so() -> None:
    plain = LabelSchema(structures=NAMES)
    assert "partly_labelled" not in plain.to_dict()
    for given, names in ((True, ["organ", "lesion"]), (["lesion"], ["lesion"]), (False, [])):
        schema = LabelSchema(structures=NAMES, partly_labelled=given)
        assert list(schema.may_be_unknown) == schema.to_dict().get("partly_labelled", []) == names
        assert LabelSchema.from_dict(schema.to_dict()) == schema
    with pytest.raises(ConfigError, match="Unknown structure in partly_labelled 'lesions'"):
        LabelSchema(structures=NAMES, partly_labelled=["lesions"])
    with pytest.raises(ConfigError, match="true, false or a list"):
        LabelSchema.from_dict({"1": "organ", "partly_labelled": "organ"})


@pytest.mark.parametrize("given", ["b | a", "[a, b]", ["b", "a"], [7, 2], "['a', 'b']"])
def test_structures_are_named_in_any_order_and_form(given) -> None:
    structures = {7: "a", 2: "b", 9: "c"}
    names = read_structures_in_map(given, structures)
    assert names == ("b", "a")
    assert unknown_structures(names, structures).tolist() == [False, False, True]
    assert not unknown_structures(None, structures).any()
