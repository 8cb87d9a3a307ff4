"""The BIDS export: names, derivatives, and the BIDS validator itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medldm.data.export import ExportOptions, export_cohort
from medldm.errors import ConfigError
from tests.data.export.export_cases import AFFINES, SCHEMA, voxels, write_cohort, write_synthetic


def table(path: Path) -> list[dict[str, str]]:
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


def names_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*.nii.gz")}


def validate(folder: Path) -> list[dict]:
    """Return the errors that the BIDS validator finds, in the data set and in its derivatives."""
    # Beside this Python, which need not be on the path; it starts deno, which is there too.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = shutil.which("bids-validator-deno", path=path)
    if command is None:
        pytest.skip("needs the BIDS validator: pip install bids-validator-deno")
    errors = []
    roots = [folder, *(path.parent for path in folder.glob("derivatives/*/dataset_description.json"))]
    for root in roots:
        run = subprocess.run(
            [command, "--json", str(root)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PATH": path},
        )
        assert run.stdout.startswith("{"), run.stderr
        issues = json.loads(run.stdout)["issues"]["issues"]
        errors += [issue for issue in issues if issue["severity"] == "error"]
    return errors


def test_real_images_are_raw_data_and_all_else_derivatives(tmp_path: Path) -> None:
    write_cohort(tmp_path / "real", ["case_0", "sub-07", "x y"])
    write_synthetic(tmp_path / "made", 1)
    export_cohort(
        tmp_path / "real",
        tmp_path / "out",
        format="bids",
        synthetic=[tmp_path / "made"],
        options=ExportOptions(suffixes={"": "T1w"}),
    )
    assert names_in(tmp_path / "out") == {
        "sub-case0/anat/sub-case0_T1w.nii.gz",
        "sub-07/anat/sub-07_T1w.nii.gz",
        "sub-xy/anat/sub-xy_T1w.nii.gz",
        "derivatives/labels/sub-case0/anat/sub-case0_dseg.nii.gz",
        "derivatives/labels/sub-07/anat/sub-07_dseg.nii.gz",
        "derivatives/labels/sub-xy/anat/sub-xy_dseg.nii.gz",
        "derivatives/synthetic/sub-synthetic0000/anat/sub-synthetic0000_desc-synthetic_T1w.nii.gz",
        "derivatives/synthetic/sub-synthetic0000/anat/sub-synthetic0000_desc-synthetic_dseg.nii.gz",
    }
    about = json.loads((tmp_path / "out" / "derivatives/synthetic/dataset_description.json").read_text())
    assert about["DatasetType"] == "derivative"
    assert about["GeneratedBy"][0]["Name"] == "medldm"
    subjects = {row["participant_id"]: row["subject"] for row in table(tmp_path / "out/participants.tsv")}
    assert subjects == {"sub-case0": "case_0", "sub-07": "sub-07", "sub-xy": "x y"}
    rows = table(tmp_path / "out/derivatives/labels/dseg.tsv")
    assert rows[0] == {"index": "0", "name": "background", "color": "#000000"}
    assert {row["index"]: row["name"] for row in rows[1:]} == {
        value: entry["name"] for value, entry in SCHEMA.items()
    }
    assert rows[1]["color"] == "#1080f0"


def test_sessions_and_runs_tell_the_cases_of_a_subject_apart(tmp_path: Path) -> None:
    write_cohort(tmp_path / "real", ["sub-1_ses-a", "sub-1_ses-b", "sub-2_x", "sub-2_y"])
    export_cohort(
        tmp_path / "real", tmp_path / "out", format="bids", options=ExportOptions(suffixes={"": "T2w"})
    )
    assert {name for name in names_in(tmp_path / "out") if "derivatives" not in name} == {
        "sub-1/ses-a/anat/sub-1_ses-a_T2w.nii.gz",
        "sub-1/ses-b/anat/sub-1_ses-b_T2w.nii.gz",
        "sub-2/anat/sub-2_run-1_T2w.nii.gz",
        "sub-2/anat/sub-2_run-2_T2w.nii.gz",
    }


def test_channels_of_customary_names_have_the_suffix_of_their_contrast(tmp_path: Path) -> None:
    channels = ["t1n", "t1c", "t2w", "t2f"]
    write_cohort(tmp_path / "real", ["a", "b"], channels=channels)
    result = export_cohort(tmp_path / "real", tmp_path / "out", format="bids")
    for name, channel in (
        ("T1w", "t1n"),
        ("ce-contrast_T1w", "t1c"),
        ("T2w", "t2w"),
        ("FLAIR", "t2f"),
    ):
        np.testing.assert_array_equal(
            voxels(tmp_path / "out" / "sub-a" / "anat" / f"sub-a_{name}.nii.gz"),
            voxels(tmp_path / "real" / "images" / f"a_{channel}.nii.gz"),
        )
    assert not any("suffix" in note for note in result.notes)


def test_no_contrast_is_made_up(tmp_path: Path) -> None:
    write_cohort(tmp_path / "real", ["a", "b"])
    result = export_cohort(tmp_path / "real", tmp_path / "out", format="bids")
    assert (tmp_path / "out/sub-a/anat/sub-a_mri.nii.gz").is_file()
    assert "**/*_mri.*" in (tmp_path / "out/.bidsignore").read_text()
    assert any("BIDS has no suffix for images of an unknown contrast" in note for note in result.notes)


def test_subjects_of_one_plain_name_are_refused(tmp_path: Path) -> None:
    write_cohort(tmp_path / "real", ["a_1", "a1"])
    with pytest.raises(ConfigError, match="have one name in BIDS"):
        export_cohort(tmp_path / "real", tmp_path / "out", format="bids")
    assert not (tmp_path / "out").exists()


def test_conditions_are_columns_of_the_participants(tmp_path: Path) -> None:
    write_cohort(tmp_path / "real", ["a1", "a2", "b"])
    entries = [
        {
            "id": name,
            "subject": name[0],
            "image": f"images/{name}.nii.gz",
            "scalars": {"age": age},
            "classes": {"site": "north pole"},
        }
        for name, age in (("a1", 40), ("a2", 41), ("b", 7))
    ]
    (tmp_path / "real/cohort.json").write_text(
        json.dumps({"training": entries[:2], "validation": entries[2:], "classes": {"site": ["north pole"]}})
    )
    export_cohort(tmp_path / "real", tmp_path / "out", format="bids")
    rows = table(tmp_path / "out/participants.tsv")
    assert [(row["participant_id"], row["split"], row["age"], row["site"]) for row in rows] == [
        ("sub-a", "training", "n/a", "north pole"),
        ("sub-b", "validation", "7", "north pole"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("channels", "suffixes"),
    [((), {"": "T1w"}), ((), {}), (("t1n", "t1c", "t2f"), {}), (("left", "right"), {"left": "T2w"})],
)
def test_the_validator_finds_no_error(
    channels: tuple[str, ...], suffixes: dict[str, str], tmp_path: Path
) -> None:
    names = ["sub-1_ses-a", "sub-1_ses-b", "case 2", "ü"]
    write_cohort(tmp_path / "real", names, channels=channels, affines=list(AFFINES))
    write_synthetic(tmp_path / "made", channels=channels)
    options = ExportOptions(suffixes=suffixes)
    export_cohort(
        tmp_path / "real", tmp_path / "out", format="bids", synthetic=[tmp_path / "made"], options=options
    )
    assert validate(tmp_path / "out") == []


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_the_validator_finds_no_error_in_synthetic_or_real_cases_alone(modality: str, tmp_path: Path) -> None:
    write_synthetic(tmp_path / "made")
    write_cohort(tmp_path / "real", ["a", "b"], labelled=[True, False])
    for name in ("made", "real"):
        suffixes = {"": "T1w"} if modality == "MR" else {}
        options = ExportOptions(modality=modality, suffixes=suffixes)
        cohort = tmp_path / name
        if name == "real":
            shutil.rmtree(cohort / "labels")
        export_cohort(cohort, tmp_path / f"out_{name}", format="bids", options=options)
        assert validate(tmp_path / f"out_{name}") == []


@pytest.mark.slow
def test_the_validator_is_awake(tmp_path: Path) -> None:
    write_cohort(tmp_path / "real", ["a", "b"])
    export_cohort(
        tmp_path / "real", tmp_path / "out", format="bids", options=ExportOptions(suffixes={"": "T1w"})
    )
    image = tmp_path / "out/sub-a/anat/sub-a_T1w.nii.gz"
    image.rename(image.with_name("sub-a_contrast.nii.gz"))
    assert validate(tmp_path / "out")
