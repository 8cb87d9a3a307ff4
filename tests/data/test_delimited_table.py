"""One reader for every table that a person saved as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from medldm.data.delimited_table import decimal_number, describe_columns, read_delimited_table


def read(folder: Path, content: str | bytes, name: str = "t.csv", **options):
    data = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(data)
    return read_delimited_table(folder / name, name="the table", **options)


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.txt", "t"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_header_line_says_the_separator_whatever_the_name(tmp_path, name, separator, newline) -> None:
    rows = [["source", "text", "age"], ["a", "one", "61"], ["b", "two", "35"]]
    table = read(tmp_path, newline.join(separator.join(row) for row in rows) + newline, name)
    assert table.columns == ("source", "text", "age")
    assert [row.cells["age"] for row in table.rows] == ["61", "35"]
    assert [row.line for row in table.rows] == [2, 3]
    assert table.separator == separator


def test_a_wanted_column_decides_between_two_separators(tmp_path) -> None:
    assert read(tmp_path, "source;age, years\na;61\n", wanted={"source"}).columns == ("source", "age, years")
    assert read(tmp_path, "a,b;c,d\n1,2;3,4\n").columns == ("a", "b;c", "d")


def test_separators_in_quotes_do_not_count(tmp_path) -> None:
    table = read(tmp_path, '"a;b;c;d",source\n"1;2",x\n')
    assert table.columns == ("a;b;c;d", "source")
    assert table.rows[0].cells["a;b;c;d"] == "1;2"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path, encoding) -> None:
    table = read(tmp_path, "source;größe\na;1\n".encode(encoding))
    assert table.columns == ("source", "größe")


def test_excels_hint_empty_lines_and_empty_rows_are_passed_over(tmp_path) -> None:
    table = read(tmp_path, "sep=;\r\nsource;age\r\n\r\na;61\r\n;\r\n")
    assert table.columns == ("source", "age")
    assert [(row.line, row.cells["source"]) for row in table.rows] == [(4, "a")]


def test_short_rows_are_filled_and_a_trailing_separator_is_no_column(tmp_path) -> None:
    table = read(tmp_path, "source,age,\na,61,\nb\n")
    assert table.columns == ("source", "age")
    assert table.rows[1].cells == {"source": "b", "age": ""}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"a,b\n1,2,Jane Doe\n", "line 2 .* has 3 cells, its header 2"),
        (b"a,a\n1,2\n", "two columns of one name"),
        (b"source\nJ\xf6rg\n", "UnicodeDecodeError.*UTF-8"),
        (b'a,b\n"Jane,2\n', "cannot be read"),
    ],
)
def test_what_would_be_lost_is_refused_and_no_cell_shown(tmp_path, content, message) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path, content)
    assert "Jane" not in str(caught.value)


def test_columns_are_described_unless_they_may_be_values() -> None:
    assert describe_columns(["age", "sex"], wanted=["source"]) == "found are age, sex"
    assert "'source'" in describe_columns(["sorce", "age"], wanted=["source"])
    for header in (["Doe^Jane", "61"], ["Jane Doe", "1961-03-04"], ["Doe, Jane"]):
        described = describe_columns(header, wanted=["source"])
        assert "Jane" not in described and "61" not in described


@pytest.mark.parametrize(
    ("text", "comma", "number"),
    [
        ("60.5", False, 60.5),
        ("60,5", True, 60.5),
        ("-,5", True, -0.5),
        ("60,5", False, None),
        ("1.234,5", True, None),
        ("1,234,567", True, None),
        ("x", True, None),
    ],
)
def test_decimal_commas(text, comma, number) -> None:
    assert decimal_number(text, decimal_comma=comma) == number
