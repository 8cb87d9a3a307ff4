from __future__ import annotations

import logging
from pathlib import Path

import pytest

from medldm.data.preparation.table import read_subject_table


def write(folder: Path, content: str, name: str = "table.csv") -> Path:
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


def test_absent_values_are_absent_keys(tmp_path: Path) -> None:
    table = read_subject_table(
        write(tmp_path, "source,age,weight,class\na,51,NA,2\nb,nan,60.5,\n"), scalars=("age", "weight")
    )
    assert table.row_of(["x", "a"]).entry == {"class": 2, "scalars": {"age": 51.0}}
    assert table.row_of(["b"]).entry == {"scalars": {"weight": 60.5}}
    assert table.row_of(["c"]) is None and table.classes == {}


def test_further_categorical_columns_keep_their_texts(tmp_path: Path) -> None:
    table = read_subject_table(write(tmp_path, "source,class:sex,class:site\na,F,north\nb,,south\n"))
    assert table.row_of(["a"]).entry == {"classes": {"sex": "F", "site": "north"}}
    assert table.row_of(["b"]).entry == {"classes": {"site": "south"}}


def test_byte_order_mark_quotes_and_tabs_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, '\ufeffsubject\ttext\nS1\t"one\ttwo"\n', "t.tsv")
    row = read_subject_table(path).row_of(["S1"])
    assert (row.subject, row.entry) == ("S1", {"text": "one\ttwo"})


