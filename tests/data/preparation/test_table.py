from __future__ import annotations

import logging
from pathlib import Path

import pytest

from medldm.data.preparation.table import read_subject_table


def write(folder: Path, content: str, name: str = "table.csv") -> Path:
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


def test_absent_values_are_absent_keys(tmp_path: Path) -> None:
    table = read_subject_table(write(tmp_path, "source,age,weight,class\na,51,NA,2\nb,nan,60.5,\n"))
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
        table = read_subject_table(write(tmp_path, "source,physician,age\na,Dr Who,4\n"))
    assert table.row_of(["a"]).entry == {"scalars": {"age": 4.0}}
    assert "column 2" in caplog.text and "Who" not in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("age\n3\n", "source"),
        ("source,age\na,1\na,2\n", "line 3 .* repeated"),
        ("source,age\n,1\n", "line 2 .* no source"),
        ("source,subject\na,Jane Doe\n", "line 2"),
        ("source,split\na,test\n", "line 2 .* split"),
        ("source,age,age\na,1,2\n", "two columns"),
    ],
)
def test_bad_table_is_refused_by_line(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_subject_table(write(tmp_path, content))
    assert "Jane" not in str(caught.value)
