"""What of the table and of the input belongs to nothing is counted and listed."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from medldm.cli.main import main
from medldm.data.preparation.prepare import PrepareOptions, prepare
from medldm.transforms import write_nifti


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Three cases of three subjects, without label maps."""
    for number, name in enumerate(("smith", "jones", "brown")):
        image = np.random.default_rng(number).normal(size=(6, 5, 4))
        write_nifti(tmp_path / "scans" / f"{name}.nii.gz", image, np.eye(4))
    return tmp_path / "scans"


def run(scans: Path, table: str, *, strict: bool = False, name: str = "out"):
    (scans.parent / "table.csv").write_text(table)
    options = PrepareOptions(
        key_file=scans.parent / "key", workers=1, progress=False, validation_fraction=0.0, strict_table=strict
    )
    return prepare(scans, scans.parent / name, table=scans.parent / "table.csv", options=options)


def test_rows_and_cases_without_partner_are_counted_in_result_log_and_summary(scans, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        result = run(scans, "source;subject;age\nsmith;S1;61\njonse;S2;35\nnobody;S3;40\n")
    (unmatched,) = [case.id for case in result.cases if case.id != "S1" and "brown" not in case.id][:1]
    rows = "2 rows of the subject table match no case (lines 3, 4)"
    cases = "2 of 3 cases have no row in the subject table: "
    summary = json.loads((scans.parent / "out" / "prepare.json").read_text())
    for text in (result.table(), caplog.text, "\n".join(summary["warnings"])):
        assert rows in text and cases in text and unmatched in text
        assert not any(name in text for name in ("jonse", "nobody", "smith", "brown"))
    assert result.exit_code == 0


def test_a_table_that_fits_is_not_mentioned(scans) -> None:
    result = run(scans, "source,subject\nsmith,S1\njones,S2\nbrown,S3\n", strict=True)
    assert result.warnings == () and "warning" not in result.table()


def test_without_a_table_nothing_is_missing(scans) -> None:
    options = PrepareOptions(key_file=scans.parent / "key", workers=1, progress=False)
    assert prepare(scans, scans.parent / "out", options=options).warnings == ()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("source\nsmith\njones\nbrown\nbrwon\n", r"1 rows .* match no case \(line 5\)"),
        ("source\nsmith\njones\n", "1 of 3 cases have no row"),
    ],
)
def test_a_strict_table_is_refused_before_anything_is_converted(scans, table, message) -> None:
    with pytest.raises(ValueError, match=message):
        run(scans, table, strict=True)
    assert not list((scans.parent / "out" / "images").iterdir())


def test_the_command_line_offers_it(scans, capsys) -> None:
    (scans.parent / "table.csv").write_text("source\nsmith\n")
    arguments = ["prepare", str(scans), str(scans.parent / "out"), "--workers", "1"]
    arguments += ["--key-file", str(scans.parent / "key"), "--table", str(scans.parent / "table.csv")]
    assert main([*arguments, "--strict-table"]) == 1
    assert "strict_table is set" in capsys.readouterr().err
    assert main(arguments) == 0
    assert "warning: 2 of 3 cases have no row" in capsys.readouterr().out


def test_a_row_for_cases_of_several_subjects_is_said(scans) -> None:
    (scans / "ward").mkdir()
    for name, number in {"smith": 1, "jones": 2}.items():
        (scans / f"{name}.nii.gz").rename(scans / "ward" / f"sub-{number}_T1w.nii.gz")
    result = run(scans, "source,subject,age\nward,S1,61\nbrown,S2,35\n")
    assert "1 rows of the subject table match cases that were taken for several subjects (line 2)" in str(
        result.warnings
    )
    assert result.n_subjects == 2


def test_a_row_for_two_cases_of_one_subject_is_fine(scans) -> None:
    for session in (1, 2):
        image = np.random.default_rng(9 + session).normal(size=(6, 5, 4))
        write_nifti(scans / f"sub-07_ses-{session}_T1w.nii.gz", image, np.eye(4))
    result = run(scans, "subject\nsmith\njones\nbrown\nsub-07\n")
    assert result.warnings == ()
    assert {case.subject for case in result.cases} == {"smith", "jones", "brown", "sub-07"}


def test_cases_without_a_split_beside_others_with_one_are_said(scans) -> None:
    result = run(scans, "source,subject,split\nsmith,S1,validation\njones,S2,\nbrown,S3,training\n")
    assert result.n_validation == 1
    assert "1 cases have no split in the subject table: they are in training" in result.warnings


def test_rows_of_the_label_table_that_no_map_needs_are_said(scans) -> None:
    for name in ("smith", "jones", "brown"):
        labels = np.zeros((6, 5, 4))
        labels[2:4, 2:4, 1:3] = 2
        labels[0, 0, 0] = 7 if name == "smith" else 2
        write_nifti(scans / "labels" / f"{name}.nii.gz", labels, np.eye(4), dtype=np.uint8)
        (scans / "images").mkdir(exist_ok=True)
        (scans / f"{name}.nii.gz").rename(scans / "images" / f"{name}.nii.gz")
    (scans.parent / "labels.csv").write_text("from;to;name\n0;0;\n2;1;liver\n7;0;\n9;3;spleen\n")
    options = PrepareOptions(
        key_file=scans.parent / "key", workers=1, progress=False, labels=scans.parent / "labels.csv"
    )
    for _ in range(2):
        result = prepare(scans, scans.parent / "out", options=options)
        assert "1 rows of the label table name values that no label map has (line 5)" in result.warnings