def test_texts_in_an_unknown_column_are_left_out_and_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        table = read_subject_table(write(tmp_path, "source,physician,age\na,Dr Who,4\n"), scalars=("age",))
    assert table.row_of(["a"]).entry == {"scalars": {"age": 4.0}}
    assert "column 2" in caplog.text and "Who" not in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("age\n3\n", "source"),
        ("source,age\na,1\na,2\n", "line 3 .* repeated"),
        ("source,age\n,1\n", "line 2 .* no source"),
        ("source,subject\na,Jane Doe\n", "line 2"),
        ("source,split\na,holdout\n", "line 2 .* split"),
        ("source,age,age\na,1,2\n", "two columns"),
    ],
)
def test_bad_table_is_refused_by_line(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_subject_table(write(tmp_path, content))
    assert "Jane" not in str(caught.value)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_any_separator_gives_the_same_table(tmp_path: Path, separator: str) -> None:
    rows = [
        ["source", "subject", "age", "split"],
        ["a", "S1", "51", "training"],
        ["b", "S2", "60.5", "validation"],
    ]
    table = read_subject_table(
        write(tmp_path, "\n".join(separator.join(row) for row in rows)), scalars=("age",)
    )
    assert table.row_of(["a"]).entry == {"scalars": {"age": 51.0}} and table.row_of(["b"]).subject == "S2"
    assert table.row_of(["b"]).split == "validation" and table.row_of(["b"]).line == 3


def test_decimal_commas_are_numbers_between_semicolons(tmp_path: Path) -> None:
    table = read_subject_table(
        write(tmp_path, "source;age;weight\na;60,5;70\nb;61;71,25\n"), scalars=("age", "weight")
    )
    assert table.row_of(["a"]).entry == {"scalars": {"age": 60.5, "weight": 70.0}}
    assert table.row_of(["b"]).entry == {"scalars": {"age": 61.0, "weight": 71.25}}


def test_commas_and_points_in_one_column_are_not_guessed_at(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"column 2 .* has numbers with a comma and numbers with a point"):
        read_subject_table(write(tmp_path, "source;volume\na;1.234\nb;1,5\n"), scalars=("volume",))


@pytest.mark.parametrize("name", ["participant_id", "Participant_ID", "subject_id", "Subject ID"])
def test_columns_that_name_subjects_otherwise_are_taken(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    table = read_subject_table(
        write(tmp_path, f"{name}\tage\nsub-01\t61\n", "participants.tsv"), scalars=("age",)
    )
    row = table.row_of(["x", "sub-01"])
    assert (row.subject, row.entry) == ("sub-01", {"scalars": {"age": 61.0}})
    assert 'is taken as "subject"' in caplog.text and table.notes == ()


def test_participants_without_the_prefix_of_bids_are_found(tmp_path: Path) -> None:
    table = read_subject_table(write(tmp_path, "participant_id,age\n01,61\n"))
    assert table.row_of(["sub-01"]) is table.row_of(["01"])
    assert table.row_of(["sub-01"]).subject == "01"


@pytest.mark.parametrize(
    "name", ["patient_id", "PatientID", "Patient ID", "case", "case_id", "file", "filename"]
)
def test_columns_that_name_sources_otherwise_are_matched_and_not_written(tmp_path: Path, name: str) -> None:
    table = read_subject_table(write(tmp_path, f"{name},age\n4711,61\n"), scalars=("age",))
    row = table.row_of(["4711"])
    assert row.subject is None and row.entry == {"scalars": {"age": 61.0}}


def test_a_second_column_of_names_is_no_scalar(tmp_path: Path) -> None:
    table = read_subject_table(write(tmp_path, "source,patient_id,age\na,4711,61\n"), scalars=("age",))
    assert table.row_of(["a"]).entry == {"scalars": {"age": 61.0}}
    assert table.row_of(["4711"]) is None and "column 2" in table.notes[0]


def test_two_candidates_for_the_source_are_asked_about(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'columns \[1, 3\] .* could each be its "source"'):
        read_subject_table(write(tmp_path, "case,age,file\na,1,b\n"))


def test_the_same_row_twice_is_used_once_and_said(tmp_path: Path) -> None:
    table = read_subject_table(write(tmp_path, "source,age\na,1\na,1\nb,2\n"), scalars=("age",))
    assert table.row_of(["a"]).line == 2
    assert table.notes == ("1 rows repeat another one and are left out: line 3",)


def test_a_missing_column_names_those_found(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found are age, sex"):
        read_subject_table(write(tmp_path, "age,sex\n1,F\n"))
    with pytest.raises(ValueError) as caught:
        read_subject_table(write(tmp_path, "Doe^Jane,61\nRoe^John,35\n"))
    assert "Jane" not in str(caught.value) and "seems to hold values" in str(caught.value)


ROWS = ["source,age,MRN,birth,weight", "a,61,4711001,19640312,60.5", "b,35,4711002,19900101,71.5"]


def test_columns_of_numbers_are_handed_on_only_where_the_user_names_them(tmp_path: Path) -> None:
    path = write(tmp_path, "\n".join(ROWS))
    table = read_subject_table(path)
    assert table.row_of(["a"]).entry == {}
    assert "columns 2, 3, 4, 5 are left out" in table.notes[0]
    table = read_subject_table(path, scalars=("weight",))
    assert table.row_of(["a"]).entry == {"scalars": {"weight": 60.5}}
    with pytest.raises(ValueError, match="no column 'hight'"):
        read_subject_table(path, scalars=("hight",))


@pytest.mark.parametrize(
    "name",
    ["MRN", "birth", "Birth Date", "birthDate", "DOB", "patient number", "PatientNr", "pat_id", "case no",
     "admission", "scan date", "zip", "phone", "Geburtsdatum", "accession"],
)  # fmt: skip
def test_a_column_that_names_people_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"column 2 .* says by its name") as caught:
        read_subject_table(write(tmp_path, f"source,{name}\na,4711\nb,4711\n"), scalars=(name,))
    assert "4711" not in str(caught.value)


@pytest.mark.parametrize("kind", ["record numbers", "in two sessions", "as decimals", "a numbering"])
def test_a_column_that_differs_in_every_subject_is_refused(tmp_path: Path, kind: str) -> None:
    head = "source,subject,code"
    rows = {
        "record numbers": ["a,A,4711001", "b,B,4711002", "c,C,"],
        "in two sessions": ["a,A,4711001", "a2,A,4711001", "b,B,4711002"],
        "as decimals": ["a,A,4711001.0", "b,B,4711002.0"],
        "a numbering": [f"case{number},S{number},{number}" for number in range(20)],
    }[kind]
    with pytest.raises(ValueError, match=r"column 3 .* another whole number in every subject") as caught:
        read_subject_table(write(tmp_path, "\n".join([head, *rows])), scalars=("code",))
    assert "4711" not in str(caught.value)


def test_what_is_measured_may_differ_in_every_subject(tmp_path: Path) -> None:
    rows = [f"s{number},{61 + number},{1200.5 + number}" for number in range(5)]
    path = write(tmp_path, "\n".join(["source,age,volume", *rows]))
    entry = read_subject_table(path, scalars=("age", "volume")).row_of(["s0"]).entry
    assert entry == {"scalars": {"age": 61.0, "volume": 1200.5}}


def test_categories_that_name_people_are_refused(tmp_path: Path) -> None:
    named = write(tmp_path, "source,class:surname\na,Doe\n")
    with pytest.raises(ValueError, match="names people") as caught:
        read_subject_table(named)
    assert "Doe" not in str(caught.value)
    rows = [f"s{number},person {number}" for number in range(20)]
    with pytest.raises(ValueError, match="names people"):
        read_subject_table(write(tmp_path, "\n".join(["source,class:who", *rows])))
